"""The checks of keys: what each provider is asked, and what its answer says of a key."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr

from functions.core.errors import InvalidRequestError, NotFoundError, QuernelError
from functions.core.http import Policy, SafeClient
from functions.core.settings import Settings
from functions.provider_keys import checker as checker_module
from functions.provider_keys.checker import ProviderKeyChecker, open_key_checker
from functions.provider_keys.checks import KeyCheck
from local.providers.double import OAUTH_PATH, Double
from tests.support.http_server import Handler, serve
from tests.support.providers import provider_double
from tests.support.unending import pour, trickle

pytestmark = pytest.mark.anyio

PATHS = {
    "openai": "/models",
    "google": "/models?pageSize=1",
    "xai": "/api-key",
    "anthropic": "/models?limit=1",
    "mistral": "/models",
    "openrouter": "/key",
    "replicate": "/account",
    "stability": "/v1/user/balance",
}
OUTCOMES = {
    "good": ("completed", True, None),
    "rejected": ("rejected", False, "provider_key_rejected"),
    "out of quota": ("quota_exceeded", False, "provider_quota_exceeded"),
    "limited": ("rate_limited", True, "provider_rate_limited"),
    "outage": ("failed", None, "upstream_error"),
}
ANYWHERE = Policy(
    schemes=frozenset({"http"}),
    ports=None,
    is_allowed_address=lambda _: True,
    is_allowed_name=lambda _: True,
)


@asynccontextmanager
async def checker(
    settings: Settings, policy: Policy | None = None
) -> AsyncIterator[ProviderKeyChecker]:
    safe_client = SafeClient(policy=policy)
    try:
        async with open_key_checker(settings, safe_client) as made:
            yield made
    finally:
        await safe_client.aclose()


def settings_of(double: Double) -> Settings:
    return Settings(
        providers=double.settings,  # type: ignore[arg-type]
        google_oauth_url=f"{double.address}{OAUTH_PATH}",
    )


@pytest.mark.parametrize("treatment", OUTCOMES)
@pytest.mark.parametrize("slug", PATHS)
async def test_what_a_provider_says_of_a_key(
    slug: str, treatment: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with provider_double() as double, checker(settings_of(double)) as checks:
        key = double.new_key(treatment)
        check = await checks.check(slug, SecretStr(key), None)
        [record] = double.records
    assert (check.outcome, check.is_valid, check.error_code) == OUTCOMES[treatment]
    assert (record.method, record.path) == ("GET", PATHS[slug])
    assert record.body is None
    assert key not in caplog.text + repr(check)


@pytest.mark.parametrize(
    ("slug", "body", "outcome"),
    [
        ("xai", {"api_key_blocked": True}, "rejected"),
        ("xai", {"team_blocked": True}, "rejected"),
        ("openrouter", {"data": {"limit_remaining": 0}}, "quota_exceeded"),
        ("openrouter", {"data": {"limit_remaining": None}}, "completed"),
        ("stability", {"credits": 0}, "quota_exceeded"),
        ("openai", [], "failed"),
    ],
)
async def test_a_success_that_says_more(slug: str, body: Any, outcome: str) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.json_response(body)

    async with (
        serve(answer) as url,
        checker(Settings(providers={slug: {"url": url}})) as checks,  # type: ignore[dict-item]
    ):
        assert (await checks.check(slug, SecretStr("sk-1"), None)).outcome == outcome


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (
            403,
            {"error": {"message": "Missing scopes: api.model.read"}},
            "completed",
        ),
        (200, "<html>", "failed"),
        (302, {}, "failed"),
        (404, {}, "failed"),
    ],
    ids=["scope", "garbage", "redirect", "gone"],
)
async def test_odd_answers(status: int, body: Any, outcome: str) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        headers = {"location": "http://127.0.0.1:1/"} if status == 302 else {}
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, headers=headers)

    async with (
        serve(answer) as url,
        checker(Settings(providers={"openai": {"url": url}})) as checks,  # type: ignore[dict-item]
    ):
        assert (await checks.check("openai", SecretStr("sk-1"), None)).outcome == outcome


@pytest.mark.parametrize("slug", ["openai", "google-vertex", "openai-compatible"])
async def test_an_answer_that_trickles_says_nothing(
    slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte comes in time; the whole never does."""
    monkeypatch.setattr(checker_module, "CHECK_SECONDS", 0.5)

    assert await _asked(trickle, slug) == KeyCheck("failed", "upstream_unavailable")


@pytest.mark.parametrize("slug", ["openai", "google-vertex"])
async def test_an_answer_without_end_says_nothing(slug: str) -> None:
    assert await _asked(pour, slug) == KeyCheck("failed", "upstream_error")


