"""The worker process, `python -m functions.worker`: runs tasks and cron jobs until told to stop.

SIGTERM or SIGINT: nothing new is claimed, running tasks get a few seconds, then they are given
back. A second signal ends the process at once; the sweep finds what it had.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from functions.core import telemetry
from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.logging import configure_logging, log_event
from functions.core.settings import Settings, SettingsError, get_settings
from functions.cron.jobs import CRON_JOBS, CronJob
from functions.cron.scheduler import claim_due
from functions.tasks.context import TaskKind
from functions.tasks.doorbell import ring_on_notify
from functions.tasks.registry import TASK_KINDS
from functions.tasks.runner import LEASE_SECONDS, SLOTS, Runner, tell_of_tasks
from functions.tasks.worker_name import worker_name

logger = logging.getLogger("functions.worker")  # also when run as __main__

MIN_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 1.0
"""Bounds of the pause between two looks for tasks: doubled when there was nothing to do."""

MAX_CRON_PAUSE_SECONDS = 15.0
ERROR_PAUSE_SECONDS = 2.0
GRACE_SECONDS = 2.0


@dataclass(frozen=True)
class Worker:
    """What one worker process does, and how patiently."""

    settings: Settings
    kinds: Mapping[str, TaskKind]
    jobs: Mapping[str, CronJob]
    slots: int = SLOTS
    lease_seconds: int = LEASE_SECONDS
    grace_seconds: float = GRACE_SECONDS

    async def work(self, stop: asyncio.Event) -> None:
        """Run tasks and cron jobs until `stop` is set; then finish or give back what runs.

        A database that is away is waited for. Raises an ExceptionGroup for faults of our own.
        """
        name = worker_name()
        database = await Database.open(self.settings)
        runner = Runner(
            self.settings,
            database,
            self.kinds,
            name=name,
            slots=self.slots,
            lease_seconds=self.lease_seconds,
        )
        bell = asyncio.Event()
        log_event(logger, logging.INFO, "worker started", worker=name, kinds=sorted(self.kinds))
        try:
            async with asyncio.TaskGroup() as group:
                helpers = [group.create_task(self._run_cron(database, name))]
                if self.settings.database_url is not None:
                    url = self.settings.database_url.get_secret_value()
                    helpers.append(group.create_task(ring_on_notify(url, bell)))
                try:
                    await _claim_until(runner, stop, bell)
                finally:
                    for helper in helpers:
                        helper.cancel()
                    await runner.stop(grace_seconds=self.grace_seconds)
        finally:
            await database.aclose()
        log_event(logger, logging.INFO, "worker stopped", worker=name)

    async def _run_cron(self, database: Database, name: str) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    due, pause = await claim_due(database, worker=name, jobs=self.jobs)
                    if telemetry.is_on():
                        tell_of_tasks(await database.rpc("task_status"))
                except QuernelError:  # logged where it happened
                    due, pause = [], ERROR_PAUSE_SECONDS
                for job in due:
                    group.create_task(job.run(database))
                await asyncio.sleep(min(pause, MAX_CRON_PAUSE_SECONDS))


async def _claim_until(runner: Runner, stop: asyncio.Event, bell: asyncio.Event) -> None:
    pause = MIN_PAUSE_SECONDS
    while not stop.is_set():
        bell.clear()
        runner.ended.clear()
        try:
            claimed = await runner.claim()
        except QuernelError:  # logged where it happened
            await _wait_for_any((stop,), ERROR_PAUSE_SECONDS)
            continue
        pause = MIN_PAUSE_SECONDS if claimed else min(2 * pause, MAX_PAUSE_SECONDS)
        if runner.free_slots:
            await _wait_for_any((stop, bell, runner.ended), pause)
        else:
            await runner.wait(MAX_PAUSE_SECONDS)


async def _wait_for_any(events: Sequence[asyncio.Event], seconds: float) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _work_until_signalled(worker: Worker) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)  # the next one ends the process

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await worker.work(stop)


def run(worker: Worker) -> None:
    """Work in this process until a signal."""
    configure_logging(worker.settings.log_level, worker.settings.log_form)
    telemetry.start(worker.settings, "worker")
    try:
        asyncio.run(_work_until_signalled(worker))
    finally:
        telemetry.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 after an orderly stop, 1 when the configuration is refused."""
    parser = argparse.ArgumentParser(
        prog="python -m functions.worker",
        description="Run tasks and cron jobs until a signal.",
    )
    parser.add_argument("--slots", type=int, default=SLOTS, help="tasks at a time (%(default)s)")
    parser.add_argument(
        "--grace",
        type=float,
        default=GRACE_SECONDS,
        metavar="SECONDS",
        help="how long running tasks may take to finish after a signal (%(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        settings = get_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    run(Worker(settings, TASK_KINDS, CRON_JOBS, slots=options.slots, grace_seconds=options.grace))
    return 0


if __name__ == "__main__":
    sys.exit(main())
