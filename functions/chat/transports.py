"""How a request reaches a model server, and what goes wrong on the way.

Known providers are called over aiohttp, on connections that are kept. A server of a customer's own
is called through SafeClient: vetted at every call, over a connection of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import aiohttp
from yarl import URL

from functions.chat.upstream_errors import AnswerCutOffError, UpstreamError, broken
from functions.core.errors import QuernelError
from functions.core.http import SafeClient
from functions.core.http_session import open_session
from functions.core.settings import ProviderSettings

MAX_ANSWER_BYTES = 32 * 1024 * 1024  # 8 choices of 8,192 tokens with logprobs are about 10 MB
MAX_EXCHANGE_SECONDS = 1800.0
MAX_WAITS = 12  # of 150 seconds: how long a card may take to wake
SEE_OTHER = 303  # Modal's, after 150 seconds: the same answer can be waited for on over there


@dataclass(frozen=True)
class Reply:
    """An answer whose headers have come. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]
    """The body, bounded in size and in silence; read to its end, the connection is kept."""


class Transport(Protocol):
    """One way to model servers."""

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[Reply]:
        """Send a request; inside, the answer's headers have come.

        Raises UpstreamError and AnswerCutOffError, also while the body is read. Leaving early
        closes the connection.
        """
        ...


class SessionTransport:
    """To one provider; connections are opened when the first request is made."""

    def __init__(self, place: ProviderSettings) -> None:
        self._place = place
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        response: aiohttp.ClientResponse | None = None
        # Runs on while the client takes its time, so it is no failure of the model server.
        exchange = asyncio.timeout(MAX_EXCHANGE_SECONDS)
        try:
            async with exchange:
                async with asyncio.timeout(self._place.timeout_seconds):
                    response = await self._client().post(
                        URL(url), data=body, headers=headers, allow_redirects=False
                    )
                for _ in range(MAX_WAITS):
                    there = _waiting_place(response)
                    if there is None:
                        break
                    response.close()
                    async with asyncio.timeout(self._place.timeout_seconds):
                        response = await self._client().get(
                            there, headers=headers, allow_redirects=False
                        )
                named = {name.lower(): value for name, value in response.headers.items()}
                yield Reply(response.status, named, _read(response))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise unreachable(may_repeat=isinstance(error, aiohttp.ClientConnectorError)) from error
        except TimeoutError as error:  # of ours, or silence that the client noticed
            if exchange.expired():
                raise AnswerCutOffError(f"{MAX_EXCHANGE_SECONDS:.0f} seconds") from error
            raise too_slow() from error
        except aiohttp.ClientError as error:
            # Also a connection that was kept and closed in the very moment of its next request.
            was_reset = response is None and isinstance(
                error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError
            )
            raise broken(
                "The connection to the model server broke.",
                is_connection=was_reset,
                may_repeat=was_reset,
            ) from error
        finally:
            if response is not None:
                # Closes the connection, unless the answer has been read to its end.
                response.close()

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session(
                headers={"Content-Type": "application/json"},
                max_connections=self._place.max_connections,
                connect_seconds=self._place.connect_timeout_seconds,
                silence_seconds=self._place.timeout_seconds,
            )
        return self._session


class SafeTransport:
    """To servers of customers' own."""

    def __init__(self, client: SafeClient, silence_seconds: float) -> None:
        """`silence_seconds` bounds the wait for the next bytes of an answer."""
        self._client = client
        self._silence = silence_seconds

    @asynccontextmanager
    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        opened = self._client.stream(
            url,
            method="POST",
            headers={**headers, "content-type": "application/json"},
            content=body,
            max_bytes=MAX_ANSWER_BYTES,
            timeout_seconds=MAX_EXCHANGE_SECONDS,
        )
        try:
            async with asyncio.timeout(self._silence) as silence:
                async with opened as response:
                    silence.reschedule(None)
                    yield Reply(response.status, response.headers, self._paced(response.chunks))
        except TimeoutError as error:
            raise too_slow() from error
        except QuernelError as error:
            _raise_in_chats_words(error)
            raise

    async def _paced(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self._silence):
                    data = await anext(chunks, None)
            except QuernelError as error:
                _raise_in_chats_words(error)
                raise
            if data is None:
                return
            yield data


def _waiting_place(response: aiohttp.ClientResponse) -> URL | None:
    """Where a 303 says that the answer will be: at the same server, or our key would leave."""
    location = response.headers.get("location")
    if response.status != SEE_OTHER or location is None:
        return None
    try:
        there = response.url.join(URL(location, encoded=True))
        return there if there.origin() == response.url.origin() else None
    except ValueError:
        return None


def unreachable(*, may_repeat: bool = False) -> UpstreamError:
    """The error where there was no connection."""
    return UpstreamError(
        "upstream_unavailable",
        503,
        "The model server cannot be reached.",
        {"retry_after": 5},
        is_connection=True,
        may_repeat=may_repeat,
    )


def too_slow() -> UpstreamError:
    """The error where it took too long."""
    return UpstreamError("upstream_timeout", 504, "The model server did not answer in time.")


def _raise_in_chats_words(error: QuernelError) -> None:
    """Raise an error of SafeClient's in the words of chat; a refused URL stays what it is."""
    if error.code == "url_unreachable":
        raise unreachable() from error
    if error.code == "url_timeout":
        raise too_slow() from error
    if error.code == "response_too_large":
        raise AnswerCutOffError(f"{MAX_ANSWER_BYTES} bytes") from error


async def _read(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body's bytes, all of them bounded in size.

    One HTTP chunk at a time, where it has chunks: so a broken event does not take along those that
    came before it.
    """
    received = 0
    while True:
        data, is_end_of_chunk = await response.content.readchunk()
        if not data:
            if is_end_of_chunk:
                continue
            return
        received += len(data)
        if received > MAX_ANSWER_BYTES:
            raise AnswerCutOffError(f"{MAX_ANSWER_BYTES} bytes")
        yield data
