"""A real worker process with a handler for tests: `python -m tests.tasks.worker_process KIND`."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import Any

from functions.core.settings import get_settings
from functions.cron.jobs import CronJob, Step
from functions.tasks.context import TaskContext, TaskKind
from functions.worker import Worker, run

SWEEP = CronJob("Sweep", 1, (Step("task_sweep", batch=200),))


async def handle(payload: dict[str, Any], context: TaskContext) -> dict[str, Any]:
    """Write down that the attempt began, then do what the payload says."""
    note(Path(payload["file"]), context.attempt)
    if payload["do"] == "hang" or (payload["do"] == "hang_once" and context.attempt == 1):
        await asyncio.sleep(600)
    if payload["do"] == "die":
        os._exit(7)
    if payload["do"] == "pause":
        await asyncio.sleep(0.7)
    return {"pid": os.getpid()}


def note(file: Path, attempt: int) -> None:
    with file.open("a") as lines:
        lines.write(f"{attempt}\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("--lease", type=int, default=60)
    parser.add_argument("--grace", type=float, default=2)
    options = parser.parse_args()
    run(
        Worker(
            get_settings(),
            {options.kind: TaskKind(handle, timeout_seconds=600)},
            {
                f"{options.kind}_{os.getpid()}": CronJob(
                    "Sweep", 1, (Step("task_sweep", batch=200),)
                )
            },
            lease_seconds=options.lease,
            grace_seconds=options.grace,
        )
    )


if __name__ == "__main__":
    main()
