"""Failures of other people's billing, each as a test that would have caught it (docs/stripe.md)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

from tests.billing.shop import CREDITS, PRICE, Shop
from tests.conftest import User


def test_lago_3618_a_top_up_is_not_settled_twice(shop: Shop, user: User) -> None:
    """Two different events say that the same payment succeeded."""
    purchase = shop.buy(user)
    before = shop.balance(user)
    session = shop.stripe.world.pay(purchase.session_id)
    events = [
        shop.event("checkout.session.completed", session),
        shop.event("checkout.session.async_payment_succeeded", session),
    ]
    with ThreadPoolExecutor(2) as threads:
        results = set(threads.map(shop.result, events))
    assert results <= {"applied", "ignored"}
    assert shop.balance(user) == before + CREDITS
    assert len(shop.lots(user)) == 1


def test_autogpt_10672_a_settled_top_up_is_not_granted_by_a_later_event(
    shop: Shop, user: User
) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    session = shop.stripe.world.get(purchase.session_id)
    for _ in range(3):
        assert shop.result(shop.event("checkout.session.completed", session)) == "applied"
    assert shop.balance(user) == before


def test_lago_5870_a_top_up_has_an_idempotency_key(shop: Shop, user: User) -> None:
    """A client that repeats its request buys once."""
    answers = [shop.checkout(user, key="retry").json() for _ in range(3)]
    assert len({answer["purchase_id"] for answer in answers}) == 1
    assert len(shop.stripe.made("/v1/checkout/sessions")) == 1


def test_sync_engine_268_events_of_the_same_second_do_not_keep_the_older_state(
    shop: Shop, user: User
) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    dispute = shop.stripe.world.dispute(shop.charge(purchase)["id"], status="needs_response")
    opened = shop.event("charge.dispute.created", dispute)
    won = shop.stripe.world.change(dispute["id"], status="won")
    closed = shop.event("charge.dispute.closed", won, created=opened["created"])
    assert [shop.result(closed), shop.result(opened)] == ["applied", "applied"]
    assert shop.balance(user) == before


def test_sync_engine_300_a_failed_event_does_not_count_as_done(shop: Shop, user: User) -> None:
    purchase = shop.buy(user)
    before = shop.balance(user)
    event = shop.completed(purchase)
    shop.rows("update public.credit_purchases set price_minor = 1 where id = %s", purchase.id)
    assert shop.deliver(event).status_code >= 500
    (row,) = shop.inbox(event)
    assert (row["status"], row["finished_at"]) == ("failed", None)
    shop.rows(
        "update public.credit_purchases set price_minor = %s where id = %s", PRICE, purchase.id
    )
    assert shop.result(event) == "applied"
    assert shop.balance(user) == before + CREDITS


def test_ledger_fortress_a_refund_claws_back(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    shop.result(shop.refunded(purchase, PRICE))
    assert shop.balance(user) == before - CREDITS


def test_eliza_10938_a_clawback_goes_by_the_difference(shop: Shop, user: User) -> None:
    """Stripe tells the sum of refunds; taking that sum each time would take too much."""
    purchase = shop.paid(user)
    before = shop.balance(user)
    for _ in range(5):
        shop.result(shop.refunded(purchase, 100))
    assert before - shop.balance(user) == CREDITS
    taken = shop.rows(
        "select amount from public.credit_transactions"
        " where type = 'clawback' and reference_id = %s order by version",
        shop.purchase(purchase.id)["lot_id"],
    )
    assert [row["amount"] for row in taken] == [Decimal(-200)] * 5


def test_nextjs_subscription_payments_200_one_owner_has_one_customer(
    shop: Shop, user: User
) -> None:
    shop.stripe.latency_seconds = 0.2
    with ThreadPoolExecutor(4) as threads:
        assert {a.status_code for a in threads.map(lambda _: shop.checkout(user), range(4))} == {
            200
        }
    mine = [
        c
        for c in shop.stripe.world.of_type("customer")
        if c["metadata"].get("quernel_user_id") == user.id
    ]
    assert len(mine) == 1
