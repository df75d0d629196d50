"""One address for all models: finds out which model is asked and hands the request to its card.

A card that sleeps takes a minute or more to wake, and says nothing until then. So a stream that has
no answer after FIRST_BYTES_SECONDS begins without one: comments (`: warming`) that clients skip
come until the model speaks. Modal ends a request after 150 seconds with a 303 to where the same
answer can be waited for on; that is followed here, for as long as it takes to wake a card.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio
import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gpu.front import ANSWER_HEADERS, MAX_BODY_BYTES, REQUEST_HEADERS
from gpu.request_body import read_body

PATHS = {
    "chat": "/v1/chat/completions",
    "embedding": "/v1/embeddings",
    "vision": "/v1/chat/completions",
}
"""The path that each kind of model answers."""

FIRST_BYTES_SECONDS = 2.0
WARMING_SECONDS = 5.0  # between comments
MAX_WAKE_SECONDS = 1800.0  # a first start fetches the weights
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 600.0
MAX_REDIRECTS = 12  # of 150 seconds each
WARMING = b": warming\n\n"
STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


@dataclass(frozen=True)
class Place:
    """Where one model is served."""

    url: str
    """Base URL, without a path."""

    path: str
    """The one path that it answers."""


class Unreachable(Exception):  # noqa: N818 - an answer, not a defect
    """The model's server gave no answer. Carries what the client is told."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(message)


def gateway(places: Mapping[str, Place], token: str, headers: Mapping[str, str]) -> Starlette:
    """The application.

    `places` by each name of a model; callers show `token` as a bearer; `headers` open the places.
    """
    if not token:
        raise ValueError("The gateway needs a token.")
    client = httpx.AsyncClient(
        headers=dict(headers),
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=None),  # Modal bounds the requests
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    async def ask(request: Request) -> Response:
        shown = request.headers.get("authorization", "").encode()
        if not secrets.compare_digest(shown, f"Bearer {token}".encode()):
            return _error(401, "The token is missing or wrong.")
        body = await read_body(request, MAX_BODY_BYTES)
        if body is None:
            return _error(413, "The request is too large.")
        try:
            asked = json.loads(body)
            name, streams = asked["model"], asked.get("stream") is True
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return _error(400, "The body must be a JSON object that names a model.")
        place = places.get(name) if isinstance(name, str) else None
        if place is None or place.path != request.scope["route"].path:
            return _error(404, "There is no such model here.")
        named = {key: request.headers[key] for key in REQUEST_HEADERS if key in request.headers}
        return _Relay(client, place, body, named, streams=streams)

    async def health(_: Request) -> Response:
        return JSONResponse({"models": sorted(places)})

    asked = [Route(path, ask, methods=["POST"]) for path in {one.path for one in places.values()}]
    return Starlette(routes=[Route("/health", health), *asked], lifespan=lifespan)


class _Relay(Response):
    """The answer of a place. Whoever leaves closes the way to it, which stops the model."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        place: Place,
        content: bytes,
        named: Mapping[str, str],
        *,
        streams: bool,
    ) -> None:
        super().__init__()
        self._client = client
        self._place = place
        self._content = content
        self._named = dict(named)
        self._streams = streams
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        async def watch(group: anyio.CancelScope) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(watch, group.cancel_scope)
            await self._relay(send)
            group.cancel_scope.cancel()

    async def _relay(self, send: Send) -> None:
        found: httpx.Response | Unreachable
        async with anyio.create_task_group() as warming:
            if self._streams:
                warming.start_soon(self._say_that_it_warms, send)
            try:
                found = await self._answer()
            except Unreachable as error:
                found = error
            warming.cancel_scope.cancel()
        if isinstance(found, Unreachable):
            await self._tell(send, found)
            return
        try:
            await self._pass_on(found, send)
        except Unreachable as error:
            await self._tell(send, error)
        finally:
            with anyio.CancelScope(shield=True):
                await found.aclose()

    async def _say_that_it_warms(self, send: Send) -> None:
        await anyio.sleep(FIRST_BYTES_SECONDS)
        # What was begun is also finished: half a frame would break the stream.
        with anyio.CancelScope(shield=True):
            await self._begin(send, 200, STREAM_HEADERS)
        while True:
            with anyio.CancelScope(shield=True):
                await send({"type": "http.response.body", "body": WARMING, "more_body": True})
            await anyio.sleep(WARMING_SECONDS)

    async def _answer(self) -> httpx.Response:
        """The place's answer, once its headers have come. Raises Unreachable."""
        request = self._client.build_request(
            "POST", self._place.url + self._place.path, content=self._content, headers=self._named
        )
        with anyio.move_on_after(MAX_WAKE_SECONDS):
            for _ in range(MAX_REDIRECTS):
                try:
                    answer = await self._client.send(request, stream=True)
                except httpx.TimeoutException as error:
                    raise Unreachable(504, "The model did not answer in time.") from error
                except httpx.HTTPError as error:
                    raise Unreachable(503, "The model cannot be reached.") from error
                if answer.status_code != httpx.codes.SEE_OTHER:
                    return answer
                await answer.aclose()
                request = self._client.build_request("GET", self._next(answer))
        raise Unreachable(504, "The model did not answer in time.")

    def _next(self, answer: httpx.Response) -> str:
        """Where Modal says that the answer will be: at the same place, or our keys leave."""
        there = str(answer.url.join(answer.headers.get("location", "")))
        if urlsplit(there)[:2] != urlsplit(self._place.url)[:2]:
            raise Unreachable(502, "The model's server points elsewhere.")
        return there

    async def _pass_on(self, answer: httpx.Response, send: Send) -> None:
        if self._begun and answer.status_code != httpx.codes.OK:
            raise Unreachable(answer.status_code, await _said(answer))
        headers = {name: answer.headers[name] for name in ANSWER_HEADERS if name in answer.headers}
        await self._begin(send, answer.status_code, headers)
        try:
            async for data in answer.aiter_raw():
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except httpx.HTTPError:
            return  # without an end: whoever reads sees that it was cut off
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, send: Send, status: int, headers: Mapping[str, str]) -> None:
        if self._begun:
            return
        self._begun = True
        raw = [(name.encode(), text.encode()) for name, text in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})

    async def _tell(self, send: Send, error: Unreachable) -> None:
        """The error as an answer, or as the event that ends a stream."""
        body = json.dumps(_body(error.message, error.status)).encode()
        event = b"data: " + body + b"\n\n" if self._begun else body
        await self._begin(send, error.status, {"content-type": "application/json"})
        await send({"type": "http.response.body", "body": event, "more_body": False})


async def _said(answer: httpx.Response) -> str:
    """The message of a refusal, or something in its place."""
    raw = bytearray()
    async for data in answer.aiter_bytes():
        raw += data
        if len(raw) > MAX_BODY_BYTES:
            break
    try:
        message = json.loads(bytes(raw))["error"]["message"]
    except (ValueError, LookupError, TypeError):
        message = None
    return message if isinstance(message, str) else "The model refused."


def _body(message: str, status: int) -> dict[str, object]:
    """An error in OpenAI's shape, as vLLM sends it inside a stream: `code` is the status."""
    kind = "invalid_request_error" if status < httpx.codes.INTERNAL_SERVER_ERROR else "server_error"
    return {"error": {"message": message, "type": kind, "code": status}}


def _error(status: int, message: str) -> Response:
    return JSONResponse(_body(message, status), status_code=status)
