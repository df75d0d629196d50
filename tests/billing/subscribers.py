"""Subscribers under test: people with a subscription at the double, and what Stripe tells of it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx
import pytest

from local.stripe_billing_world import SECONDS
from local.stripe_world import StripeObject, now
from tests.billing.shop import ORIGIN, Shop
from tests.conftest import User

PRICES = {"pro": (2900, 29000), "business": (9900, 99000)}
"""Minor units (EUR cents) of a month and a year, as plans are seeded."""

CREDITS = {"pro": Decimal(6000), "business": Decimal(25000)}
"""Credits of a month, as plans are seeded."""

MONTH, YEAR = SECONDS["month"], SECONDS["year"]


def price_id(plan: str, interval: str = "month") -> str:
    """The price at Stripe that the tests give a plan."""
    return f"price_{plan}_{interval}"


@dataclass
class Subscriber:
    """Somebody with a subscription at the double."""

    shop: Shop
    user: User
    id: str
    """Of the subscription at Stripe."""

    @property
    def world(self) -> Any:
        return self.shop.stripe.world

    @property
    def state(self) -> StripeObject:
        """The subscription at Stripe."""
        return dict(self.world.get(self.id))

    @property
    def invoice(self) -> StripeObject:
        """Its latest invoice at Stripe."""
        invoices = [
            i
            for i in self.world.of_type("invoice")
            if i["parent"] and i["parent"]["subscription_details"]["subscription"] == self.id
        ]
        return dict(invoices[-1])

    # What we know of it ----------------------------------------------------------------------

    @property
    def row(self) -> dict[str, Any]:
        """The row of public.subscriptions."""
        return self.shop.row(
            "select s.*, p.slug from public.subscriptions as s"
            " join public.plans as p on p.id = s.plan_id where stripe_subscription_id = %s",
            self.id,
        )

    @property
    def plan(self) -> str:
        """The plan that rules now."""
        row = self.shop.row("select (private.plan_of(%s, null)).slug as plan", self.user.id)
        return str(row["plan"])

    @property
    def profile(self) -> dict[str, Any]:
        """The entitlement columns of the profile."""
        return self.shop.row(
            "select subscription_tier, subscription_status, plan_started_at, plan_expires_at,"
            " subscription_end_date from public.profiles where id = %s",
            self.user.id,
        )

    def lots(self) -> list[dict[str, Any]]:
        """Lots that the plan granted, oldest first."""
        return self.shop.rows(
            "select l.* from public.credit_lots as l"
            " join public.credit_accounts as a on a.id = l.account_id"
            " where a.user_id = %s and l.source = 'plan' order by l.created_at",
            self.user.id,
        )

    def invoices(self) -> list[dict[str, Any]]:
        """Rows of public.invoices, oldest first."""
        return self.shop.rows(
            "select * from public.invoices where stripe_subscription_id = %s"
            " order by issued_at, created_at",
            self.id,
        )

    def post(self, action: str, **body: object) -> httpx.Response:
        """POST /billing/subscriptions/{id}/{action}."""
        return self.shop.http.post(
            f"/billing/subscriptions/{self.row['id']}/{action}",
            json=body or None,
            headers=self.user.headers,
        )

    # What Stripe tells -----------------------------------------------------------------------

    def told(self, kind: str = "customer.subscription.updated") -> str:
        """Deliver the subscription as it is now."""
        return self.shop.result(self.shop.event(kind, self.state))

    def invoiced(self, invoice: StripeObject | None = None) -> list[StripeObject]:
        """Events that tell of an invoice and its payments, in Stripe's order."""
        invoice = invoice or self.invoice
        kind = "invoice.paid" if invoice["status"] == "paid" else "invoice.payment_failed"
        events = []
        for tie in self.world.payments_of(invoice["id"]):
            intent = self.world.get(tie["payment"]["payment_intent"])
            outcome = "succeeded" if intent["status"] == "succeeded" else "payment_failed"
            events.append(self.shop.event(f"payment_intent.{outcome}", intent))
            events.append(self.shop.event("invoice_payment.paid", tie))
        return [*events, self.shop.event(kind, self.world.get(invoice["id"]))]

    def later(self) -> None:
        """What is told from now on happened after what was read until now."""
        self.shop.clock = max(self.shop.clock, now() + 30)

    def deliver(self, events: list[StripeObject]) -> None:
        """Deliver events that must be finished."""
        for event in events:
            assert self.shop.result(event) in ("applied", "duplicate", "ignored")


