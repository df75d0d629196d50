"""Reconciliation compares everything there is, so one test at a time may run one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

LOCK = 7_100_025
"""Any number that no other advisory lock of the tests uses."""

SECONDS = 60


@contextmanager
def alone(connection: psycopg.Connection) -> Iterator[None]:
    """Nobody else of this run reconciles; what the worker was asked to do before is over."""
    connection.execute("select pg_advisory_lock(%s)", [LOCK])
    try:
        _wait_for_the_worker(connection)
        yield
        _wait_for_the_worker(connection)
    finally:
        connection.execute("select pg_advisory_unlock(%s)", [LOCK])


def _wait_for_the_worker(connection: psycopg.Connection) -> None:
    until = time.monotonic() + SECONDS
    while connection.execute(
        "select 1 from private.tasks where kind = 'stripe_reconcile'"
        " and (status = 'running' or (status = 'queued' and run_after <= now()))"
    ).fetchone():
        assert time.monotonic() < until, "the worker does not reconcile"
        time.sleep(0.1)
