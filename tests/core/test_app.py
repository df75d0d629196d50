"""The app as a whole, without a database: refusals, CORS, health, the OpenAPI document."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from functions.app import EXPOSED_HEADERS, create_app
from functions.core.api_keys import ApiKeyVerifier
from functions.core.auth import AccessTokenVerifier, Authenticator
from functions.core.settings import Settings

pytestmark = pytest.mark.anyio

ORIGIN = "https://chat.quernel.app"
SECRET = "a-shared-secret-of-more-than-32-bytes-for-hs256"
SETTINGS = Settings(
    environment="test",
    supabase_url="http://127.0.0.1:1",
    supabase_secret_key="sb_secret_" + "0" * 31,
    supabase_jwt_secret=SECRET,
    allowed_origins=ORIGIN,  # type: ignore[arg-type]
    database_timeout_seconds=2,
)


@pytest.fixture
async def app() -> AsyncIterator[FastAPI]:
    created = create_app(SETTINGS)
    async with created.router.lifespan_context(created):
        yield created


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://quernel") as opened:
        yield opened


# Refusals -----------------------------------------------------------------------------------------


async def test_unknown_addresses(client: httpx.AsyncClient) -> None:
    problem = await client.get("/nothing/here")
    assert problem.status_code == 404
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json()["code"] == "not_found"
    openai = (await client.get("/v1/nothing")).json()
    assert openai["error"]["code"] == "not_found"


async def test_wrong_method(client: httpx.AsyncClient) -> None:
    response = await client.delete("/health")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_credentials"),
        ("", "invalid_token"),
        ("Bearer", "invalid_token"),
        ("Bearer ", "invalid_token"),
        ("Basic dXNlcjpwYXNz", "invalid_token"),
        ("Bearer sb_secret_" + "0" * 31, "invalid_token"),
        ("Bearer a.b.c", "invalid_token"),
        ("Bearer a.b.c d.e.f", "invalid_token"),
    ],
)
async def test_without_a_valid_token(
    client: httpx.AsyncClient, header: str | None, code: str
) -> None:
    headers = {} if header is None else {"Authorization": header}
    response = await client.get("/v1/models", headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == code
    assert response.headers["www-authenticate"].startswith('Bearer realm="quernel"')


async def test_two_credentials_are_refused(client: httpx.AsyncClient) -> None:
    headers = [("Authorization", "Bearer a.b.c"), ("Authorization", "Bearer d.e.f")]
    response = await client.get("/v1/models", headers=headers)
    assert response.json()["error"]["code"] == "invalid_token"


async def test_tokens_in_the_query_are_not_read(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/models?access_token=a.b.c&apikey=x")
    assert response.json()["error"]["code"] == "missing_credentials"


async def test_every_route_but_these_needs_a_credential(app: FastAPI) -> None:
    open_to_all = {
        (path, method)
        for path, method, operation in operations(app)
        if not operation.get("security")
    }
    assert open_to_all == {
        ("/health", "get"),
        ("/ready", "get"),
        ("/billing/webhooks/stripe", "post"),
        ("/ads/rewards/admob", "get"),
    }


async def test_ten_megabytes(client: httpx.AsyncClient) -> None:
    body = b"x" * 10_000_000
    for path in ("/v1/chat/completions", "/billing/checkout", "/nothing"):
        response = await client.post(path, content=body)
        assert response.status_code == 413
        error = response.json()
        assert error.get("error", error)["code"] == "body_too_large"
        assert response.headers["x-request-id"]


async def test_wrong_parameters_are_told_in_our_shape(app: FastAPI) -> None:
    @app.get("/probe/{number}")
    async def probe(number: int) -> int:
        return number

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://quernel") as client:
        response = await client.get("/probe/s3cr3t")
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert response.json()["errors"][0]["path"] == "number"
    assert "s3cr3t" not in response.text


async def test_a_defect_keeps_cors_and_id(app: FastAPI) -> None:
    @app.get("/v1/probe")
    async def probe() -> None:
        raise RuntimeError("s3cr3t")

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://quernel") as client:
        response = await client.get("/v1/probe", headers={"Origin": ORIGIN})
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert response.headers["x-request-id"]
    assert "s3cr3t" not in response.text


async def test_the_example_of_an_error_has_a_remedy_of_the_database(app: FastAPI) -> None:
    example = app.openapi()["paths"]["/v1/quote"]["post"]["responses"]["default"]
    error = example["content"]["application/json"]["example"]["error"]
    assert (error["code"], error["remedy"]) == ("insufficient_credits", "buy_credits")


# CORS ---------------------------------------------------------------------------------------------


def preflight(origin: str) -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, x-stainless-os",
    }


@pytest.mark.parametrize(
    "origin", ["https://evil.app", "null", f"{ORIGIN}.evil.app", "http://chat.quernel.app"]
)
async def test_other_origins_may_not_read(client: httpx.AsyncClient, origin: str) -> None:
    asked = await client.options("/v1/chat/completions", headers=preflight(origin))
    assert (asked.status_code, asked.json()["error"]["code"]) == (400, "cors_refused")
    assert "Origin" in asked.headers["vary"]
    answered = await client.get("/health", headers={"Origin": origin})
    for response in (asked, answered):
        assert "access-control-allow-origin" not in response.headers
        assert "access-control-allow-credentials" not in response.headers


async def test_a_refused_preflight_is_an_error_in_the_paths_shape(
    client: httpx.AsyncClient,
) -> None:
    wrong_method = preflight(ORIGIN) | {"Access-Control-Request-Method": "TRACE"}
    for headers in (preflight("https://evil.app"), wrong_method):
        openai = await client.options("/v1/chat/completions", headers=headers)
        assert openai.json()["error"]["code"] == "cors_refused"
        problem = await client.options("/billing/checkout", headers=headers)
        assert (problem.status_code, problem.json()["code"]) == (400, "cors_refused")
        assert problem.headers["content-type"] == "application/problem+json"
        assert problem.headers["x-request-id"]


async def test_allowed_origins_may(client: httpx.AsyncClient) -> None:
    asked = await client.options("/v1/chat/completions", headers=preflight(ORIGIN))
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert "x-stainless-os" in asked.headers["access-control-allow-headers"]
    refused = await client.get("/v1/models", headers={"Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN
    exposed = refused.headers["access-control-expose-headers"].split(", ")
    assert exposed == list(EXPOSED_HEADERS)


# Health -------------------------------------------------------------------------------------------


async def test_alive_without_a_database_but_not_ready(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).json() == {"status": "ok"}
    ready = await client.get("/ready")
    assert (ready.status_code, ready.json()["code"]) == (503, "database_unavailable")
    assert ready.headers["retry-after"]


async def test_many_questions_are_one_question_to_the_database(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    asked = 0

    async def rpc(function: str) -> None:
        nonlocal asked
        assert function == "ready"
        asked += 1

    app.state.database.rpc = rpc
    for _ in range(20):
        assert (await client.get("/ready")).json() == {"status": "ready"}
    assert asked == 1


async def test_security_headers(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/nothing", "/docs", "/openapi.json"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "strict-transport-security" not in headers


async def test_the_reference_loads_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.status_code == 200
    assert "://" not in page.text
    named = re.findall(r'(?:src|href)="([^"]*)"', page.text) + re.findall(
        r'url: "([^"]*)"', page.text
    )
    assets = [name for name in named if not name.startswith("data:")]
    assert len(assets) == 3
    for name in assets:
        answer = await client.get(f"/{name}")
        assert answer.status_code == 200, name
        outside = [url for url in re.findall(r"url\(([^)]*)\)", answer.text) if "data:" not in url]
        assert not name.endswith(".css") or outside == []


async def test_the_reference_may_load_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    (inline,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    policy = dict(
        part.split(" ", 1) for part in page.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    allowed = {word for words in policy.values() for word in words.split()}
    assert allowed == {"'none'", "'self'", f"'sha256-{digest}'", "data:"}
    assert [name for name, words in policy.items() if "data:" in words] == ["img-src"]


async def test_there_is_no_other_page(client: httpx.AsyncClient) -> None:
    for path in ("/docs/oauth2-redirect", "/redoc", "/docs/redoc.standalone.js", "/docs/"):
        assert (await client.get(path)).status_code in {307, 404}, path


async def test_https_is_for_ever_once_deployed() -> None:
    app = create_app(SETTINGS.model_copy(update={"public_url": "https://api.quernel.app"}))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="https://quernel") as client:
        headers = (await client.get("/health")).headers
    assert headers["strict-transport-security"] == "max-age=31536000"


# What features that are off say -------------------------------------------------------------------


async def test_without_stripe_the_webhook_is_not_there(client: httpx.AsyncClient) -> None:
    response = await client.post("/billing/webhooks/stripe", content=b"{}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_state_holds_what_domains_need(app: FastAPI) -> None:
    assert app.state.settings is SETTINGS
    providers = app.state.chat.router.providers
    assert {"openai", "anthropic", "openai-compatible"} <= providers.keys()
    assert all(provider.platform is None for provider in providers.values())
    assert app.state.vault is None
    assert app.state.key_checker is not None
    assert app.state.stripe is None
    assert isinstance(app.state.authenticator, Authenticator)
    kinds = [type(verifier) for verifier in app.state.authenticator._verifiers]
    assert kinds == [ApiKeyVerifier, AccessTokenVerifier]


async def test_clients_are_closed_with_the_app() -> None:
    settings = SETTINGS.model_copy(
        update={"llm_url": "http://127.0.0.1:1/v1", "stripe_secret_key": None}
    )
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = app.state.chat.router.providers["quernel"].upstream._transport
        assert transport._session is None  # until somebody asks
        client = transport._client()
        assert not client.closed
    assert client.closed


# The document -------------------------------------------------------------------------------------


def operations(app: FastAPI) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
    ]


def _examples(app: FastAPI, content: dict[str, Any]) -> bool:
    """Whether every media type is shown by an example, inline or at its schema."""
    schemas = app.openapi()["components"]["schemas"]
    for media in content.values():
        schema = media.get("schema", {})
        schema = schemas.get(schema.get("$ref", "").rsplit("/", 1)[-1], schema)
        if not ({"example", "examples"} & (media.keys() | schema.keys())):
            return False
    return bool(content)


SAY_IT_ALL_BY_THEIR_PATH = {
    ("/conversations/{conversation_id}/restore", "post"),
    ("/billing/subscriptions/{subscription_id}/pause", "post"),
    ("/billing/subscriptions/{subscription_id}/resume", "post"),
    ("/notifications/webhooks/{endpoint_id}/rotate-secret", "post"),
    ("/notifications/webhooks/{endpoint_id}/test", "post"),
    ("/provider-keys/{key_id}/validate", "post"),
    ("/images/generations/{generation_id}/cancel", "post"),
    ("/libraries/{organization}/{project}/upload", "post"),
    ("/libraries/{organization}/{project}/uploaded", "post"),
    ("/libraries/{organization}/{project}/refresh", "post"),
    ("/documents/{document_id}/uploaded", "post"),
    ("/me/erasure", "post"),
}


async def test_every_route_has_summary_and_examples(app: FastAPI) -> None:
    listed = operations(app)
    assert len(listed) >= 8
    for path, method, operation in listed:
        where = f"{method} {path}"
        assert operation.get("summary"), where
        assert operation.get("tags"), where
        if "requestBody" in operation:
            assert _examples(app, operation["requestBody"]["content"]), where
        elif (path, method) not in SAY_IT_ALL_BY_THEIR_PATH and method in ("post", "put", "patch"):
            raise AssertionError(f"{where} has no request body")
        successes = [
            response
            for status, response in operation["responses"].items()
            if status.startswith("2") and status != "204"
        ]
        assert successes or "307" in operation["responses"], where
        assert all(_examples(app, response["content"]) for response in successes), where


async def test_every_route_documents_its_error_shape(app: FastAPI) -> None:
    for path, _, operation in operations(app):
        assert "422" not in operation["responses"]
        (media_type, media), *_ = operation["responses"]["default"]["content"].items()
        openai = path.startswith("/v1/")
        assert media_type == ("application/json" if openai else "application/problem+json")
        assert media["schema"]["$ref"].endswith("OpenAIError" if openai else "Problem")
    assert "HTTPValidationError" not in app.openapi()["components"]["schemas"]


async def test_every_route_is_in_the_document(app: FastAPI) -> None:
    raw = get_openapi(title="x", version="1", routes=app.routes)
    assert raw["paths"].keys() == app.openapi()["paths"].keys()
    bearer = app.openapi()["components"]["securitySchemes"]["access token or API key"]
    assert (bearer["type"], bearer["scheme"]) == ("http", "bearer")


async def test_document_is_valid_json_and_served(client: httpx.AsyncClient) -> None:
    document = json.loads((await client.get("/openapi.json")).content)
    assert document["openapi"].startswith("3.1")
    assert (await client.get("/docs")).status_code == 200
