"""One scene per handled event: what was told before, and the event itself, not delivered yet.

Scenes tell what comes before straight to the database, since there are many of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from local.stripe_world import StripeObject, now
from tests.billing.shop import PRICE, Purchase
from tests.billing.subscribers import Subscriber, Subscribers, days_ago
from tests.conftest import User

DAY = 24 * 3600  # seconds


@dataclass
class Stage:
    """Somebody, and what can happen to them."""

    subscribers: Subscribers
    user: User

    def __post_init__(self) -> None:
        self.shop = self.subscribers.shop
        self.world = self.shop.stripe.world

    def tell(self, *events: StripeObject) -> None:
        """Events that come before the one in question."""
        for event in events:
            assert self.shop.receive(event)["result"] in ("applied", "ignored"), event["type"]

    def subscriber(self, at: int | None = None, *, is_told: bool = True) -> Subscriber:
        """A subscription to pro, paid."""
        subscriber = self.subscribers.silent(self.user, at)
        if is_told:
            self.tell(self.shop.event("customer.subscription.created", subscriber.state))
            self.tell(*subscriber.invoiced())
        return subscriber

    def purchase(self, *, is_paid: bool = True) -> Purchase:
        """A pack that was put into the cart, paid unless said otherwise."""
        purchase = self.shop.open_purchase(self.user)
        self.shop.rows(
            "update public.credit_purchases set stripe_checkout_session_id = %s where id = %s",
            purchase.session_id,
            purchase.id,
        )
        if is_paid:
            self.tell(self.shop.completed(purchase))
        return purchase

    def customer(self) -> str:
        """The user's customer, which was made before."""
        claim = self.shop.service.rpc("customer_claim", p_user_id=self.user.id)
        made = self.world.customer()["id"]
        self.shop.service.rpc("customer_attach", p_claim_id=claim["claim_id"], p_customer_id=made)
        return str(made)


Scene = Callable[[Stage], StripeObject]


# Checkouts of packs, refunds, disputes ----------------------------------------------------------


def session_paid(stage: Stage, kind: str) -> StripeObject:
    purchase = stage.purchase(is_paid=False)
    if kind == "checkout.session.completed":
        return stage.shop.event(kind, stage.world.pay(purchase.session_id))
    waiting = stage.world.pay(purchase.session_id, settled=False)
    stage.tell(stage.shop.event("checkout.session.completed", waiting))
    return stage.shop.event(kind, stage.world.settle(purchase.session_id))


def session_unpaid(stage: Stage, kind: str) -> StripeObject:
    purchase = stage.purchase(is_paid=False)
    if kind == "checkout.session.expired":
        return stage.shop.event(kind, stage.world.expire(purchase.session_id))
    waiting = stage.world.pay(purchase.session_id, settled=False)
    stage.tell(stage.shop.event("checkout.session.completed", waiting))
    return stage.shop.event(kind, waiting)


