"""Whatever the order of delivery, the newest state of each object decides."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from local.stripe_world import StripeObject, now
from tests.billing.shop import CREDITS, PRICE, Purchase, Shop
from tests.conftest import User

OLD_VERSION = "2024-06-20"


def outcome(shop: Shop, purchase: Purchase) -> tuple[Any, ...]:
    row = shop.purchase(purchase.id)
    account = shop.account(purchase.user)
    return (
        row["status"],
        row["amount_refunded_minor"],
        row["amount_disputed_minor"],
        account["balance"],
        account["debt"],
    )


def life(shop: Shop, purchase: Purchase) -> list[StripeObject]:
    """Completed, refunded a bit, refunded more, disputed, won: one event each."""
    events = [shop.completed(purchase)]
    events += [shop.refunded(purchase, 50), shop.refunded(purchase, 100)]
    dispute = shop.stripe.world.dispute(shop.charge(purchase)["id"], status="needs_response")
    events.append(shop.event("charge.dispute.created", dispute))
    won = shop.stripe.world.change(dispute["id"], status="won")
    return [*events, shop.event("charge.dispute.closed", won)]


@pytest.mark.timeout(300)
def test_every_order_of_a_purchases_life_ends_the_same(shop: Shop, user: User) -> None:
    """All 120 orders, each event twice, straight into the inbox."""
    before = shop.balance(user)
    for number, order in enumerate(permutations(range(5)), start=1):
        purchase = shop.open_purchase(user)
        events = life(shop, purchase)
        for position in order:
            for expected in ({"applied", "ignored"}, {"duplicate"}):
                assert shop.receive(events[position])["result"] in expected
        assert outcome(shop, purchase) == (
            "partially_refunded",
            150,
            0,
            before + CREDITS * 7 / 10 * number,
            0,
        ), order


def test_a_purchases_life_all_at_once(shop: Shop, user: User) -> None:
    before = shop.balance(user)
    for number in range(1, 6):
        purchase = shop.buy(user)
        events = life(shop, purchase) * 4
        with ThreadPoolExecutor(20) as threads:
            assert set(threads.map(shop.result, events)) <= {"applied", "duplicate", "ignored"}
        assert outcome(shop, purchase) == (
            "partially_refunded",
            150,
            0,
            before + CREDITS * 7 / 10 * number,
            0,
        )


def test_two_states_of_the_same_second_the_newest_wins(shop: Shop, user: User) -> None:
    """Delivered in either order; which one is newer only Stripe knows, so it is asked."""
    for reverse in (False, True):
        purchase = shop.paid(user)
        before = shop.balance(user)
        first = shop.refunded(purchase, 150)
        second = shop.refunded(purchase, 150) | {"created": first["created"]}
        events = [second, first] if reverse else [first, second]
        shop.stripe.requests.clear()
        assert [shop.result(event) for event in events] == ["applied", "applied"]
        assert before - shop.balance(user) == CREDITS * 6 / 10
        assert [r.path for r in shop.stripe.requests] == [
            f"/v1/charges/{shop.charge(purchase)['id']}"
        ]


def test_the_same_state_of_the_same_second_needs_no_look(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    refunded = shop.refunded(purchase, 150)
    again = refunded | {"id": shop.event("charge.refunded", {"object": "x"})["id"]}
    shop.stripe.requests.clear()
    assert [shop.result(refunded), shop.result(again)] == ["applied", "applied"]
    assert shop.stripe.requests == []


def test_many_states_of_the_same_second_at_once(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    second = now()
    events = [shop.refunded(purchase, 25) | {"created": second} for _ in range(20)]
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(shop.deliver, events))
    # One that met too many others is delivered again by Stripe.
    for event, answer in zip(events, answers, strict=True):
        assert answer.status_code in (200, 503)
        if answer.status_code == 503:
            assert shop.result(event) == "applied"
    assert before - shop.balance(user) == CREDITS
    assert shop.purchase(purchase.id)["amount_refunded_minor"] == PRICE


def test_an_older_state_never_overwrites_a_newer_one(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    older = shop.refunded(purchase, 100)
    newer = shop.refunded(purchase, 100)
    assert [shop.result(newer), shop.result(older)] == ["applied", "ignored"]
    assert shop.inbox(older)[0]["outcome"] == {"ignored": "a_newer_state_was_applied"}
    assert before - shop.balance(user) == CREDITS * 4 / 10


def test_what_was_read_is_newer_than_events_of_before(shop: Shop, user: User) -> None:
    """An event that happened between two ties and the read brings nothing the read did not have."""
    purchase = shop.paid(user)
    before = shop.balance(user)
    first = shop.refunded(purchase, 100)
    second = shop.refunded(purchase, 100) | {"created": first["created"]}
    third = shop.refunded(purchase, 100)
    fourth = shop.refunded(purchase, 100)
    assert [shop.result(first), shop.result(second)] == ["applied", "applied"]
    assert before - shop.balance(user) == CREDITS * 8 / 10  # the read had all four
    assert [shop.result(fourth), shop.result(third)] == ["ignored", "ignored"]
    assert before - shop.balance(user) == CREDITS * 8 / 10


def test_an_event_that_may_be_newer_than_what_was_read(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    first = shop.refunded(purchase, 100)
    second = shop.refunded(purchase, 100) | {"created": first["created"]}
    assert [shop.result(first), shop.result(second)] == ["applied", "applied"]
    later = shop.refunded(purchase, 100) | {"created": now() + 1}
    assert shop.result(later) == "applied"
    assert before - shop.balance(user) == CREDITS * 6 / 10


def test_a_read_overtaken_by_another_event_is_read_again(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    first = shop.refunded(purchase, 100)
    second = shop.refunded(purchase, 100) | {"created": first["created"]}
    shop.result(first)
    asked = shop.service.rpc("stripe_event_receive", p_event=second, p_livemode=False)
    assert asked["result"] == "needs_fetch"
    stale = shop.charge(purchase)
    assert shop.result(shop.refunded(purchase, 100)) == "applied"
    answer = shop.service.rpc("stripe_object_apply", p_event_id=second["id"], p_object=stale)
    assert answer["result"] == "needs_fetch"
    assert before - shop.balance(user) == CREDITS * 6 / 10
    answer = shop.service.rpc(
        "stripe_object_apply", p_event_id=second["id"], p_object=shop.charge(purchase)
    )
    assert answer["result"] == "applied"
    assert before - shop.balance(user) == CREDITS * 6 / 10


def test_only_the_object_that_was_asked_for_is_applied(shop: Shop, user: User) -> None:
    purchase, other = shop.paid(user), shop.paid(user)
    first = shop.refunded(purchase, 100)
    second = shop.refunded(purchase, 100) | {"created": first["created"]}
    shop.result(first)
    shop.service.rpc("stripe_event_receive", p_event=second, p_livemode=False)
    with pytest.raises(Exception, match="invalid_argument"):
        shop.service.rpc(
            "stripe_object_apply", p_event_id=second["id"], p_object=shop.charge(other)
        )
    with pytest.raises(Exception, match="event_not_found"):
        shop.service.rpc("stripe_object_apply", p_event_id="evt_none", p_object={})


def test_an_event_nobody_came_back_for_is_left_to_the_worker(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    first = shop.refunded(purchase, 100)
    second = shop.refunded(purchase, 100) | {"created": first["created"]}
    shop.result(first)
    shop.service.rpc("stripe_event_receive", p_event=second, p_livemode=False)
    task = shop.row("select * from private.tasks where key = %s", second["id"])
    assert (task["kind"], task["status"]) == ("stripe_event", "queued")


def test_when_stripe_does_not_answer_the_event_waits(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    before = shop.balance(user)
    first = shop.refunded(purchase, 100)
    second = shop.refunded(purchase, 100) | {"created": first["created"]}
    shop.result(first)
    shop.stripe.failures[:] = [503] * 3
    answer = shop.deliver(second)
    assert (answer.status_code, answer.json()["code"]) == (503, "payment_provider_unavailable")
    assert shop.inbox(second)[0]["status"] == "needs_fetch"
    assert shop.result(second) == "applied"
    assert before - shop.balance(user) == CREDITS * 4 / 10


def test_a_payload_in_another_versions_shape_is_not_trusted(shop: Shop, user: User) -> None:
    """The endpoint was made with another API version: the object is read in ours."""
    purchase = shop.paid(user)
    before = shop.balance(user)
    event = shop.refunded(purchase, 100) | {"api_version": OLD_VERSION}
    event["data"]["object"]["amount_refunded"] = "a shape of long ago"
    assert shop.result(event) == "applied"
    assert before - shop.balance(user) == CREDITS * 2 / 10
    (read,) = [r for r in shop.stripe.requests if r.path.startswith("/v1/charges/")]
    assert read.headers["stripe-version"] == shop.completed(shop.buy(user))["api_version"]


@pytest.mark.parametrize("first", ["payment", "refund"])
def test_a_refund_told_in_the_very_moment_of_its_payment(
    shop: Shop, user: User, first: str
) -> None:
    """Two transactions overlap: neither sees what the other has not committed yet."""
    purchase = shop.buy(user)
    before = shop.balance(user)
    events = {"payment": shop.completed(purchase), "refund": shop.refunded(purchase, 200)}
    leading = events.pop(first)
    (following,) = events.values()
    query = "select backend.stripe_event_receive(%s, false)"
    with ThreadPoolExecutor(1) as threads:
        with shop.connect() as connection, connection.transaction():
            connection.execute(query, [Jsonb(leading)])
            other = threads.submit(shop.receive, following)
            with pytest.raises(TimeoutError):
                other.result(timeout=0.5)  # waits for the first one to commit
        assert other.result(timeout=10)["result"] == "applied"
    assert shop.purchase(purchase.id)["status"] == "partially_refunded"
    assert shop.balance(user) == before + CREDITS * 6 / 10
