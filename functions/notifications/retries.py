"""When a message that could not be handed over is tried again."""

from __future__ import annotations

import random

from functions.tasks.context import TaskRetryError

_MINUTE, _HOUR = 60, 3600

PAUSES_SECONDS = (5, 5 * _MINUTE, _HOUR // 2, 2 * _HOUR, 5 * _HOUR, 10 * _HOUR, 10 * _HOUR)
"""After the first attempt, the second, and so on: 28 hours in all, as Standard Webhooks proposes.

A task has one attempt more than there are pauses (private.task_enqueue).
"""

_JITTER = random.SystemRandom()


def try_again(reason: str, *, attempt: int) -> TaskRetryError:
    """The exception that has attempt `attempt` (from 1) followed by another, up to 20 % later.

    What failed together comes back apart.
    """
    pause = PAUSES_SECONDS[min(attempt, len(PAUSES_SECONDS)) - 1]
    return TaskRetryError(reason, seconds=pause * _JITTER.uniform(1, 1.2))
