"""A model whose card still wakes: the client hears of it, and nobody gives up too early."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from functions.chat import streaming
from functions.chat.streaming import WARMING, EventResponse, Sink
from functions.chat.transports import MAX_WAITS
from functions.core.errors import QuernelError
from tests.chat.test_upstream import CREDENTIAL, ask, upstream_at
from tests.support.http_server import serve

pytestmark = pytest.mark.anyio

COMPLETION = {"choices": [{"message": {"content": "Hello."}}]}
Produce = Callable[[Sink], Awaitable[None]]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "WARMING_AFTER_SECONDS", 0.02)
    monkeypatch.setattr(streaming, "WARMING_SECONDS", 0.02)


class Client:
    """The other end of an EventResponse; leaves when told to."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.leaves = asyncio.Event()
        self.heard = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def take(self, produce: Produce) -> None:
        scope = {"type": "http", "path": "/v1/chat/completions", "state": {}}
        await EventResponse(produce)(scope, self.receive, self.send)

    async def receive(self) -> dict[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await asyncio.sleep(0)
        self.sent.append(message)
        if message.get("body"):
            self.heard.set()


async def test_a_model_that_speaks_in_time_is_not_said_to_warm() -> None:
    client = Client()

    async def produce(sink: Sink) -> None:
        await sink.write("data: 1\n\n")

    await client.take(produce)
    assert client.body == b"data: 1\n\n"


@pytest.mark.usefixtures("soon")
async def test_until_the_model_speaks_comments_come_and_then_no_more() -> None:
    client = Client()

    async def produce(sink: Sink) -> None:
        await asyncio.sleep(0.2)
        for _ in range(3):
            await sink.write("data: 1\n\n")
            await asyncio.sleep(0.05)

    await client.take(produce)
    comments = client.body.count(WARMING)
    assert comments >= 2
    assert client.body == WARMING * comments + b"data: 1\n\n" * 3
    assert [message["type"] for message in client.sent].count("http.response.start") == 1
    assert client.sent[0]["status"] == 200


async def test_an_error_before_the_first_comment_keeps_its_status() -> None:
    client = Client()

    async def produce(_: Sink) -> None:
        raise QuernelError("upstream_timeout", 504, "Too slow.")

    with pytest.raises(QuernelError):
        await client.take(produce)
    assert client.sent == []


@pytest.mark.usefixtures("soon")
async def test_an_error_after_it_is_the_event_that_ends_the_stream() -> None:
    client = Client()

    async def produce(_: Sink) -> None:
        await asyncio.sleep(0.1)
        raise QuernelError("upstream_timeout", 504, "Too slow.")

    await client.take(produce)
    assert client.body.startswith(WARMING)
    assert client.body.rpartition(WARMING)[2].startswith(b'data: {"error"')
    assert client.sent[-1]["more_body"] is False


@pytest.mark.usefixtures("soon")
async def test_a_client_that_leaves_while_the_model_warms_hears_nothing_more() -> None:
    client = Client()
    stopped = asyncio.Event()

    async def produce(_: Sink) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    taking = asyncio.create_task(client.take(produce))
    await asyncio.wait_for(client.heard.wait(), 10)
    client.leaves.set()
    await taking
    heard = len(client.sent)
    await asyncio.sleep(0.1)
    assert stopped.is_set()
    assert len(client.sent) == heard


# Modal's 303 ------------------------------------------------------------------------------------


async def ask_by(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
) -> dict[str, Any]:
    async with serve(handler) as url, upstream_at(url) as upstream:
        return await upstream.complete(b"{}", "id", CREDENTIAL)


async def test_a_303_is_waited_for_at_the_same_server() -> None:
    seen: list[tuple[str, str, str | None]] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.append((request.method, request.path_qs, request.headers.get("authorization")))
        if len(seen) < 3:
            return web.Response(status=303, headers={"location": f"/wait?call={len(seen)}"})
        return web.json_response(COMPLETION)

    assert (await ask_by(handler))["choices"]
    methods, paths, shown = zip(*seen, strict=True)
    assert methods == ("POST", "GET", "GET")
    assert paths[1:] == ("/wait?call=1", "/wait?call=2")
    assert len(set(shown)) == 1


@pytest.mark.parametrize(
    "location", ["https://elsewhere.example/", "//elsewhere.example/", "http://[", None]
)
async def test_our_key_follows_no_303_elsewhere(location: str | None) -> None:
    asked: list[str] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        return web.Response(status=303, headers={"location": location} if location else {})

    with pytest.raises(QuernelError) as caught:
        await ask_by(handler)
    assert caught.value.code == "upstream_error"
    assert len(asked) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_other_redirects_are_not_followed(status: int) -> None:
    asked: list[str] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        return web.Response(status=status, headers={"location": "/there"})

    with pytest.raises(QuernelError):
        await ask_by(handler)
    assert len(asked) == 1


async def test_waiting_ends() -> None:
    asked: list[str] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        return web.Response(status=303, headers={"location": "/wait"})

    with pytest.raises(QuernelError):
        await ask_by(handler)
    assert len(asked) == MAX_WAITS + 1


async def test_a_refusal_inside_a_stream_that_waited_keeps_its_meaning() -> None:
    """As gpu/gateway.py sends it: comments, then the error as an event."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(WARMING * 3)
        text = "This model's maximum context length is 10 tokens. However, you requested 20 tokens."
        error = {"message": text, "type": "invalid_request_error", "code": 400}
        await answer.write(f"data: {json.dumps({'error': error})}\n\n".encode())
        return answer

    async with serve(handler) as url, upstream_at(url) as upstream:
        with pytest.raises(QuernelError) as caught:
            await ask(upstream, stream=True)
    assert caught.value.code == "context_length_exceeded"
