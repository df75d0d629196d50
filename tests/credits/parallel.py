"""Many connections at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg

from tests.credits.ledger import ANSWER_SECONDS, Refused, connect

T = TypeVar("T")


def open_doors(dsn: str, count: int) -> list[psycopg.Connection]:
    """Connections of their own, opened side by side."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda _: connect(dsn), range(count)))


def at_once(
    doors: Sequence[psycopg.Connection], work: Callable[[psycopg.Connection, int], T]
) -> list[T | Refused]:
    """`work(door, index)` on every connection, all let go at the same moment.

    Refusals are results; any other error is raised.
    """
    start = threading.Barrier(len(doors), timeout=ANSWER_SECONDS)

    def run(index: int) -> T | Refused:
        start.wait()
        try:
            return work(doors[index], index)
        except Refused as refusal:
            return refusal

    with ThreadPoolExecutor(len(doors)) as pool:
        return list(pool.map(run, range(len(doors))))


def split(results: Sequence[Any]) -> tuple[list[Any], list[Refused]]:
    """What succeeded, and what was refused."""
    refusals = [result for result in results if isinstance(result, Refused)]
    return [result for result in results if not isinstance(result, Refused)], refusals
