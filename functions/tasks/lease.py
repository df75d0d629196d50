"""One claimed task and the lease it is held by."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from uuid import UUID

from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.json import Json
from functions.core.logging import log_event

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
"""Two renewals may fail before the lease lapses."""

RETRY_SECONDS = 0.5
"""Pause before a report or renewal that the database did not answer is sent again."""

LEASE_LOST = "lease_lost"


@dataclass(frozen=True)
class ClaimedTask:
    """A row of backend.task_claim()."""

    id: UUID
    kind: str
    payload: dict[str, Json]
    attempt: int
    lease_token: UUID
    request_id: str
    """Of the request or cron run that asked for it; else its own id."""

    @classmethod
    def from_row(cls, row: dict[str, Json]) -> ClaimedTask:
        return cls(
            id=UUID(row["id"]),
            kind=row["kind"],
            payload=row["payload"],
            attempt=row["attempt"],
            lease_token=UUID(row["lease_token"]),
            request_id=row["request_id"],
        )


class Lease:
    """The right to work on a task and to say how it ended."""

    def __init__(self, database: Database, task: ClaimedTask, seconds: int) -> None:
        self._database = database
        self._task = task
        self._seconds = seconds
        self._lapses_at = time.monotonic() + seconds

    async def keep(self) -> QuernelError:
        """Renew until a renewal is refused, and return the refusal.

        When the database does not answer, the lease lapses by itself; that is a refusal too.
        """
        pause = self._seconds / RENEWALS_PER_LEASE
        while True:
            await asyncio.sleep(pause)
            sent_at = time.monotonic()
            try:
                await self._call("task_renew", p_lease_seconds=self._seconds)
            except QuernelError as error:
                if not _may_pass(error):
                    return error
                if time.monotonic() >= self._lapses_at:
                    return QuernelError(LEASE_LOST, 409, "The lease lapsed.")
                pause = min(RETRY_SECONDS, self._seconds / RENEWALS_PER_LEASE)
            else:
                self._lapses_at = sent_at + self._seconds
                pause = self._seconds / RENEWALS_PER_LEASE

    async def complete(self, result: dict[str, Json] | None) -> None:
        """Report that the task is done. Raises QuernelError when that is refused."""
        await self._report("task_complete", p_result=result)

    async def fail(
        self, error: str, *, retry_after: int | None = None, is_final: bool = False
    ) -> None:
        """Report that the attempt failed. Raises QuernelError when that is refused."""
        await self._report(
            "task_fail", p_error=error, p_retry_after=retry_after, p_is_final=is_final
        )

    async def give_back(self) -> None:
        """Put the task back for another worker. Raises QuernelError when that is refused."""
        await self._report("task_give_back")

    async def _report(self, function: str, **arguments: Json) -> None:
        """Send until the database answers or the lease has lapsed."""
        while True:
            try:
                await self._call(function, **arguments)
            except QuernelError as error:
                if not _may_pass(error) or time.monotonic() >= self._lapses_at:
                    raise
                log_event(logger, logging.WARNING, "task report repeated", rpc=function)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _call(self, function: str, **arguments: Json) -> None:
        await self._database.rpc(
            function, p_id=self._task.id, p_lease_token=self._task.lease_token, **arguments
        )


def _may_pass(error: QuernelError) -> bool:
    """Whether the same call may succeed later: the database was not asked, or had no time."""
    return error.status >= 500
