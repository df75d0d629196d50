"""Servers of customers' own: called with their key, and never anywhere inside."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from functions.chat import providers as places
from functions.chat import transports
from functions.chat.credentials import Credential
from functions.chat.providers import Provider, open_providers
from functions.chat.routing import Router
from functions.chat.service import ChatService
from functions.chat.upstream_errors import AnswerCutOffError, OwnKeyError, UpstreamError
from functions.core.addresses import Address
from functions.core.auth import Caller
from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.http import Policy, SafeClient
from functions.core.settings import Settings
from local.stack import Stack
from tests.chat.conftest import NewPayer, Payer, settings_of
from tests.chat.keyed_provider import KeyedProvider
from tests.chat.test_routing import answer
from tests.core.test_addresses import REFUSED
from tests.core.test_http import NAME, ON_LOOPBACK, Authority, answers, authority, reply
from tests.core.tls import serve as serve_tls
from tests.support.http_server import serve
from tests.support.provider_keys import bring_key, vault_of

__all__ = ["authority"]

pytestmark = pytest.mark.anyio

BODY = json.dumps({"model": "m", "messages": []}).encode()
ON_HTTP = Policy(
    schemes=frozenset({"http"}),
    ports=None,
    is_allowed_address=lambda address: address.is_loopback,
    is_allowed_name=lambda _: True,
)


@asynccontextmanager
async def own_server(client: SafeClient) -> AsyncIterator[Provider]:
    async with open_providers(Settings(), client) as providers:
        yield providers["openai-compatible"]
    await client.aclose()


def own(base_url: str, key: str = "sk-own") -> Credential:
    return Credential("own", SecretStr(key), key_id="1", base_url=base_url)


async def refusal(client: SafeClient, base_url: str) -> QuernelError:
    async with own_server(client) as provider:
        with pytest.raises(QuernelError) as caught:
            await provider.upstream.complete(BODY, "id", own(base_url))
    return caught.value


@pytest.mark.parametrize("address", REFUSED)
async def test_no_address_inside_is_called(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    error = await refusal(SafeClient(), f"https://{host}/v1")
    assert (error.status, error.code) == (400, "url_refused")


@pytest.mark.parametrize("address", REFUSED)
async def test_no_name_with_an_address_inside_is_called(address: str) -> None:
    async def resolver(host: str, port: int) -> list[Address]:  # noqa: ARG001
        return [ip_address("8.8.8.8"), ip_address(address)]

    error = await refusal(SafeClient(resolver=resolver), f"https://{NAME}/v1")
    assert (error.status, error.code) == (400, "url_refused")


async def test_a_dns_answer_that_changes_between_check_and_connect_changes_nothing(
    authority: Authority,
) -> None:
    """The name is asked for once: what was vetted is what is connected to."""
    asked: list[str] = []

    async def resolver(host: str, port: int) -> list[Address]:  # noqa: ARG001
        asked.append(host)
        return [ip_address("127.0.0.1" if len(asked) == 1 else "10.0.0.1")]

    client = SafeClient(
        policy=ON_LOOPBACK, resolver=resolver, ssl_context=authority.client_context()
    )
    content = json.dumps({"choices": [], "usage": {}}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    async with (
        serve_tls(reply(head + content), authority.server_context(NAME)) as port,
        own_server(client) as provider,
    ):
        url = f"https://{NAME}:{port}/v1"
        assert await provider.upstream.complete(BODY, "id", own(url)) == json.loads(content)
        assert len(asked) == 1
        # The next call asks anew, and is refused.
        with pytest.raises(QuernelError) as caught:
            await provider.upstream.complete(BODY, "id", own(url))
    assert caught.value.code == "url_refused"


async def test_a_redirect_is_not_followed() -> None:
    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response(status=302, headers={"location": "http://169.254.169.254/"})

    async with serve(handler) as url:
        error = await refusal(SafeClient(policy=ON_HTTP), f"{url}/v1")
    assert error.code == "upstream_error"


async def test_nobody_there_and_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    error = await refusal(SafeClient(policy=ON_HTTP), "http://127.0.0.1:1/v1")
    assert (error.status, error.code) == (503, "upstream_unavailable")

    async def handler(_: web.BaseRequest) -> web.Response:
        await asyncio.sleep(2)
        return web.Response()

    monkeypatch.setattr(places, "OWN_SERVER_SILENCE_SECONDS", 0.2)
    async with serve(handler) as url:
        error = await refusal(SafeClient(policy=ON_HTTP), f"{url}/v1")
    assert (error.status, error.code) == (504, "upstream_timeout")


async def test_a_stream_that_falls_silent_or_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        chunk = {"choices": [{"index": 0, "delta": {"content": "x" * 100}}]}
        body = await request.json()
        for _ in range(1 if body["model"] == "silent" else 2000):
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await asyncio.sleep(2)
        return response

    monkeypatch.setattr(places, "OWN_SERVER_SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(transports, "MAX_ANSWER_BYTES", 50_000)
    async with serve(handler) as url:
        for model, kind in (("silent", UpstreamError), ("endless", AnswerCutOffError)):
            body = json.dumps({"model": model, "messages": [], "stream": True}).encode()
            async with own_server(SafeClient(policy=ON_HTTP)) as provider:
                with pytest.raises(kind):
                    await read(provider, body, own(f"{url}/v1"))


async def read(provider: Provider, body: bytes, credential: Credential) -> None:
    """The stream, to its end."""
    async with provider.upstream.stream(body, "id", credential) as batches:
        async for _ in batches:
            pass


# The whole way -----------------------------------------------------------------------------------


@asynccontextmanager
async def service_of(stack: Stack, authority: Authority) -> AsyncIterator[ChatService]:
    settings = settings_of(stack)
    database = await Database.open(settings)
    client = SafeClient(
        policy=ON_LOOPBACK,
        resolver=answers("127.0.0.1"),
        ssl_context=authority.client_context(),
    )
    async with open_providers(settings, client) as providers:
        service = ChatService(database, Router(providers, 30, vault_of(settings)))
        try:
            yield service
        finally:
            await service.background.drain()
            await client.aclose()
            await database.aclose()


async def bring(
    payer: Payer, stack: Stack, secret: str, url: str, *models: str, **more: Any
) -> str:
    return await bring_key(
        payer.connection,
        vault_of(settings_of(stack)),
        "openai-compatible",
        secret,
        user=payer.id,
        base_url=url,
        models=list(models),
        **more,
    )


async def test_a_model_of_an_own_server_is_asked_by_its_name_and_costs_nothing(
    stack: Stack, new_payer: NewPayer, authority: Authority
) -> None:
    payer = new_payer()
    tls = authority.server_context(NAME)
    servers = [KeyedProvider("", "", "", "", "") for _ in range(2)]
    keys = [server.new_key("good") for server in servers]
    async with (
        serve(servers[0].answer, tls) as one,
        serve(servers[1].answer, tls) as two,
        service_of(stack, authority) as service,
    ):
        first, second = (url.replace("127.0.0.1", NAME) for url in (one, two))
        with pytest.raises(QuernelError) as caught:
            await answer(service, payer, "hi", model="openai-compatible/llama")
        assert caught.value.code == "provider_key_required"
        key_id = await bring(payer, stack, keys[0], f"{first}/v1", "llama", priority=1)
        other = await bring(payer, stack, keys[1], f"{second}/v1", "qwen", "llama", priority=2)

        listed = await service.models(Caller(uuid.UUID(payer.id)))
        own_models = [row for row in listed if row["owned_by"] == "openai-compatible"]
        assert [row["id"] for row in own_models] == [
            "openai-compatible/llama",
            "openai-compatible/qwen",
        ]
        assert all(row["credentials"] == ["own"] for row in own_models)

        for stream in (False, True):
            got = await answer(service, payer, "hi", model="openai-compatible/llama", stream=stream)
            assert got.who == ("openai-compatible", "own")
            assert got.headers["x-quernel-provider-key"] == key_id
            assert got.model == "openai-compatible/llama"
        got = await answer(service, payer, "hi", model="openai-compatible/qwen", max_tokens=7)
        assert got.headers["x-quernel-provider-key"] == other
        # No limit of ours where the client named none.
        assert "max_tokens" not in servers[0].bodies[0]
        assert servers[0].bodies[0]["model"] == "llama"
        assert servers[1].bodies[0]["max_tokens"] == 7
        # Each server is shown its own key, and no other.
        assert servers[0].shown == [keys[0]] * 2
        assert servers[1].shown == [keys[1]]

        # One server that is away does not keep the other from being asked.
        payer.connection.execute(
            "update public.provider_keys set base_url = 'https://files.quernel.app:1/v1'"
            " where id = %s",
            [key_id],
        )
        got = await answer(service, payer, "hi", model="openai-compatible/llama")
        assert got.headers["x-quernel-provider-key"] == other
        servers[1].keys[keys[1]] = "rejected"
        with pytest.raises(OwnKeyError):
            await answer(service, payer, "hi", model="openai-compatible/qwen")
    assert payer.charges() == []
    usage = payer.usage()
    assert {row["credential"] for row in usage} == {"own"}
    assert {row["cost_estimate"] for row in usage} == {0}
