"""Every kind of task and its handler: a closed list, because tasks come from our own SQL."""

from __future__ import annotations

from collections.abc import Mapping

from functions.billing.tasks import apply_stripe_event
from functions.tasks.context import TaskKind

TASK_KINDS: Mapping[str, TaskKind] = {
    "stripe_event": TaskKind(apply_stripe_event, timeout_seconds=60),
}
