"""What the outside may ask of a model server: a reverse proxy of a few paths, and nothing else.

The server behind it listens on loopback and answers more than this: it can be put to sleep, told
to load what a request names, or made to run a method on all workers. A path that is not listed
here is 404 and never reaches it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
import httpx
from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gpu.request_body import read_body

CHAT_PATHS: Mapping[str, str] = {
    "/v1/chat/completions": "POST",
    "/v1/models": "GET",
}
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 600.0  # an answer in one piece says nothing until it is whole
CLIENT_LEFT = 499  # as nginx says it; nobody reads it
MAX_BODY_BYTES = 16 * 1024 * 1024  # a request with an image
REQUEST_HEADERS = ("accept", "content-type", "x-request-id")
"""Passed on. Credentials were for Modal's proxy, and lengths are reckoned anew."""

ANSWER_HEADERS = ("content-type", "cache-control", "retry-after")


def front(
    url: str,
    is_healthy: Callable[[], bool],
    paths: Mapping[str, str] = CHAT_PATHS,
    on_lost: Callable[[], None] = lambda: None,
) -> Starlette:
    """The application: `paths` (with their method) of the server at `url`, and /health.

    /health asks `is_healthy`, which may block. `on_lost` is called when a request could not be
    sent and the server is not healthy either: nothing will get better here.
    """
    client = httpx.AsyncClient(
        base_url=url,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=None),  # Modal bounds the requests
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    def health(_: Request) -> Response:
        healthy = is_healthy()
        return JSONResponse({"is_warm": healthy}, status_code=200 if healthy else 503)

    async def forward(request: Request) -> Response:
        body = await read_body(request, MAX_BODY_BYTES)
        if body is None:
            return _error(413, "The request is too large.")
        # By the route's own path: what is not listed cannot be spelt, and no query goes along.
        sent = client.build_request(
            request.method,
            request.scope["route"].path,
            content=body,
            headers=_only(request.headers, REQUEST_HEADERS),
        )
        try:
            answer = await _while_connected(request, lambda: client.send(sent, stream=True))
        except httpx.TimeoutException:
            return _error(504, "The model server did not answer in time.")
        except httpx.HTTPError:
            if not await to_thread.run_sync(is_healthy):
                on_lost()
            return _error(503, "The model server cannot be reached.")
        return Response(status_code=CLIENT_LEFT) if answer is None else _Forwarded(answer)

    routes = [Route(path, forward, methods=[method]) for path, method in paths.items()]
    return Starlette(routes=[Route("/health", health), *routes], lifespan=lifespan)


class _Forwarded(StreamingResponse):
    """The server's answer. However it ends, its connection ends too: that stops the model."""

    def __init__(self, answer: httpx.Response) -> None:
        headers = _only(answer.headers, ANSWER_HEADERS)
        super().__init__(answer.aiter_raw(), status_code=answer.status_code, headers=headers)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._answer.aclose()


async def _while_connected(
    request: Request, work: Callable[[], Awaitable[httpx.Response]]
) -> httpx.Response | None:
    """What `work` gives; None when the client left before, which cancels it."""
    results: list[httpx.Response] = []

    async def watch(scope: anyio.CancelScope) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(watch, group.cancel_scope)
            results.append(await work())
            group.cancel_scope.cancel()
    except ExceptionGroup as wrapped:
        error = wrapped.exceptions[0]
        raise error from error.__cause__
    return results[0] if results else None


def _only(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


def _error(status: int, message: str) -> Response:
    """In OpenAI's shape."""
    return JSONResponse(
        {"error": {"message": message, "type": "server_error", "code": None}}, status_code=status
    )
