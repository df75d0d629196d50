"""Fixtures of this folder, and what is read of usage and its rollup."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from local.stack import Stack
from tests.credits.ledger import Ledger, Payer
from tests.support.people import new_person

__all__ = ["new_person"]

COUNTS = (
    "request_count",
    "cancelled_count",
    "failed_count",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "credits",
    "credits_refunded",
    "cost_estimate",
)


@pytest.fixture
def ledger(stack: Stack) -> Iterator[Ledger]:
    """The ledger, with connections of its own."""
    ledger = Ledger(stack.admin_dsn, stack.functions_dsn)
    yield ledger
    ledger.close()


def rollups(
    connection: psycopg.Connection, payer: Payer, order: str = "period_start, model_id, user_id"
) -> list[dict[str, Any]]:
    """Rows of api_usage of an account."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            f"select * from public.api_usage where account_id = %s order by {order}".encode(),  # noqa: S608
            [payer.account_id],
        ).fetchall()


def counts(row: dict[str, Any]) -> dict[str, Any]:
    """The counts of a rollup that are not 0."""
    return {name: row[name] for name in COUNTS if row[name]}


def add_row(connection: psycopg.Connection, payer: Payer, **columns: Any) -> str:
    """Writes a finished usage row, as an import would; its id."""
    values = {
        "id": str(uuid.uuid4()),
        "account_id": payer.account_id,
        "user_id": payer.user,
        "organization_id": payer.organization_id,
        "action": "chat",
        "model_id": "small",
        "provider": "test",
        "status": "completed",
        "credits_held": 1,
        "credits": 1,
        "cost_estimate": 1,
    } | columns
    values.setdefault("created_at", "now()")
    values.setdefault("finished_at", values["created_at"])
    marks = ", ".join(["%s"] * len(values))
    query = f"insert into public.usage_logs ({', '.join(values)}) values ({marks})"  # noqa: S608
    connection.execute(query.encode(), list(values.values()))
    return str(values["id"])
