"""/mcp as HTTP: who is let in, what is refused before a tool is asked, and what headers tell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthToken,
)

from functions.app import create_app
from functions.core.errors import QuernelError
from functions.core.settings import Settings
from functions.libraries.mcp import tools
from functions.libraries.mcp.discovery import check_origin
from local.stack import Stack
from tests.api_keys.conftest import Keys, keys, well_formed
from tests.chat.conftest import settings_of
from tests.conftest import NewUser
from tests.libraries.conftest import Shelf
from tests.libraries.test_api import library

__all__ = ["keys", "library"]
pytestmark = pytest.mark.anyio

WELL_KNOWN = "/.well-known/oauth-protected-resource"
ACCEPTS = {"Accept": "application/json, text/event-stream"}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
LATEST = "2026-07-28"
VERSIONS = pytest.mark.parametrize("version", [None, LATEST], ids=["handshake", "latest"])


def call(library_id: str, query: str = "beam", request_id: int = 7) -> dict[str, Any]:
    params = {"name": tools.QUERY, "arguments": {"libraryId": library_id, "query": query}}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


class Wire:
    """A client that knows HTTP alone."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self._url = url
        self._http = http

    async def post(
        self, body: Any = LIST, token: str | None = None, **headers: str
    ) -> httpx.Response:
        shown = {"Authorization": f"Bearer {token}"} if token else {}
        return await self._http.post(
            f"{self._url}/mcp", json=body, headers=ACCEPTS | shown | headers
        )

    async def send(self, method: str, content: Any, token: str, **headers: str) -> httpx.Response:
        shown = ACCEPTS | {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return await self._http.request(
            method, f"{self._url}/mcp", content=content, headers=shown | headers
        )

    async def get(self, path: str) -> httpx.Response:
        return await self._http.get(f"{self._url}{path}")


@pytest.fixture
async def wire(functions_url: str) -> AsyncIterator[Wire]:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        yield Wire(functions_url, http)


@pytest.fixture
def token(new_user: NewUser) -> str:
    return str(new_user().token)


# Who is let in -----------------------------------------------------------------------------------


async def test_who_has_no_token_is_told_where_one_is_to_be_had(
    wire: Wire, functions_url: str
) -> None:
    where = f'resource_metadata="{functions_url}{WELL_KNOWN}/mcp"'
    for token, error in ((None, None), ("nobody", "invalid_token"), ("qk_live_x", "invalid_token")):
        answer = await wire.post(token=token)
        assert answer.status_code == 401
        challenge = answer.headers["www-authenticate"]
        assert challenge.startswith("Bearer ")
        assert where in challenge
        assert ("error=" in challenge) == (error is not None)


async def test_a_key_that_nobody_has_is_401_and_no_answer_of_a_tool(
    wire: Wire, library: str, functions_url: str
) -> None:
    answer = await wire.post(call(library), well_formed())
    assert answer.status_code == 401
    assert (
        f'resource_metadata="{functions_url}{WELL_KNOWN}/mcp"' in answer.headers["www-authenticate"]
    )
    assert answer.json()["error"]["data"]["code"] == "invalid_api_key"


async def test_what_protects_the_resource_names_supabase_auth(
    wire: Wire, functions_url: str, stack: Stack
) -> None:
    for path in ("", "/mcp"):
        answer = await wire.get(WELL_KNOWN + path)
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {
            "resource": functions_url + path,
            "resource_name": "Quernel",
            "authorization_servers": [f"{stack.supabase_url}/auth/v1"],
            "bearer_methods_supported": ["header"],
        }
    assert (await wire.get(f"{WELL_KNOWN}/other")).status_code == 404


async def test_an_issuer_that_is_set_is_the_one_that_is_named(stack: Stack) -> None:
    issuer = "https://auth.quernel.test/auth/v1"
    app = create_app(settings_of(stack, jwt_issuer=issuer))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        told = (await http.get(f"{WELL_KNOWN}/mcp")).json()
    assert told["authorization_servers"] == [issuer]


class Remembered:
    """Tokens of a client, in memory."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class BesideAnAuthorizationServer(httpx2.AsyncBaseTransport):
    """Supabase Auth's OAuth server, which the embedded stack lacks, in front of the network."""

    def __init__(self, issuer: str, token: str) -> None:
        self._issuer = issuer
        self._token = token
        self._network = httpx2.AsyncHTTPTransport(trust_env=False)
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if not str(request.url).startswith(self._issuer.rsplit("/auth/v1", 1)[0]):
            return await self._network.handle_async_request(request)
        path = request.url.path
        self.asked.append(path)
        if path == "/.well-known/oauth-authorization-server/auth/v1":
            told: dict[str, Any] = {
                "issuer": self._issuer,
                "authorization_endpoint": f"{self._issuer}/oauth/authorize",
                "token_endpoint": f"{self._issuer}/oauth/token",
                "registration_endpoint": f"{self._issuer}/oauth/clients/register",
                "response_types_supported": ["code"],
                "code_challenge_methods_supported": ["S256"],
            }
        elif path.endswith("/register"):
            told = {"client_id": "editor", "redirect_uris": ["http://127.0.0.1:9/callback"]}
            return httpx2.Response(201, json=told, request=request)
        else:
            told = {"access_token": self._token, "token_type": "Bearer", "expires_in": 3600}
        return httpx2.Response(200, json=told, request=request)

    async def aclose(self) -> None:
        await self._network.aclose()


async def test_the_official_client_finds_its_way_to_a_token(
    functions_url: str, stack: Stack, token: str, library: str
) -> None:
    issuer = f"{stack.supabase_url}/auth/v1"
    sent: list[dict[str, list[str]]] = []

    async def redirect(url: str) -> None:
        assert url.startswith(f"{issuer}/oauth/authorize?")
        sent.append(parse_qs(urlsplit(url).query))

    async def come_back() -> AuthorizationCodeResult:
        return AuthorizationCodeResult(code="code", state=sent[0]["state"][0])

    metadata = OAuthClientMetadata.model_validate(
        {"client_name": "Editor", "redirect_uris": ["http://127.0.0.1:9/callback"]}
    )
    storage = Remembered()
    auth = OAuthClientProvider(f"{functions_url}/mcp", metadata, storage, redirect, come_back)
    server = BesideAnAuthorizationServer(issuer, token)
    async with httpx2.AsyncClient(transport=server, auth=auth, timeout=30) as http:
        transport = streamable_http_client(f"{functions_url}/mcp", http_client=http)
        async with Client(transport) as client:
            asked = {"libraryId": library, "query": "beam"}
            answer = await client.call_tool(tools.QUERY, asked)
    assert "rotate_beam" in str(answer.content)
    assert sent[0]["resource"] == [f"{functions_url}/mcp"]
    assert storage.tokens is not None
    assert storage.tokens.access_token == token


# Where from --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://127.0.0.1:3000.evil.example",
        "http://127.0.0.1",
        "file://",
        "",
    ],
    ids=["stranger", "null", "longer", "port", "file", "empty"],
)
async def test_a_page_of_another_origin_is_refused(wire: Wire, token: str, origin: str) -> None:
    answer = await wire.post(token=token, Origin=origin)
    assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")
    # Before anything is said about the credential.
    assert (await wire.post(Origin=origin)).status_code == 403


