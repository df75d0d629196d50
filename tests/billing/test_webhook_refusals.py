"""The webhook refuses, unstored, what Stripe did not send for this endpoint just now."""

from __future__ import annotations

import json

import httpx
import pytest
import stripe

from functions.app import create_app
from functions.core.settings import Settings
from local.stripe_world import StripeObject, now, signed
from tests.billing.shop import Shop
from tests.conftest import User

SIGNATURE = "Stripe-Signature"


@pytest.fixture
def event(shop: Shop, user: User) -> StripeObject:
    """An event that would grant credits."""
    return shop.completed(shop.buy(user))


def assert_refused(shop: Shop, answer: httpx.Response, code: str, event: StripeObject) -> None:
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == code
    assert shop.inbox(event) == []
    reference = event["data"]["object"]["client_reference_id"]
    assert shop.purchase(reference)["status"] == "pending"


def test_no_signature(shop: Shop, event: StripeObject) -> None:
    body, _ = signed(event, shop.secret)
    assert_refused(shop, shop.post(body, {}), "invalid_signature", event)


@pytest.mark.parametrize(
    "header", ["", "t=1,v1=", "v1=00", "t=x,v1=00", "t=,v1=", "t=1,v0=00", "nonsense", "t=9" * 500]
)
def test_a_signature_that_is_none(shop: Shop, event: StripeObject, header: str) -> None:
    body, _ = signed(event, shop.secret)
    assert_refused(shop, shop.post(body, {SIGNATURE: header}), "invalid_signature", event)


def test_the_signature_of_another_body(shop: Shop, event: StripeObject) -> None:
    _, headers = signed(event, shop.secret)
    forged = json.dumps(event).replace('"livemode": false', '"livemode": false ').encode()
    assert_refused(shop, shop.post(forged, headers), "invalid_signature", event)


def test_another_endpoints_secret(shop: Shop, event: StripeObject) -> None:
    other = "whsec_" + "0" * 32
    assert_refused(shop, shop.post(*signed(event, other)), "invalid_signature", event)


def test_a_signature_older_than_five_minutes(shop: Shop, event: StripeObject) -> None:
    old = signed(event, shop.secret, at=now() - 302)
    assert_refused(shop, shop.post(*old), "invalid_signature", event)


def test_a_signature_within_five_minutes_is_accepted(shop: Shop, event: StripeObject) -> None:
    assert shop.post(*signed(event, shop.secret, at=now() - 290)).status_code == 200


def test_a_live_event_at_a_test_endpoint(shop: Shop, event: StripeObject) -> None:
    answer = shop.deliver(event | {"livemode": True})
    assert_refused(shop, answer, "livemode_mismatch", event)


def test_a_test_event_at_a_live_endpoint(shop: Shop, event: StripeObject) -> None:
    with pytest.raises(Exception, match="livemode_mismatch"):
        shop.service.rpc("stripe_event_receive", p_event=event, p_livemode=True)
    assert shop.inbox(event) == []


def sign_raw(shop: Shop, body: bytes) -> dict[str, str]:
    header = stripe.WebhookSignature.generate_signature_header(body.decode("latin-1"), shop.secret)
    return {SIGNATURE: header}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"null", b'{"a": NaN}', b"[" * 9999])
def test_signed_bodies_that_are_no_object(shop: Shop, body: bytes) -> None:
    answer = shop.post(body, sign_raw(shop, body))
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")


def test_invalid_utf8(shop: Shop) -> None:
    body = b'{"id": "\xff"}'
    answer = shop.post(body, sign_raw(shop, body))
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_signature")


def test_a_nul_character(shop: Shop, event: StripeObject) -> None:
    event["data"]["object"]["metadata"]["note"] = "a\0b"
    assert_refused(shop, shop.deliver(event), "invalid_text", event)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "not-an-event"},
        {"id": None},
        {"object": "v2.core.event"},
        {"type": None},
        {"created": "yesterday"},
        {"created": 1.5},
        {"livemode": "false"},
        {"livemode": None},
        {"data": {}},
        {"data": {"object": []}},
        {"data": {"object": {"object": "checkout.session"}}},
    ],
)
def test_signed_objects_that_are_no_event(
    shop: Shop, event: StripeObject, change: StripeObject
) -> None:
    assert_refused(shop, shop.deliver(event | change), "invalid_event", event)


def test_a_body_over_the_limit(shop: Shop) -> None:
    body = b'{"a": "' + b"x" * (5 * 1024 * 1024) + b'"}'
    assert shop.post(body, sign_raw(shop, body)).status_code == 413


@pytest.mark.anyio
@pytest.mark.parametrize("missing", ["stripe_webhook_secret", "stripe_secret_key"])
async def test_without_secrets_there_is_no_webhook(missing: str) -> None:
    secrets = {
        "stripe_webhook_secret": "whsec_" + "1" * 32,
        "stripe_secret_key": "sk_test_" + "1" * 32,
    } | {missing: None}
    app = create_app(
        Settings(
            environment="test", supabase_secret_key="sb_secret_none", **secrets, _env_file=None
        )
    )
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post("/billing/webhooks/stripe", content=b"{}")
    assert answer.status_code == 404
