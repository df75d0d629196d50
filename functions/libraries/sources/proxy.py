"""A proxy for programs that connect by themselves: it opens what SafeClient would, and counts.

A program is told of it by its own settings. It knows no other way out that is vetted, so what it
is led to, by a redirect say, is vetted too.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpcore

from functions.core.errors import QuernelError
from functions.core.http import SafeClient

HEAD_MAX_BYTES = 8 * 1024
HEAD_SECONDS = 10.0
_PIECE = 64 * 1024
_HOST = "127.0.0.1"
_USER = "quernel"


class VettingProxy:
    """A proxy for CONNECT on loopback, for who knows its password."""

    def __init__(self, http: SafeClient, max_bytes: int) -> None:
        """`max_bytes`: that all connections together may bring; then they end."""
        self._http = http
        self._left = max_bytes
        self._password = secrets.token_urlsafe(16)
        self._port = 0
        self.is_over = False
        """Whether more was sent than may be."""

        self.refused: str | None = None
        """Why an address was not called, in words."""

    @property
    def url(self) -> str:
        return f"http://{_USER}:{self._password}@{_HOST}:{self._port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[VettingProxy]:
        """Serves until the block ends, and ends its connections then."""
        tasks: set[asyncio.Task[None]] = set()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._serve(reader, writer))
            tasks.add(task)
            try:
                await task
            except (OSError, EOFError, TimeoutError, ValueError, httpcore.NetworkError):
                pass
            finally:
                tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(handle, _HOST, 0, limit=HEAD_MAX_BYTES)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HEAD_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        method, _, rest = first.partition(" ")
        if not self._is_known(headers.get("proxy-authorization", "")):
            writer.write(
                b"HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic realm=proxy\r\n"
                b"Content-Length: 0\r\nConnection: close\r\n\r\n"
            )
            await writer.drain()
            return
        if method != "CONNECT":
            self.refused = "only https is allowed"
            await _say(writer, b"405 Only CONNECT")
            return
        try:
            stream = await self._http.connect(rest.partition(" ")[0])
        except QuernelError as error:
            if error.status < 500:
                self.refused = error.message
            await _say(writer, b"403 Refused" if error.status < 500 else b"502 Unreachable")
            return
        try:
            await _say(writer, b"200 Connected")
            await self._relay(reader, writer, stream)
        finally:
            await stream.aclose()

    def _is_known(self, given: str) -> bool:
        wanted = base64.b64encode(f"{_USER}:{self._password}".encode()).decode()
        return hmac.compare_digest(given.encode(), f"Basic {wanted}".encode())

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        stream: httpcore.AsyncNetworkStream,
    ) -> None:
        async def out() -> None:
            while data := await reader.read(_PIECE):
                await stream.write(data)

        async def back() -> None:
            while data := await stream.read(_PIECE):
                self._left -= len(data)
                if self._left < 0:
                    self.is_over = True
                    return
                writer.write(data)
                await writer.drain()

        # Whichever side ends, the other has nothing more to wait for.
        both = [asyncio.ensure_future(out()), asyncio.ensure_future(back())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            for one in both:
                with suppress(asyncio.CancelledError, OSError, httpcore.NetworkError):
                    await one


async def _say(writer: asyncio.StreamWriter, status: bytes) -> None:
    writer.write(b"HTTP/1.1 " + status + b"\r\n\r\n")
    await writer.drain()
