"""Private stacks for the tests of local/, on a schema of their own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local.stack import Stack

MIGRATIONS = Path(__file__).parent / "migrations"

MakeStack = Callable[..., Stack]


@pytest.fixture(scope="session")
def scratch(stack: Stack, worker_id: str) -> Callable[[], Path]:
    """New folders inside the run's own, which its owner deletes."""
    numbers = itertools.count()

    def folder() -> Path:
        path = stack.state / "private" / f"{worker_id}-{next(numbers)}"
        path.mkdir(parents=True)
        return path

    return folder


@pytest.fixture(scope="module")
def private_stack(scratch: Callable[[], Path]) -> Iterator[MakeStack]:
    """`private_stack(…)` makes a Stack of Postgres and gateway, not started; stopped at the end."""
    made: list[Stack] = []

    def make(**options: Any) -> Stack:
        options.setdefault("state", None)
        settings = {"migrations": MIGRATIONS, "services": False, "durable": False} | options
        settings["state"] = settings["state"] or scratch()
        made.append(Stack(**settings))
        return made[-1]

    yield make
    for each in made:
        each.stop()
