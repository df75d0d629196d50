"""A subscription's life, told in any order, twice, or all at once, ends the same."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from local.paths import ROOT
from local.stripe_world import StripeObject
from tests.billing.shop import ORIGIN
from tests.billing.subscribers import CREDITS, Subscriber, Subscribers, days_ago, price_id
from tests.conftest import NewUser, User

EVENTS = 18

UPGRADE = (CREDITS["business"] - CREDITS["pro"]) / 2
"""Credits of a larger plan that begins in the middle of a month."""


def life(subscribers: Subscribers, user: User) -> tuple[Subscriber, list[StripeObject]]:
    """Every event of one: paid, a card, renewed, upgraded, refunded in part, canceled."""
    shop = subscribers.shop
    subscriber = subscribers.silent(user, days_ago(45))
    world = subscriber.world
    events = [shop.event("customer.subscription.created", subscriber.state)]
    card = world.get(subscriber.state["default_payment_method"])
    events.append(shop.event("payment_method.attached", card))
    events += subscriber.invoiced()
    world.choose(subscriber.state["customer"], card["id"])
    events.append(shop.event("customer.updated", world.get(subscriber.state["customer"])))
    renewal = world.renew(subscriber.id)
    events.append(shop.event("customer.subscription.updated", subscriber.state))
    events += subscriber.invoiced(renewal)
    upgrade = {
        "items": [{"price": price_id("business")}],
        "proration_behavior": "always_invoice",
    }
    world.update_subscription(subscriber.id, upgrade)
    events.append(shop.event("customer.subscription.updated", subscriber.state))
    events += subscriber.invoiced()
    world.update_subscription(subscriber.id, {"cancel_at_period_end": "true"})
    events.append(shop.event("customer.subscription.updated", subscriber.state))
    charge = world.refund(world.charge_of_invoice(renewal["id"])["id"], 870)  # 30 %
    events.append(shop.event("charge.refunded", charge))
    charge = world.refund(charge["id"], 870)  # 60 %
    events.append(shop.event("charge.refunded", charge))
    world.end(subscriber.id)
    events.append(shop.event("customer.subscription.deleted", subscriber.state))
    assert len(events) == EVENTS
    return subscriber, events


def outcome(subscriber: Subscriber) -> dict[str, Any]:
    """Everything that must not depend on the order."""
    shop = subscriber.shop
    invoices = subscriber.invoices()
    lots = {lot["id"]: (lot["amount"], lot["clawed_back"]) for lot in subscriber.lots()}
    payments = {
        row["invoice_id"]: (row["status"], row["amount_minor"], row["amount_refunded_minor"])
        for row in shop.rows("select * from public.payments where user_id = %s", subscriber.user.id)
    }
    (method,) = shop.rows(
        "select * from public.payment_methods where user_id = %s", subscriber.user.id
    )
    account = shop.account(subscriber.user)
    assert (len(lots), len(payments)) == (len(invoices), len(invoices))
    return {
        "subscription": (
            subscriber.row["status"],
            subscriber.row["slug"],
            subscriber.row["cancel_at_period_end"],
        ),
        "plan": (subscriber.plan, subscriber.profile["subscription_status"]),
        "invoices": [(i["status"], i["billing_reason"], i["amount_paid_minor"]) for i in invoices],
        "payments": [payments[i["id"]] for i in invoices],
        "lots": [lots[i["lot_id"]] for i in invoices],
        "method": (method["is_default"], method["last_four"]),
        "account": (account["balance"], account["debt"]),
    }


def expected(before: Any) -> dict[str, Any]:
    month = CREDITS["pro"]
    return {
        "subscription": ("canceled", "business", True),
        "plan": ("free", "canceled"),
        "invoices": [
            ("paid", "subscription_create", 2900),
            ("paid", "subscription_cycle", 2900),
            ("paid", "subscription_update", 3500),
        ],
        "payments": [
            ("succeeded", 2900, 0),
            ("partially_refunded", 2900, 1740),
            ("succeeded", 3500, 0),
        ],
        "lots": [(month, 0), (month, month * 6 / 10), (UPGRADE, 0)],
        "method": (True, "4242"),
        "account": (before + month * 14 / 10 + UPGRADE, 0),
    }


@pytest.mark.parametrize("rotation", range(EVENTS))
def test_every_rotation_of_a_subscriptions_life_ends_the_same(
    subscribers: Subscribers, user: User, rotation: int
) -> None:
    """Each event twice, signed and through the route."""
    before = subscribers.shop.balance(user)
    subscriber, events = life(subscribers, user)
    for event in events[rotation:] + events[:rotation]:
        assert subscribers.shop.result(event) in ("applied", "ignored")
        assert subscribers.shop.result(event) == "duplicate"
    assert outcome(subscriber) == expected(before)


def test_a_subscriptions_life_backwards(subscribers: Subscribers, user: User) -> None:
    before = subscribers.shop.balance(user)
    subscriber, events = life(subscribers, user)
    for event in reversed(events):
        subscribers.shop.result(event)
    assert outcome(subscriber) == expected(before)


def test_a_subscriptions_life_twenty_at_once(subscribers: Subscribers, new_user: NewUser) -> None:
    for _ in range(5):
        user = new_user()
        before = subscribers.shop.balance(user)
        subscriber, events = life(subscribers, user)
        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(subscribers.shop.deliver, events * 2))
        assert {answer.status_code for answer in answers} <= {200, 503}
        # What was to come again, as another state was being applied, Stripe delivers again.
        for event, answer in zip(events * 2, answers, strict=True):
            if answer.status_code != 200:
                subscribers.shop.result(event)
        assert outcome(subscriber) == expected(before)


# A customer that is deleted at Stripe ------------------------------------------------------------


def farewell(
    subscribers: Subscribers, user: User
) -> tuple[Subscriber, dict[str, list[StripeObject]]]:
    """Subscribed a month ago; then renewed, refunded in part, and deleted at Stripe."""
    shop = subscribers.shop
    subscriber = subscribers.new(user, at=days_ago(31))
    world = subscriber.world
    renewal = world.renew(subscriber.id)
    told = {"invoice.paid": subscriber.invoiced(renewal)}
    charge = world.refund(world.charge_of_invoice(renewal["id"])["id"], 1450)
    told["charge.refunded"] = [shop.event("charge.refunded", charge)]
    customer = world.delete_customer(subscriber.state["customer"])
    told["subscription.deleted"] = [shop.event("customer.subscription.deleted", subscriber.state)]
    told["customer.deleted"] = [shop.event("customer.deleted", customer)]
    return subscriber, told


def left_behind(subscriber: Subscriber) -> dict[str, Any]:
    """What must be the same however a customer's end was told."""
    shop, user = subscriber.shop, subscriber.user
    return {
        "subscription": (subscriber.row["status"], subscriber.plan),
        "invoices": [(i["status"], i["amount_paid_minor"]) for i in subscriber.invoices()],
        "payments": shop.rows(
            "select status, amount_refunded_minor from public.payments where user_id = %s"
            " order by processed_at, amount_refunded_minor",
            user.id,
        ),
        "lots": [(lot["amount"], lot["clawed_back"]) for lot in subscriber.lots()],
        "methods": shop.rows("select id from public.payment_methods where user_id = %s", user.id),
        "customer": shop.rows(
            "select stripe_customer_id from public.profiles where id = %s", user.id
        ),
        "unpaid for": [
            row
            for row in shop.rows(
                (ROOT / "sql/checks/403_paid_invoices_granted_their_credits.sql").read_text()
            )
            if row["subject"] in {str(i["id"]) for i in subscriber.invoices()}
        ],
    }


