"""Work after a commit: whether anybody does it, and what failed of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from functions.core.json import Json
from functions.cron.jobs import CRON_JOBS
from functions.doctor.findings import Area, Finding, count_of, listed

WORK = Area("work")
ALIVE = timedelta(minutes=5)
"""A scheduler looks every 15 seconds, Modal's dispatcher every minute."""

WAITING = timedelta(minutes=10)
"""How long a due task may wait for a worker (sql/checks/302)."""


def examine_work(
    jobs: list[dict[str, Json]], tasks: dict[str, Json], report: dict[str, Json]
) -> list[Finding]:
    """Judge backend.cron_status, backend.task_status and the report's last task."""
    now = datetime.fromisoformat(report["now"])
    return [
        _worker(jobs, tasks, report, now),
        *_cron(jobs, now),
        *_queue(tasks, now),
    ]


def _worker(
    jobs: list[dict[str, Json]], tasks: dict[str, Json], report: dict[str, Json], now: datetime
) -> Finding:
    signs = [job["last_started_at"] for job in jobs] + [report["last_task_started_at"]]
    last = max((datetime.fromisoformat(sign) for sign in signs if sign), default=None)
    if last is not None and now - last < ALIVE:
        return WORK.ok("worker", f"one was seen {(now - last).total_seconds():.0f} s ago")
    waiting = f"; {count_of(tasks['due'], 'task')} due" if tasks["due"] else ""
    return WORK.wrong(
        "worker",
        f"none was seen {f'since {last:%Y-%m-%d %H:%M} UTC' if last else 'yet'}{waiting}",
        "start `python -m functions.worker`, or look at Modal's `dispatch`",
    )


def _cron(jobs: list[dict[str, Json]], now: datetime) -> Iterator[Finding]:
    known = {job["name"]: job for job in jobs}
    failed = {
        name: known[name]["last_error"]
        for name in CRON_JOBS
        if name in known and known[name]["last_error"] is not None
    }
    late = [
        name
        for name in CRON_JOBS
        if name not in known or now - datetime.fromisoformat(known[name]["due_at"]) > WAITING
    ]
    for name, error in failed.items():
        yield WORK.wrong(
            "cron_failed", f"{name}: {error}", f"docs/runbook.md, {name}; `quernel cron {name}`"
        )
    if late:
        yield WORK.wrong(
            "cron_late",
            f"not run when due: {listed(late)}",
            "no worker of this version runs; see the finding `worker`",
        )
    if not failed and not late:
        yield WORK.ok("cron", f"all {len(CRON_JOBS)} jobs ran when due")


def _queue(tasks: dict[str, Json], now: datetime) -> Iterator[Finding]:
    oldest = tasks["oldest_due_at"]
    if oldest is not None and now - datetime.fromisoformat(oldest) > WAITING:
        yield WORK.wrong(
            "queue",
            f"{count_of(tasks['due'], 'task')} due, the first since {oldest}",
            "more workers, or more `--slots`; `quernel tasks list --status queued`",
        )
    else:
        yield WORK.ok("queue", f"{tasks['queued']} queued, {tasks['running']} running")
    if tasks["dead"]:
        yield WORK.warning(
            "dead_tasks",
            f"{count_of(tasks['dead'], 'task')} given up",
            "`quernel tasks dead` says why; then `quernel tasks retry` or `cancel`",
        )
    else:
        yield WORK.ok("dead_tasks", "none given up")
