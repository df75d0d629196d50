"""The runner: whatever a handler does, its task ends in one known state, and the runner goes on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.settings import Settings
from functions.tasks import runner as runner_module
from functions.tasks.context import (
    Handler,
    TaskContext,
    TaskKind,
    TaskRejectedError,
    TaskRetryError,
)
from functions.tasks.registry import TASK_KINDS
from functions.tasks.runner import Runner
from tests.tasks.conftest import Queue

pytestmark = pytest.mark.anyio

SECRET = "sk_live_do_not_store_this"


def kinds(queue: Queue, handler: Handler, *, timeout: float = 30) -> Mapping[str, TaskKind]:
    return {queue.kind: TaskKind(handler, timeout_seconds=timeout)}


async def drain(
    settings: Settings,
    database: Database,
    handlers: Mapping[str, TaskKind],
    *,
    lease_seconds: int = 60,
    slots: int = 8,
) -> int:
    runner = Runner(
        settings, database, handlers, name="test", lease_seconds=lease_seconds, slots=slots
    )
    return await runner.drain(seconds=20, grace_seconds=0)


async def succeed(payload: dict[str, Any], _: TaskContext) -> dict[str, Any]:
    return {"got": payload}


# What goes wrong --------------------------------------------------------------------------------


async def test_a_kind_nobody_knows_is_not_claimed(
    queue: Queue, settings: Settings, database: Database
) -> None:
    """A new kind waits for the deployment of its handler."""
    id_ = queue.enqueue()
    assert await drain(settings, database, {"another_kind": TaskKind(succeed, 30)}) == 0
    assert queue.row(id_)["status"] == "queued"


async def test_a_task_without_a_handler_fails_with_a_clear_reason(
    queue: Queue, settings: Settings, database: Database
) -> None:
    class Forgetful(dict[str, TaskKind]):
        def get(self, *_: Any) -> None:
            return None

    id_ = queue.enqueue()
    await drain(settings, database, Forgetful(kinds(queue, succeed)))
    row = queue.row(id_)
    assert (row["status"], row["attempts"]) == ("queued", 1)
    assert row["last_error"] == f"no handler for tasks of kind {queue.kind}"


async def test_a_crashing_handler_is_tried_again_and_its_text_is_not_stored(
    queue: Queue, settings: Settings, database: Database
) -> None:
    async def crash(*_: Any) -> None:
        raise RuntimeError(SECRET)

    id_ = queue.enqueue()
    await drain(settings, database, kinds(queue, crash))
    row = queue.row(id_)
    assert row["status"] == "queued"
    assert row["last_error"] == f"RuntimeError; the log of task {id_} has the details"


async def test_a_crashing_handler_does_not_harm_its_neighbours(
    queue: Queue, settings: Settings, database: Database
) -> None:
    async def crash_on_odd(payload: dict[str, Any], _: TaskContext) -> None:
        if payload["n"] % 2:
            raise RuntimeError("odd")

    ids = [queue.enqueue({"n": n}) for n in range(6)]
    assert await drain(settings, database, kinds(queue, crash_on_odd), slots=2) == 6
    states = [queue.row(id_)["status"] for id_ in ids]
    assert states == ["done", "queued", "done", "queued", "done", "queued"]


async def test_a_refusal_of_our_own_is_stored_with_its_code(
    queue: Queue, settings: Settings, database: Database
) -> None:
    async def refuse(*_: Any) -> None:
        raise QuernelError("model_not_found", 404, "There is no such model.")

    id_ = queue.enqueue()
    await drain(settings, database, kinds(queue, refuse))
    assert queue.row(id_)["last_error"] == "model_not_found: There is no such model."


async def test_a_rejected_task_is_dead_at_once(
    queue: Queue, settings: Settings, database: Database
) -> None:
    async def reject(*_: Any) -> None:
        raise TaskRejectedError("there is no such image")

    id_ = queue.enqueue()
    await drain(settings, database, kinds(queue, reject))
    row = queue.row(id_)
    assert (row["status"], row["last_error"]) == ("dead", "there is no such image")


async def test_a_handler_chooses_when_it_runs_again(
    queue: Queue, settings: Settings, database: Database
) -> None:
    async def later(*_: Any) -> None:
        raise TaskRetryError("the provider asks for patience", seconds=300.4)

    id_ = queue.enqueue()
    await drain(settings, database, kinds(queue, later))
    row = queue.row(id_)
    assert row["last_error"] == "the provider asks for patience"
    assert 299 <= (row["run_after"] - row["updated_at"]).total_seconds() <= 300


async def test_a_handler_that_takes_too_long_is_cancelled(
    queue: Queue, settings: Settings, database: Database
) -> None:
    cancelled = asyncio.Event()

    async def hang(*_: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    id_ = queue.enqueue()
    await drain(settings, database, kinds(queue, hang, timeout=0.2))
    assert cancelled.is_set()
    assert queue.row(id_)["last_error"] == "not finished after 0.2 seconds"


async def test_a_handler_that_ignores_its_cancellation_is_left_behind(
    queue: Queue, settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "CANCEL_SECONDS", 0.1)
    over = asyncio.Event()

    async def stubborn(*_: Any) -> None:
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue

    id_ = queue.enqueue()
    await drain(settings, database, kinds(queue, stubborn, timeout=0.1))
    assert queue.row(id_)["last_error"] == "not finished after 0.1 seconds"
    over.set()


async def test_a_handler_that_cancels_itself_has_failed(
    queue: Queue, settings: Settings, database: Database
) -> None:
    async def cancel_itself(*_: Any) -> None:
        raise asyncio.CancelledError

    id_ = queue.enqueue()
    await drain(settings, database, kinds(queue, cancel_itself))
    row = queue.row(id_)
    assert row["status"] == "queued"
    assert row["last_error"].startswith("CancelledError;")


@pytest.mark.parametrize("result", [{"n": object()}, {"n": float("nan")}, {"n": "\0"}])
async def test_a_result_that_cannot_be_stored_is_a_failure(
    result: dict[str, Any], queue: Queue, settings: Settings, database: Database
) -> None:
    async def answer(*_: Any) -> dict[str, Any]:
        return result

    id_ = queue.enqueue()
    await drain(settings, database, kinds(queue, answer))
    row = queue.row(id_)
    assert row["status"] == "queued"
    assert row["last_error"]


# Leases -----------------------------------------------------------------------------------------


async def test_a_lease_is_renewed_while_the_handler_works(
    queue: Queue, settings: Settings, database: Database
) -> None:
    async def take_long(*_: Any) -> None:
        await asyncio.sleep(2.5)
        queue.sweep()

    id_ = queue.enqueue()
    await drain(settings, database, kinds(queue, take_long), lease_seconds=1)
    row = queue.row(id_)
    assert (row["status"], row["attempts"]) == ("done", 1)


async def test_a_handler_whose_task_was_taken_over_is_cancelled_and_not_heard(
    queue: Queue, settings: Settings, database: Database
) -> None:
    cancelled = asyncio.Event()

    async def lose(_: dict[str, Any], context: TaskContext) -> dict[str, Any]:
        queue.lapse(str(context.task_id))
        queue.sweep()
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return {"by": "the loser"}

    id_ = queue.enqueue()
    await drain(settings, database, kinds(queue, lose), lease_seconds=1)
    row = queue.row(id_)
    assert cancelled.is_set()
    assert (row["status"], row["result"]) == ("queued", None)
    assert row["last_error"] == "worker test was not heard of in its lease"


async def test_a_result_that_comes_after_the_lease_was_lost_is_not_recorded(
    queue: Queue, settings: Settings, database: Database
) -> None:
    async def lose_quickly(_: dict[str, Any], context: TaskContext) -> dict[str, Any]:
        queue.lapse(str(context.task_id))
        queue.sweep()
        return {"by": "the loser"}

    id_ = queue.enqueue()
    await drain(settings, database, kinds(queue, lose_quickly))
    row = queue.row(id_)
    assert (row["status"], row["result"]) == ("queued", None)


class Flaky:
    """A database that does not answer some calls."""

    def __init__(self, database: Database, function: str, failures: int) -> None:
        self.database = database
        self.function = function
        self.failures = failures

    async def rpc(self, function: str, /, **arguments: Any) -> Any:
        if function == self.function and self.failures:
            self.failures -= 1
            raise QuernelError("database_unavailable", 503, "The database cannot be reached.")
        return await self.database.rpc(function, **arguments)


async def test_a_report_is_repeated_until_the_database_answers(
    queue: Queue, settings: Settings, database: Database
) -> None:
    flaky: Any = Flaky(database, "task_complete", 2)
    id_ = queue.enqueue()
    await drain(settings, flaky, kinds(queue, succeed))
    assert flaky.failures == 0
    assert queue.row(id_)["status"] == "done"


async def test_a_renewal_may_fail_once_without_harm(
    queue: Queue, settings: Settings, database: Database
) -> None:
    async def take_long(*_: Any) -> None:
        await asyncio.sleep(2.5)

    flaky: Any = Flaky(database, "task_renew", 1)
    id_ = queue.enqueue()
    await drain(settings, flaky, kinds(queue, take_long), lease_seconds=2)
    assert flaky.failures == 0
    assert queue.row(id_)["status"] == "done"


async def test_work_stops_when_the_lease_lapses_because_the_database_is_away(
    queue: Queue, settings: Settings, database: Database
) -> None:
    cancelled = asyncio.Event()

    async def hang(*_: Any) -> None:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    away: Any = Flaky(database, "task_renew", 1000)
    id_ = queue.enqueue()
    await drain(settings, away, kinds(queue, hang), lease_seconds=1)
    assert cancelled.is_set()
    assert queue.row(id_)["status"] in ("running", "queued")  # whether a sweep came by or not
    queue.sweep()
    assert queue.row(id_)["status"] == "queued"


# Success and stopping ---------------------------------------------------------------------------


async def test_a_result_is_recorded(queue: Queue, settings: Settings, database: Database) -> None:
    id_ = queue.enqueue({"text": "héllo", "n": 1})
    assert await drain(settings, database, kinds(queue, succeed)) == 1
    row = queue.row(id_)
    assert (row["status"], row["result"]) == ("done", {"got": {"text": "héllo", "n": 1}})


async def test_a_handler_gets_the_shared_objects_and_exact_numbers(
    queue: Queue, settings: Settings, database: Database
) -> None:
    seen: list[Any] = []

    async def look(payload: dict[str, Any], context: TaskContext) -> None:
        seen.append((payload["credits"], context))

    id_ = queue.enqueue({"credits": 0.1})
    await drain(settings, database, kinds(queue, look))
    ((amount, context),) = seen
    assert amount == Decimal("0.1")
    assert (str(context.task_id), context.attempt) == (id_, 1)
    assert context.settings is settings
    assert context.database is database


async def test_no_more_tasks_run_at_once_than_there_are_slots(
    queue: Queue, settings: Settings, database: Database
) -> None:
    running = most = 0

    async def count(*_: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1

    for _ in range(9):
        queue.enqueue()
    assert await drain(settings, database, kinds(queue, count), slots=3) == 9
    assert most == 3


async def test_slow_kinds_leave_slots_to_others(
    queue: Queue, settings: Settings, database: Database
) -> None:
    """However many of them wait, and whatever their priority."""
    quick = replace(queue, kind=f"{queue.kind}_quick")
    most: Counter[str] = Counter()
    running: Counter[str] = Counter()
    is_over = asyncio.Event()

    def work(name: str) -> Handler:
        async def count(*_: Any) -> None:
            running[name] += 1
            most[name] = max(most[name], running[name])
            if name == "slow":
                await is_over.wait()
            running[name] -= 1

        return count

    slow = [queue.enqueue(priority=1) for _ in range(20)]
    handlers = {
        queue.kind: TaskKind(work("slow"), 30, share=1 / 2),
        quick.kind: TaskKind(work("quick"), 30),
    }
    runner = Runner(settings, database, handlers, name="test", slots=8)
    assert await runner.claim() == 4
    assert await runner.claim() == 0
    ids = [quick.enqueue() for _ in range(6)]
    assert await runner.claim() == 4
    async with asyncio.timeout(20):
        while any(quick.row(id_)["status"] != "done" for id_ in ids):
            runner.ended.clear()
            if not await runner.claim():
                await runner.ended.wait()
    assert [queue.row(id_)["status"] for id_ in slow].count("running") == 4
    is_over.set()
    assert await runner.drain(seconds=20, grace_seconds=0) >= 1
    assert [queue.row(id_)["status"] for id_ in slow] == ["done"] * 20
    assert most["slow"] == 4


async def test_a_drain_does_not_end_before_the_rest_of_a_kind(
    queue: Queue, settings: Settings, database: Database
) -> None:
    """What ends while tasks are asked for has kept others of its kind from being claimed."""
    is_over = asyncio.Event()

    async def wait(*_: Any) -> None:
        await is_over.wait()

    class Slow:
        async def rpc(self, function: str, /, **arguments: Any) -> Any:
            answer = await database.rpc(function, **arguments)
            if function == "task_claim" and not answer:
                is_over.set()
                await asyncio.sleep(1)
            return answer

    ids = [queue.enqueue() for _ in range(3)]
    other = f"{queue.kind}_other"
    handlers = {queue.kind: TaskKind(wait, 30, share=1 / 8), other: TaskKind(wait, 30)}
    slow: Any = Slow()
    assert await drain(settings, slow, handlers) == 3
    assert [queue.row(id_)["status"] for id_ in ids] == ["done"] * 3


@pytest.mark.parametrize(
    ("share", "slots", "limit"),
    [(1.0, 8, 8), (0.5, 8, 4), (0.5, 3, 1), (0.5, 1, 1), (1 / 16, 16, 1), (1 / 16, 8, 1)],
    ids=range(6),
)
def test_a_share_is_one_slot_at_least(share: float, slots: int, limit: int) -> None:
    assert TaskKind(succeed, 30, share=share).limit(slots) == limit


def test_what_can_take_minutes_leaves_slots_to_the_rest() -> None:
    slow = {name: kind for name, kind in TASK_KINDS.items() if kind.timeout_seconds > 120}
    assert {"image_generate", "image_analyze", "stripe_reconcile"} <= set(slow)
    assert sum(kind.limit(runner_module.SLOTS) for kind in slow.values()) <= runner_module.SLOTS - 2


async def test_stopping_lets_quick_tasks_finish_and_gives_the_others_back(
    queue: Queue, settings: Settings, database: Database
) -> None:
    async def work(payload: dict[str, Any], _: TaskContext) -> None:
        await asyncio.sleep(0.2 if payload["quick"] else 60)

    quick, slow = queue.enqueue({"quick": True}), queue.enqueue({"quick": False})
    runner = Runner(settings, database, kinds(queue, work), name="test")
    assert await runner.claim() == 2
    await runner.stop(grace_seconds=1)
    assert queue.row(quick)["status"] == "done"
    row = queue.row(slow)
    assert (row["status"], row["attempts"]) == ("queued", 0)


async def test_stopping_is_bounded_when_the_database_is_away(
    queue: Queue, settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "STOP_SECONDS", 0.5)

    async def hang(*_: Any) -> None:
        await asyncio.sleep(60)

    away: Any = Flaky(database, "task_give_back", 1000)
    id_ = queue.enqueue()
    runner = Runner(settings, away, kinds(queue, hang), name="test")
    await runner.claim()
    async with asyncio.timeout(5):
        await runner.stop(grace_seconds=0)
    assert runner.free_slots == runner_module.SLOTS
    assert queue.row(id_)["status"] == "running"  # until its lease lapses


async def test_every_registered_kind_has_a_name_the_table_takes_and_a_limit(queue: Queue) -> None:
    assert TASK_KINDS
    for name, kind in TASK_KINDS.items():
        row = queue.connection.execute("select %s ~ '^[a-z][a-z0-9_]{0,62}$'", [name]).fetchone()
        assert row == (True,)
        assert 0 < kind.timeout_seconds <= 3600
