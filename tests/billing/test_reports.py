"""Operators' reports, each on a scene whose figures are known.

Scenes are made in a transaction that is rolled back, in currencies that nobody else uses.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from local.paths import ROOT
from tests.billing.subscribers import price_id
from tests.conftest import NewUser

REPORTS = ROOT / "sql" / "reports"


@dataclass
class Scene:
    """A transaction and somebody's account in it."""

    db: psycopg.Connection
    user_id: str

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        with self.db.cursor(row_factory=dict_row) as cursor:
            cursor.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def row(self, query: str, *values: object) -> dict[str, Any]:
        (row,) = self.rows(query, *values)
        return row

    def report(self, name: str, **only: object) -> list[dict[str, Any]]:
        """Rows of a report with these members, without them."""
        found = self.rows((REPORTS / f"{name}.sql").read_text())
        assert not found or found[0].keys() >= only.keys()
        return [
            {name: value for name, value in row.items() if name not in only}
            for row in found
            if row.items() >= only.items()
        ]

    @property
    def account_id(self) -> str:
        return str(self.row("select private.account_id(%s, null) as id", self.user_id)["id"])

    def insert(self, table: str, **columns: object) -> Any:
        """Insert a row as the superuser; its id."""
        columns = {"account_id": self.account_id} | columns
        marks = ", ".join(["%s"] * len(columns))
        query = f"insert into {table} ({', '.join(columns)}) values ({marks}) returning id"  # noqa: S608
        return self.row(query, *columns.values())["id"]

    def payment(self, paid: int, on: str, refunded: int = 0, **columns: object) -> None:
        status = "succeeded" if not refunded else "partially_refunded"
        self.insert(
            "public.payments",
            **{
                "status": status,
                "amount_minor": paid,
                "amount_refunded_minor": refunded,
                "currency": "xra",
                "provider_transaction_id": uuid.uuid4().hex,
                "created_at": on,
                "processed_at": on,
            }
            | columns,
        )

    def invoice(self, **columns: object) -> Any:
        return self.insert(
            "public.invoices",
            **{
                "status": "open",
                "subtotal_minor": 2900,
                "total_minor": 2900,
                "amount_due_minor": 2900,
                "amount_remaining_minor": 2900,
                "currency": "xrb",
                "period_start": "2026-01-01",
                "period_end": "2026-01-01",
                "issued_at": "2026-01-01",
                "stripe_invoice_id": f"in_{uuid.uuid4().hex}",
            }
            | columns,
        )


@pytest.fixture
def scene(db: Callable[[], psycopg.Connection], new_user: NewUser) -> Iterator[Scene]:
    connection = db()
    user = new_user()
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with connection.transaction(force_rollback=True):
        yield Scene(connection, user.id)


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*.sql")), ids=lambda path: path.stem)
def test_every_report_says_what_a_row_is_and_how_to_run_it(path: Any) -> None:
    head = path.read_text().partition("\nselect")[0].splitlines()
    assert "a row is" in head[0]
    assert head[-1].endswith(f"--file sql/reports/{path.name}")


def test_revenue_by_month_and_plan(scene: Scene) -> None:
    prices = {plan: f"{price_id(plan)}_{uuid.uuid4().hex}" for plan in ("pro", "business")}
    for plan, price in prices.items():
        scene.rows(
            "insert into private.plan_prices"
            " select %s, p.id, 'month', 1000, 'xra' from public.plans as p where p.slug = %s",
            price,
            plan,
        )
    invoice_id = f"in_{uuid.uuid4().hex}"
    lines = [
        {"amount": amount, "pricing": {"price_details": {"price": prices[plan]}}}
        for plan, amount in (("pro", -400), ("business", 2000))
    ]
    scene.rows(
        "insert into private.stripe_objects (id, type, event_id, newest_from, newest_until, state)"
        " values (%s, 'invoice', 'read', now(), now(), %s)",
        invoice_id,
        Jsonb({"lines": {"data": lines}}),
    )
    invoice = scene.invoice(stripe_invoice_id=invoice_id, currency="xra")
    scene.payment(1600, "2026-01-31T23:59:59Z", invoice_id=invoice)
    scene.payment(1000, "2026-01-02T00:00:00Z", 300, invoice_id=invoice)
    scene.payment(500, "2026-01-03T00:00:00Z", purchase_id=str(uuid.uuid4()))
    scene.payment(
        700,
        "2026-02-01T00:00:00Z",
        status="disputed",
        amount_disputed_minor=700,
        purchase_id=str(uuid.uuid4()),
    )
    scene.payment(250, "2026-02-02T00:00:00Z", provider="wise")
    # What an operator recorded: by its plan, or by that of its invoice.
    pro = scene.row("select id from public.plans where slug = 'pro'")["id"]
    wired = scene.invoice(
        stripe_invoice_id=None,
        provider="manual",
        number=uuid.uuid4().hex,
        plan_id=pro,
        currency="xra",
    )
    scene.payment(2900, "2026-02-03T00:00:00Z", provider="wise", plan_id=pro)
    scene.payment(29000, "2026-02-04T00:00:00Z", provider="paypal", invoice_id=wired)
    scene.payment(9999, "2026-02-02T00:00:00Z", status="failed")
    names = "month", "sold", "payments", "paid_minor", "refunded_minor", "disputed_minor"
    assert scene.report("revenue", currency="xra") == [
        dict(zip((*names, "net_minor"), row, strict=True))
        for row in [
            ("2026-02", "credits", 1, 700, 0, 700, 0),
            ("2026-02", "other", 1, 250, 0, 0, 250),
            ("2026-02", "pro", 2, 31900, 0, 0, 31900),
            ("2026-01", "business", 2, 2600, 300, 0, 2300),
            ("2026-01", "credits", 1, 500, 0, 0, 500),
        ]
    ]


