"""Refunds and disputes take back exactly their share of the credits, and return what comes back."""

from __future__ import annotations

from decimal import Decimal

import pytest

from local.stripe_world import StripeObject
from tests.billing.shop import CREDITS, PRICE, Purchase, Shop
from tests.conftest import User


def clawed_back(shop: Shop, purchase: Purchase) -> Decimal:
    lot = shop.purchase(purchase.id)["lot_id"]
    row = shop.row("select clawed_back from public.credit_lots where id = %s", lot)
    return Decimal(row["clawed_back"])


def test_refunds_that_grow_take_back_the_difference(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    seen = []
    for amount in (150, 150, 200):  # 30 %, 60 %, 100 % of the price
        assert shop.result(shop.refunded(purchase, amount)) == "applied"
        row = shop.purchase(purchase.id)
        seen.append((before - shop.balance(user), row["status"], row["amount_refunded_minor"]))
    assert seen == [
        (CREDITS * 3 / 10, "partially_refunded", 150),
        (CREDITS * 6 / 10, "partially_refunded", 300),
        (CREDITS, "refunded", 500),
    ]
    assert shop.purchase(purchase.id)["stripe_charge_id"] == shop.charge(purchase)["id"]


def test_a_share_that_is_no_whole_credit_is_rounded_to_six_decimals(shop: Shop, user: User) -> None:
    slug = f"thirds-{user.id[-12:]}"
    shop.rows(
        "insert into public.credit_packs (slug, name, credits, price_minor)"
        " values (%s, 'T', 100, 300)",
        slug,
    )
    purchase = shop.paid(user, pack=slug)
    before = shop.balance(user)
    shop.result(shop.refunded(purchase, 100))
    assert before - shop.balance(user) == Decimal("33.333333")
    shop.result(shop.refunded(purchase, 200))
    assert before - shop.balance(user) == 100


def test_a_refund_told_twice_and_late_counts_once(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    small = shop.refunded(purchase, 150)
    large = shop.refunded(purchase, 150)
    assert shop.result(large) == "applied"
    assert shop.result(small) == "ignored"
    assert shop.result(large) == "duplicate"
    assert before - shop.balance(user) == CREDITS * 6 / 10


def test_a_refund_told_before_the_payment(shop: Shop, user: User) -> None:
    purchase = shop.buy(user)
    before = shop.balance(user)
    completed = shop.completed(purchase)
    refunded = shop.refunded(purchase, 200)
    assert shop.result(refunded) == "applied"
    assert shop.purchase(purchase.id)["status"] == "pending"
    assert shop.balance(user) == before
    assert shop.result(completed) == "applied"
    assert shop.purchase(purchase.id)["status"] == "partially_refunded"
    assert shop.balance(user) == before + CREDITS * 6 / 10


def test_a_refund_of_another_product_touches_nothing(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    other = shop.stripe.world.make(
        "charge", payment_intent="pi_elsewhere", amount=900, amount_refunded=900, refunds={}
    )
    assert shop.result(shop.event("charge.refunded", other)) == "applied"
    bare = shop.stripe.world.make("charge", payment_intent=None, amount_refunded=900, refunds={})
    assert shop.result(shop.event("charge.refunded", bare)) == "ignored"
    assert shop.balance(user) == before
    assert shop.purchase(purchase.id)["status"] == "paid"


@pytest.mark.parametrize("kind", ["refund.failed", "refund.updated", "charge.refund.updated"])
def test_a_refund_that_fails_gives_the_credits_back(shop: Shop, user: User, kind: str) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    shop.result(shop.refunded(purchase, 100))
    shop.result(shop.refunded(purchase, 200))
    charge = shop.charge(purchase)
    failing = charge["refunds"]["data"][1]["id"]
    refund = shop.stripe.world.fail_refund(charge["id"], failing)
    assert shop.result(shop.event(kind, refund)) == "applied"
    assert before - shop.balance(user) == CREDITS * 2 / 10
    assert shop.purchase(purchase.id)["amount_refunded_minor"] == 100
    # It was read with its refunds, as only these say which one failed.
    (read,) = [r for r in shop.stripe.requests if r.path == f"/v1/charges/{charge['id']}"]
    assert read.params == {"expand": ["refunds"]}


def test_a_charge_that_still_counts_its_failed_refund(shop: Shop, user: User) -> None:
    """Whether Stripe lowers amount_refunded when a refund fails does not matter."""
    purchase = shop.paid(user)
    before = shop.balance(user)
    shop.result(shop.refunded(purchase, 100))
    shop.result(shop.refunded(purchase, 200))
    charge = shop.charge(purchase)
    refund = shop.stripe.world.fail_refund(charge["id"], charge["refunds"]["data"][1]["id"])
    shop.stripe.world.change(charge["id"], amount_refunded=300)
    assert shop.result(shop.event("refund.failed", refund)) == "applied"
    assert before - shop.balance(user) == CREDITS * 2 / 10


def test_a_refund_that_succeeds_is_told_by_the_charge(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    shop.refunded(purchase, 100)
    (refund,) = shop.charge(purchase)["refunds"]["data"]
    before = shop.balance(user)
    assert shop.result(shop.event("refund.updated", refund)) == "ignored"
    assert shop.balance(user) == before


# Disputes ---------------------------------------------------------------------------------------


def disputed(shop: Shop, purchase: Purchase, status: str, amount: int = PRICE) -> StripeObject:
    dispute = shop.stripe.world.dispute(shop.charge(purchase)["id"], status=status, amount=amount)
    assert shop.result(shop.event("charge.dispute.created", dispute)) == "applied"
    return dispute


def test_a_dispute_that_is_lost(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    dispute = disputed(shop, purchase, "needs_response")
    assert shop.balance(user) == before - CREDITS
    assert shop.purchase(purchase.id)["status"] == "disputed"
    lost = shop.stripe.world.change(dispute["id"], status="lost")
    assert shop.result(shop.event("charge.dispute.closed", lost)) == "applied"
    assert shop.balance(user) == before - CREDITS
    assert shop.purchase(purchase.id)["status"] == "disputed"


def test_a_dispute_that_is_won_returns_the_credits(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    dispute = disputed(shop, purchase, "needs_response")
    for status, kind in (
        ("under_review", "charge.dispute.updated"),
        ("under_review", "charge.dispute.funds_withdrawn"),
    ):
        dispute = shop.stripe.world.change(dispute["id"], status=status)
        shop.result(shop.event(kind, dispute))
        assert shop.balance(user) == before - CREDITS
    won = shop.stripe.world.change(dispute["id"], status="won")
    assert shop.result(shop.event("charge.dispute.closed", won)) == "applied"
    assert shop.result(shop.event("charge.dispute.funds_reinstated", won)) == "applied"
    assert shop.balance(user) == before
    assert shop.purchase(purchase.id)["status"] == "paid"
    assert clawed_back(shop, purchase) == 0


@pytest.mark.parametrize(
    "status", ["warning_needs_response", "warning_under_review", "warning_closed", "prevented"]
)
def test_an_inquiry_takes_nothing(shop: Shop, user: User, status: str) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    disputed(shop, purchase, status)
    assert shop.balance(user) == before
    assert shop.purchase(purchase.id)["status"] == "paid"


def test_an_inquiry_that_becomes_a_dispute(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    inquiry = disputed(shop, purchase, "warning_needs_response")
    dispute = shop.stripe.world.change(inquiry["id"], status="needs_response")
    assert shop.result(shop.event("charge.dispute.updated", dispute)) == "applied"
    assert shop.balance(user) == before - CREDITS


def test_a_dispute_of_a_part(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    disputed(shop, purchase, "needs_response", amount=125)
    assert shop.balance(user) == before - CREDITS / 4
    assert shop.purchase(purchase.id)["amount_disputed_minor"] == 125


def test_a_refund_and_a_dispute_take_no_more_than_was_paid(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    shop.result(shop.refunded(purchase, 300))
    dispute = disputed(shop, purchase, "needs_response")
    assert shop.balance(user) == before - CREDITS
    won = shop.stripe.world.change(dispute["id"], status="won")
    shop.result(shop.event("charge.dispute.closed", won))
    assert shop.balance(user) == before - CREDITS * 6 / 10
    assert shop.purchase(purchase.id)["status"] == "partially_refunded"


def test_a_dispute_in_another_currency_is_about_the_whole_payment(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    charge = shop.charge(purchase)
    dispute = shop.stripe.world.dispute(charge["id"], status="needs_response", amount=3)
    dispute = shop.stripe.world.change(dispute["id"], currency="usd")
    shop.result(shop.event("charge.dispute.created", dispute))
    assert shop.balance(user) == before - CREDITS


# Credits that are gone already ------------------------------------------------------------------


def test_a_refund_after_the_credits_were_spent_makes_debt(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    shop.spend(user, shop.balance(user))
    assert shop.balance(user) == 0
    shop.result(shop.refunded(purchase, 300))
    account = shop.account(user)
    assert (account["balance"], account["debt"]) == (-CREDITS * 6 / 10, CREDITS * 6 / 10)
    with pytest.raises(Exception, match="account_in_debt"):
        shop.spend(user, Decimal(1))

    shop.paid(user)  # the next purchase repays first
    account = shop.account(user)
    assert (account["balance"], account["debt"]) == (CREDITS * 4 / 10, 0)
    shop.spend(user, Decimal(1))


def test_a_dispute_won_after_the_credits_were_spent_ends_the_debt(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    shop.spend(user, shop.balance(user))
    dispute = disputed(shop, purchase, "needs_response")
    assert shop.account(user)["debt"] == CREDITS
    won = shop.stripe.world.change(dispute["id"], status="won")
    shop.result(shop.event("charge.dispute.closed", won))
    account = shop.account(user)
    assert (account["balance"], account["debt"]) == (0, 0)


def test_a_refund_comes_out_of_its_own_lot_first(shop: Shop, user: User) -> None:
    first, second = shop.paid(user), shop.paid(user)
    shop.result(shop.refunded(second, PRICE))
    lots = {str(lot["id"]): lot["remaining"] for lot in shop.lots(user)}
    assert lots[str(shop.purchase(first.id)["lot_id"])] == CREDITS
    assert lots[str(shop.purchase(second.id)["lot_id"])] == 0


# People who are gone ----------------------------------------------------------------------------


def test_events_about_somebody_who_was_erased_are_absorbed(shop: Shop, user: User) -> None:
    paid, pending = shop.paid(user), shop.buy(user)
    completed, refunded = shop.completed(pending), shop.refunded(paid, PRICE)
    account = shop.account(user)
    shop.rows("delete from auth.users where id = %s", user.id)
    assert [shop.result(refunded), shop.result(completed)] == ["applied", "applied"]
    rows = [shop.purchase(p.id) for p in (paid, pending)]
    assert [row["status"] for row in rows] == ["refunded", "paid"]
    assert {(row["user_id"], row["bought_by"], row["account_id"]) for row in rows} == {
        (None, None, account["id"])
    }
    kept = shop.row("select balance from public.credit_accounts where id = %s", account["id"])
    assert kept["balance"] == account["balance"]
