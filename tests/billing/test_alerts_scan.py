"""What passes with time: invoices fall due and subscriptions end; their owners are told once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import sql

from tests.billing.test_alerts import alerts
from tests.credits.ledger import Ledger, Payer, call, new_key, one
from tests.credits.parallel import at_once

DAY = timedelta(days=1)
NOW = datetime.now(UTC).replace(microsecond=0)


def insert(ledger: Ledger, table: str, payer: Payer, columns: dict[str, Any]) -> str:
    """A row of a payer; its id."""
    columns = {
        "user_id": None if payer.organization_id else payer.user,
        "organization_id": payer.organization_id,
        "account_id": payer.account_id,
        "currency": "eur",
    } | columns
    query = sql.SQL("insert into public.{} ({}) values ({}) returning id::text").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(map(sql.Placeholder, columns)),
    )
    row = ledger.admin.execute(query, columns).fetchone()
    assert row is not None
    return str(row[0])


def new_invoice(ledger: Ledger, payer: Payer, **columns: Any) -> str:
    """An open invoice that was due yesterday."""
    return insert(
        ledger,
        "invoices",
        payer,
        {
            "status": "open",
            "due_at": NOW - DAY,
            "subtotal_minor": 2900,
            "total_minor": 2900,
            "amount_due_minor": 2900,
            "amount_remaining_minor": 2900,
            "period_start": NOW - 31 * DAY,
            "period_end": NOW - DAY,
            "issued_at": NOW - 15 * DAY,
            "provider": "manual",
        }
        | columns,
    )


def new_subscription(ledger: Ledger, payer: Payer, **columns: Any) -> str:
    """A subscription of the pro plan that ends in three days."""
    plan_id = one(ledger.admin, "select id from public.plans where slug = 'pro'")
    mark = new_key()
    return insert(
        ledger,
        "subscriptions",
        payer,
        {
            "plan_id": plan_id,
            "status": "active",
            "cancel_at_period_end": True,
            "current_period_start": NOW - 28 * DAY,
            "current_period_end": NOW + 3 * DAY,
            "started_at": NOW - 28 * DAY,
            "stripe_subscription_id": f"sub_{mark}",
            "stripe_item_id": f"si_{mark}",
            "stripe_price_id": f"price_{mark}",
            "stripe_customer_id": f"cus_{mark}",
        }
        | columns,
    )


def scan(ledger: Ledger) -> int:
    return int(ledger.rpc("alerts_scan", p_limit=5000)["count"])


@pytest.mark.parametrize(
    "columns",
    [
        {"status": "draft"},
        {"status": "paid"},
        {"status": "void"},
        {"status": "uncollectible"},
        {"due_at": None},
        {"due_at": NOW + DAY},
        {"due_at": NOW - 91 * DAY},
    ],
)
def test_an_invoice_that_is_not_overdue_is_not_told(
    ledger: Ledger, columns: dict[str, Any]
) -> None:
    payer = ledger.new_payer()
    new_invoice(ledger, payer, **columns)
    scan(ledger)
    assert alerts(ledger, payer) == []


@pytest.mark.parametrize(
    "columns",
    [
        {"cancel_at_period_end": False},
        {"status": "canceled"},
        {"status": "unpaid"},
        {"current_period_end": NOW + 8 * DAY},
        {"current_period_end": NOW - DAY},
        {"cancel_at_period_end": False, "status": "trialing", "trial_end": NOW + 8 * DAY},
        {"cancel_at": NOW + 8 * DAY},
    ],
)
def test_a_subscription_that_goes_on_is_not_told(ledger: Ledger, columns: dict[str, Any]) -> None:
    payer = ledger.new_payer()
    new_subscription(ledger, payer, **columns)
    scan(ledger)
    assert alerts(ledger, payer) == []


def test_an_overdue_invoice_is_told_once(ledger: Ledger) -> None:
    for payer in (ledger.new_payer(), ledger.new_organization()):
        invoice_id = new_invoice(ledger, payer, number=f"Q-{payer.account_id[:8]}")
        assert scan(ledger) >= 1
        scan(ledger)
        [alert] = alerts(ledger, payer)
        assert (alert["type"], alert["current_value"]) == ("invoice_overdue", 2900)
        assert alert["metadata"] == {
            "invoice_id": invoice_id,
            "number": f"Q-{payer.account_id[:8]}",
            "due_at": f"{NOW - DAY:%Y-%m-%dT%H:%M:%SZ}",
            "amount_minor": 2900,
            "currency": "eur",
        }
        assert f"{NOW - DAY:%Y-%m-%d}." in alert["message"]


@pytest.mark.parametrize("status", ["active", "past_due"])
def test_the_end_of_a_canceled_subscription_is_told_once(ledger: Ledger, status: str) -> None:
    for payer in (ledger.new_payer(), ledger.new_organization()):
        subscription_id = new_subscription(ledger, payer, status=status)
        scan(ledger)
        scan(ledger)
        [alert] = alerts(ledger, payer)
        assert alert["metadata"] == {
            "subscription_id": subscription_id,
            "plan": "Pro",
            "reason": "end",
            "ends_at": f"{NOW + 3 * DAY:%Y-%m-%dT%H:%M:%SZ}",
        }


@pytest.mark.parametrize(
    "columns",
    [
        {
            "cancel_at_period_end": False,
            "cancel_at": NOW + DAY,
            "current_period_end": NOW + 20 * DAY,
        },
        {"status": "trialing", "trial_end": NOW + DAY, "current_period_end": NOW + DAY},
        {
            "cancel_at_period_end": False,
            "current_period_end": NOW + DAY,
            "provider": "manual",
            "stripe_subscription_id": None,
            "stripe_item_id": None,
            "stripe_price_id": None,
            "stripe_customer_id": None,
        },
    ],
    ids=["cancel_at", "trial", "given"],
)
def test_whatever_nothing_follows_is_told_as_an_end(
    ledger: Ledger, columns: dict[str, Any]
) -> None:
    payer = ledger.new_payer()
    new_subscription(ledger, payer, **columns)
    scan(ledger)
    [alert] = alerts(ledger, payer)
    assert alert["metadata"]["reason"] == "end"
    assert alert["metadata"]["ends_at"] == f"{NOW + DAY:%Y-%m-%dT%H:%M:%SZ}"


def test_the_end_of_a_trial_is_told_as_such(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    new_subscription(
        ledger, payer, status="trialing", trial_end=NOW + DAY, cancel_at_period_end=False
    )
    scan(ledger)
    [alert] = alerts(ledger, payer)
    assert alert["metadata"]["reason"] == "trial"
    assert alert["message"].endswith(f"{NOW + DAY:%Y-%m-%d}.")


def test_an_end_that_was_moved_is_told_again(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    subscription_id = new_subscription(ledger, payer)
    scan(ledger)
    ledger.admin.execute(
        "update public.subscriptions set current_period_end = %s where id = %s",
        [NOW + 5 * DAY, subscription_id],
    )
    scan(ledger)
    assert len(alerts(ledger, payer)) == 2


def test_what_was_purged_is_not_told_again(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    new_invoice(ledger, payer, due_at=NOW - 91 * DAY)
    before = new_invoice(ledger, payer, due_at=NOW - 89 * DAY)
    scan(ledger)
    ledger.admin.execute(
        "update public.billing_alerts set is_read = true, created_at = now() - interval '89 days'"
        " where user_id = %s",
        [payer.user],
    )
    ledger.rpc("alerts_purge", p_limit=1000)
    scan(ledger)
    assert [alert["key"] for alert in alerts(ledger, payer)] == [before]


def test_twenty_scans_at_once_tell_each_once(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    for _ in range(5):
        new_invoice(ledger, payer)
    doors = [ledger.another_door() for _ in range(20)]
    at_once(doors, lambda door, _: call(door, "backend.alerts_scan", p_limit=5000))
    assert len(alerts(ledger, payer)) == 5


def test_a_scan_stops_at_its_limit(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    for _ in range(3):
        new_invoice(ledger, payer)
    assert ledger.rpc("alerts_scan", p_limit=2)["count"] == 2
