"""private.uuid7: ids in the order in which they were made."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import psycopg

RANDOM_BITS = 62


def ids(connection: psycopg.Connection, number: int) -> list[uuid.UUID]:
    """Ids of so many statements, one after the other."""
    made = [connection.execute("select private.uuid7()").fetchone() for _ in range(number)]
    return [row[0] for row in made if row is not None]


def test_ids_are_of_version_7_and_carry_the_clock(db: Callable[[], psycopg.Connection]) -> None:
    connection = db()
    before = time.time_ns() // 1_000_000
    (id_,) = ids(connection, 1)
    after = time.time_ns() // 1_000_000
    assert (id_.version, id_.variant) == (7, uuid.RFC_4122)
    assert before <= id_.int >> 80 <= after


def test_ids_are_in_order_within_a_millisecond(db: Callable[[], psycopg.Connection]) -> None:
    made = ids(db(), 2000)
    assert made == sorted(made)
    milliseconds = {id_.int >> 80 for id_ in made}
    assert len(milliseconds) < len(made), "no two fell into the same millisecond"


def test_ids_of_one_instant_differ(db: Callable[[], psycopg.Connection]) -> None:
    rows = db().execute("select private.uuid7() from generate_series(1, 5000)").fetchall()
    random_parts = {row[0].int & ((1 << RANDOM_BITS) - 1) for row in rows}
    assert len(random_parts) == len(rows)
