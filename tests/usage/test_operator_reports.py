"""Operators' reports of what was used, in a month of long ago that nobody else writes to."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg.rows import dict_row

from local.paths import ROOT
from tests.credits.ledger import Ledger, Payer
from tests.usage.conftest import add_row

MONTH = "1890-05"


@pytest.fixture
def payer(ledger: Ledger) -> Iterator[Payer]:
    """Four requests of an organization's owner, in a transaction that is rolled back."""
    payer = ledger.new_organization()
    with ledger.admin.transaction(force_rollback=True):
        ledger.admin.execute(
            "select private.create_usage_partition(%s::timestamptz)", [f"{MONTH}-01T00:00Z"]
        )
        own = {"credential": "own", "credits": 0, "provider_key_id": str(uuid.uuid4())}
        for columns in (
            {"credits": 5, "credits_held": 5, "credits_refunded": 2, "cost_estimate": 5},
            {"status": "failed", "credits": 0, "cost_estimate": 0},
            {"model_id": "large", "prompt_tokens": 10, "completion_tokens": 5},
            own | {"cost_estimate": 7},
        ):
            add_row(ledger.admin, payer, created_at=f"{MONTH}-31T23:59Z", **columns)
        yield payer


def report(ledger: Ledger, name: str) -> list[dict[str, Any]]:
    query = (ROOT / "sql" / "reports" / f"{name}.sql").read_text()
    with ledger.admin.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(query.encode()).fetchall()
    return [row for row in rows if row["month"] == MONTH]


def columns(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.usefixtures("payer")
def test_cost_per_model(ledger: Ledger) -> None:
    rows = report(ledger, "model_costs")
    assert columns(
        rows, "model", "credential", "accounts", "requests", "failed", "credits", "cost_estimate"
    ) == [
        ("small", "platform", 1, 2, 1, 3, 5),
        ("large", "platform", 1, 1, 0, 1, 1),
        ("small", "own", 1, 1, 0, 0, 7),
    ]


def test_cost_per_user(ledger: Ledger, payer: Payer) -> None:
    rows = report(ledger, "user_costs")
    assert {str(row["user_id"]) for row in rows} == {payer.user}
    assert columns(rows, "model", "requests", "credits", "cost_estimate") == [
        ("small", 3, 3, 12),
        ("large", 1, 1, 1),
    ]


def test_cost_per_api_key(ledger: Ledger, payer: Payer) -> None:
    key = str(uuid.uuid4())
    ledger.admin.execute(
        "insert into public.api_keys (id, organization_id, name, key_prefix, scopes)"
        " values (%s, %s, 'Ours', 'qk_test_abcd', '{chat}')",
        [key, payer.organization_id],
    )
    add_row(
        ledger.admin,
        payer,
        created_at=f"{MONTH}-02T00:00Z",
        user_id=None,
        api_key_id=key,
        credits=9,
        credits_held=9,
        completion_tokens=3,
    )
    rows = report(ledger, "api_key_costs")
    assert columns(rows, "name", "key_prefix", "user_id", "requests", "tokens", "credits") == [
        ("Ours", "qk_test_abcd", None, 1, 3, 9),
        (None, None, None, 4, 15, 4),
    ]


def test_cost_per_organization(ledger: Ledger, payer: Payer) -> None:
    rows = report(ledger, "organization_costs")
    assert {str(row["user_id"]) for row in rows} == {payer.user}
    assert columns(rows, "model", "requests", "prompt_tokens", "completion_tokens", "credits") == [
        ("small", 3, 0, 0, 3),
        ("large", 1, 10, 5, 1),
    ]
