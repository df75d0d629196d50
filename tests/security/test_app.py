"""Through the functions app nobody spends, buys for, or learns of what is not theirs."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import uuid
from typing import Any

import httpx
import jwt
import pytest

from local.stack import Stack
from tests.conftest import NewUser
from tests.security.conftest import MODEL, Cast

BODY: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Who pays for this?"}],
    "max_tokens": 16,
}
PAGES = {"success_url": "http://localhost:3000/ok", "cancel_url": "http://localhost:3000/no"}


def post(
    cast: Cast, url: str, actor: str, body: object, headers: dict[str, str] | None = None
) -> httpx.Response:
    who = {} if actor == "visitor" else getattr(cast, actor).headers
    return cast.http.post(url, json=body, headers=who | (headers or {}))


def code_of(answer: httpx.Response) -> object:
    body = answer.json()
    return body.get("error", body)["code"]


def told(answer: httpx.Response) -> object:
    """The answer without what differs between any two requests."""
    body = answer.json()
    body.pop("instance", None)
    return answer.status_code, body


@pytest.mark.usefixtures("nothing_changes")
class TestRefusals:
    """Nothing of the cast changes."""

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/quote", "/billing/checkout"])
    def test_a_visitor_is_refused(self, cast: Cast, functions_url: str, path: str) -> None:
        answer = post(cast, functions_url + path, "visitor", BODY)
        assert (answer.status_code, code_of(answer)) == (401, "missing_credentials")

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/quote"])
    @pytest.mark.parametrize("actor", ["stranger", "owner"])
    def test_nobody_spends_an_organizations_credits_from_outside(
        self, cast: Cast, functions_url: str, actor: str, path: str
    ) -> None:
        answers = [
            told(post(cast, functions_url + path, actor, BODY, {"OpenAI-Organization": name}))
            for name in (cast.organization_id, cast.slug, str(uuid.uuid4()), "no-such-team")
        ]
        assert all(answer == answers[0] for answer in answers)
        assert answers[0][0] == 403  # type: ignore[index]

    @pytest.mark.parametrize("actor", ["stranger", "owner", "member"])
    def test_nobody_buys_for_an_organization_they_do_not_administer(
        self, cast: Cast, functions_url: str, actor: str
    ) -> None:
        answers = [
            told(
                post(
                    cast,
                    f"{functions_url}/billing/checkout",
                    actor,
                    PAGES | {"pack": "starter", "organization": name},
                )
            )
            for name in (cast.organization_id, cast.slug)
        ]
        unreal = told(
            post(
                cast,
                f"{functions_url}/billing/checkout",
                actor,
                PAGES | {"pack": "starter", "organization": "no-such-team"},
            )
        )
        assert answers[0] == answers[1]
        assert answers[0][0] == 403  # type: ignore[index]
        if actor != "member":
            assert answers[0] == unreal

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/quote", "/billing/checkout"])
    def test_a_suspended_user_spends_and_buys_nothing(
        self, cast: Cast, functions_url: str, path: str
    ) -> None:
        body = PAGES | {"pack": "starter"} if "billing" in path else BODY
        for headers in ({}, {"OpenAI-Organization": cast.slug}):
            answer = post(cast, functions_url + path, "suspended", body, headers)
            assert (answer.status_code, code_of(answer)) == (403, "account_suspended")

    @pytest.mark.parametrize("path", ["/v1/models", f"/v1/models/{MODEL}", "/v1/models/none"])
    def test_a_suspended_user_lists_no_models(
        self, cast: Cast, stack: Stack, functions_url: str, path: str
    ) -> None:
        claims = {"sub": str(uuid.uuid4()), "role": "authenticated", "aud": "authenticated"}
        gone = jwt.encode(
            claims | {"exp": int(time.time()) + 60}, stack.keys.jwt_secret, algorithm="HS256"
        )
        for token in (cast.suspended.token, gone):
            headers = {"Authorization": f"Bearer {token}"}
            answer = cast.http.get(functions_url + path, headers=headers)
            assert (answer.status_code, code_of(answer)) == (403, "account_suspended")

    @pytest.mark.parametrize(
        "body",
        [
            {"price_minor": 1},
            {"credits": 1_000_000},
            {"user_id": "{owner}"},
            {"p_user_id": "{owner}"},
            {"pack": "starter", "currency": 1},
            {"amount": 1},
        ],
        ids=repr,
    )
    def test_a_buyer_names_no_price_amount_or_owner(
        self, cast: Cast, functions_url: str, body: dict[str, object]
    ) -> None:
        answer = post(
            cast,
            f"{functions_url}/billing/checkout",
            "stranger",
            PAGES | {"pack": "starter"} | body,
        )
        assert answer.status_code == 422

    @pytest.mark.parametrize(
        "signature",
        [
            None,
            "",
            "t=1,v1=00",
            "{now}",
            "t={now},v1={wrong}",
            "t={now},v0={right}",
            "t={old},v1={right_old}",
            "t={later},v1={right}",
        ],
    )
    def test_an_event_that_stripe_did_not_sign_is_not_stored(
        self, cast: Cast, functions_url: str, stack: Stack, signature: str | None
    ) -> None:
        now = int(time.time())
        body = json.dumps(
            {
                "object": "event",
                "id": f"evt_{uuid.uuid4().hex}",
                "type": "checkout.session.completed",
                "created": now,
                "livemode": False,
                "data": {
                    "object": {
                        "object": "checkout.session",
                        "id": "cs_forged",
                        "mode": "payment",
                        "payment_status": "paid",
                        "amount_total": 500,
                        "currency": "eur",
                        "payment_intent": "pi_forged",
                        "client_reference_id": cast.purchase_id,
                        "metadata": {"quernel_purchase_id": cast.purchase_id},
                    }
                },
            }
        ).encode()

        def signed(at: int, secret: str) -> str:
            return hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()

        secret = stack.keys.stripe_webhook_secret
        headers = {"Content-Type": "application/json"}
        if signature is not None:
            headers["Stripe-Signature"] = signature.format(
                now=now,
                old=now - 3600,
                later=now + 1,
                right=signed(now, secret),
                right_old=signed(now - 3600, secret),
                wrong=signed(now, "whsec_" + "0" * 32),
            )
        answer = cast.http.post(
            f"{functions_url}/billing/webhooks/stripe", content=body, headers=headers
        )
        assert (answer.status_code, code_of(answer)) == (400, "invalid_signature")

    @pytest.mark.parametrize(
        "url",
        [
            "https://evil.example/",
            "http://localhost:3000@evil.example/",
            "http://localhost:3000.evil.example/",
            "//evil.example/",
            "javascript:alert(1)",
            "http://localhost:3000\\@evil.example/",
        ],
    )
    def test_a_checkout_sends_nobody_elsewhere(
        self, cast: Cast, functions_url: str, url: str
    ) -> None:
        for name in PAGES:
            answer = post(
                cast,
                f"{functions_url}/billing/checkout",
                "stranger",
                PAGES | {"pack": "starter", name: url},
            )
            assert 400 <= answer.status_code < 500
            assert "evil.example" not in answer.headers.get("location", "")


def balance(cast: Cast, user: Any) -> float:
    headers = {"apikey": cast.publishable_key} | user.headers
    answer = cast.http.post(f"{cast.url}/rest/v1/rpc/credit_balance", json={}, headers=headers)
    found: float = answer.json()["balance"]
    return found


def test_who_pays_is_who_signed_in_whatever_the_request_says(
    cast: Cast, functions_url: str, new_user: NewUser
) -> None:
    payer = new_user()
    before = balance(cast, payer), balance(cast, cast.owner)
    answer = cast.http.post(
        f"{functions_url}/v1/chat/completions",
        json=BODY | {"user": cast.owner.id},
        headers=payer.headers
        | {
            "X-User-Id": cast.owner.id,
            "X-Request-Id": cast.hold_id,
            "X-Forwarded-User": cast.owner.id,
            "apikey": cast.secret_key,
        },
    )
    assert answer.status_code == 200, answer.text
    assert balance(cast, payer) < before[0]
    assert balance(cast, cast.owner) == before[1]


def test_a_request_id_sent_twice_is_paid_twice(
    cast: Cast, functions_url: str, new_user: NewUser
) -> None:
    payer = new_user()
    balances = [balance(cast, payer)]
    for _ in range(2):
        cast.http.post(
            f"{functions_url}/v1/chat/completions",
            json=BODY,
            headers=payer.headers | {"X-Request-Id": "00000000-0000-4000-8000-000000000000"},
        ).raise_for_status()
        balances.append(balance(cast, payer))
    assert balances[0] > balances[1] > balances[2]


def test_an_idempotency_key_replays_nobody_elses_answer(
    cast: Cast, functions_url: str, new_user: NewUser
) -> None:
    first, second = new_user(), new_user()
    key = {"Idempotency-Key": f"shared-{uuid.uuid4().hex}"}
    url = f"{functions_url}/v1/chat/completions"
    answers = [
        cast.http.post(url, json=BODY, headers=user.headers | key) for user in (first, second)
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert "idempotent-replayed" not in answers[1].headers
    assert answers[0].json()["id"] != answers[1].json()["id"]
    # The same person's second request is the replay, so the header would have been there.
    assert (
        "idempotent-replayed" in cast.http.post(url, json=BODY, headers=first.headers | key).headers
    )