@dataclass
class Subscribers:
    """Makes subscribers."""

    shop: Shop

    def request(self, user: User | None, *, key: str | None = None, **body: object) -> Any:
        """POST /billing/subscriptions for a month of pro, with fields replaced."""
        request = {
            "plan": "pro",
            "success_url": f"{ORIGIN}/account",
            "cancel_url": f"{ORIGIN}/plans",
        } | body
        headers = (user.headers if user else {}) | ({"Idempotency-Key": key} if key else {})
        return self.shop.http.post("/billing/subscriptions", json=request, headers=headers)

    def session_of(self, answer: httpx.Response) -> str:
        """The session at Stripe of a page that was answered."""
        assert answer.status_code == 200, answer.text
        return str(answer.json()["url"].rpartition("/")[2])

    def silent(self, user: User, at: int | None = None, **body: object) -> Subscriber:
        """Subscribe at the double; nothing is told yet."""
        session = self.session_of(self.request(user, **body))
        done = self.shop.stripe.world.subscribe(session, at)
        return Subscriber(self.shop, user, done["subscription"])

    def new(self, user: User, at: int | None = None, **body: object) -> Subscriber:
        """Subscribe, and everything is told."""
        subscriber = self.silent(user, at, **body)
        card = subscriber.world.get(subscriber.state["default_payment_method"])
        assert self.shop.result(self.shop.event("payment_method.attached", card)) == "applied"
        assert subscriber.told("customer.subscription.created") == "applied"
        subscriber.deliver(subscriber.invoiced())
        return subscriber


@pytest.fixture
def subscribers(shop: Shop) -> Subscribers:
    """The plans are on sale at the double, and every card is good."""
    world = shop.stripe.world
    world.declining.clear()
    for plan, amounts in PRICES.items():
        for interval, amount in zip(("month", "year"), amounts, strict=True):
            world.recurring_price(price_id(plan, interval), amount, "eur", interval)
        shop.rows(
            "update public.plans set stripe_price_id_monthly = %s, stripe_price_id_yearly = %s"
            " where slug = %s and (stripe_price_id_monthly, stripe_price_id_yearly)"
            " is distinct from (%s, %s)",
            price_id(plan, "month"),
            price_id(plan, "year"),
            plan,
            price_id(plan, "month"),
            price_id(plan, "year"),
        )
    return Subscribers(shop)


def own_plan(shop: Shop, **columns: object) -> str:
    """A plan of its own for one test, on sale; its slug."""
    slug = f"plan-{uuid.uuid4().hex[:12]}"
    monthly, yearly = f"price_{uuid.uuid4().hex}", f"price_{uuid.uuid4().hex}"
    values = {
        "slug": slug,
        "name": slug,
        "monthly_tokens": 1,
        "max_agents": 1,
        "max_documents": 1,
        "requests_per_minute": 1,
        "requests_per_month": 1,
        "concurrent_requests": 1,
        "credits_per_month": 1000,
        "price_monthly_minor": 1000,
        "price_yearly_minor": 10000,
        "stripe_price_id_monthly": monthly,
        "stripe_price_id_yearly": yearly,
        "sort_order": 2,
    } | columns
    shop.rows(
        f"insert into public.plans ({', '.join(values)})"  # noqa: S608 - names of ours
        f" values ({', '.join(['%s'] * len(values))})",
        *values.values(),
    )
    world = shop.stripe.world
    if values["stripe_price_id_monthly"] is not None:
        world.recurring_price(monthly, int(str(values["price_monthly_minor"])), "eur", "month")
        world.recurring_price(yearly, int(str(values["price_yearly_minor"])), "eur", "year")
    return slug


def days_ago(days: float) -> int:
    """Unix seconds."""
    return now() - round(days * 24 * 3600)