def charge_refunded(stage: Stage, kind: str) -> StripeObject:
    return stage.shop.event(
        kind, stage.world.refund(stage.shop.charge(stage.purchase())["id"], PRICE // 2)
    )


def refund_failed(stage: Stage, kind: str) -> StripeObject:
    purchase = stage.purchase()
    charge = stage.world.refund(stage.shop.charge(purchase)["id"], PRICE)
    stage.tell(stage.shop.event("charge.refunded", charge))
    (refund,) = charge["refunds"]["data"]
    return stage.shop.event(kind, stage.world.fail_refund(charge["id"], refund["id"]))


def dispute(stage: Stage, kind: str, before: str | None, status: str) -> StripeObject:
    charge = stage.shop.charge(stage.purchase())
    made = stage.world.dispute(charge["id"], status=before or status)
    if before is not None:
        stage.tell(stage.shop.event("charge.dispute.created", made))
    return stage.shop.event(kind, stage.world.change(made["id"], status=status))


# Subscriptions ----------------------------------------------------------------------------------


def created(stage: Stage, kind: str) -> StripeObject:
    return stage.shop.event(kind, stage.subscriber(is_told=False).state)


def changed(stage: Stage, kind: str, **fields: object) -> StripeObject:
    """The subscription with other fields."""
    subscriber = stage.subscriber()
    return stage.shop.event(kind, stage.world.change(subscriber.id, **fields))


def resumed(stage: Stage, kind: str) -> StripeObject:
    subscriber = stage.subscriber()
    paused = stage.world.change(subscriber.id, status="paused")
    stage.tell(stage.shop.event("customer.subscription.paused", paused))
    return stage.shop.event(kind, stage.world.change(subscriber.id, status="active"))


def pending(stage: Stage, kind: str) -> StripeObject:
    """An upgrade that was declined, and is paid, or not, hours later."""
    subscriber = stage.subscriber(days_ago(15))
    change = {
        "items": [{"price": "price_business_month"}],
        "proration_behavior": "always_invoice",
    }
    stage.world.declining.add(subscriber.state["customer"])
    waiting = stage.world.update_subscription(subscriber.id, change)
    stage.world.declining.clear()
    stage.tell(stage.shop.event("customer.subscription.updated", waiting))
    stage.tell(*subscriber.invoiced())
    act = "settle" if kind.endswith("applied") else "expire"
    return stage.shop.event(kind, getattr(stage.world, f"{act}_pending_update")(subscriber.id))


# Invoices and payments --------------------------------------------------------------------------


def invoice(stage: Stage, kind: str, before: str | None = None, **fields: object) -> StripeObject:
    """An invoice with other fields; before that, told so as a draft or open one."""
    subscriber = stage.subscriber(is_told=False)
    stage.tell(stage.shop.event("customer.subscription.created", subscriber.state))
    made = subscriber.invoice
    unpaid = {"amount_paid": 0, "amount_remaining": made["amount_due"]}
    if before is not None:
        told = made | unpaid | {"status": before}
        stage.tell(stage.shop.event("invoice.created", told))
    if fields.get("status", "paid") != "paid":
        fields = unpaid | fields
    return stage.shop.event(kind, stage.world.change(made["id"], **fields))


def declined(stage: Stage, kind: str) -> StripeObject:
    """A renewal whose card is declined; of its invoice or of its payment."""
    subscriber = stage.subscriber(days_ago(31))
    customer = subscriber.state["customer"]
    stage.world.declining.add(customer)
    renewal = stage.world.renew(subscriber.id)
    stage.world.declining.discard(customer)
    stage.tell(stage.shop.event("customer.subscription.updated", subscriber.state))
    if kind.startswith("invoice."):
        return stage.shop.event(kind, renewal)
    (tie,) = stage.world.payments_of(renewal["id"])
    return stage.shop.event(kind, stage.world.get(tie["payment"]["payment_intent"]))


def tied(stage: Stage, kind: str) -> StripeObject:
    """The link between an invoice and a payment of which a part was given back."""
    subscriber = stage.subscriber(is_told=False)
    paid, tie, settled = subscriber.invoiced()
    charge = stage.world.charge_of_invoice(subscriber.invoice["id"])
    refunded = stage.shop.event("charge.refunded", stage.world.refund(charge["id"], 1450))
    stage.tell(paid, settled, refunded)
    assert tie["type"] == kind
    return tie


def topped_up(stage: Stage, kind: str, **fields: object) -> StripeObject:
    """The payment of an automatic top-up, as it becomes known."""
    customer = stage.customer()
    stage.tell(stage.shop.event("payment_method.attached", stage.world.attach(customer)))
    account = str(stage.shop.account(stage.user)["id"])
    stage.shop.rows(
        "insert into public.auto_top_ups (account_id, user_id, pack_id, threshold, max_per_day)"
        " select %s, %s, id, 50, 1 from public.credit_packs where slug = 'starter'",
        account,
        stage.user.id,
    )
    stage.shop.spend(stage.user, Decimal(60))
    start = stage.shop.service.rpc("top_up_start", p_account_id=account)
    assert start["result"] == "charge"
    made = {
        "amount": PRICE,
        "currency": "eur",
        "customer": customer,
        "metadata": {"quernel_purchase_id": start["purchase_id"]},
        "last_payment_error": None,
    }
    return stage.shop.event(kind, stage.world.make("payment_intent", **(made | fields)))


# Customers and what they pay with ---------------------------------------------------------------


def attached(stage: Stage, kind: str) -> StripeObject:
    return stage.shop.event(kind, stage.world.attach(stage.customer()))


def card(stage: Stage, kind: str, **fields: object) -> StripeObject:
    """A card that is known, with other fields."""
    made = stage.world.attach(stage.customer())
    stage.tell(stage.shop.event("payment_method.attached", made))
    if "customer" in fields:
        return stage.shop.event(kind, stage.world.detach(made["id"]))
    return stage.shop.event(kind, stage.world.change(made["id"], card=made["card"] | fields))


def chosen(stage: Stage, kind: str) -> StripeObject:
    """Of two cards the older one."""
    customer = stage.customer()
    older = stage.world.change(stage.world.attach(customer)["id"], created=days_ago(1))
    newer = stage.world.attach(customer, last4="1881")
    for one in (older, newer):
        stage.tell(stage.shop.event("payment_method.attached", one))
    return stage.shop.event(kind, stage.world.choose(customer, older["id"]))


def customer_deleted(stage: Stage, kind: str) -> StripeObject:
    subscriber = stage.subscriber()
    return stage.shop.event(kind, stage.world.delete_customer(subscriber.state["customer"]))


DECLINE = {"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds"}

SCENES: dict[str, Callable[..., StripeObject]] = {
    "charge.dispute.closed": partial(dispute, before="needs_response", status="won"),
    "charge.dispute.created": partial(dispute, before=None, status="needs_response"),
    "charge.dispute.funds_reinstated": partial(dispute, before="under_review", status="won"),
    "charge.dispute.funds_withdrawn": partial(dispute, before=None, status="under_review"),
    "charge.dispute.updated": partial(
        dispute, before="warning_under_review", status="needs_response"
    ),
    "charge.refund.updated": refund_failed,
    "charge.refunded": charge_refunded,
    "checkout.session.async_payment_failed": session_unpaid,
    "checkout.session.async_payment_succeeded": session_paid,
    "checkout.session.completed": session_paid,
    "checkout.session.expired": session_unpaid,
    "customer.deleted": customer_deleted,
    "customer.subscription.created": created,
    "customer.subscription.deleted": partial(
        changed, status="canceled", canceled_at=now(), ended_at=now()
    ),
    "customer.subscription.paused": partial(changed, status="paused"),
    "customer.subscription.pending_update_applied": pending,
    "customer.subscription.pending_update_expired": pending,
    "customer.subscription.resumed": resumed,
    "customer.subscription.trial_will_end": partial(
        changed, status="trialing", trial_start=days_ago(11), trial_end=now() + 3 * DAY
    ),
    "customer.subscription.updated": partial(changed, cancel_at=now() + DAY),
    "customer.updated": chosen,
    "invoice.created": partial(invoice, status="draft", number=None),
    "invoice.deleted": partial(invoice, before="draft", status="draft", number=None),
    "invoice.finalized": partial(invoice, before="draft", status="open"),
    "invoice.marked_uncollectible": partial(invoice, before="open", status="uncollectible"),
    "invoice.overdue": partial(invoice, before="open", status="open", due_date=days_ago(1)),
    "invoice.paid": partial(invoice, before="open"),
    "invoice.payment_action_required": partial(
        invoice, before="open", status="open", attempt_count=2
    ),
    "invoice.payment_failed": declined,
    "invoice.payment_succeeded": invoice,
    "invoice.sent": partial(invoice, before="draft", status="open", due_date=now() + DAY),
    "invoice.updated": partial(invoice, before="open", status="open", due_date=now() + DAY),
    "invoice.voided": partial(invoice, before="open", status="void"),
    "invoice_payment.paid": tied,
    "payment_intent.canceled": partial(topped_up, status="canceled"),
    "payment_intent.payment_failed": declined,
    "payment_intent.processing": partial(topped_up, status="processing"),
    "payment_intent.requires_action": partial(topped_up, status="requires_action"),
    "payment_intent.succeeded": partial(topped_up, status="succeeded", amount_received=PRICE),
    "payment_method.attached": attached,
    "payment_method.automatically_updated": partial(card, exp_year=2040),
    "payment_method.detached": partial(card, customer=None),
    "payment_method.updated": partial(card, last4="0005"),
    "refund.failed": refund_failed,
    "refund.updated": refund_failed,
}
"""Event type → its scene, which takes the stage and the type."""

CHANGES_NOTHING = frozenset({"customer.subscription.pending_update_expired"})
"""Events after which everything is as it was."""


# What is looked at ------------------------------------------------------------------------------

TABLES = {
    "public.subscriptions": "user_id",
    "public.invoices": "user_id",
    "public.payments": "user_id",
    "public.payment_methods": "user_id",
    "public.credit_purchases": "user_id",
    "public.auto_top_ups": "user_id",
    "public.billing_alerts": "user_id",
    "public.credit_accounts": "user_id",
    "private.notifications": "user_id",
    "private.stripe_customers": "user_id",
    "private.subscription_checkouts": "user_id",
    "public.profiles": "id",
    "public.credit_lots": "account_id",
    "public.credit_transactions": "account_id",
}
"""Mirrors, entitlements, ledger, alerts and notifications, by the column that says whose."""


def books(stage: Stage) -> dict[str, list[Any]]:
    """Every row of a person's, as it is."""
    account = stage.shop.account(stage.user)["id"]
    return {
        table: [
            row["it"]
            for row in stage.shop.rows(
                f"select to_jsonb(t) as it from {table} as t where {column} = %s"  # noqa: S608
                " order by t::text",
                account if column == "account_id" else stage.user.id,
            )
        ]
        for table, column in TABLES.items()
    }
