"""Runs the jobs that are due. The database decides which, so any number of schedulers may ask."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4

from functions.core import telemetry
from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.logging import log_event, request_id_is
from functions.cron.jobs import CRON_JOBS, CronJob

logger = logging.getLogger(__name__)

LEASE_SECONDS = 30
"""How long after a crash a job stays with nobody, at most. While it runs its lease is renewed."""

MIN_PAUSE_SECONDS = 0.5

STOP_SECONDS = 3.0
"""How long a job that is stopped may take to say so."""


@dataclass(frozen=True)
class JobRun:
    """How one run of a job ended."""

    name: str
    count: int | None
    """Rows changed; None when it failed."""

    error: str | None
    seconds: float


@dataclass(frozen=True)
class DueJob:
    """A job this process may run now."""

    name: str
    job: CronJob
    lease_token: str

    async def run(self, database: Database) -> JobRun:
        """Run and record it. Its failure is recorded, logged and returned, not raised.

        The run has a request id of its own, which the tasks that it queues carry on.
        """
        with (
            request_id_is(str(uuid4())),
            telemetry.span("cron", self.name, job=self.name) as span,
        ):
            run = await self._run(database)
            span.note(rows=run.count, outcome="done" if run.error is None else "failed")
        telemetry.measure(
            "cron_seconds",
            run.seconds,
            job=self.name,
            outcome="done" if run.error is None else "failed",
        )
        if run.error is not None:
            telemetry.count("failures", 1, where="cron", job=self.name)
        return run

    async def _run(self, database: Database) -> JobRun:
        began = time.monotonic()
        count: int | None = None
        problem: str | None = None
        try:
            count = await self._leased(database)
        except QuernelError as error:
            problem = f"{error.code}: {error.message}"
        except asyncio.CancelledError:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._record(database, None, "stopped")
            raise
        except Exception as error:  # one broken job must not stop the others
            logger.exception("cron job failed", extra={"fields": {"job": self.name}})
            problem = f"{type(error).__name__}; the log has the details"
        run = JobRun(self.name, count, problem, round(time.monotonic() - began, 3))
        log_event(
            logger,
            logging.WARNING if problem else logging.INFO if count else logging.DEBUG,
            "cron job ended",
            job=self.name,
            count=count,
            error=problem,
            seconds=run.seconds,
        )
        await self._record(database, count, problem)
        return run

    async def _leased(self, database: Database) -> int:
        """Do the work, and keep the lease meanwhile: no other run begins before this one ends."""
        renewing = asyncio.create_task(self._renew(database))
        try:
            return await self.job.run(database)
        finally:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing

    async def _renew(self, database: Database) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                await database.rpc(
                    "cron_renew",
                    p_name=self.name,
                    p_lease_token=self.lease_token,
                    p_lease_seconds=LEASE_SECONDS,
                )
            except QuernelError as error:  # tried again; a lost lease is told at the end
                log_event(
                    logger, logging.WARNING, "cron lease not kept", job=self.name, code=error.code
                )

    async def _record(self, database: Database, count: int | None, problem: str | None) -> None:
        try:
            await database.rpc(
                "cron_finish",
                p_name=self.name,
                p_lease_token=self.lease_token,
                p_count=count,
                p_error=problem,
            )
        except QuernelError as error:
            # It took longer than its lease, or the database is away: it will be run again.
            log_event(
                logger, logging.WARNING, "cron run not recorded", job=self.name, code=error.code
            )


async def claim_due(
    database: Database, *, worker: str, jobs: Mapping[str, CronJob] = CRON_JOBS
) -> tuple[list[DueJob], float]:
    """The jobs that are due by the database's clock, now this process's to run, and the seconds
    until the next look is worthwhile.

    Raises QuernelError when the database cannot be asked.
    """
    claim = await database.rpc(
        "cron_claim",
        p_intervals={name: job.interval_seconds for name, job in jobs.items()},
        p_worker=worker,
        p_lease_seconds=LEASE_SECONDS,
    )
    due = [DueJob(row["name"], jobs[row["name"]], row["lease_token"]) for row in claim["due"]]
    pauses = [float(claim["next_in_seconds"]), *(one.job.interval_seconds for one in due)]
    return due, max(min(pauses), MIN_PAUSE_SECONDS)


async def run_due(
    database: Database, *, worker: str, jobs: Mapping[str, CronJob] = CRON_JOBS
) -> list[JobRun]:
    """Run every job that is due, side by side, and wait for them.

    Raises QuernelError when the database cannot be asked which these are.
    """
    due, _ = await claim_due(database, worker=worker, jobs=jobs)
    return list(await asyncio.gather(*(one.run(database) for one in due)))


async def run_now(
    database: Database, name: str, *, worker: str, jobs: Mapping[str, CronJob] = CRON_JOBS
) -> JobRun:
    """Run one job whether it is due or not.

    Raises KeyError for a name that is not in `jobs`, QuernelError 409 `cron_job_running` while
    another run of it goes on.
    """
    lease = await database.rpc(
        "cron_start",
        p_name=name,
        p_interval_seconds=jobs[name].interval_seconds,
        p_worker=worker,
        p_lease_seconds=LEASE_SECONDS,
    )
    return await DueJob(name, jobs[name], lease["lease_token"]).run(database)
