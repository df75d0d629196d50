"""Calls of servers of customers' own: what they are sent, what goes wrong, and who hears of it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

import pytest
from pydantic import SecretStr

from functions.chat import providers as chat_providers
from functions.chat.credentials import Credential
from functions.chat.providers import Provider, open_providers
from functions.chat.schemas import parse
from functions.chat.templates import Template
from functions.chat.upstream_errors import AnswerCutOffError, OwnKeyError, UpstreamError
from functions.core.addresses import Address
from functions.core.errors import QuernelError
from functions.core.http import Policy, Resolver, SafeClient
from functions.core.settings import Settings
from functions.providers.definitions import OWN_SERVER
from local.providers.double import Double
from tests.core.tls import Authority, Handler, serve
from tests.support.providers import provider_double

pytestmark = pytest.mark.anyio

NAME = "models.customer.example.org"
KEY = "sk-own-0123456789abcdef"
REQUEST = {"model": "ours", "messages": [{"role": "user", "content": "Is it?"}]}
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
WHOLE: dict[str, Any] = {
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "It is."},
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}
CHUNKS: list[dict[str, Any]] = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "It "}}]},
    {"choices": [{"index": 0, "delta": {"content": "is."}, "finish_reason": "stop"}]},
    {"choices": [], "usage": USAGE},
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def answers(*addresses: str) -> Resolver:
    async def resolver(host: str, port: int) -> list[Address]:  # noqa: ARG001
        return [ip_address(address) for address in addresses]

    return resolver


ON_LOOPBACK = Policy(
    ports=None, is_allowed_address=lambda address: address == ip_address("127.0.0.1")
)


@asynccontextmanager
async def own_servers(
    authority: Authority | None = None,
    resolver: Resolver | None = None,
    policy: Policy | None = None,
) -> AsyncIterator[Provider]:
    """The provider that stands for them. With an authority it may call this machine."""
    context = None if authority is None else authority.client_context()
    client = SafeClient(
        policy=policy or (None if authority is None else ON_LOOPBACK),
        resolver=resolver or answers("127.0.0.1"),
        ssl_context=context,
    )
    try:
        async with open_providers(Settings(), client) as providers:
            yield providers[OWN_SERVER]
    finally:
        await client.aclose()


async def ask(
    provider: Provider, base_url: str | None, *, stream: bool = False, key: str = KEY
) -> list[dict[str, Any]]:
    credential = Credential("own", SecretStr(key), key_id="1", base_url=base_url)
    completion = parse(json.dumps(REQUEST | {"stream": stream}).encode())
    body = provider.upstream.body(Template(completion), "llama", 50)
    if not stream:
        return [await provider.upstream.complete(body, "id", credential)]
    async with provider.upstream.stream(body, "id", credential) as batches:
        return [chunk for batch in [batch async for batch in batches] for chunk in batch]


async def refusal(
    provider: Provider, base_url: str | None, *, stream: bool = False
) -> QuernelError:
    with pytest.raises(QuernelError) as caught:
        await ask(provider, base_url, stream=stream)
    assert KEY not in str(caught.value) + repr(caught.value.facts)
    return caught.value


def answering(
    raw: bytes, *, status: str = "200 OK", headers: str = "", seen: list[bytes] | None = None
) -> Handler:
    """Read one request with its body, then answer it."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [
            line.partition(b":")[2]
            for line in head.splitlines()
            if line.lower().startswith(b"content-length")
        ]
        body = await reader.readexactly(int(length))
        if seen is not None:
            seen.append(head + body)
        start = f"HTTP/1.1 {status}\r\nContent-Length: {len(raw)}\r\n{headers}\r\n"
        writer.write(start.encode() + raw)
        await writer.drain()

    return handler


def events(*chunks: dict[str, Any]) -> bytes:
    texts = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*texts, "data: [DONE]\n\n"]).encode()


# What is asked ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("slash", ["", "/"], ids=["bare", "slash"])
async def test_a_server_is_asked_in_openais_protocol_with_its_own_key(
    authority: Authority, stream: bool, slash: str
) -> None:
    seen: list[bytes] = []
    raw = events(*CHUNKS) if stream else json.dumps(WHOLE).encode()
    handler = answering(raw, seen=seen)
    async with (
        serve(handler, authority.server_context(NAME)) as port,
        own_servers(authority) as provider,
    ):
        got = await ask(provider, f"https://{NAME}:{port}/v1{slash}", stream=stream)
    assert got == (CHUNKS if stream else [WHOLE])
    [request] = seen
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert f"authorization: bearer {KEY}".encode() in head.lower()
    assert json.loads(body)["model"] == "llama"
    assert json.loads(body)["max_tokens"] == 50


