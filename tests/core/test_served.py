"""The app as uvicorn serves it, against the real stack: what only sockets show."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import jwt
import pytest

from local.stack import Stack
from tests.conftest import NewUser


@pytest.fixture
def client(functions_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=functions_url, trust_env=False, timeout=30) as opened:
        yield opened


def test_ready(client: httpx.Client) -> None:
    response = client.get("/ready")
    assert (response.status_code, response.json()) == (200, {"status": "ready"})


def test_access_token_of_the_projects_auth_is_accepted(
    client: httpx.Client, new_user: NewUser
) -> None:
    assert client.get("/v1/models", headers=new_user().headers).status_code == 200


def test_tokens_that_are_not_a_users_are_refused(
    client: httpx.Client, new_user: NewUser, stack: Stack
) -> None:
    user = new_user()
    claims = jwt.decode(user.token, options={"verify_signature": False})
    secret = stack.keys.jwt_secret
    refused = {
        "service role": jwt.encode(claims | {"role": "service_role"}, secret),
        "anonymous role": jwt.encode(claims | {"role": "anon"}, secret),
        "other project": jwt.encode(claims, "another-projects-secret-of-32-bytes!"),
        "no algorithm": jwt.encode(claims, None, algorithm="none"),
        "no audience": jwt.encode({k: v for k, v in claims.items() if k != "aud"}, secret),
        "expired": jwt.encode(claims | {"exp": claims["iat"] - 60}, secret),
        "secret key": stack.keys.secret_key,
        "publishable key": stack.keys.publishable_key,
        "refresh token": user.refresh_token,
    }
    for what, token in refused.items():
        response = client.get("/v1/models", headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 401, what
        expected = "expired_token" if what == "expired" else "invalid_token"
        assert response.json()["error"]["code"] == expected, what
        assert token not in response.text


def test_ten_megabytes_announced_or_not(client: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(160):
            yield b"x" * 65536

    announced = client.post("/v1/chat/completions", content=b"x" * 10_485_760)
    assert (announced.status_code, announced.json()["error"]["code"]) == (413, "body_too_large")
    refused = client.post("/billing/webhooks/stripe", content=pieces())
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 40\r\n\r\nabcd",
        b"GET /\xff\xfe\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["version", "binary", "negative-length", "two-lengths", "bytes-in-path"],
)
def test_what_is_not_http_gets_no_200(functions_url: str, request_bytes: bytes) -> None:
    parts = urlsplit(functions_url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        try:
            connection.sendall(request_bytes)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(4096)
        except ConnectionError:
            answer = b""
    assert not answer.startswith(b"HTTP/1.1 2")
    assert not answer.startswith(b"HTTP/1.1 5")


def test_log_is_json_lines_without_paths_queries_or_tokens(
    client: httpx.Client, new_user: NewUser, stack: Stack
) -> None:
    user = new_user()
    response = client.get("/v1/models/not-this-model?key=s3cr3t", headers=user.headers)
    request_id = response.headers["x-request-id"]
    log = _log_with(stack, request_id)
    (line,) = (json.loads(text) for text in log.splitlines() if request_id in text)
    assert line["route"] == "/v1/models/{model_id}"
    assert (line["status"], line["method"], line["code"]) == (404, "GET", "model_not_found")
    for private in ("s3cr3t", "not-this-model", user.token, user.email, user.id):
        assert private not in log


def _log_with(stack: Stack, text: str) -> str:
    """The app's log once `text` is in it: a line is written when the answer has been sent."""
    give_up_at = time.monotonic() + 10
    while True:
        log = (stack.logs / "functions.log").read_text()
        if text in log or time.monotonic() > give_up_at:
            return log
        time.sleep(0.02)