async def test_pages_that_may_call_and_programs_are_let_in(
    wire: Wire, token: str, functions_url: str
) -> None:
    for headers in ({}, {"Origin": "http://127.0.0.1:3000"}, {"Origin": functions_url}):
        assert (await wire.post(token=token, **headers)).status_code == 200


def test_every_origin_is_let_in_where_the_operator_says_so() -> None:
    check_origin(["https://evil.example"], Settings(allowed_origins=("*",)))
    deployed = Settings(
        public_url="https://api.quernel.test/base", allowed_origins=("https://app.quernel.test",)
    )
    check_origin(["https://api.quernel.test"], deployed)
    check_origin(["https://app.quernel.test"], deployed)
    with pytest.raises(QuernelError):
        check_origin(["https://app.quernel.test", "https://evil.example"], deployed)


# What is refused before a tool is asked ----------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH"])
async def test_there_is_nothing_but_post(wire: Wire, token: str, method: str) -> None:
    answer = await wire.send(method, b"", token)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@VERSIONS
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"not json", -32700),
        (b"", -32700),
        (b'{"jsonrpc": "2.0", "id": 1', -32700),
        (b"[" * 50_000, -32700),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}]', None),
        (b"[]", None),
        (b'"tools/list"', None),
        (b'{"id": 1, "method": "tools/list"}', None),
    ],
    ids=["words", "nothing", "cut", "deep", "batch", "empty-batch", "text", "no-version"],
)
async def test_what_is_no_message_is_400(
    wire: Wire, token: str, version: str | None, content: bytes, code: int | None
) -> None:
    headers = {"MCP-Protocol-Version": version} if version else {}
    answer = await wire.send("POST", content, token, **headers)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert code is None or error["code"] == code
    assert "result" not in answer.json()


