"""What a task handler gets, what it may raise, and what it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from functions.core.database import Database
from functions.core.json import Json
from functions.core.settings import Settings
from functions.provider_keys.vault import Vault

MAX_RETRY_SECONDS = 86_400
"""A retry is at most a day away (backend.task_fail)."""


class TaskRejectedError(Exception):
    """The work can never succeed: the task dies at once, and an operator reads the reason.

    The reason is stored; it holds no secret and nothing about a person.
    """


class TaskRetryError(Exception):
    """The work failed for now: the task runs again after `seconds`, if it has attempts left.

    The reason is stored; it holds no secret and nothing about a person.
    """

    def __init__(self, reason: str, *, seconds: float) -> None:
        super().__init__(reason)
        self.seconds = min(max(0, round(seconds)), MAX_RETRY_SECONDS)


@dataclass(frozen=True)
class TaskContext:
    """The process's shared objects, and which attempt of which task this is."""

    settings: Settings
    database: Database
    task_id: UUID
    attempt: int
    """From 1."""
    vault: Vault | None = None
    """Of the process; None where no master keys are configured."""


Handler: TypeAlias = Callable[[dict[str, Json], TaskContext], Awaitable[dict[str, Json] | None]]
"""Does one task. Gets its payload; returns a JSON object to record, or None.

Handlers are idempotent: after a crash, or when a lease was lost, a task runs again. They let
CancelledError through, which is how a lost lease, the time limit and a shutdown reach them. Any
exception but the two above means: try again after a pause.
"""


@dataclass(frozen=True)
class TaskKind:
    """How tasks of one kind are done."""

    handler: Handler
    timeout_seconds: float
    """Limit of one attempt; a longer one counts as failed."""

    share: float = 1.0
    """Part of a process's slots that tasks of this kind may take, and one at least. What can take
    minutes has one, so that it never keeps everything else waiting.
    """

    def limit(self, slots: int) -> int:
        """How many of so many slots that is."""
        return max(1, int(slots * self.share))