@pytest.mark.parametrize(
    "order",
    list(
        itertools.permutations(
            ["invoice.paid", "subscription.deleted", "customer.deleted", "charge.refunded"]
        )
    ),
    ids="-".join,
)
def test_a_customers_end_told_in_any_order_loses_nothing(
    subscribers: Subscribers, user: User, order: tuple[str, ...]
) -> None:
    subscriber, told = farewell(subscribers, user)
    for kind in order:
        subscriber.deliver(told[kind])
    assert left_behind(subscriber) == {
        "subscription": ("canceled", "free"),
        "invoices": [("paid", 2900), ("paid", 2900)],
        "payments": [
            {"status": "succeeded", "amount_refunded_minor": 0},
            {"status": "partially_refunded", "amount_refunded_minor": 1450},
        ],
        "lots": [(CREDITS["pro"], 0), (CREDITS["pro"], CREDITS["pro"] / 2)],
        "methods": [],
        "customer": [{"stripe_customer_id": None}],
        "unpaid for": [],
    }


def test_who_was_deleted_at_stripe_subscribes_again_as_another_customer(
    subscribers: Subscribers, user: User
) -> None:
    subscriber, told = farewell(subscribers, user)
    for events in told.values():
        subscriber.deliver(events)
    again = subscribers.new(user, plan="business")
    assert (again.plan, again.state["customer"] != subscriber.state["customer"]) == (
        "business",
        True,
    )
    # What is still told of the one before belongs to the same owner, and takes nothing from now.
    world = subscriber.world
    charge = world.charge_of_invoice(subscriber.invoice["id"])
    charge = world.refund(charge["id"], charge["amount"] - charge["amount_refunded"])
    subscriber.deliver([subscribers.shop.event("charge.refunded", charge)])
    assert [lot["clawed_back"] for lot in subscriber.lots()] == [0, CREDITS["pro"], 0]
    assert again.plan == "business"
    customers = subscribers.shop.rows(
        "select c.deleted_at is null as is_live, c.customer_id = p.stripe_customer_id as is_shown"
        " from private.stripe_customers as c join public.profiles as p on p.id = c.user_id"
        " where c.user_id = %s order by c.created_at",
        user.id,
    )
    assert customers == [
        {"is_live": False, "is_shown": False},
        {"is_live": True, "is_shown": True},
    ]


