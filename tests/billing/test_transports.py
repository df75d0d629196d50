"""The inbox over the pooled direct connection does what it does over PostgREST."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from local.stack import Stack
from local.stripe_double import StripeDouble
from tests.billing.conftest import app_environment, running_app
from tests.billing.shop import CREDITS, Shop
from tests.conftest import User
from tests.support.service import Service


@pytest.fixture(scope="module")
def direct_url(
    stack: Stack, stripe_double: StripeDouble, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A functions app over a direct connection."""
    environment = app_environment(stack, stripe_double)
    environment["QUERNEL_DATABASE_URL"] = stack.functions_dsn
    with running_app(environment, tmp_path_factory.mktemp("direct") / "functions.log") as url:
        yield url


@pytest.fixture
def direct_shop(
    direct_url: str,
    stripe_double: StripeDouble,
    stack: Stack,
    service: Service,
    db: Callable[[], psycopg.Connection],
) -> Iterator[Shop]:
    """The shop over a direct connection."""
    with httpx.Client(base_url=direct_url, trust_env=False, timeout=60) as http:
        yield Shop(http, stripe_double, stack.keys.stripe_webhook_secret, service, db)


def test_a_purchase_fifty_times_at_once_and_its_refund(direct_shop: Shop, user: User) -> None:
    shop = direct_shop
    before = shop.balance(user)
    purchase = shop.buy(user)
    event = shop.completed(purchase)
    with ThreadPoolExecutor(50) as threads:
        results = list(threads.map(lambda _: shop.result(event), range(50)))
    assert sorted(results) == ["applied"] + ["duplicate"] * 49
    assert shop.balance(user) == before + CREDITS

    first = shop.refunded(purchase, 150)
    second = shop.refunded(purchase, 150) | {"created": first["created"]}
    assert [shop.result(second), shop.result(first)] == ["applied", "applied"]
    assert shop.balance(user) == before + CREDITS * 4 / 10


def test_a_refusal_and_a_failure(direct_shop: Shop, user: User) -> None:
    shop = direct_shop
    answer = shop.checkout(user, pack="unheard-of")
    assert (answer.status_code, answer.json()["code"]) == (404, "pack_not_found")
    event = shop.completed(shop.buy(user))
    live = shop.deliver(event | {"livemode": True})
    assert (live.status_code, live.json()["code"]) == (400, "livemode_mismatch")
    assert shop.inbox(event) == []
    event["data"]["object"]["amount_total"] = 1
    assert shop.deliver(event).status_code == 500
    assert shop.inbox(event)[0]["status"] == "failed"
