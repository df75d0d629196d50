"""Rotation: data keys wrapped anew by the current master key, while the system serves.

No secret is opened: a rotation handles data keys only. What is left to do is what an older master
key still wraps, so a run that was killed is gone on with by the next, and two at once do each row
once. A row that was replaced or deleted meanwhile is not touched.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from functions.core.database import Database
from functions.core.errors import OperatorError
from functions.core.json import Json
from functions.provider_keys.rows import place_of, sealed_of
from functions.provider_keys.vault import Sealed, Vault

BATCH = 100


@dataclass
class Report:
    """What came of going through keys."""

    done: int = 0
    changed: int = 0
    """Rows that somebody else changed first."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """Ids of keys that do not open, and the operator's error."""

    @property
    def seen(self) -> int:
        return self.done + self.changed + len(self.failures)


async def rotate(
    database: Database,
    vault: Vault,
    *,
    batch: int = BATCH,
    tell: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Wrap every data key by the current master key. `tell` hears of every batch.

    Rows whose master key is missing, or that do not open, are in the report; the others go on.
    Raises QuernelError where the database or the master keys cannot be had; what was done stays.
    """
    report = Report()
    await vault.require_current()  # else every single row would say so
    async for rows in _batches(database, batch, except_kid=vault.current_kid):
        wrapped = []
        for row in rows:
            sealed = sealed_of(row)
            try:
                renewed = await vault.rewrap(sealed, place_of(row))
            except OperatorError as error:
                report.failures.append({"id": row["id"], "code": error.operator_code})
                continue
            wrapped.append(_row(row["id"], sealed, renewed))
        if wrapped:
            answer = await database.rpc("provider_keys_rewrap", p_rows=wrapped)
            report.done += answer["count"]
            report.changed += len(wrapped) - answer["count"]
        tell(report)
    return report


async def check(
    database: Database,
    vault: Vault,
    *,
    batch: int = BATCH,
    tell: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Open every key, and say which do not; nothing is shown or kept. Raises as `rotate`."""
    report = Report()
    async for rows in _batches(database, batch):
        for row in rows:
            try:
                await vault.open(sealed_of(row), place_of(row))
            except OperatorError as error:
                report.failures.append({"id": row["id"], "code": error.operator_code})
            else:
                report.done += 1
        tell(report)
    return report


async def _batches(
    database: Database, batch: int, except_kid: str | None = None
) -> AsyncIterator[list[dict[str, Any]]]:
    after: str | None = None
    while True:
        rows: list[dict[str, Any]] = await database.rpc(
            "provider_keys_sealed", p_except_kid=except_kid, p_after=after, p_limit=batch
        )
        if not rows:
            return
        yield rows
        after = rows[-1]["id"]


def _row(key_id: str, old: Sealed, new: Sealed) -> dict[str, Json]:
    return {
        "id": key_id,
        "old_kid": old.kid,
        "old_wrapped_key": base64.b64encode(old.wrapped_key).decode(),
        "kid": new.kid,
        "wrapped_key": base64.b64encode(new.wrapped_key).decode(),
    }
