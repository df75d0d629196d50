"""Invoices, payments and payment methods: mirrored as Stripe tells them, taken back as it says."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.billing.subscribers import CREDITS, Subscriber, Subscribers
from tests.conftest import User


def test_an_invoice_is_mirrored_whole(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user)
    stripe = subscriber.invoice
    (row,) = subscriber.invoices()
    assert row["number"] == stripe["number"]
    assert (row["status"], row["billing_reason"]) == ("paid", "subscription_create")
    assert (row["subtotal_minor"], row["tax_minor"], row["total_minor"]) == (2900, 0, 2900)
    assert (row["amount_due_minor"], row["amount_paid_minor"]) == (2900, 2900)
    assert (row["amount_remaining_minor"], row["currency"]) == (0, "eur")
    assert row["hosted_invoice_url"] == stripe["hosted_invoice_url"]
    assert row["invoice_pdf_url"] == stripe["invoice_pdf"]
    assert row["paid_at"] == datetime.fromtimestamp(stripe["created"], UTC)
    assert row["due_at"] is None  # charged automatically
    (item,) = row["items"]
    assert (item["amount_minor"], item["quantity"], item["type"]) == (2900, 1, "subscription")
    (payment,) = subscribers.shop.rows("select * from public.payments where user_id = %s", user.id)
    assert (payment["invoice_id"], payment["status"]) == (row["id"], "succeeded")
    assert payment["processed_at"] is not None


def test_tax_is_the_sum_of_its_parts(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user)
    taxes = [{"amount": 551, "tax_behavior": "exclusive"}, {"amount": 12}]
    invoice = subscriber.world.change(
        subscriber.invoice["id"], total_taxes=taxes, total=3463, amount_due=3463
    )
    subscribers.shop.result(subscribers.shop.event("invoice.updated", invoice))
    (row,) = subscriber.invoices()
    assert (row["subtotal_minor"], row["tax_minor"], row["total_minor"]) == (2900, 563, 3463)


def test_more_tax_may_be_given_back_than_is_owed(subscribers: Subscribers, user: User) -> None:
    """As when a larger plan's rest is credited: the whole invoice is negative."""
    subscriber = subscribers.new(user)
    taxes = [{"amount": -551, "tax_behavior": "exclusive"}]
    invoice = subscriber.world.renew(subscriber.id)
    invoice |= {"total_taxes": taxes, "subtotal": -2900, "total": -3451}
    invoice |= {"amount_due": 0, "amount_paid": 0, "amount_remaining": 0, "status": "draft"}
    assert subscribers.shop.result(subscribers.shop.event("invoice.created", invoice)) == "applied"
    row = subscriber.invoices()[-1]
    assert (row["subtotal_minor"], row["tax_minor"], row["total_minor"]) == (-2900, -551, -3451)


def test_an_invoice_to_be_paid_by_hand_has_its_date(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user)
    due = subscriber.invoice["created"] + 14 * 24 * 3600
    invoice = subscriber.world.change(
        subscriber.invoice["id"],
        status="open",
        due_date=due,
        collection_method="send_invoice",
        amount_paid=0,
        amount_remaining=2900,
    )
    # It was paid before, as far as we know: a lot stays tied to a paid invoice.
    assert (
        subscribers.shop.deliver(subscribers.shop.event("invoice.updated", invoice)).status_code
        == 500
    )
    (row,) = subscriber.invoices()
    assert row["status"] == "paid"


