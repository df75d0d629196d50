"""Runs claimed tasks, several at a time, each under its lease."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from functions.core import telemetry
from functions.core.database import Database
from functions.core.errors import InvalidRequestError, QuernelError
from functions.core.json import Json
from functions.core.logging import log_event, request_id_var
from functions.core.settings import Settings
from functions.provider_keys.sources import open_vault
from functions.tasks.context import TaskContext, TaskKind, TaskRejectedError, TaskRetryError
from functions.tasks.lease import LEASE_LOST, ClaimedTask, Lease

logger = logging.getLogger(__name__)

SLOTS = 16
"""Tasks that run at the same time in one process: they mostly wait for others. Kinds that can take
minutes have shares (registry.py) which leave some of them to the rest.
"""

LOOK_SECONDS = 2.0
"""Between two looks for tasks while others run."""

LEASE_SECONDS = 60
"""How long after a crash the task stays with nobody, at most; also what a hold is extended by."""

CANCEL_SECONDS = 2.0
"""How long a handler may take to end once it was cancelled; then it is abandoned."""

STOP_SECONDS = 4.0
"""How long cancelled tasks may take to end and be given back when the process stops."""


class Runner:
    """Claims tasks of the kinds it knows and does them. A handler's failure never leaves here."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        kinds: Mapping[str, TaskKind],
        *,
        name: str,
        slots: int = SLOTS,
        lease_seconds: int = LEASE_SECONDS,
    ) -> None:
        """Raises SettingsError for master keys that are half configured."""
        self._settings = settings
        self._vault = open_vault(settings)
        self._database = database
        self._kinds = kinds
        self._name = name
        self._slots = slots
        self._lease_seconds = lease_seconds
        self._running: dict[asyncio.Task[None], str] = {}
        self.ended = asyncio.Event()
        """Set when a task ends, which makes room; whoever waits for it clears it."""

    @property
    def free_slots(self) -> int:
        """How many more tasks can be claimed now."""
        return self._slots - len(self._running)

    async def claim(self) -> int:
        """Start as many due tasks as there are free slots, of each kind no more than its share.

        Returns how many were started. Raises QuernelError when the database cannot be asked.
        """
        limits = self._limits()
        kinds = [name for name in self._kinds if limits.get(name) != 0]
        if self.free_slots == 0 or not kinds:
            return 0
        rows = await self._database.rpc(
            "task_claim",
            p_kinds=kinds,
            p_worker=self._name,
            p_limit=self.free_slots,
            p_lease_seconds=self._lease_seconds,
            p_limits=limits,
        )
        for row in rows:
            task = ClaimedTask.from_row(row)
            running = asyncio.create_task(self._run(task))
            self._running[running] = task.kind
            running.add_done_callback(self._forget)
        return len(rows)

    def _limits(self) -> dict[str, int]:
        """How many more tasks of those kinds that have a share may run."""
        counts = Counter(self._running.values())
        return {
            name: max(0, kind.limit(self._slots) - counts[name])
            for name, kind in self._kinds.items()
            if kind.share < 1
        }

    def _forget(self, running: asyncio.Task[None]) -> None:
        del self._running[running]
        self.ended.set()

    async def drain(self, *, seconds: float, grace_seconds: float) -> int:
        """Claim and run until nothing is due or the time is over; returns how many were started.

        What still runs then gets `grace_seconds` to finish.
        """
        deadline = time.monotonic() + seconds
        started = 0
        try:
            while (left := deadline - time.monotonic()) > 0:
                # What ran while it was asked may have kept more of its kind from being claimed.
                was_idle = not self._running
                claimed = await self.claim()
                started += claimed
                if not claimed and was_idle:
                    break
                await self.wait(min(left, LOOK_SECONDS))
        finally:
            await self.stop(grace_seconds=grace_seconds)
        return started

    async def wait(self, seconds: float) -> None:
        """Wait until a running task ends, at most so long."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    async def stop(self, *, grace_seconds: float) -> None:
        """Let running tasks finish for so long; then cancel them and give them back."""
        if self._running and grace_seconds > 0:
            await asyncio.wait(self._running, timeout=grace_seconds)
        for seconds in (STOP_SECONDS, 0.5):  # the database may be away: the sweep does it then
            if not self._running:
                return
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running, timeout=seconds)

    async def _run(self, task: ClaimedTask) -> None:
        """Do one task and report how it ended."""
        request_id_var.set(task.request_id)  # of this asyncio task alone
        lease = Lease(self._database, task, self._lease_seconds)
        began = time.monotonic()
        with telemetry.span(
            "task", task.kind, kind=task.kind, task_id=task.id, attempt=task.attempt
        ) as span:
            try:
                outcome = await self._attempt(task, lease)
            except QuernelError as error:
                # The report was refused. Whoever has the task now, or the sweep, goes on with it.
                outcome = error.code
            span.note(outcome=outcome)
        seconds = round(time.monotonic() - began, 3)
        telemetry.measure("task_seconds", seconds, kind=task.kind, outcome=outcome)
        if outcome != "done":
            telemetry.count("failures", 1, where="task", kind=task.kind, error=outcome)
        log_event(
            logger,
            logging.INFO if outcome == "done" else logging.WARNING,
            "task ended",
            task_id=task.id,
            kind=task.kind,
            attempt=task.attempt,
            outcome=outcome,
            seconds=seconds,
        )

    async def _attempt(self, task: ClaimedTask, lease: Lease) -> str:
        kind = self._kinds.get(task.kind)
        if kind is None:
            await lease.fail(f"no handler for tasks of kind {task.kind}")
            return "unknown_kind"
        context = TaskContext(self._settings, self._database, task.id, task.attempt, self._vault)
        work = asyncio.create_task(_call(kind, task.payload, context))
        renewal = asyncio.create_task(lease.keep())
        try:
            await asyncio.wait(
                {work, renewal},
                timeout=kind.timeout_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            refusal = renewal.result() if renewal.done() else None
            timed_out = not work.done() and refusal is None
            if not work.done():
                await _end(work, task)
        except asyncio.CancelledError:
            await _end(work, task)
            if not _succeeded(work):
                await lease.give_back()
                return "given_back"
        finally:
            renewal.cancel()
        if _succeeded(work):
            return await self._complete(task, lease, work.result())
        if refusal is not None:
            return await _give_up(lease, refusal)
        if timed_out:
            await lease.fail(f"not finished after {kind.timeout_seconds:g} seconds")
            return "timeout"
        return await self._fail(task, lease, _error_of(work))

    async def _complete(
        self, task: ClaimedTask, lease: Lease, result: dict[str, Json] | None
    ) -> str:
        try:
            await lease.complete(result)
        except (TypeError, ValueError, InvalidRequestError) as error:  # not JSON, not storable
            return await self._fail(task, lease, error)
        return "done"

    async def _fail(self, task: ClaimedTask, lease: Lease, error: BaseException) -> str:
        """Report an exception. Only what is public of it is stored; the rest is in the log."""
        match error:
            case TaskRejectedError():
                await lease.fail(str(error), is_final=True)
                return "rejected"
            case TaskRetryError():
                await lease.fail(str(error), retry_after=error.seconds)
                return "retry"
            case QuernelError():
                await lease.fail(f"{error.code}: {error.message}")
                return error.code
        logger.error("task failed", exc_info=error, extra={"fields": {"task_id": task.id}})
        await lease.fail(f"{type(error).__name__}; the log of task {task.id} has the details")
        return "failed"


def tell_of_tasks(status: dict[str, Json]) -> None:
    """How long the queue is (backend.task_status), for whoever watches."""
    for state in ("queued", "due", "running", "lapsed", "dead"):
        telemetry.report("tasks", status[state], state=state)


async def _call(
    kind: TaskKind, payload: dict[str, Json], context: TaskContext
) -> dict[str, Json] | None:
    return await kind.handler(payload, context)


async def _give_up(lease: Lease, refusal: QuernelError) -> str:
    """A renewal was refused: somebody else has the task, or its hold is at its end."""
    if refusal.code != LEASE_LOST:
        await lease.fail(f"{refusal.code}: {refusal.message}", is_final=True)
    return refusal.code


def _error_of(work: asyncio.Task[Any]) -> BaseException:
    return (None if work.cancelled() else work.exception()) or asyncio.CancelledError()


def _succeeded(work: asyncio.Task[Any]) -> bool:
    return work.done() and not work.cancelled() and work.exception() is None


async def _end(work: asyncio.Task[Any], task: ClaimedTask) -> None:
    """Cancel a handler and see it end; one that will not is left behind, and said so."""
    work.cancel()
    await asyncio.wait({work}, timeout=CANCEL_SECONDS)
    if not work.done():
        log_event(
            logger, logging.ERROR, "handler ignores cancellation", task_id=task.id, kind=task.kind
        )