def test_what_is_told_of_a_deleted_customer_after_its_owner_was_erased_stays_with_the_account(
    subscribers: Subscribers, user: User
) -> None:
    shop = subscribers.shop
    subscriber, told = farewell(subscribers, user)
    account, before = shop.account(user)["id"], shop.balance(user)
    subscriber.deliver(told["customer.deleted"])
    shop.rows("delete from auth.users where id = %s", user.id)
    for kind in ("charge.refunded", "invoice.paid", "subscription.deleted"):
        subscriber.deliver(told[kind])
    row = shop.row("select user_id, balance from public.credit_accounts where id = %s", account)
    assert row == {"user_id": None, "balance": before + CREDITS["pro"] / 2}
    assert subscriber.row["status"] == "canceled"


def test_a_card_told_after_its_customer_was_deleted_is_not_kept(
    subscribers: Subscribers, user: User
) -> None:
    shop, subscriber = subscribers.shop, subscribers.new(user)
    card = subscriber.world.attach(subscriber.state["customer"])
    attached = shop.event("payment_method.attached", card)
    customer = subscriber.world.delete_customer(subscriber.state["customer"])
    subscriber.deliver([shop.event("customer.deleted", customer), attached])
    assert left_behind(subscriber)["methods"] == []


def test_a_page_of_a_deleted_customer_is_not_handed_out_again(
    subscribers: Subscribers, user: User
) -> None:
    """Stripe takes no payment on it any more."""
    shop = subscribers.shop
    first = subscribers.session_of(subscribers.request(user))
    customer = shop.stripe.world.delete_customer(shop.stripe.world.get(first)["customer"])
    assert shop.result(shop.event("customer.deleted", customer)) == "applied"
    assert subscribers.session_of(subscribers.request(user)) != first


def test_the_portal_of_a_deleted_customer_is_closed(subscribers: Subscribers, user: User) -> None:
    shop, subscriber = subscribers.shop, subscribers.new(user)
    customer = subscriber.world.delete_customer(subscriber.state["customer"])
    subscriber.deliver([shop.event("customer.deleted", customer)])
    answer = shop.http.post(
        "/billing/portal", json={"return_url": f"{ORIGIN}/account"}, headers=user.headers
    )
    assert (answer.status_code, answer.json()["code"]) == (404, "customer_not_found")


def test_a_refund_told_in_the_very_moment_of_its_invoice(
    subscribers: Subscribers, new_user: NewUser
) -> None:
    """The invoice, its link to the payment, and the refund, each in a transaction of its own."""
    shop = subscribers.shop
    for _ in range(5):
        user = new_user()
        before = shop.balance(user)
        subscriber = subscribers.silent(user)
        events = subscriber.invoiced()
        charge = subscriber.world.charge_of_invoice(subscriber.invoice["id"])
        refunded = shop.event("charge.refunded", subscriber.world.refund(charge["id"], 1450))
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(shop.receive, [*events, refunded]))
        assert {answer["result"] for answer in answers} == {"applied"}
        assert shop.balance(user) == before + CREDITS["pro"] / 2


def test_two_states_of_a_subscription_in_one_second_the_newest_wins(
    subscribers: Subscribers, new_user: NewUser
) -> None:
    for reverse in (False, True):
        subscriber = subscribers.new(new_user())
        shop = subscribers.shop
        first = shop.event(
            "customer.subscription.updated",
            subscriber.world.update_subscription(subscriber.id, {"cancel_at_period_end": "true"}),
        )
        subscriber.world.end(subscriber.id)
        second = shop.event("customer.subscription.deleted", subscriber.state) | {
            "created": first["created"]
        }
        for event in [second, first] if reverse else [first, second]:
            assert shop.result(event) == "applied"
        assert (subscriber.row["status"], subscriber.plan) == ("canceled", "free")


def test_a_crash_after_applying_and_before_the_answer(subscribers: Subscribers, user: User) -> None:
    """Stripe heard nothing, so it delivers again: the database had committed, nothing happens."""
    before = subscribers.shop.balance(user)
    subscriber, events = life(subscribers, user)
    for event in events:
        subscribers.shop.receive(event)
    for event in events:
        assert subscribers.shop.result(event) == "duplicate"
    assert outcome(subscriber) == expected(before)


def test_a_crash_in_the_middle_of_applying_leaves_nothing(
    subscribers: Subscribers, user: User
) -> None:
    before = subscribers.shop.balance(user)
    subscriber = subscribers.silent(user)
    events = subscriber.invoiced()
    connection = subscribers.shop.connect()
    with connection.transaction(force_rollback=True):
        for event in events:
            connection.execute("select backend.stripe_event_receive(%s, false)", [Jsonb(event)])
    assert subscribers.shop.balance(user) == before
    assert [subscribers.shop.inbox(event) for event in events] == [[]] * len(events)
    subscriber.deliver(events)
    assert subscribers.shop.balance(user) == before + CREDITS["pro"]
