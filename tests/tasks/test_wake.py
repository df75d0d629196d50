"""Waking the runner through pg_net: nothing without it, once per transaction, never harmful."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.tasks.conftest import Connect, Queue

PG_NET = """
set local role postgres;
create schema net;
create table net.calls (url text, body jsonb, headers jsonb);
create function net.http_post(
  url text, body jsonb default '{}', params jsonb default '{}', headers jsonb default '{}',
  timeout_milliseconds integer default 5000
) returns bigint language sql as $$
  insert into net.calls values (url, body, headers) returning 1
$$;
reset role;
"""
SET = "update private.settings set value = %s where name = %s"
URL = "https://runner.example/wake"


@pytest.fixture
def transaction(db: Connect) -> Iterator[psycopg.Connection]:
    """Rolled back, so the extension's stand-in is seen by nobody else."""
    connection = db()
    connection.execute("begin")
    yield connection
    connection.execute("rollback")


def test_without_the_extension_nothing_happens(
    transaction: psycopg.Connection, queue: Queue
) -> None:
    transaction.execute(SET, [Jsonb(URL), "runner_url"])
    assert transaction.execute("select private.wake_runner()").fetchone() == (False,)
    transaction.execute("select private.task_enqueue(%s, '{}')", [queue.kind])


def test_without_an_address_nothing_happens(transaction: psycopg.Connection) -> None:
    transaction.execute(PG_NET.encode())
    assert transaction.execute("select private.wake_runner()").fetchone() == (False,)
    assert transaction.execute("select count(*) from net.calls").fetchone() == (0,)


def test_many_tasks_of_one_transaction_wake_the_runner_once(
    transaction: psycopg.Connection, queue: Queue
) -> None:
    transaction.execute(PG_NET.encode())
    transaction.execute(SET, [Jsonb(URL), "runner_url"])
    transaction.execute(SET, [Jsonb({"Modal-Key": "wk"}), "runner_headers"])
    for _ in range(3):
        transaction.execute("select private.task_enqueue(%s, '{}')", [queue.kind])
    assert transaction.execute("select url, body, headers from net.calls").fetchall() == [
        (
            URL,
            {},
            {"Modal-Key": "wk", "Content-Type": "application/json"},
        )
    ]


def test_a_broken_extension_does_not_undo_the_work(
    transaction: psycopg.Connection, queue: Queue
) -> None:
    transaction.execute(PG_NET.encode())
    transaction.execute(SET, [Jsonb(URL), "runner_url"])
    transaction.execute(b"drop table net.calls")
    transaction.execute("select private.task_enqueue(%s, '{}')", [queue.kind])
    assert transaction.execute(
        "select count(*) from private.tasks where kind = %s", [queue.kind]
    ).fetchone() == (1,)