@VERSIONS
async def test_a_message_of_another_type_is_refused(
    wire: Wire, token: str, version: str | None
) -> None:
    headers = {"MCP-Protocol-Version": version} if version else {}
    body = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}'
    for changes, statuses in (
        ({"Content-Type": "text/plain"}, (400, 415)),
        ({"Accept": "text/html"}, (406,)),
    ):
        answer = await wire.send("POST", body, token, **(headers | changes))
        assert answer.status_code in statuses


async def test_a_version_that_nobody_speaks_is_refused(wire: Wire, token: str) -> None:
    answer = await wire.post(token=token, **{"MCP-Protocol-Version": "1999-01-01"})
    assert answer.status_code == 400


@VERSIONS
async def test_a_body_that_never_says_its_length_is_cut_off(
    wire: Wire, token: str, version: str | None
) -> None:
    headers = {"MCP-Protocol-Version": version} if version else {}

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 65_536

    assert (await wire.send("POST", pieces(), token, **headers)).status_code == 413


# Limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", [tools.QUERY, tools.RESOLVE])
async def test_a_limit_is_told_by_status_and_headers(
    wire: Wire, keys: Keys, library: str, tool: str
) -> None:
    key = keys.make(keys.person(), scopes=["libraries"], rate_limit_per_minute=2)["key"]
    body = call(library)
    if tool == tools.RESOLVE:
        body["params"] = {"name": tool, "arguments": {"libraryName": "lamp"}}
    answers = [await wire.post(body, key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    told = [(a.headers["ratelimit-limit"], a.headers["ratelimit-remaining"]) for a in answers]
    assert told == [("2", "1"), ("2", "0"), ("2", "0")]
    assert all(int(answer.headers["ratelimit-reset"]) > 0 for answer in answers)
    assert "rate_limit" not in answers[0].text
    assert answers[0].json()["result"]["structuredContent"]
    refusal = answers[2]
    assert int(refusal.headers["retry-after"]) > 0
    assert refusal.headers["content-type"] == "application/json"
    message = refusal.json()
    assert (message["jsonrpc"], message["id"], message["error"]["code"]) == ("2.0", 7, -32000)
    assert message["error"]["data"]["code"] == "rate_limited"
    assert f"Try again in {refusal.headers['retry-after']} seconds" in message["error"]["message"]
    # What is no question is not counted, and not refused.
    assert (await wire.post(token=key)).status_code == 200


async def test_a_question_that_is_refused_leaves_no_usage_row(
    wire: Wire, keys: Keys, library: str, shelf: Shelf
) -> None:
    key = keys.make(keys.person(), scopes=["libraries"], rate_limit_per_minute=1)
    for _ in range(3):
        await wire.post(call(library), key["key"])
    rows = "select from public.usage_logs where api_key_id = %s"
    assert len(shelf.rows(rows, key["id"])) == 1


async def test_people_have_no_such_headers(wire: Wire, token: str, library: str) -> None:
    answer = await wire.post(call(library), token)
    assert answer.status_code == 200
    assert "ratelimit-limit" not in answer.headers


async def test_a_key_without_the_scope_is_told_which(wire: Wire, keys: Keys, library: str) -> None:
    key = keys.make(keys.person(), scopes=["chat"])["key"]
    answer = await wire.post(call(library), key)
    assert answer.status_code == 403
    assert answer.json()["error"]["data"]["code"] == "insufficient_scope"
    challenge = answer.headers["www-authenticate"]
    assert challenge.startswith('Bearer error="insufficient_scope", scope="libraries", resource_')
    # Whoever only asks which tools there are needs no scope.
    assert (await wire.post(token=key)).status_code == 200
