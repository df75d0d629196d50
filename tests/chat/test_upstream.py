"""The upstream's words: what of them reaches the client, and what never does."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from functions.chat import transports
from functions.chat.providers import open_providers, platform_credential
from functions.chat.schemas import parse
from functions.chat.templates import Template
from functions.chat.upstream import Upstream
from functions.core.errors import QuernelError
from functions.core.settings import ProviderSettings, Settings
from tests.chat.conftest import body
from tests.support.http_server import serve

pytestmark = pytest.mark.anyio

KEY = "sk-platform-0123456789abcdef"
URL = "https://gpu.internal.example/v1"
CREDENTIAL = platform_credential(ProviderSettings(url=URL, api_key=KEY))


@asynccontextmanager
async def upstream_at(url: str, **changes: Any) -> AsyncIterator[Upstream]:
    settings = Settings(llm_url=f"{url}/v1", llm_api_key=KEY, **changes)
    async with open_providers(settings) as providers:
        yield providers["quernel"].upstream


async def ask(upstream: Upstream, *, stream: bool) -> list[Any]:
    if not stream:
        return [await upstream.complete(b"{}", "id", CREDENTIAL)]
    async with upstream.stream(b"{}", "id", CREDENTIAL) as batches:
        return [chunk async for batch in batches for chunk in batch]


async def answer(
    status: int, content: bytes | dict[str, Any], *, stream: bool = False, **headers: str
) -> list[Any]:
    """What our side makes of one upstream answer."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()

    async def handler(_: web.BaseRequest) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=raw, headers=named)

    async with serve(handler) as url, upstream_at(url) as upstream:
        return await ask(upstream, stream=stream)


async def refused(
    status: int, content: bytes | dict[str, Any] = b"", *, stream: bool = False, **headers: str
) -> QuernelError:
    with pytest.raises(QuernelError) as caught:
        await answer(status, content, stream=stream, **headers)
    return caught.value


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("temperature must be below 2", "temperature must be below 2"),
        (f"bad key {KEY}", "bad key [key]"),
        ("see https://gpu.internal.example/v1/x?y=1 now", "see [address] now"),
        ("Bearer abcdefghijkl is wrong", "[key] is wrong"),
        ("two\nlines\x1b[31m", "two lines [31m"),
        ("x" * 1000, "x" * 300),
        ("", "The model refused."),
    ],
)
@pytest.mark.parametrize("shape", ["openai", "vllm", "text"])
async def test_a_refusal_is_passed_on_without_secrets(said: str, shown: str, shape: str) -> None:
    shapes = {
        "openai": {"error": {"message": said, "type": "invalid_request_error"}},
        "vllm": {"object": "error", "message": said, "code": 400},
        "text": {"error": said},
    }
    error = await refused(400, shapes[shape])
    assert (error.status, error.code, error.message) == (400, "upstream_rejected", shown)


@pytest.mark.parametrize("status", [301, 404, 418, 500, 502, 529])
async def test_our_own_trouble_is_not_explained_to_the_client(status: int) -> None:
    error = await refused(status, {"error": {"message": f"{KEY} at {URL}"}})
    assert (error.status, error.code) == (502, "upstream_error")
    assert error.message == "The model server failed."


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_key_of_the_operators_that_does_not_work_is_theirs_to_hear_of(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="functions")
    error = await refused(status, {"error": {"message": f"{KEY} at {URL}"}})
    assert (error.status, error.code) == (503, "upstream_not_configured")
    assert KEY not in error.message
    [told] = [one for one in caplog.records if one.levelname == "ERROR"]
    assert told.getMessage() == "platform key refused"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 1),
        ("5", 5),
        ("0", 1),
        ("-3", 1),
        ("2.5", 2),
        ("nan", 1),
        ("inf", 3600),
        ("soon", 1),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1),
        ("Wed, 21 Oct 2215 07:28:00 GMT", 3600),
    ],
)
async def test_retry_after_is_seconds_within_reason(header: str | None, seconds: int) -> None:
    headers = {} if header is None else {"retry_after": header}
    error = await refused(429, **headers)
    assert (error.status, error.code) == (503, "upstream_rate_limited")
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 32768 tokens. However, you requested 40000.",
        "Input is longer than the model's context length",
        "The prompt is too long for the context window",
    ],
)
async def test_a_prompt_that_does_not_fit_has_its_own_code(said: str) -> None:
    error = await refused(400, {"error": {"message": said}})
    assert (error.status, error.code) == (400, "context_length_exceeded")


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"NaN", b"<html>", b"\xff"])
async def test_an_answer_that_is_not_an_object_is_an_error(text: bytes) -> None:
    assert (await refused(200, text)).code == "upstream_error"


async def test_a_stream_ends_at_done() -> None:
    stream = b'data: {"a":1}\n\n: ping\n\ndata: {"a":2}\n\ndata: [DONE]\n\ndata: {"a":3}\n\n'
    assert await answer(200, stream, stream=True) == [{"a": 1}, {"a": 2}]


