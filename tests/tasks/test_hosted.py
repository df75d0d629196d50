"""One run for hosts that start a process when there is work."""

from __future__ import annotations

from typing import Any

import pytest

from functions import hosted
from functions.core.settings import Settings
from functions.tasks.context import TaskContext, TaskKind
from tests.tasks.conftest import Queue

pytestmark = pytest.mark.anyio


async def succeed(_: dict[str, Any], __: TaskContext) -> None:
    return None


@pytest.fixture
def kind(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The product knows this test's kind and no other."""
    monkeypatch.setattr(hosted, "TASK_KINDS", {queue.kind: TaskKind(succeed, 30)})


@pytest.mark.usefixtures("kind")
async def test_a_dispatch_sees_whether_tasks_are_due(queue: Queue, settings: Settings) -> None:
    assert not (await hosted.dispatch_once(settings)).tasks_are_due
    id_ = queue.enqueue()
    assert (await hosted.dispatch_once(settings)).tasks_are_due
    queue.change(id_, "run_after = now() + interval '1 hour'")
    assert not (await hosted.dispatch_once(settings)).tasks_are_due


@pytest.mark.usefixtures("kind")
async def test_a_runner_does_what_is_due_and_ends(queue: Queue, settings: Settings) -> None:
    ids = [queue.enqueue() for _ in range(20)]
    assert await hosted.run_tasks_once(settings, seconds=20, grace_seconds=1) == 20
    assert {queue.row(id_)["status"] for id_ in ids} == {"done"}
    assert await hosted.run_tasks_once(settings, seconds=20, grace_seconds=1) == 0