def test_an_invoice_with_many_lines_is_read_whole(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.silent(user)
    invoice = subscriber.invoice
    cut = invoice | {"lines": invoice["lines"] | {"data": [], "has_more": True}}
    before = subscribers.shop.balance(user)
    event = subscribers.shop.event("invoice.paid", cut)
    subscribers.shop.stripe.requests.clear()
    assert subscribers.shop.result(event) == "applied"
    assert [r.path for r in subscribers.shop.stripe.requests] == [f"/v1/invoices/{invoice['id']}"]
    assert subscribers.shop.balance(user) == before + CREDITS["pro"]


def test_a_draft_that_was_thrown_away_is_forgotten(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user)
    draft = subscriber.world.renew(subscriber.id) | {"status": "draft", "number": None}
    subscribers.shop.result(subscribers.shop.event("invoice.created", draft))
    assert [i["status"] for i in subscriber.invoices()] == ["paid", "draft"]
    subscribers.shop.result(subscribers.shop.event("invoice.deleted", draft))
    assert [i["status"] for i in subscriber.invoices()] == ["paid"]


@pytest.mark.parametrize(
    ("kind", "status"), [("voided", "void"), ("marked_uncollectible", "uncollectible")]
)
def test_an_invoice_nobody_pays_grants_nothing(
    subscribers: Subscribers, user: User, kind: str, status: str
) -> None:
    subscriber = subscribers.silent(user)
    invoice = subscriber.world.change(subscriber.invoice["id"], status=status)
    before = subscribers.shop.balance(user)
    subscribers.shop.result(subscribers.shop.event(f"invoice.{kind}", invoice))
    assert subscriber.invoices()[0]["status"] == status
    assert subscribers.shop.balance(user) == before


def test_a_payment_in_another_currency_than_the_price_grants_nothing(
    subscribers: Subscribers, user: User
) -> None:
    """49,000 won are 29 euros, and would be seventeen months."""
    subscriber = subscribers.silent(user)
    subscriber.told("customer.subscription.created")
    before = subscribers.shop.balance(user)
    invoice = subscriber.invoice
    for line in invoice["lines"]["data"]:
        line |= {"amount": 49000, "currency": "krw"}
    invoice |= {"currency": "krw", "amount_paid": 49000, "amount_due": 49000, "total": 49000}
    event = subscribers.shop.event("invoice.paid", invoice)
    assert subscribers.shop.deliver(event).status_code == 500
    assert "currency_mismatch" in subscribers.shop.inbox(event)[0]["last_error"]
    assert (subscriber.lots(), subscribers.shop.balance(user)) == ([], before)


def test_an_invoice_of_another_customer_is_left_aside(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.silent(user)
    invoice = subscriber.invoice | {"customer": "cus_elsewhere"}
    assert subscribers.shop.result(subscribers.shop.event("invoice.paid", invoice)) == "ignored"
    assert subscriber.invoices() == []


# Refunds and disputes of a subscription ---------------------------------------------------------


def refunded(subscriber: Subscriber, amount: int) -> None:
    charge = subscriber.world.charge_of_invoice(subscriber.invoice["id"])
    state = subscriber.world.refund(charge["id"], amount)
    subscriber.deliver([subscriber.shop.event("charge.refunded", state)])


def test_refunds_of_30_60_and_100_percent_take_exactly_their_share(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user)
    before = subscribers.shop.balance(user)
    seen = []
    for amount in (870, 870, 1160):
        refunded(subscriber, amount)
        (payment,) = subscribers.shop.rows(
            "select * from public.payments where user_id = %s", user.id
        )
        taken = before - subscribers.shop.balance(user)
        seen.append((taken, payment["status"], payment["amount_refunded_minor"]))
    assert seen == [
        (CREDITS["pro"] * 3 / 10, "partially_refunded", 870),
        (CREDITS["pro"] * 6 / 10, "partially_refunded", 1740),
        (CREDITS["pro"], "refunded", 2900),
    ]


def test_a_refund_after_the_credits_were_spent_makes_debt_that_the_next_purchase_repays(
    subscribers: Subscribers, user: User
) -> None:
    shop = subscribers.shop
    subscriber = subscribers.new(user)
    shop.spend(user, shop.balance(user))
    refunded(subscriber, 2900)
    assert (shop.balance(user), shop.account(user)["debt"]) == (-CREDITS["pro"], CREDITS["pro"])
    with pytest.raises(Exception, match="account_in_debt"):
        shop.spend(user, CREDITS["pro"] / 10)
    shop.paid(user, pack="standard")  # 5,000 credits
    assert (shop.balance(user), shop.account(user)["debt"]) == (-1000, 1000)
    shop.paid(user)  # 1,000 credits
    assert (shop.balance(user), shop.account(user)["debt"]) == (0, 0)


@pytest.mark.parametrize(("status", "returns"), [("won", True), ("lost", False)])
def test_a_chargeback(subscribers: Subscribers, user: User, status: str, *, returns: bool) -> None:
    shop = subscribers.shop
    subscriber = subscribers.new(user)
    before = shop.balance(user)
    charge = subscriber.world.charge_of_invoice(subscriber.invoice["id"])
    dispute = subscriber.world.dispute(charge["id"], status="needs_response")
    subscriber.deliver([shop.event("charge.dispute.created", dispute)])
    assert shop.balance(user) == before - CREDITS["pro"]
    (payment,) = shop.rows("select * from public.payments where user_id = %s", user.id)
    assert (payment["status"], payment["amount_disputed_minor"]) == ("disputed", 2900)
    closed = subscriber.world.change(dispute["id"], status=status)
    subscriber.deliver([shop.event("charge.dispute.closed", closed)])
    assert shop.balance(user) == (before if returns else before - CREDITS["pro"])


def test_a_refund_that_failed_gives_the_credits_back(subscribers: Subscribers, user: User) -> None:
    """Also when it was the only one."""
    shop = subscribers.shop
    subscriber = subscribers.new(user)
    before = shop.balance(user)
    refunded(subscriber, 2900)
    charge = subscriber.world.charge_of_invoice(subscriber.invoice["id"])
    (refund,) = charge["refunds"]["data"]
    failed = subscriber.world.fail_refund(charge["id"], refund["id"])
    subscriber.world.change(charge["id"], amount_refunded=2900)  # Stripe may still count it
    subscriber.deliver([shop.event("refund.failed", failed)])
    assert shop.balance(user) == before


# Payment methods --------------------------------------------------------------------------------


def methods(subscriber: Subscriber) -> list[tuple[str, bool]]:
    rows = subscriber.shop.rows(
        "select last_four, is_default from public.payment_methods where user_id = %s"
        " order by attached_at, last_four",
        subscriber.user.id,
    )
    return [(row["last_four"], row["is_default"]) for row in rows]


def test_one_payment_method_is_the_default(subscribers: Subscribers, user: User) -> None:
    shop, subscriber = subscribers.shop, subscribers.new(user)
    world, customer = subscriber.world, subscriber.state["customer"]
    assert methods(subscriber) == [("4242", True)]
    newer = world.attach(customer, last4="1881")
    newer = world.change(newer["id"], created=newer["created"] + 5)
    subscriber.deliver([shop.event("payment_method.attached", newer)])
    assert methods(subscriber) == [("4242", False), ("1881", True)]
    world.choose(customer, subscriber.state["default_payment_method"])
    subscriber.deliver([shop.event("customer.updated", world.get(customer))])
    assert methods(subscriber) == [("4242", True), ("1881", False)]
    world.detach(subscriber.state["default_payment_method"])
    gone = world.get(subscriber.state["default_payment_method"])
    subscriber.deliver([shop.event("payment_method.detached", gone)])
    assert methods(subscriber) == [("1881", True)]


def test_a_choice_told_before_its_card(subscribers: Subscribers, user: User) -> None:
    shop, subscriber = subscribers.shop, subscribers.new(user)
    world, customer = subscriber.world, subscriber.state["customer"]
    older = world.attach(customer, last4="0005")
    world.change(older["id"], created=older["created"] - 500)
    attached = shop.event("payment_method.attached", world.get(older["id"]))
    world.choose(customer, older["id"])
    subscriber.deliver([shop.event("customer.updated", world.get(customer)), attached])
    assert methods(subscriber) == [("0005", True), ("4242", False)]


def test_no_card_holder_is_stored(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user)
    card = subscriber.state["default_payment_method"]
    stored = subscribers.shop.rows(
        "select payload::text from private.stripe_events where object_id = %s", card
    )
    assert stored
    for word in ("jenny@example.com", "1234 Fake Street", "AOB934RVNwzk6xtn"):
        assert word not in str(stored)


def test_a_deleted_customer_is_made_again(subscribers: Subscribers, user: User) -> None:
    shop, subscriber = subscribers.shop, subscribers.new(user)
    customer = subscriber.world.get(subscriber.state["customer"])
    subscriber.world.end(subscriber.id)
    subscriber.told("customer.subscription.deleted")
    subscriber.deliver([shop.event("customer.deleted", customer)])
    assert methods(subscriber) == []
    assert subscribers.new(user, plan="business").state["customer"] != customer["id"]
