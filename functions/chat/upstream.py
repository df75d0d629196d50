"""The model server: any URL that speaks the OpenAI chat protocol, bounded in time and bytes.

What goes wrong there becomes one of our codes: upstream_unavailable, upstream_timeout,
upstream_rate_limited, upstream_error, upstream_rejected, context_length_exceeded. What goes on for
longer than we carry it is answer_cut_off, which a client can bring about and so pays for. Neither
its address nor its key is ever repeated.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import isnan
from typing import Any

import aiohttp
from yarl import URL

from functions.chat import wire
from functions.chat.schemas import Completion
from functions.chat.sse import EventParser, EventTooLargeError
from functions.core.errors import InvalidRequestError, QuernelError, UnavailableError
from functions.core.logging import log_event
from functions.core.settings import Settings

MAX_ANSWER_BYTES = 32 * 1024 * 1024  # 8 choices of 8,192 tokens with logprobs are about 10 MB
MAX_EVENT_BYTES = 4 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_EXCHANGE_SECONDS = 1800.0
MAX_RETRY_AFTER_SECONDS = 3600
DRAIN_SECONDS = 0.2

logger = logging.getLogger(__name__)

# Ours to decide, or about the person who asks: never sent on as the client wrote them.
_OURS = frozenset(
    {
        "background",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "modalities",
        "model",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "user",
    }
)
_BAD = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
_TOO_SLOW = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT)
_CONTEXT = re.compile(
    r"context[ _](length|window)|maximum (context|prompt|input)|longer than the model",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_SECRET = re.compile(r"\b(?:sk|qk|sb|key|bearer)[-_ ][\w.-]{8,}", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


class AnswerCutOffError(QuernelError):
    """One of the limits above ended an answer; the model may have done nothing wrong.

    400, because clients repeat what failed with 5xx on their own, and this would end alike.
    """

    def __init__(self, limit: str) -> None:
        """`limit` says what was reached."""
        super().__init__(
            "answer_cut_off",
            400,
            f"The answer went on for more than {limit} and was cut off. Ask for less.",
        )


class Template:
    """A request's body without what the database decides: the upstream's model and the limit."""

    def __init__(self, request: Completion, *, continuous_usage: bool) -> None:
        """`continuous_usage` asks for figures with every chunk, not only with the last.

        Raises QuernelError 400 when a number in the body cannot be written as JSON.
        """
        passed = {name: value for name, value in request.payload.items() if name not in _OURS}
        if request.streams:
            passed["stream_options"] = {"include_usage": True}
            if continuous_usage:
                passed["stream_options"]["continuous_usage_stats"] = True
        try:
            self._start = wire.dumps(passed)[:-1]
        except ValueError as error:
            message = "The body holds a number that JSON cannot carry."
            raise InvalidRequestError("invalid_request", message) from error

    def fill(self, upstream_model: str, max_tokens: int) -> bytes:
        """The body to send."""
        decided = wire.dumps({"model": upstream_model, "max_tokens": max_tokens})
        return f"{self._start},{decided[1:]}".encode()


class Upstream:
    """One model server behind a shared HTTP client, which knows its address and its key."""

    def __init__(self, client: aiohttp.ClientSession | None, settings: Settings) -> None:
        """`client` is None where no model server is configured."""
        self._client = client
        self._url = URL(f"{settings.llm_url}/chat/completions")
        self._silence = settings.llm_timeout_seconds  # longest wait for the next bytes
        self._continuous_usage = settings.llm_continuous_usage
        self._key = settings.llm_api_key.get_secret_value() if settings.llm_api_key else None

    def template(self, request: Completion) -> Template:
        """The body of a request to this server. Raises QuernelError 400."""
        return Template(request, continuous_usage=self._continuous_usage)

    async def complete(self, body: bytes, request_id: str) -> dict[str, Any]:
        """The answer in one piece. Raises QuernelError."""
        raw = bytearray()
        async with self._open(body, request_id, "application/json") as response:
            async for data in self._read(response):
                raw += data
        return _object(bytes(raw))

    @asynccontextmanager
    async def stream(
        self, body: bytes, request_id: str
    ) -> AsyncIterator[AsyncIterator[list[dict[str, Any]]]]:
        """The chunks of a streamed answer, in lists as they arrive. Raises QuernelError.

        Leaving the context early closes the connection, which tells the model server to stop.
        """
        async with (
            self._open(body, request_id, "text/event-stream") as response,
            aclosing(self._chunks(response)) as chunks,
        ):
            yield chunks

    async def _chunks(
        self, response: aiohttp.ClientResponse
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        parser, reads = EventParser(MAX_EVENT_BYTES), self._read(response)
        try:
            async for data in reads:
                events = parser.feed(data)
                if b"[DONE]" in events:
                    yield [_object(event) for event in events[: events.index(b"[DONE]")]]
                    await _drain(reads)
                    return
                if events:
                    yield [_object(event) for event in events]
            yield [_object(event) for event in parser.close() if event != b"[DONE]"]
        except EventTooLargeError as error:
            raise AnswerCutOffError(f"{MAX_EVENT_BYTES} bytes in one chunk") from error

    @asynccontextmanager
    async def _open(
        self, body: bytes, request_id: str, accept: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send the request; inside, the answer's headers have come and say 200."""
        if self._client is None:
            raise UnavailableError(
                "upstream_not_configured", "No model server is configured.", retry_after=60
            )
        headers = {"accept": accept, "x-request-id": request_id}
        response: aiohttp.ClientResponse | None = None
        # Runs on while the client takes its time, so it is no failure of the model server.
        exchange = asyncio.timeout(MAX_EXCHANGE_SECONDS)
        try:
            async with exchange:
                async with asyncio.timeout(self._silence):
                    response = await self._client.post(
                        self._url, data=body, headers=headers, allow_redirects=False
                    )
                if response.status != HTTPStatus.OK:
                    raise await self._refused(response)
                yield response
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise UnavailableError(
                "upstream_unavailable", "The model server cannot be reached.", retry_after=5
            ) from error
        except TimeoutError as error:  # of ours, or silence that the client noticed
            if exchange.expired():
                raise AnswerCutOffError(f"{MAX_EXCHANGE_SECONDS:.0f} seconds") from error
            raise QuernelError(
                "upstream_timeout", 504, "The model server did not answer in time."
            ) from error
        except aiohttp.ClientError as error:
            raise _broken("The connection to the model server broke.") from error
        finally:
            if response is not None:
                # Closes the connection, unless the answer has been read to its end.
                response.close()

    async def _read(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """The body's bytes, all of them bounded in size.

        One HTTP chunk at a time, where it has chunks: so a broken event does not take along those
        that came before it.
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

    async def _refused(self, response: aiohttp.ClientResponse) -> QuernelError:
        """Our error for an answer that is not 200."""
        status = response.status
        raw = bytearray()
        async for data in self._read(response):
            raw += data
            if len(raw) > MAX_ERROR_BYTES:
                break
        said = _message(bytes(raw))
        log_event(
            logger, logging.WARNING, "upstream refused", status=status, said=self._clean(said)
        )
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return QuernelError(
                "upstream_rate_limited",
                503,
                "The model server is busy. Try again later.",
                {"retry_after": _retry_after(response.headers.get("retry-after"))},
            )
        if status in _TOO_SLOW:
            return QuernelError("upstream_timeout", 504, "The model server did not answer in time.")
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or (
            status in _BAD and _CONTEXT.search(said)
        ):
            return QuernelError(
                "context_length_exceeded",
                400,
                "The messages and the answer's limit do not fit the model's context window.",
                {"param": "messages"},
            )
        if status in _BAD:
            return QuernelError("upstream_rejected", 400, self._clean(said) or "The model refused.")
        return _broken("The model server failed.")

    def _clean(self, text: str) -> str:
        """What a model server said, without addresses, keys and control characters."""
        if self._key:
            text = text.replace(self._key, "[key]")
        text = _SECRET.sub("[key]", _ADDRESS.sub("[address]", _CONTROL.sub(" ", text)))
        return text.strip()[:300]


async def _drain(reads: AsyncIterator[bytes]) -> None:
    """Read to the end of a stream that said it is done: only then its connection is reused."""
    with suppress(TimeoutError, aiohttp.ClientError, QuernelError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in reads:
                pass


def refuse_error_chunk(chunk: dict[str, Any]) -> None:
    """Raise QuernelError 502 when a chunk, or an answer with status 200, is an error object."""
    if chunk.get("error"):
        log_event(logger, logging.WARNING, "upstream failed inside its answer")
        raise _broken("The model server failed while it answered.")


def malformed() -> QuernelError:
    """The error for an answer that is not in the protocol."""
    return _broken("The model server sent something that is not a chat completion.")


def _broken(message: str) -> QuernelError:
    return QuernelError("upstream_error", 502, message)


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = wire.loads(text)
    except ValueError as error:
        raise malformed() from error
    if not isinstance(value, dict):
        raise malformed()
    return value


def _message(raw: bytes) -> str:
    """The message in an error's body, in OpenAI's shape or vLLM's; empty if there is none."""
    try:
        body = wire.loads(raw)
    except ValueError:
        return ""
    error = body.get("error", body) if isinstance(body, dict) else body
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else ""


def _retry_after(header: str | None) -> int:
    """Seconds, from a number or an HTTP date; 1 where there is neither."""
    seconds = 1.0
    try:
        seconds = float(header or 1)
    except ValueError:
        try:
            date = parsedate_to_datetime(header or "")
            seconds = (date.astimezone(UTC) - datetime.now(UTC)).total_seconds()
        except ValueError:
            pass
    return 1 if isnan(seconds) else int(min(max(seconds, 1), MAX_RETRY_AFTER_SECONDS))