def test_outstanding_by_age(scene: Scene) -> None:
    now = scene.row("select now() as it")["it"]
    days = scene.row("select interval '1 day' as it")["it"]
    for age in (0, 30, 31, 90, 91, 400):
        scene.invoice(issued_at=now - age * days)
    scene.invoice(issued_at=now - 50 * days, due_at=now + days, amount_remaining_minor=100)
    scene.invoice(status="paid", amount_remaining_minor=0)
    scene.invoice(status="void")
    assert scene.report("outstanding", currency="xrb") == [
        dict(zip(("overdue", "invoices", "remaining_minor", "oldest_due_at"), row, strict=True))
        for row in [
            ("not due", 1, 100, now + days),
            ("0 to 30 days", 2, 5800, now - 30 * days),
            ("31 to 60 days", 1, 2900, now - 31 * days),
            ("61 to 90 days", 1, 2900, now - 90 * days),
            ("over 90 days", 2, 5800, now - 400 * days),
        ]
    ]


def test_credit_liability(scene: Scene) -> None:
    grant = (
        "select private.credit_grant(%s, %s, 'purchase', %s, null, 1, null, null, %s, 'xrc') as it"
    )
    account = scene.account_id
    lots = [
        scene.row(grant, account, amount, str(amount), paid)["it"]["lot_id"]
        for amount, paid in ((1000, 500), (300, 99))
    ]
    hold = scene.row("select backend.credit_hold(%s, null, 400, 'k', 'test') as it", scene.user_id)
    scene.rows("select backend.credit_settle(%s, 400)", hold["it"]["hold_id"])
    scene.rows("select private.claw_back_share(%s, 500, 150, 0, 'r')", lots[0])
    (row,) = scene.report("credit_liability", currency="xrc")
    assert row == {
        "source": "purchase",
        "lots": 2,
        "granted": 1300,
        "used": 400,
        "expired": 0,
        "clawed_back": 300,
        "remaining": 600,
        "paid_minor": 599,
        # 300 of 1000 for 500, 300 of 300 for 99
        "remaining_minor": 150 + 99,
    }


def test_debt_is_owed_less_than_nothing(scene: Scene) -> None:
    def owed() -> Decimal:
        return sum((row["remaining"] for row in scene.report("credit_liability")), Decimal(0))

    def used() -> Decimal:
        return sum((row["used"] for row in scene.report("credit_liability")), Decimal(0))

    before, used_before = owed(), used()
    grant = (
        "select private.credit_grant(%s, 1000, 'purchase', 'g', null, 1, '', '', 1, 'xrc') as it"
    )
    lot = scene.row(grant, scene.account_id)["it"]["lot_id"]
    hold = scene.row("select backend.credit_hold(%s, null, 1000, 'k', 'test') as it", scene.user_id)
    scene.rows("select backend.credit_settle(%s, 1000)", hold["it"]["hold_id"])
    scene.rows("select private.claw_back_share(%s, 1, 1, 0, 'r')", lot)
    account = scene.row("select * from public.credit_accounts where id = %s", scene.account_id)
    assert account["debt"] > 0
    assert (owed() - before, used() - used_before) == (-1000, 1000)


def test_cost_per_organization_user_and_model(scene: Scene) -> None:
    slug = f"team-{uuid.uuid4().hex[:12]}"
    team = scene.row(
        "insert into public.organizations (name, slug, created_by) values ('T', %s, %s)"
        " returning id",
        slug,
        scene.user_id,
    )["id"]
    for model, charged, on in (
        ("small", 1, "2026-09-30T23:59:59Z"),
        ("small", 2, "2026-10-01T00:00:00Z"),
        ("small", 3, "2026-10-05T00:00:00Z"),
        ("large", 40, "2026-10-05T00:00:00Z"),
    ):
        scene.rows("select private.create_usage_partition(%s)", on)
        scene.insert(
            "public.usage_logs",
            id=str(uuid.uuid4()),
            user_id=scene.user_id,
            organization_id=team,
            action="chat",
            model_id=model,
            status="completed",
            prompt_tokens=10,
            completion_tokens=5,
            credits_held=charged,
            credits=charged,
            created_at=on,
            finished_at=on,
        )
    found = scene.report("organization_costs", organization=slug)
    assert {str(row.pop("user_id")) for row in found} == {scene.user_id}
    assert [tuple(row.values()) for row in found] == [
        ("2026-10", "large", 1, 10, 5, 40),
        ("2026-10", "small", 2, 20, 10, 5),
        ("2026-09", "small", 1, 10, 5, 1),
    ]
