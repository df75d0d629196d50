"""Who is gone pays for nothing any more: subscriptions and pages end at Stripe with their owner."""

from __future__ import annotations

from typing import Any

import pytest

from functions.billing.tasks import cancel_subscription, expire_checkout
from functions.core.errors import QuernelError
from functions.tasks.context import TaskContext, TaskRejectedError
from functions.tasks.registry import TASK_KINDS
from tests.billing.shop import Shop
from tests.billing.subscribers import Subscribers
from tests.billing.test_checkout import make_organization
from tests.conftest import NewUser, User

pytestmark = [
    pytest.mark.anyio,
    # Stripe's library hands httpx its body in a way that httpx no longer likes.
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]


def asked(shop: Shop, kind: str, key: str) -> list[dict[str, Any]]:
    """Payloads of the tasks about an object at Stripe."""
    rows = shop.rows("select payload from private.tasks where kind = %s and key = %s", kind, key)
    return [row["payload"] for row in rows]


def erase(shop: Shop, user: User) -> None:
    shop.rows("delete from auth.users where id = %s", user.id)


# Refusals ---------------------------------------------------------------------------------------


async def test_a_task_that_names_nothing(worker: TaskContext) -> None:
    for handler in (cancel_subscription, expire_checkout):
        with pytest.raises(TaskRejectedError):
            await handler({}, worker)


async def test_where_no_payments_are_configured_the_task_is_rejected(worker: TaskContext) -> None:
    settings = worker.settings.model_copy(update={"stripe_secret_key": None})
    without = TaskContext(settings, worker.database, worker.task_id, 1)
    with pytest.raises(TaskRejectedError):
        await cancel_subscription({"stripe_subscription_id": "sub_x"}, without)
    with pytest.raises(TaskRejectedError):
        await expire_checkout({"stripe_checkout_session_id": "cs_test_x"}, without)


async def test_what_has_ended_is_not_ended_again(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user)
    subscriber.post("cancel", when="now")
    erase(subscribers.shop, user)
    assert asked(subscribers.shop, "subscription_cancel", subscriber.id) == []


async def test_an_organization_that_is_suspended_keeps_its_subscription(
    subscribers: Subscribers, user: User
) -> None:
    slug = make_organization(subscribers.shop, user)
    subscriber = subscribers.new(user, organization=slug)
    subscribers.shop.rows("update public.organizations set is_active = false where slug = %s", slug)
    assert asked(subscribers.shop, "subscription_cancel", subscriber.id) == []


# Leaving ----------------------------------------------------------------------------------------


async def test_the_subscription_of_somebody_who_was_erased_is_canceled(
    subscribers: Subscribers, user: User, worker: TaskContext
) -> None:
    subscriber = subscribers.new(user)
    erase(subscribers.shop, user)
    (payload,) = asked(subscribers.shop, "subscription_cancel", subscriber.id)
    assert payload == {"stripe_subscription_id": subscriber.id}  # and nothing of a person
    assert TASK_KINDS["subscription_cancel"].handler is cancel_subscription
    for _ in range(2):
        assert await cancel_subscription(payload, worker) == {"result": "canceled"}
    assert subscriber.state["status"] == "canceled"
    assert (subscriber.row["status"], subscriber.row["user_id"]) == ("canceled", None)


async def test_while_stripe_is_away_the_task_is_tried_again(
    subscribers: Subscribers, user: User, worker: TaskContext
) -> None:
    subscriber = subscribers.new(user)
    erase(subscribers.shop, user)
    payload = {"stripe_subscription_id": subscriber.id}
    subscribers.shop.stripe.failures[:] = [503] * 3  # the SDK repeats twice
    with pytest.raises(QuernelError, match="payment_provider_unavailable"):
        await cancel_subscription(payload, worker)
    assert subscriber.state["status"] == "active"
    assert await cancel_subscription(payload, worker) == {"result": "canceled"}


async def test_a_subscription_that_is_told_of_after_the_erasure_is_canceled(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.silent(user)
    erase(subscribers.shop, user)
    assert asked(subscribers.shop, "subscription_cancel", subscriber.id) == []
    assert subscriber.told("customer.subscription.created") == "applied"
    assert len(asked(subscribers.shop, "subscription_cancel", subscriber.id)) == 1


async def test_a_subscription_that_only_its_page_has_told_of_is_canceled(
    subscribers: Subscribers, user: User
) -> None:
    session = subscribers.session_of(subscribers.request(user))
    done = subscribers.shop.stripe.world.subscribe(session)
    subscribers.shop.result(subscribers.shop.event("checkout.session.completed", done))
    erase(subscribers.shop, user)
    assert len(asked(subscribers.shop, "subscription_cancel", done["subscription"])) == 1
    assert asked(subscribers.shop, "checkout_expire", session) == []


async def test_pages_that_are_open_end_with_their_owner(
    subscribers: Subscribers, user: User, worker: TaskContext
) -> None:
    shop = subscribers.shop
    pages = [subscribers.session_of(subscribers.request(user)), shop.buy(user).session_id]
    erase(shop, user)
    for page in pages:
        (payload,) = asked(shop, "checkout_expire", page)
        assert payload == {"stripe_checkout_session_id": page}
        for _ in range(2):
            assert await expire_checkout(payload, worker) == {"result": "expired"}
        assert shop.stripe.world.get(page)["status"] == "expired"


async def test_a_page_that_was_used_meanwhile_stays_used(
    subscribers: Subscribers, user: User, worker: TaskContext
) -> None:
    page = subscribers.session_of(subscribers.request(user))
    erase(subscribers.shop, user)
    subscribers.shop.stripe.world.subscribe(page)
    payload = {"stripe_checkout_session_id": page}
    assert await expire_checkout(payload, worker) == {"result": "complete"}


async def test_an_organization_takes_its_subscription_with_it(
    subscribers: Subscribers, user: User
) -> None:
    slug = make_organization(subscribers.shop, user)
    subscriber = subscribers.new(user, organization=slug)
    subscribers.shop.rows("delete from public.organizations where slug = %s", slug)
    assert len(asked(subscribers.shop, "subscription_cancel", subscriber.id)) == 1


async def test_the_last_member_takes_the_organizations_subscription_with_them(
    subscribers: Subscribers, user: User, new_user: NewUser
) -> None:
    member = new_user()
    slug = make_organization(subscribers.shop, user, member=member)
    subscriber = subscribers.new(user, organization=slug)
    erase(subscribers.shop, user)
    assert asked(subscribers.shop, "subscription_cancel", subscriber.id) == []
    erase(subscribers.shop, member)
    assert len(asked(subscribers.shop, "subscription_cancel", subscriber.id)) == 1