async def test_embeddings(authority: Authority) -> None:
    body = {"data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 1}}
    seen: list[bytes] = []
    handler = answering(json.dumps(body).encode(), seen=seen)
    async with (
        serve(handler, authority.server_context(NAME)) as port,
        own_servers(authority) as provider,
    ):
        credential = Credential(
            "own", SecretStr(KEY), key_id="1", base_url=f"https://{NAME}:{port}/v1"
        )
        assert await provider.upstream.embed(b'{"input":"a"}', "id", credential) == body
    assert seen[0].startswith(b"POST /v1/embeddings HTTP/1.1\r\n")


async def test_nobody_is_offered_it_on_the_operators_key() -> None:
    async with own_servers() as provider:
        assert provider.platform is None


async def test_without_a_client_for_them_no_server_is_called() -> None:
    async with open_providers(Settings()) as providers:
        assert OWN_SERVER not in providers


# What never is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base_url",
    [
        None,
        "",
        "http://models.customer.example.org/v1",
        "ftp://models.customer.example.org/v1",
        "file:///etc/passwd",
        "//models.customer.example.org/v1",
        "https://user:password@models.customer.example.org/v1",
        "https://models.customer.example.org:8443/v1",
        "https://models.customer.example.org\\@127.0.0.1/v1",
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_odd_address_is_refused_without_asking_dns(
    base_url: str | None, stream: bool
) -> None:
    async def resolver(host: str, port: int) -> list[Address]:
        raise AssertionError(f"asked for {host}:{port}")

    async with own_servers(resolver=resolver) as provider:
        error = await refusal(provider, base_url, stream=stream)
    assert (error.status, error.code) == (400, "url_refused")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_redirects_are_not_followed(authority: Authority, status: str) -> None:
    seen: list[bytes] = []
    elsewhere = answering(b"{}", seen=seen)
    async with serve(elsewhere, authority.server_context("elsewhere.example.org")) as other:
        handler = answering(
            b"",
            status=status,
            headers=f"Location: https://elsewhere.example.org:{other}/v1/chat/completions\r\n",
        )
        async with (
            serve(handler, authority.server_context(NAME)) as port,
            own_servers(authority) as provider,
        ):
            error = await refusal(provider, f"https://{NAME}:{port}/v1")
    assert (error.status, error.code) == (502, "upstream_error")
    assert seen == []


async def test_a_known_providers_key_goes_to_that_provider_whatever_its_row_says() -> None:
    """Two providers, and a key of the one whose row names the other's address."""
    async with provider_double() as double:
        settings = Settings(providers=double.settings)
        client = SafeClient()
        async with open_providers(settings, client) as providers:
            credential = Credential(
                "own", SecretStr(double.new_key()), key_id="1", base_url=double.base_url("xai")
            )
            upstream = providers["openai"].upstream
            body = upstream.body(Template(parse(json.dumps(REQUEST).encode())), "m", 5)
            await upstream.complete(body, "id", credential)
        await client.aclose()
        assert [record.provider for record in double.records] == ["openai"]


async def test_a_certificate_of_another_name_is_not_shown_the_key(authority: Authority) -> None:
    seen: list[bytes] = []
    handler = answering(b"{}", seen=seen)
    async with (
        serve(handler, authority.server_context("other.example.org")) as port,
        own_servers(authority) as provider,
    ):
        error = await refusal(provider, f"https://{NAME}:{port}/v1")
    assert (error.status, error.code) == (503, "upstream_unavailable")
    assert seen == []


# What goes wrong there ----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        (("401 Unauthorized", {"message": f"bad key {KEY}"}), (401, "provider_key_rejected")),
        (("403 Forbidden", {"message": "no"}), (401, "provider_key_rejected")),
        (("402 Payment Required", {"message": "pay"}), (402, "provider_quota_exceeded")),
        (("429 Too Many Requests", {"message": "slow"}), (429, "provider_rate_limited")),
        (("400 Bad Request", {"message": f"no x, {KEY}"}), (400, "upstream_rejected")),
        (
            (
                "404 Not Found",
                {"message": "The model `llama` does not exist.", "type": "NotFoundError"},
            ),
            (403, "provider_access_denied"),
        ),
        (("500 Oops", {"message": KEY}), (502, "upstream_error")),
        (("503 Busy", {"message": KEY}), (502, "upstream_error")),
    ],
)
async def test_its_refusals_are_those_of_any_provider(
    authority: Authority,
    refused: tuple[str, dict[str, str]],
    expected: tuple[int, str],
    stream: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    status, said = refused
    handler = answering(json.dumps({"error": said}).encode(), status=status)
    async with (
        serve(handler, authority.server_context(NAME)) as port,
        own_servers(authority) as provider,
    ):
        error = await refusal(provider, f"https://{NAME}:{port}/v1", stream=stream)
    assert (error.status, error.code) == expected
    assert isinstance(error, OwnKeyError) == error.code.startswith("provider_")
    assert isinstance(error, UpstreamError) == (error.status == 502)
    assert error.__cause__ is not error
    assert KEY not in caplog.text
    # Nothing of it is the operator's to mend.
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_out_of_reach(authority: Authority) -> None:
    async with serve(answering(b""), None) as port:
        pass
    async with own_servers(authority) as provider:
        error = await refusal(provider, f"https://{NAME}:{port}/v1")
    assert (error.status, error.code) == (503, "upstream_unavailable")
    assert isinstance(error, UpstreamError)
    assert error.is_connection


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("begins", [False, True], ids=["before", "midway"])
async def test_silence_is_bounded(
    authority: Authority, stream: bool, begins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_providers, "OWN_SERVER_SILENCE_SECONDS", 0.3)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if begins:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nd\r\n")
            await writer.drain()
        await asyncio.sleep(30)

    async with (
        serve(handler, authority.server_context(NAME)) as port,
        own_servers(authority) as provider,
    ):
        error = await refusal(provider, f"https://{NAME}:{port}/v1", stream=stream)
    assert (error.status, error.code) == (504, "upstream_timeout")


async def test_too_much_is_cut_off(authority: Authority) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
        await writer.drain()

    async with (
        serve(endless, authority.server_context(NAME)) as port,
        own_servers(authority) as provider,
    ):
        error = await refusal(provider, f"https://{NAME}:{port}/v1")
    assert isinstance(error, AnswerCutOffError)


async def test_what_is_not_in_the_protocol(authority: Authority) -> None:
    async with (
        serve(answering(b"<html>"), authority.server_context(NAME)) as port,
        own_servers(authority) as provider,
    ):
        error = await refusal(provider, f"https://{NAME}:{port}/v1")
    assert (error.status, error.code) == (502, "upstream_error")


async def test_one_customers_server_closes_the_way_to_no_other() -> None:
    async with own_servers() as provider:
        for number in range(100):
            with provider.breaker.admit():
                provider.breaker.failed(
                    UpstreamError("upstream_unavailable", 503, "no", is_connection=True),
                    f"caller {number}",
                )
        assert provider.breaker.state == "closed"


# Known providers, beside --------------------------------------------------------------------------


async def test_connections_are_opened_when_they_are_used() -> None:
    double = Double(address="http://127.0.0.1:1")
    settings = Settings(providers=double.settings)
    async with open_providers(settings) as providers:
        transports = [provider.upstream._transport for provider in providers.values()]
        assert len(transports) > 5
        assert all(transport._session is None for transport in transports)  # type: ignore[attr-defined]


async def test_a_server_of_the_operators_may_ask_for_no_key_and_a_known_provider_never_does() -> (
    None
):
    settings = Settings(
        providers={
            "mine": {"url": "http://127.0.0.1:1/v1"},
            "openai": {"url": "http://127.0.0.1:1/v1"},
            "xai": {"url": "http://127.0.0.1:1/v1", "api_key": "sk-platform"},
        }
    )
    async with open_providers(settings) as providers:
        platform = {slug: provider.platform for slug, provider in providers.items()}
    assert platform["mine"] == Credential("platform", None)
    assert platform["openai"] is None
    assert platform["anthropic"] is None
    assert platform["xai"] == Credential("platform", SecretStr("sk-platform"))
    assert "sk-platform" not in repr(platform)