async def _asked(handler: Handler, slug: str) -> KeyCheck:
    """What is said of a key where a server of one's own stands in for the provider."""
    secret = service_account(EMAIL) if slug == "google-vertex" else "sk-1"
    async with serve(handler) as url:
        settings = Settings(
            providers={slug: {"url": url}},  # type: ignore[dict-item]
            google_oauth_url=url,
        )
        async with checker(settings, ANYWHERE) as checks:
            base_url = url if slug == "openai-compatible" else None
            return await checks.check(slug, SecretStr(secret), base_url)


async def test_a_provider_out_of_reach_says_nothing() -> None:
    settings = Settings(providers={"openai": {"url": "http://127.0.0.1:1"}})  # type: ignore[dict-item]
    async with checker(settings) as checks:
        check = await checks.check("openai", SecretStr("sk-1"), None)
    assert (check.outcome, check.is_valid) == ("failed", None)


@pytest.mark.parametrize(
    "secret", ["with space", "new\nline", "\u00fcber", "x" * 20_000, "tab\t"], ids=range(5)
)
async def test_what_cannot_stand_in_a_header_is_no_key(secret: str) -> None:
    async with checker(Settings()) as checks:
        with pytest.raises(InvalidRequestError) as caught:
            await checks.check("openai", SecretStr(secret), None)
    assert caught.value.facts["param"] == "api_key"
    assert secret not in str(caught.value)


async def test_a_provider_that_nobody_knows() -> None:
    async with checker(Settings()) as checks:
        with pytest.raises(NotFoundError):
            await checks.check("nowhere", SecretStr("sk-1"), None)


# Servers of customers' own ----------------------------------------------------------------------


async def test_an_own_server_says_what_it_serves() -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        assert request.path == "/v1/models"
        if request.headers["authorization"] != "Bearer sk-own":
            return web.json_response({"error": "no"}, status=401)
        rows: list[Any] = [{"id": "llama"}, {"id": "qwen/3"}, {"id": "a b"}, {"id": 7}, "x"]
        return web.json_response({"data": rows})

    async with serve(answer) as url, checker(Settings(), ANYWHERE) as checks:
        good = await checks.check("openai-compatible", SecretStr("sk-own"), f"{url}/v1")
        bad = await checks.check("openai-compatible", SecretStr("sk-other"), f"{url}/v1/")
        away = await checks.check("openai-compatible", SecretStr("sk-own"), "http://127.0.0.1:1")
    assert (good.outcome, good.models) == ("completed", ("llama", "qwen/3"))
    assert bad.outcome == "rejected"
    assert away.outcome == "failed"


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1/v1", "https://169.254.169.254", "http://example.com", "https://a.internal"],
)
async def test_an_own_server_inside_is_not_called(url: str) -> None:
    async with checker(Settings()) as checks:
        with pytest.raises(QuernelError) as caught:
            await checks.check("openai-compatible", SecretStr("sk-own"), url)
    assert caught.value.code == "url_refused"


# Service accounts -------------------------------------------------------------------------------


def service_account(email: str, **changes: Any) -> str:
    """A service account's file with a key that was made for it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    made = {
        "type": "service_account",
        "project_id": "a-project-1",
        "private_key_id": "1",
        "private_key": pem,
        "client_email": email,
        "token_uri": "http://169.254.169.254/token",
    }
    return json.dumps(made | changes)


EMAIL = "quernel@a-project-1.iam.gserviceaccount.com"


@pytest.mark.parametrize(
    ("treatment", "outcome"), [("good", "completed"), ("rejected", "rejected")]
)
async def test_a_service_account_is_asked_for_a_token_where_google_is(
    treatment: str, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = service_account(EMAIL)
    async with provider_double() as double, checker(settings_of(double)) as checks:
        double.keys[EMAIL] = treatment
        check = await checks.check("google-vertex", SecretStr(secret), None)
    assert check.outcome == outcome
    assert "169.254" not in caplog.text
    assert json.loads(secret)["private_key"][30:60] not in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "authorized_user"},
        {"project_id": "../../x"},
        {"client_email": "somebody@example.com"},
        {"private_key": "nothing"},
        {"private_key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"},
    ],
    ids=["type", "project", "email", "key", "broken"],
)
async def test_another_file_is_no_service_account(changes: dict[str, str]) -> None:
    async with checker(Settings()) as checks:
        with pytest.raises(InvalidRequestError) as caught:
            await checks.check("google-vertex", SecretStr(service_account(EMAIL, **changes)), None)
    assert caught.value.facts["param"] == "api_key"
