"""Every periodic job: its name, how often it runs, and the database functions it consists of."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.json import Json
from functions.core.logging import log_event

logger = logging.getLogger(__name__)

MINUTE = 60  # seconds
HOUR = 60 * MINUTE
DAY = 24 * HOUR

MAX_BATCHES = 1000
"""Calls of one step in one run; the next run goes on from there."""

LOCK_PAUSE_SECONDS = 2.0
"""Between two tries to get a lock, where the refusal names no pause. Whoever waited behind the
first try gets through in it.
"""


@dataclass(frozen=True)
class Step:
    """One backend function, which answers {"count": rows changed}.

    With a `batch`, it is called with p_limit until it changes fewer rows than that. With several
    `tries`, a call that did not get its lock (503 `partition_in_use`) is repeated after a pause.
    `seconds`: as long as the database takes for a call at most, where that is more than usual.
    """

    function: str
    batch: int | None = None
    tries: int = 1
    seconds: float | None = None

    async def run(self, database: Database) -> int:
        """Returns the rows changed. Raises QuernelError."""
        if self.batch is None:
            return await self._call(database)
        total = 0
        for _ in range(MAX_BATCHES):
            count = await self._call(database, p_limit=self.batch)
            total += count
            if count < self.batch:
                break
        return total

    async def _call(self, database: Database, **arguments: Json) -> int:
        tries_left = self.tries
        while True:
            tries_left -= 1
            try:
                if self.seconds is None:
                    answer = await database.rpc(self.function, **arguments)
                else:
                    answer = await database.long_rpc(self.function, self.seconds, **arguments)
            except QuernelError as error:
                if error.code != "partition_in_use" or tries_left <= 0:
                    raise
                await asyncio.sleep(error.retry_after or LOCK_PAUSE_SECONDS)
            else:
                for one in answer.get("wrong", ()):
                    log_event(logger, logging.ERROR, "invariant does not hold", **one)
                return int(answer["count"])


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
        "Return holds past their deadline, mark the answers that were lost with them",
        15,
        (Step("credit_reap", batch=200), Step("messages_sweep", batch=200)),
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
    "images_expire": CronJob(
        "Give up generations of images past their deadline, return what was held for them",
        MINUTE,
        (Step("images_expire", batch=200),),
    ),
    "ads_reset": CronJob(
        "Show people who have watched no ad today that they have not",
        HOUR,
        (Step("ads_reset", batch=1000),),
    ),
    "insights_refresh": CronJob(
        "Have a worker reckon anew what people draw, where there is something new",
        10 * MINUTE,
        (Step("insights_enqueue"),),
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
    "conversation_purge": CronJob(
        "Delete conversations past their retention, with their messages",
        HOUR,
        (Step("conversation_purge", batch=100),),
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
    # The waits and pauses of all tries together are less than a scheduler's lease.
    "usage_partitions": CronJob(
        "Make the months ahead of the usage log, drop those past their retention",
        DAY,
        (
            Step("usage_partitions_ensure", tries=4),
            Step("usage_partitions_drop", batch=1, tries=4),
        ),
    ),
    "usage_addresses": CronJob(
        "Forget where requests came from, past the retention of that",
        HOUR,
        (Step("usage_addresses_forget", batch=1000),),
    ),
    "libraries_refresh": CronJob(
        "Have libraries crawled again whose time has come",
        600,
        (Step("libraries_due"),),
    ),
    "library_answers_purge": CronJob(
        "Delete answers from documentation that have expired",
        600,
        (Step("library_answers_purge", batch=5000),),
    ),
    "libraries_expire": CronJob(
        "Delete libraries whose archive never came",
        HOUR,
        (Step("libraries_expire", batch=200),),
    ),
    "documents_expire": CronJob(
        "Delete documents whose file never came",
        HOUR,
        (Step("documents_expire", batch=200),),
    ),
    "erasures_due": CronJob(
        "Have a worker erase people whose grace period is over, and go on where one had to wait",
        10 * MINUTE,
        (Step("erasures_due", batch=100),),
    ),
    "provider_keys_revalidate": CronJob(
        "Have a worker ask providers about keys that lie idle",
        HOUR,
        (Step("provider_keys_revalidate"),),
    ),
    "provider_key_uses_purge": CronJob(
        "Forget what provider keys were used for, past the retention of that",
        DAY,
        (Step("provider_key_uses_purge", batch=5000),),
    ),
    "stripe_reconcile": CronJob(
        "Have a worker compare what Stripe has with what is known of it here",
        DAY,
        (Step("stripe_reconcile_enqueue"),),
    ),
    "archive": CronJob(
        "Put conversations and images aside that nobody has looked at for long",
        DAY,
        (Step("conversations_archive", batch=500), Step("images_archive", batch=500)),
    ),
    "prove_invariants": CronJob(
        "Prove what must be true of the whole database",
        HOUR,
        (Step("invariants_prove", batch=1, seconds=600.0),),
    ),
    "cron_runs_purge": CronJob(
        "Delete records of these jobs past their retention",
        DAY,
        (Step("cron_runs_purge", batch=5000),),
    ),
    "task_purge": CronJob(
        "Delete done and cancelled tasks past their retention",
        DAY,
        (Step("task_purge", batch=5000),),
    ),
}
