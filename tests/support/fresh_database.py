"""A database of its own with every migration, for programs that write files from what it says."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from local.paths import state_dir
from local.stack import Ports, Stack


@contextmanager
def fresh_database() -> Iterator[psycopg.Connection]:
    """A connection as the superuser; everything is gone afterwards."""
    state = state_dir() / "tests" / f"fresh-{os.getpid()}"
    stack = Stack(state=state, ports=Ports.free(), durable=False, services=False)
    try:
        stack.start()
        with psycopg.connect(stack.admin_dsn) as connection:
            yield connection
    finally:
        stack.stop()
        stack.postgres.destroy()
        shutil.rmtree(state, ignore_errors=True)
