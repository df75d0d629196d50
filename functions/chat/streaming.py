"""Server-sent events to a client that may leave at any time, and how that is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from functions.chat.answers import frame
from functions.chat.metering import ClientGoneError
from functions.core.errors import QuernelError, body
from functions.core.json import dumps

WARMING_AFTER_SECONDS = 20.0  # a warm model has spoken by then; proxies cut off at 60 and more
WARMING_SECONDS = 15.0  # between comments
WARMING = b": warming\n\n"  # a comment: clients of server-sent events skip it
SEND_SECONDS = 30.0  # a client that takes nothing for so long has left
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",  # nginx would collect the chunks otherwise
}

T = TypeVar("T")


async def while_connected(receive: Receive, work: Callable[[], Awaitable[T]]) -> T:
    """Run `work`, and cancel it when the client disconnects. Raises ClientGoneError then.

    The request's body must have been read: the next message can only be the disconnect.
    """
    results: list[T] = []

    async def watch(scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
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
    if not results:
        raise ClientGoneError
    return results[0]


class Sink:
    """Where events go. The answer's headers are sent with the first of them."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_started = False
        self.headers = dict(HEADERS)
        self._warming: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()  # a comment is sent whole before anything else

    @asynccontextmanager
    async def warming(self) -> AsyncIterator[None]:
        """Inside, comments are sent until the first events: the model's card may still wake.

        The first of them sends the headers, so what goes wrong later is an error event.
        """
        self._warming = asyncio.create_task(self._say_that_it_warms())
        try:
            yield
        finally:
            if self._warming is not None:
                self._warming.cancel()
                self._warming = None

    async def _say_that_it_warms(self) -> None:
        await asyncio.sleep(WARMING_AFTER_SECONDS)
        # A client that has left, or takes nothing, is noticed where events are sent.
        with suppress(OSError):
            while True:
                async with self._writing:
                    await self._write(WARMING)
                await asyncio.sleep(WARMING_SECONDS)

    async def _fall_silent(self) -> None:
        async with self._writing:
            if self._warming is not None:
                self._warming.cancel()
                self._warming = None

    async def write(self, events: str) -> None:
        """Send events. Raises ClientGoneError when nobody takes them."""
        # asyncio's, because anyio's took a fifth of the time that a frame costs.
        try:
            async with asyncio.timeout(SEND_SECONDS):
                if self._warming is not None:
                    await self._fall_silent()
                await self._write(events.encode())
        except TimeoutError as error:
            raise ClientGoneError from error

    async def _write(self, data: bytes) -> None:
        if not self.has_started:
            headers = [(name.encode(), text.encode()) for name, text in self.headers.items()]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            self.has_started = True
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """Nothing follows."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class EventResponse(Response):
    """A response whose events are written by `produce`, cancelled when the client leaves.

    An error before the first event becomes an ordinary error answer, one after it an error event.
    """

    media_type = "text/event-stream"

    def __init__(self, produce: Callable[[Sink], Awaitable[None]]) -> None:
        super().__init__()
        self._produce = produce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sink = Sink(send)

        async def work() -> None:
            async with sink.warming():
                await self._produce(sink)
            await sink.end()

        try:
            await while_connected(receive, work)
        except ClientGoneError:
            pass  # the request's log line says so
        except QuernelError as error:
            if not sink.has_started:
                raise
            scope["state"]["error_code"] = error.code  # for the request's log line
            await sink.write(frame(dumps(body(error, scope["path"])).decode()))
            await sink.end()
