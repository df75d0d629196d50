"""Payments that fail: each attempt is told once, whatever comes when and how often."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from local.stripe_world import StripeObject
from tests.billing.shop import Shop
from tests.billing.subscribers import Subscriber, Subscribers, days_ago
from tests.conftest import User


def told(shop: Shop, user: User) -> list[dict[str, Any]]:
    """Alerts of failed payments, oldest first."""
    return shop.rows(
        "select * from public.billing_alerts where user_id = %s and type = 'payment_failed'"
        " order by id",
        user.id,
    )


def renewal_fails(subscribers: Subscribers, user: User) -> tuple[Subscriber, list[StripeObject]]:
    """A subscriber whose renewal was declined, and the events that tell of it."""
    subscriber = subscribers.new(user, at=days_ago(31))
    subscriber.world.declining.add(subscriber.state["customer"])
    return subscriber, subscriber.invoiced(subscriber.world.renew(subscriber.id))


def intent_of(subscriber: Subscriber) -> StripeObject:
    (tie,) = subscriber.world.payments_of(subscriber.invoice["id"])
    return dict(subscriber.world.get(tie["payment"]["payment_intent"]))


def test_a_payment_that_succeeds_is_not_told(subscribers: Subscribers, user: User) -> None:
    subscribers.new(user)
    assert told(subscribers.shop, user) == []


def test_a_declined_renewal_is_told_once(subscribers: Subscribers, user: User) -> None:
    subscriber, events = renewal_fails(subscribers, user)
    subscriber.deliver(events)
    subscriber.deliver(events)
    [alert] = told(subscribers.shop, user)
    assert alert["current_value"] == 2900
    assert (
        alert["metadata"].items()
        >= {
            "amount_minor": 2900,
            "currency": "eur",
            "failure_code": "insufficient_funds",
        }.items()
    )


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_in_whatever_order_it_is_told_once(
    subscribers: Subscribers, user: User, order: tuple[int, ...]
) -> None:
    subscriber, events = renewal_fails(subscribers, user)
    assert len(events) == len(order)
    for place in order:
        subscriber.deliver([events[place]])
    assert len(told(subscribers.shop, user)) == 1


def test_each_attempt_of_a_payment_is_told(subscribers: Subscribers, user: User) -> None:
    subscriber, events = renewal_fails(subscribers, user)
    subscriber.deliver(events)
    for charge in ("ch_second", "ch_third"):
        intent = intent_of(subscriber)
        failed = subscriber.world.change(
            intent["id"], last_payment_error=intent["last_payment_error"] | {"charge": charge}
        )
        event = subscriber.shop.event("payment_intent.payment_failed", failed)
        subscriber.deliver([event, event])
    alerts = told(subscribers.shop, user)
    assert [alert["key"] for alert in alerts][1:] == ["ch_second", "ch_third"]
    # By now the invoice is known, and when Stripe tries again.
    assert alerts[-1]["metadata"]["next_attempt_at"].endswith("Z")
    assert alerts[-1]["metadata"]["invoice_url"] == subscriber.invoice["hosted_invoice_url"]


def test_a_payment_that_comes_late_is_not_told(subscribers: Subscribers, user: User) -> None:
    subscriber, events = renewal_fails(subscribers, user)
    subscriber.deliver(events)
    subscriber.world.declining.clear()
    paid = subscriber.world.collect(subscriber.invoice["id"])
    subscriber.deliver(subscriber.invoiced(paid))
    assert len(told(subscribers.shop, user)) == 1
