"""Signatures, against the library that receivers use."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import uuid
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from functions.notifications.signing import endpoint_secret, shown_secret, signed_headers

KEY = bytes(range(32))
ENDPOINT = uuid.UUID("0198c0de-7d3a-7c1e-9c39-1f2e3d4c5b6a")
BODY = json.dumps({"type": "ping", "data": {"é": 1}}, ensure_ascii=False).encode()


def headers_of(*secrets: bytes, at: int | None = None) -> dict[str, str]:
    timestamp = int(time.time()) if at is None else at
    return signed_headers(secrets, message_id="msg_1", timestamp=timestamp, body=BODY)


@pytest.mark.parametrize(
    "other",
    [
        endpoint_secret(KEY, ENDPOINT, 2),
        endpoint_secret(KEY, uuid.uuid4(), 1),
        endpoint_secret(KEY[::-1], ENDPOINT, 1),
    ],
    ids=["version", "endpoint", "master key"],
)
def test_the_secret_of_another_does_not_verify(other: bytes) -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(shown_secret(other)).verify(BODY, headers_of(endpoint_secret(KEY, ENDPOINT, 1)))


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "body"])
def test_nothing_that_is_signed_can_be_changed(name: str) -> None:
    secret = endpoint_secret(KEY, ENDPOINT, 1)
    headers = headers_of(secret)
    body = BODY if name != "body" else BODY.replace(b"1", b"2")
    if name != "body":
        headers[name] = str(int(time.time()) + 1) if "time" in name else "msg_2"
    with pytest.raises(WebhookVerificationError):
        Webhook(shown_secret(secret)).verify(body, headers)


def test_a_message_of_an_hour_ago_is_not_accepted() -> None:
    secret = endpoint_secret(KEY, ENDPOINT, 1)
    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(shown_secret(secret)).verify(BODY, headers_of(secret, at=int(time.time()) - 3600))


def test_the_library_verifies_and_signs_alike() -> None:
    secret = endpoint_secret(KEY, ENDPOINT, 1)
    headers = headers_of(secret)
    webhook = Webhook(shown_secret(secret))
    assert webhook.verify(BODY, headers) == json.loads(BODY)
    at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    assert webhook.sign("msg_1", at, BODY.decode()) == headers["webhook-signature"]


def test_either_of_two_secrets_verifies() -> None:
    new, old = (endpoint_secret(KEY, ENDPOINT, version) for version in (2, 1))
    headers = headers_of(new, old)
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (new, old):
        Webhook(shown_secret(secret)).verify(BODY, headers)


def test_a_secret_is_what_the_decision_says() -> None:
    """docs/decisions/0013: whoever has the master key can derive it without this code."""
    expected = hmac.new(KEY, b"0198c0de-7d3a-7c1e-9c39-1f2e3d4c5b6a|7", hashlib.sha256).digest()
    secret = endpoint_secret(KEY, ENDPOINT, 7)
    assert secret == expected
    assert shown_secret(secret) == "whsec_" + base64.b64encode(expected).decode()
