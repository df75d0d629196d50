"""Every periodic job: its name, how often it runs, and the database functions it consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from functions.core.database import Database

MINUTE = 60  # seconds
HOUR = 60 * MINUTE
DAY = 24 * HOUR

MAX_BATCHES = 1000
"""Calls of one step in one run; the next run goes on from there."""


@dataclass(frozen=True)
class Step:
    """One backend function, which answers {"count": rows changed}.

    With a `batch`, it is called with p_limit until it changes fewer rows than that.
    """

    function: str
    batch: int | None = None

    async def run(self, database: Database) -> int:
        """Returns the rows changed. Raises QuernelError."""
        if self.batch is None:
            answer = await database.rpc(self.function)
            return int(answer["count"])
        total = 0
        for _ in range(MAX_BATCHES):
            answer = await database.rpc(self.function, p_limit=self.batch)
            total += int(answer["count"])
            if answer["count"] < self.batch:
                break
        return total


@dataclass(frozen=True)
class CronJob:
    """Runs its steps in order, once per interval; running it twice changes nothing more."""

    description: str
    interval_seconds: int
    steps: tuple[Step, ...]

    async def run(self, database: Database) -> int:
        """Returns the rows changed. Raises QuernelError."""
        return sum([await step.run(database) for step in self.steps])


CRON_JOBS: Mapping[str, CronJob] = {
    "reap_holds": CronJob(
        "Return holds past their deadline",
        15,
        (Step("credit_reap", batch=200),),
    ),
    "expire_lots": CronJob(
        "Take back credits past their expiry",
        MINUTE,
        (Step("credit_expire", batch=200),),
    ),
    "lapse_plans": CronJob(
        "Show owners whose plan has ended what they have now",
        5 * MINUTE,
        (Step("plans_lapse", batch=200),),
    ),
    "top_ups": CronJob(
        "Ask for the automatic top-ups that were missed",
        3 * MINUTE,
        (Step("top_ups_due", batch=200),),
    ),
    "sweep_tasks": CronJob(
        "Queue tasks again whose worker is gone, end those nobody pays for",
        30,
        (Step("task_sweep", batch=200), Step("task_bury", batch=200)),
    ),
    "notifications": CronJob(
        "Give up deliveries whose task has died, delete notifications past their retention",
        HOUR,
        (Step("notification_sweep", batch=500), Step("notification_purge", batch=5000)),
    ),
    "purge_idempotency": CronJob(
        "Delete stored answers past their time",
        HOUR,
        (Step("chat_purge", batch=1000),),
    ),
    "alerts_scan": CronJob(
        "Tell of invoices that have fallen due and subscriptions about to end",
        HOUR,
        (Step("alerts_scan", batch=500),),
    ),
    "alerts_purge": CronJob(
        "Delete read alerts past their retention",
        DAY,
        (Step("alerts_purge", batch=1000),),
    ),
    "usage_partitions": CronJob(
        "Make the months ahead of the usage log",
        DAY,
        (Step("usage_partitions_ensure"),),
    ),
    "stripe_reconcile": CronJob(
        "Have a worker compare what Stripe has with what is known of it here",
        DAY,
        (Step("stripe_reconcile_enqueue"),),
    ),
    "task_purge": CronJob(
        "Delete done and cancelled tasks past their retention",
        DAY,
        (Step("task_purge", batch=5000),),
    ),
}
