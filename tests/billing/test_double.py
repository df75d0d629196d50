"""The Stripe double keeps the promises of Stripe that billing relies on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from local.stripe_double import StripeDouble
from tests.billing.shop import CREDITS, ORIGIN, Shop
from tests.conftest import User

KEY = {"Authorization": "Bearer sk_test_double"}


@pytest.fixture
def api(shop: Shop) -> Iterator[httpx.Client]:
    """The API of the shop's double."""
    with httpx.Client(base_url=shop.stripe.url, headers=KEY, trust_env=False) as client:
        yield client


def create(api: httpx.Client, key: str, **form: str) -> httpx.Response:
    headers = {"Idempotency-Key": f"quernel-double-{key}"}
    return api.post("/v1/customers", data=form, headers=headers)


def test_an_idempotency_key_repeats_the_first_answer(api: httpx.Client, user: User) -> None:
    first, second = (
        create(api, user.id, email="a@b.example"),
        create(api, user.id, email="a@b.example"),
    )
    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"


def test_an_idempotency_key_refuses_other_parameters(api: httpx.Client, user: User) -> None:
    create(api, user.id, email="a@b.example")
    answer = create(api, user.id, email="c@d.example")
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "idempotency_error")


def test_a_key_in_use_is_a_conflict(
    api: httpx.Client, user: User, stripe_double: StripeDouble
) -> None:
    stripe_double.latency_seconds = 0.3
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda _: create(api, user.id), range(2)))
    assert sorted(answer.status_code for answer in answers) == [200, 409]


def test_without_a_secret_key_it_answers_nothing(shop: Shop) -> None:
    answer = httpx.get(f"{shop.stripe.url}/v1/charges/ch_1", trust_env=False)
    assert answer.status_code == 401


def test_what_it_does_not_know_is_refused(api: httpx.Client, user: User) -> None:
    assert create(api, user.id, colour="blue").json()["error"]["code"] == "parameter_unknown"
    assert api.get("/v1/charges/ch_unknown").status_code == 404
    assert api.get("/v1/balance").status_code == 404


def test_a_customer_is_deleted_once_and_can_be_read_as_gone(api: httpx.Client, user: User) -> None:
    customer = create(api, user.id).json()["id"]
    delete = {"Idempotency-Key": f"quernel-double-delete-{user.id}"}
    gone = {"id": customer, "object": "customer", "deleted": True}
    assert api.delete(f"/v1/customers/{customer}", headers=delete).json() == gone
    again = {"Idempotency-Key": f"quernel-double-again-{user.id}"}
    assert api.delete(f"/v1/customers/{customer}", headers=again).status_code == 404
    assert api.get(f"/v1/customers/{customer}").json() == gone


def test_it_has_no_page_for_a_checkout_that_it_does_not_know(shop: Shop) -> None:
    assert httpx.get(f"{shop.stripe.url}/c/pay/cs_test_0", trust_env=False).status_code == 404


def test_its_checkout_page_pays_once_however_often_it_is_clicked(
    shop: Shop, user: User, app_url: str
) -> None:
    shop.stripe.webhook_url = f"{app_url}/billing/webhooks/stripe"
    shop.stripe.webhook_secret = shop.secret
    before = shop.balance(user)
    checkout = shop.checkout(user, success_url=f"{ORIGIN}/ok?s={{CHECKOUT_SESSION_ID}}").json()
    session_id = shop.purchase(checkout["purchase_id"])["stripe_checkout_session_id"]
    page = httpx.get(checkout["url"], trust_env=False)
    for text in ("1,000 credits", "5.00 EUR", "No money moves here", "<button>"):
        assert text in page.text
    for _ in range(2):
        answer = httpx.post(checkout["url"], trust_env=False, timeout=30)
        assert (answer.status_code, answer.headers["location"]) == (
            303,
            f"{ORIGIN}/ok?s={session_id}",
        )
    assert shop.balance(user) == before + CREDITS
    page = httpx.get(checkout["url"], trust_env=False)
    assert "Paid" in page.text
    assert f"{ORIGIN}/ok?s={session_id}" in page.text
    assert "<button>" not in page.text
