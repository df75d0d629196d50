"""One run of what a worker does all the time, for hosts that start a process when there is work."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from functions.core import telemetry
from functions.core.database import Database
from functions.core.logging import configure_logging
from functions.core.settings import Settings
from functions.cron.scheduler import run_due
from functions.tasks.registry import TASK_KINDS
from functions.tasks.runner import Runner, tell_of_tasks
from functions.tasks.worker_name import worker_name


@dataclass(frozen=True)
class Dispatch:
    """What the clock found."""

    jobs: list[str]
    """Names of the cron jobs that ran."""

    tasks_are_due: bool
    """Whether tasks wait that this code can run."""


async def dispatch_once(settings: Settings) -> Dispatch:
    """Run the cron jobs that are due, the sweep among them, and look for tasks.

    Raises QuernelError when the database cannot be asked.
    """
    configure_logging(settings.log_level, settings.log_form)
    telemetry.start(settings, "dispatcher")
    database = await Database.open(settings)
    try:
        runs = await run_due(database, worker=worker_name())
        tasks = await database.rpc("task_status", p_kinds=list(TASK_KINDS))
        tell_of_tasks(tasks)
    finally:
        await database.aclose()
        # The container may be frozen as soon as this returns.
        await asyncio.to_thread(telemetry.stop)
    return Dispatch([run.name for run in runs], tasks["due"] > 0)


async def run_tasks_once(settings: Settings, *, seconds: float, grace_seconds: float) -> int:
    """Run due tasks until there are none; returns how many were started.

    Takes on new ones for at most `seconds`; those that still run `grace_seconds` later are given
    back.

    Raises QuernelError when the database cannot be asked.
    """
    configure_logging(settings.log_level, settings.log_form)
    telemetry.start(settings, "worker")
    database = await Database.open(settings)
    try:
        runner = Runner(settings, database, TASK_KINDS, name=worker_name())
        return await runner.drain(seconds=seconds, grace_seconds=grace_seconds)
    finally:
        await database.aclose()
        await asyncio.to_thread(telemetry.stop)
