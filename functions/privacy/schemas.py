"""Answers of the routes of privacy, and examples of them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel

from functions.core.json import Json


class Erasure(BaseModel):
    """A request to be erased."""

    id: UUID
    state: Literal["requested", "executing", "done", "cancelled"]
    requested_at: datetime
    due_at: datetime
    """When it is executed; until then it can be cancelled."""

    cancelled_at: datetime | None


ERASURE_EXAMPLE: Json = {
    "id": "019bd3a2-7c1e-7f00-8a35-0b7a4d9d6e01",
    "state": "requested",
    "requested_at": "2026-03-01T09:30:00Z",
    "due_at": "2026-03-31T09:30:00Z",
    "cancelled_at": None,
}
CANCELLED_EXAMPLE: Json = {
    **ERASURE_EXAMPLE,
    "state": "cancelled",
    "cancelled_at": "2026-03-02T18:00:00Z",
}
