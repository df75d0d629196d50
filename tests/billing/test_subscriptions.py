"""The life of a subscription: plan and credits follow what was paid, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.billing.subscribers import CREDITS, YEAR, Subscriber, Subscribers, days_ago, own_plan
from tests.conftest import User

GRACE = timedelta(days=3)
"""renewal_grace_days, as seeded."""


def test_a_paid_month_gives_the_plan_and_its_credits(subscribers: Subscribers, user: User) -> None:
    before = subscribers.shop.balance(user)
    subscriber = subscribers.new(user)
    assert subscriber.plan == "pro"
    assert subscriber.profile["subscription_tier"] == "pro"
    assert subscriber.profile["subscription_status"] == "active"
    assert subscribers.shop.balance(user) == before + CREDITS["pro"]
    (lot,) = subscriber.lots()
    end = subscriber.state["items"]["data"][0]["current_period_end"]
    assert lot["expires_at"] == datetime.fromtimestamp(end, UTC) + GRACE
    assert (lot["paid_minor"], lot["currency"]) == (2900, "eur")
    assert subscriber.profile["plan_expires_at"] == lot["expires_at"]


def test_a_subscription_shows_what_stripe_charges(subscribers: Subscribers, user: User) -> None:
    """Also where the plan costs something else."""
    subscriber = subscribers.new(user)
    assert (subscriber.row["amount_minor"], subscriber.row["currency"]) == (2900, "eur")
    items = subscriber.state["items"]
    items["data"][0]["price"] |= {"unit_amount": 2500, "currency": "usd"}
    subscriber.world.change(subscriber.id, items=items)
    assert subscriber.told() == "applied"
    assert (subscriber.row["amount_minor"], subscriber.row["currency"]) == (2500, "usd")


def test_the_credits_of_a_plan_burn_before_those_that_were_bought(
    subscribers: Subscribers, user: User
) -> None:
    bought = subscribers.shop.paid(user)
    subscriber = subscribers.new(user)
    subscribers.shop.spend(user, CREDITS["pro"])
    assert subscriber.lots()[0]["remaining"] == 0
    (lot,) = subscribers.shop.lots(user)
    assert lot["remaining"] == lot["amount"]
    assert subscribers.shop.purchase(bought.id)["status"] == "paid"


def test_a_paid_year_grants_twelve_months(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user, interval="year")
    (lot,) = subscriber.lots()
    assert lot["amount"] == CREDITS["pro"] * 12
    assert lot["expires_at"] - lot["created_at"] > timedelta(seconds=YEAR - 3600)


def test_a_plan_that_rolls_over_grants_credits_that_stay(
    subscribers: Subscribers, user: User
) -> None:
    slug = own_plan(subscribers.shop, credits_roll_over=True)
    subscriber = subscribers.new(user, plan=slug)
    (lot,) = subscriber.lots()
    assert (lot["amount"], lot["expires_at"]) == (1000, None)


def test_each_period_grants_once(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user, at=days_ago(31))
    invoice = subscriber.world.renew(subscriber.id)
    events = subscriber.invoiced(invoice)
    subscriber.deliver(events + events)
    again = subscribers.shop.event("invoice.payment_succeeded", subscriber.world.get(invoice["id"]))
    subscriber.deliver([again])
    subscriber.told()
    assert [lot["amount"] for lot in subscriber.lots()] == [CREDITS["pro"]] * 2
    assert subscriber.plan == "pro"


def test_until_a_renewal_is_charged_there_are_credits(subscribers: Subscribers, user: User) -> None:
    """Stripe charges it an hour after the period has begun, or later."""
    subscriber = subscribers.new(user, at=days_ago(30) - 3600)
    before = subscribers.shop.balance(user)
    subscribers.shop.rows("select private.lock_account(%s)", subscribers.shop.account(user)["id"])
    assert (subscriber.plan, subscribers.shop.balance(user)) == ("pro", before)
    assert subscriber.lots()[0]["expires_at"] > datetime.now(UTC) + GRACE - timedelta(hours=2)
    subscriber.deliver(subscriber.invoiced(subscriber.world.renew(subscriber.id)))
    old, new = subscriber.lots()
    assert new["expires_at"] - old["expires_at"] == timedelta(days=30)
    subscribers.shop.spend(user, CREDITS["pro"])
    assert subscriber.lots()[0]["remaining"] == 0  # what ends first is used first


def test_credits_expire_with_the_period(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user)
    account = subscribers.shop.account(user)["id"]
    before = subscribers.shop.balance(user)
    subscribers.shop.rows(
        "update public.credit_lots set expires_at = now() - interval '1 second' where id = %s",
        subscriber.lots()[0]["id"],
    )
    subscribers.shop.rows(
        "update public.credit_accounts set next_expiry_at = now() - interval '1 second'"
        " where id = %s",
        account,
    )
    subscribers.shop.rows("select private.lock_account(%s)", account)
    assert subscribers.shop.balance(user) == before - CREDITS["pro"]


def test_what_was_told_after_its_period_can_still_be_used(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user, at=days_ago(45))
    (lot,) = subscriber.lots()
    assert lot["remaining"] == CREDITS["pro"]
    assert lot["expires_at"] > datetime.now(UTC) + timedelta(days=29)


def test_without_a_renewal_the_plan_lapses_by_itself(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user, at=days_ago(31))
    assert subscriber.plan == "pro"  # the renewal may be on its way
    subscribers.shop.rows(
        "update public.profiles set plan_started_at = now() - interval '40 days',"
        " plan_expires_at = now() - interval '1 second' where id = %s",
        user.id,
    )
    # The row still says that it is active, so the subscription is asked again, and by the sweep.
    assert subscriber.plan == "pro"
    subscribers.shop.rows("select backend.plans_lapse()")
    assert subscriber.profile["subscription_tier"] == "pro"
    assert subscriber.profile["plan_expires_at"] > datetime.now(UTC)


def test_when_a_larger_plan_that_was_kept_ends_the_smaller_one_rules_at_once(
    subscribers: Subscribers, user: User
) -> None:
    """The sweep comes by every five minutes; nobody who pays is on the free plan meanwhile."""
    subscriber = subscribers.new(user, at=days_ago(10), plan="business")
    assert subscriber.post("change", plan="pro").status_code == 200
    for table, column in (("subscriptions", "paid_until"), ("profiles", "plan_expires_at")):
        owner = "user_id" if table == "subscriptions" else "id"
        subscribers.shop.rows(
            f"update public.{table} set {column} = now() - interval '1 s'"  # noqa: S608 - ours
            f" where {owner} = %s",
            user.id,
        )
    assert subscriber.profile["subscription_tier"] == "business"
    assert subscriber.plan == "pro"
    subscribers.shop.rows("select backend.plans_lapse()")
    assert (subscriber.profile["subscription_tier"], subscriber.plan) == ("pro", "pro")


def test_the_sweep_shows_who_has_nothing_any_more(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user, at=days_ago(40))
    assert subscriber.plan == "free"  # ten days without a renewal
    subscribers.shop.rows(
        "update public.profiles set plan_id = (select id from public.plans where slug = 'pro'),"
        " plan_started_at = now() - interval '40 days', plan_expires_at = now() - interval '1 s'"
        " where id = %s",
        user.id,
    )
    assert subscriber.profile["subscription_tier"] == "pro"
    subscribers.shop.rows("select backend.plans_lapse()")
    profile = subscriber.profile
    assert (profile["subscription_tier"], profile["plan_expires_at"]) == ("free", None)


def test_a_payment_is_told_once_with_a_receipt(subscribers: Subscribers, user: User) -> None:
    shop = subscribers.shop
    bought = shop.paid(user)
    subscriber = subscribers.new(user)
    subscriber.deliver(subscriber.invoiced())
    told = shop.rows(
        "select key, facts from private.notifications where user_id = %s and template = 'receipt'"
        " order by created_at",
        user.id,
    )
    assert [row["key"] for row in told] == [bought.id, subscriber.invoice["id"]]
    assert (told[0]["facts"]["amount_minor"], told[0]["facts"]["credits"]) == (500, 1000)
    assert told[1]["facts"] == {
        "amount_minor": 2900,
        "currency": "eur",
        "credits": 6000,
        "description": subscriber.invoice["number"],
        "invoice_url": subscriber.invoice["hosted_invoice_url"],
    }


# Payments that fail -----------------------------------------------------------------------------


def renewal_fails(subscribers: Subscribers, user: User, days_overdue: float) -> Subscriber:
    subscriber = subscribers.new(user, at=days_ago(30 + days_overdue))
    subscriber.world.declining.add(subscriber.state["customer"])
    invoice = subscriber.world.renew(subscriber.id)
    subscriber.told()
    subscriber.deliver(subscriber.invoiced(invoice))
    return subscriber


def test_past_due_keeps_the_plan_for_its_grace(subscribers: Subscribers, user: User) -> None:
    subscriber = renewal_fails(subscribers, user, days_overdue=2)
    assert subscriber.row["status"] == "past_due"
    assert subscriber.plan == "pro"
    assert subscriber.profile["subscription_status"] == "past_due"
    assert len(subscriber.lots()) == 1  # and grants nothing for what was not paid
    (payment,) = [
        row
        for row in subscribers.shop.rows(
            "select * from public.payments where user_id = %s", user.id
        )
        if row["status"] == "failed"
    ]
    assert payment["failure_code"] == "insufficient_funds"
    assert payment["failure_reason"] == "Your card has insufficient funds."


def test_past_due_falls_back_to_free_after_its_grace(subscribers: Subscribers, user: User) -> None:
    subscriber = renewal_fails(subscribers, user, days_overdue=8)
    assert subscriber.row["status"] == "past_due"
    assert subscriber.plan == "free"
    profile = subscriber.profile
    assert (profile["subscription_tier"], profile["subscription_status"]) == ("free", "past_due")


def test_a_late_payment_brings_the_plan_and_its_credits_back(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = renewal_fails(subscribers, user, days_overdue=8)
    subscriber.world.declining.clear()
    paid = subscriber.world.collect(subscriber.invoice["id"])
    subscriber.deliver(subscriber.invoiced(paid))
    subscriber.told()
    assert (subscriber.row["status"], subscriber.plan) == ("active", "pro")
    assert len(subscriber.lots()) == 2
    statuses = subscribers.shop.rows(
        "select status from public.payments where user_id = %s order by created_at", user.id
    )
    assert [row["status"] for row in statuses] == ["succeeded", "succeeded"]


def test_an_invoice_that_was_given_up_does_not_begin_the_grace_anew(
    subscribers: Subscribers, user: User
) -> None:
    """Else whoever pays nothing has seven days of every period."""
    subscriber = renewal_fails(subscribers, user, days_overdue=32)
    invoice = subscriber.world.change(subscriber.invoice["id"], status="uncollectible")
    subscribers.shop.result(subscribers.shop.event("invoice.marked_uncollectible", invoice))
    assert subscriber.plan == "free"
    renewed = subscriber.world.renew(subscriber.id)
    subscriber.later()
    subscriber.told()
    subscriber.deliver(subscriber.invoiced(renewed))
    assert (subscriber.row["status"], subscriber.plan) == ("past_due", "free")


def test_a_pause_does_not_outlast_what_is_past_due(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user, at=days_ago(10))
    assert subscriber.post("pause").status_code == 200
    subscriber.world.declining.add(subscriber.state["customer"])
    invoice = subscriber.world.change(subscriber.world.renew(subscriber.id)["id"], status="open")
    metadata = subscriber.state["metadata"]
    end = subscriber.state["items"]["data"][0]["current_period_end"]
    subscriber.world.change(
        subscriber.id,
        status="past_due",
        metadata=metadata | {"quernel_paid_until": str(end)},
    )
    subscriber.later()
    subscriber.told()
    event = subscribers.shop.event("invoice.payment_failed", invoice)
    assert subscribers.shop.result(event) == "applied"
    expires = subscriber.profile["plan_expires_at"]
    assert expires == subscriber.invoices()[-1]["issued_at"] + timedelta(days=7)


@pytest.mark.parametrize("status", ["incomplete", "incomplete_expired", "unpaid", "paused"])
def test_what_is_not_paid_gives_no_plan(subscribers: Subscribers, user: User, status: str) -> None:
    subscriber = subscribers.silent(user)
    subscriber.world.change(subscriber.id, status=status)
    subscriber.told("customer.subscription.created")
    assert (subscriber.row["status"], subscriber.plan) == (status, "free")


def test_the_largest_of_several_subscriptions_rules(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user)
    until = datetime.now(UTC) + timedelta(days=10)
    given = subscribers.shop.service.rpc(
        "plan_assign",
        p_user_id=user.id,
        p_plan="enterprise",
        p_until=until.isoformat(),
        p_reason="a contract",
        p_actor="tests",
    )
    assert (given["plan"], subscriber.plan) == ("enterprise", "enterprise")
    subscribers.shop.service.rpc(
        "plan_assign",
        p_user_id=user.id,
        p_plan="free",
        p_until=until.isoformat(),
        p_reason="it ended",
        p_actor="tests",
    )
    assert subscriber.plan == "pro"
    actions = subscribers.shop.rows(
        "select before, after from private.operator_actions where action = 'plan_assign'"
        " and subject = %s order by created_at",
        str(subscribers.shop.account(user)["id"]),
    )
    assert [(a["before"]["plan"], a["after"]["plan"]) for a in actions] == [
        ("pro", "enterprise"),
        ("enterprise", "pro"),
    ]


def test_a_subscription_to_something_else_is_left_aside(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user)
    other = subscriber.state | {"id": "sub_elsewhere", "metadata": {}}
    other["items"]["data"][0]["price"]["id"] = "price_of_a_mug"
    assert (
        subscribers.shop.result(subscribers.shop.event("customer.subscription.created", other))
        == "ignored"
    )


def test_a_plan_whose_price_is_unknown_is_not_lost(subscribers: Subscribers, user: User) -> None:
    """We sold it, so an operator must say which plan it is; then the next delivery applies."""
    subscriber = subscribers.silent(user)
    slug = own_plan(subscribers.shop)
    (price,) = subscribers.shop.rows(
        "delete from private.plan_prices as k using public.plans as p where p.id = k.plan_id"
        " and p.slug = %s and k.billing_interval = 'month' returning k.*",
        slug,
    )
    state = subscriber.state
    state["items"]["data"][0]["price"]["id"] = price["stripe_price_id"]
    event = subscribers.shop.event("customer.subscription.created", state)
    assert subscribers.shop.deliver(event).status_code == 500
    assert "plan_price_unknown" in subscribers.shop.inbox(event)[0]["last_error"]
    subscribers.shop.rows(
        "update public.plans set price_monthly_minor = price_monthly_minor where slug = %s", slug
    )
    assert subscribers.shop.result(event) == "applied"
    assert subscriber.plan == slug


def test_an_invoice_whose_price_is_unknown_is_not_lost(
    subscribers: Subscribers, user: User
) -> None:
    """We sold it: once an operator says which plan it is, its credits come."""
    subscriber = subscribers.silent(user)
    slug = own_plan(subscribers.shop)
    (price,) = subscribers.shop.rows(
        "delete from private.plan_prices as k using public.plans as p where p.id = k.plan_id"
        " and p.slug = %s and k.billing_interval = 'month' returning k.*",
        slug,
    )
    invoice = subscriber.invoice
    details = invoice["parent"]["subscription_details"]
    details["metadata"] = {
        "quernel_checkout_id": subscriber.state["metadata"]["quernel_checkout_id"]
    }
    (line,) = invoice["lines"]["data"]
    line["pricing"]["price_details"]["price"] = price["stripe_price_id"]
    line["amount"] = 1000
    event = subscribers.shop.event("invoice.paid", invoice)
    assert subscribers.shop.deliver(event).status_code == 500
    assert "plan_price_unknown" in subscribers.shop.inbox(event)[0]["last_error"]
    assert (subscriber.invoices(), subscriber.lots()) == ([], [])
    subscribers.shop.rows(
        "update public.plans set price_monthly_minor = price_monthly_minor where slug = %s", slug
    )
    assert subscribers.shop.result(event) == "applied"
    assert [lot["amount"] for lot in subscriber.lots()] == [1000]


def test_a_subscription_of_an_erased_user_is_absorbed(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user)
    renewed = subscriber.world.renew(subscriber.id)
    events = [
        *subscriber.invoiced(renewed),
        subscribers.shop.event("customer.subscription.updated", subscriber.state),
    ]
    subscribers.shop.rows("delete from auth.users where id = %s", user.id)
    subscriber.deliver(events)
    assert (subscriber.row["user_id"], subscriber.row["status"]) == (None, "active")
    assert {row["user_id"] for row in subscriber.invoices()} == {None}
