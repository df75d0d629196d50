"""`quernel cron`, for operators."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from functions.core.console import CommandFailedError, Rows, table
from functions.core.database import Database
from functions.core.json import Json
from functions.core.settings import Settings
from functions.cron.jobs import CRON_JOBS
from functions.cron.scheduler import run_now
from functions.tasks.worker_name import worker_name


async def list_jobs(_: argparse.Namespace, __: Settings, ___: Database) -> Rows:
    """The jobs there are."""
    return [
        {"name": name, "every_seconds": job.interval_seconds, "description": job.description}
        for name, job in CRON_JOBS.items()
    ]


def format_jobs(jobs: Rows) -> str:
    """One line per job."""
    return table(jobs, "name", "every_seconds", "description")


async def run_job(options: argparse.Namespace, _: Settings, database: Database) -> dict[str, Json]:
    """Run one job now. Raises CommandFailedError when the job fails."""
    run = await run_now(database, options.name, worker=worker_name())
    if run.error is not None:
        raise CommandFailedError(f"{run.name} failed: {run.error}")
    return {"name": run.name, "count": run.count, "seconds": run.seconds}


def format_run(run: dict[str, Json]) -> str:
    """One sentence."""
    return f"{run['name']}: {run['count']} rows in {run['seconds']:g} s"


def add_cron_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add them to the parser of `quernel`."""
    cron = add("cron", "Run a periodic job now, due or not.", run_job, format_run)
    which = cron.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", choices=CRON_JOBS, metavar="NAME", help="which job")
    which.add_argument("--list", action="store_true", help="list the jobs there are")
    cron.set_defaults(listing=(list_jobs, format_jobs))
