"""The scheduler: a broken job stops nobody, and whatever happens is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.cron import scheduler
from functions.cron.jobs import CronJob, Step
from functions.cron.scheduler import claim_due, run_due, run_now
from tests.cron.conftest import Jobs

pytestmark = pytest.mark.anyio


class Scripted(CronJob):
    """A job that does what a test says."""

    def __init__(self, interval_seconds: int, action: Callable[[], Awaitable[int]]) -> None:
        super().__init__("A test", interval_seconds, ())
        object.__setattr__(self, "action", action)

    async def run(self, _: Database) -> int:
        return await self.action()  # type: ignore[attr-defined]


async def test_a_job_that_does_not_exist_is_not_run(database: Database, jobs: Jobs) -> None:
    with pytest.raises(KeyError):
        await run_now(database, jobs.name(), worker="test", jobs={})


async def test_a_broken_job_is_recorded_and_stops_no_other(database: Database, jobs: Jobs) -> None:
    async def break_() -> int:
        raise RuntimeError("sk_live_secret")

    async def refuse() -> int:
        raise QuernelError("database_timeout", 503, "The database did not answer in time.")

    async def work() -> int:
        return 5

    runs = await run_due(
        database,
        worker="test",
        jobs={
            jobs.name("a"): Scripted(60, break_),
            jobs.name("b"): Scripted(60, refuse),
            jobs.name("c"): Scripted(60, work),
        },
    )

    assert {run.name: (run.count, run.error) for run in runs} == {
        jobs.name("a"): (None, "RuntimeError; the log has the details"),
        jobs.name("b"): (None, "database_timeout: The database did not answer in time."),
        jobs.name("c"): (5, None),
    }
    assert jobs.row("a")["last_error"] == "RuntimeError; the log has the details"
    assert jobs.row("b")["last_error"].startswith("database_timeout")
    assert (jobs.row("c")["last_error"], jobs.row("c")["last_count"]) == (None, 5)


async def test_a_second_round_runs_nothing_again(database: Database, jobs: Jobs) -> None:
    times = 0

    async def work() -> int:
        nonlocal times
        times += 1
        return 0

    table = {jobs.name(): Scripted(60, work)}
    await run_due(database, worker="test", jobs=table)
    await run_due(database, worker="test", jobs=table)
    assert times == 1


async def test_rounds_at_the_same_time_run_a_job_once(database: Database, jobs: Jobs) -> None:
    times = 0

    async def work() -> int:
        nonlocal times
        times += 1
        await asyncio.sleep(0.2)
        return 0

    table = {jobs.name(): Scripted(60, work)}
    await asyncio.gather(*(run_due(database, worker=f"w{n}", jobs=table) for n in range(8)))
    assert times == 1


async def test_the_jobs_of_one_round_run_side_by_side(database: Database, jobs: Jobs) -> None:
    barrier = asyncio.Barrier(2)

    async def meet() -> int:
        async with asyncio.timeout(10):
            await barrier.wait()
        return 1

    table = {jobs.name(suffix): Scripted(60, meet) for suffix in "ab"}
    assert [run.count for run in await run_due(database, worker="test", jobs=table)] == [1, 1]


async def test_a_job_is_run_now_although_it_is_not_due(database: Database, jobs: Jobs) -> None:
    async def work() -> int:
        return 7

    table = {jobs.name(): Scripted(3600, work)}
    await run_due(database, worker="test", jobs=table)
    run = await run_now(database, jobs.name(), worker="test", jobs=table)
    assert (run.count, run.error) == (7, None)


async def test_a_job_that_is_stopped_can_start_again_soon(database: Database, jobs: Jobs) -> None:
    started = asyncio.Event()

    async def hang() -> int:
        started.set()
        await asyncio.sleep(60)
        return 0

    round_ = asyncio.create_task(
        run_due(database, worker="test", jobs={jobs.name(): Scripted(86_400, hang)})
    )
    await asyncio.wait_for(started.wait(), 10)
    round_.cancel()
    with pytest.raises(asyncio.CancelledError):
        await round_
    row = jobs.row()
    assert (row["lease_token"], row["last_error"]) == (None, "stopped")


async def test_a_job_that_takes_long_is_not_begun_a_second_time(
    database: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "LEASE_SECONDS", 1)
    runs = 0

    async def work() -> int:
        nonlocal runs
        runs += 1
        for _ in range(5):  # longer than a lease, and due again all the time
            await asyncio.sleep(0.5)
            jobs.change("due_at = now() - interval '1 minute'")
            again, _ = await claim_due(database, worker="other", jobs=mine)
            assert again == []
        return 1

    mine = {jobs.name(): Scripted(3600, work)}
    [run] = await run_due(database, worker="test", jobs=mine)
    assert (run.error, run.count, runs) == (None, 1, 1)


async def test_the_scheduler_knows_when_to_look_again(database: Database, jobs: Jobs) -> None:
    async def work() -> int:
        return 0

    table = {jobs.name("a"): Scripted(40, work), jobs.name("b"): Scripted(3600, work)}
    due, pause = await claim_due(database, worker="test", jobs=table)
    assert len(due) == 2
    assert 29 < pause <= 40
    for job in due:
        await job.run(database)
    due, pause = await claim_due(database, worker="test", jobs=table)
    assert due == []
    assert 30 < pause <= 40


class Counting:
    """A database function that has so many rows to change."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.limits: list[int] = []

    async def rpc(self, _: str, /, *, p_limit: int) -> dict[str, int]:
        self.limits.append(p_limit)
        done = min(p_limit, self.rows)
        self.rows -= done
        return {"count": done}


@pytest.mark.parametrize(("rows", "calls"), [(0, 1), (9, 1), (10, 2), (25, 3)])
async def test_a_step_goes_on_until_less_than_a_batch_is_left(rows: int, calls: int) -> None:
    counting = Counting(rows)
    assert await Step("anything", batch=10).run(counting) == rows  # type: ignore[arg-type]
    assert counting.limits == [10] * calls