async def test_a_stream_may_end_without_done() -> None:
    assert await answer(200, b'data: {"a":1}', stream=True) == [{"a": 1}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("piece", [b"x" * 100_000, b": ping\n\n" * 10_000])
async def test_a_body_without_end_is_cut_off(
    piece: bytes, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "MAX_ANSWER_BYTES", 3_000_000)
    left = asyncio.Event()

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(piece)
        except OSError:
            left.set()
            raise

    async with serve(endless) as url, upstream_at(url) as upstream:
        with pytest.raises(QuernelError) as caught:
            await ask(upstream, stream=stream)
        assert (caught.value.status, caught.value.code) == (400, "answer_cut_off")
        # The connection is closed, not kept for reading the rest.
        await asyncio.wait_for(left.wait(), 5)


# What goes wrong on the wire ----------------------------------------------------------------------

Wire = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@asynccontextmanager
async def wired(wire: Wire) -> AsyncIterator[str]:
    """A server that speaks by hand; each request's head and body are read first."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            await reader.readexactly(length)
            await wire(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"


def says(text: bytes, then: float = 0) -> Wire:
    async def wire(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await writer.drain()
        await asyncio.sleep(then)

    return wire


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (says(b""), "upstream_error"),
        (says(b"SSH-2.0-hello\r\n\r\n"), "upstream_error"),
        (says(HEAD + b"Content-Length: 100\r\n\r\n{"), "upstream_error"),
        (says(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), "upstream_error"),
        (says(HEAD + b"X: " + b"y" * 200_000 + b"\r\n\r\n"), "upstream_error"),
        (says(b"", then=30), "upstream_timeout"),
        (says(HEAD + b"Content-Length: 100\r\n\r\n", then=30), "upstream_timeout"),
        (says(HEAD + b"Content-Length: 100\r\n\r\ndata: ", then=30), "upstream_timeout"),
    ],
)
async def test_a_connection_that_breaks_or_stalls(wire: Wire, code: str, stream: bool) -> None:
    async with wired(wire) as url, upstream_at(url, llm_timeout_seconds=0.5) as upstream:
        with pytest.raises(QuernelError) as caught:
            await ask(upstream, stream=stream)
    assert caught.value.code == code


async def test_nobody_listens() -> None:
    async with wired(says(b"")) as url:
        pass
    async with upstream_at(url) as upstream:
        with pytest.raises(QuernelError) as caught:
            await ask(upstream, stream=False)
    assert (caught.value.status, caught.value.code) == (503, "upstream_unavailable")


async def test_an_exchange_is_bounded_however_lively(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "MAX_EXCHANGE_SECONDS", 0.5)

    async def dripping(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\n")
        while True:
            writer.write(b": ping\n\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with wired(dripping) as url, upstream_at(url) as upstream:
        with pytest.raises(QuernelError) as caught:
            await ask(upstream, stream=True)
    assert caught.value.code == "answer_cut_off"


async def test_the_connection_is_closed_at_once_when_the_asker_is_cancelled() -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        asked.set()
        assert await reader.read() == b""
        closed.set()

    async with wired(silent) as url, upstream_at(url) as upstream:
        asking = asyncio.create_task(ask(upstream, stream=False))
        await asyncio.wait_for(asked.wait(), 5)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(closed.wait(), 1)


async def test_a_stream_that_is_left_closes_its_connection_and_one_that_ended_is_used_again() -> (
    None
):
    peers: list[object] = []
    left = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        peers.append(request.transport.get_extra_info("peername"))
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'data: {"a":1}\n\n')
        if len(peers) == 3:
            await left.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    async with serve(handler) as url, upstream_at(url) as upstream:
        await ask(upstream, stream=True)
        await ask(upstream, stream=True)
        async with upstream.stream(b"{}", "id", CREDENTIAL) as batches:
            await anext(batches)
        await ask(upstream, stream=True)
        left.set()
    assert peers[0] == peers[1] == peers[2] != peers[3]


async def test_neither_redirects_cookies_nor_compression() -> None:
    seen: list[web.BaseRequest] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.append(request)
        headers = {"set-cookie": "a=b", "location": "/elsewhere"}
        return web.Response(status=307 if len(seen) == 1 else 200, body=b"{}", headers=headers)

    async with serve(handler) as url, upstream_at(url) as upstream:
        with pytest.raises(QuernelError, match="failed"):
            await ask(upstream, stream=False)
        await ask(upstream, stream=False)
    assert [request.path for request in seen] == ["/v1/chat/completions"] * 2
    headers = seen[1].headers
    assert "cookie" not in headers
    assert headers["accept-encoding"] == "identity"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"] == "id"


def sent(
    *, continuous_usage: bool = True, limit: str = "max_tokens", **options: Any
) -> dict[str, Any]:
    template = Template(parse(json.dumps(body("hi", **options)).encode()))
    value: dict[str, Any] = json.loads(
        template.fill("upstream/name", 77, continuous_usage=continuous_usage, limit=limit)
    )
    return value


def test_the_body_sent_has_one_limit_and_the_upstreams_model() -> None:
    value = sent(
        max_completion_tokens=500,
        max_tokens=600,
        user="me",
        safety_identifier="me",
        models=["another"],
        route="fallback",
    )
    assert value == {
        "messages": [{"role": "user", "content": "hi"}],
        "model": "upstream/name",
        "max_tokens": 77,
    }


def test_the_limit_has_the_name_that_the_provider_knows() -> None:
    value = sent(max_tokens=600, limit="max_completion_tokens")
    assert value["max_completion_tokens"] == 77
    assert "max_tokens" not in value


@pytest.mark.parametrize("continuous_usage", [True, False])
def test_a_stream_always_asks_for_usage(continuous_usage: bool) -> None:
    options = {"include_usage": False, "continuous_usage_stats": not continuous_usage, "x": 1}
    value = sent(continuous_usage=continuous_usage, stream=True, stream_options=options)
    asked = {"continuous_usage_stats": True} if continuous_usage else {}
    assert value["stream_options"] == {"include_usage": True} | asked


def test_an_answer_in_one_piece_sends_no_options_of_a_stream() -> None:
    assert "stream_options" not in sent()
