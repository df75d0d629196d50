"""A model server: any URL that speaks the OpenAI protocol, bounded in time and bytes.

What goes wrong there becomes one of our codes: upstream_unavailable, upstream_timeout,
upstream_rate_limited, upstream_error, upstream_rejected, context_length_exceeded. What goes on for
longer than we carry it is answer_cut_off, which a client can bring about and so pays for. Neither
its address nor its key is ever repeated.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import isnan
from typing import Any, Literal

import aiohttp
from yarl import URL

from functions.chat import wire
from functions.chat.candidates import Served
from functions.chat.credentials import Credential
from functions.chat.schemas import Completion
from functions.chat.sse import EventParser, EventTooLargeError
from functions.core.errors import InvalidRequestError, QuernelError
from functions.core.json import Json
from functions.core.logging import log_event
from functions.core.settings import ProviderSettings

MAX_ANSWER_BYTES = 32 * 1024 * 1024  # 8 choices of 8,192 tokens with logprobs are about 10 MB
LONG_BYTES = 256 * 1024  # a few milliseconds of parsing
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
        "credential",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "modalities",
        "model",
        "models",
        "prompt_cache_key",
        "route",
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


class UpstreamError(QuernelError):
    """The model server failed, or could not be asked; another may well do better.

    What it refuses because of the request is a plain QuernelError: that is no failure.
    """

    def __init__(
        self,
        code: str,
        status: int,
        message: str,
        facts: Mapping[str, Any] | None = None,
        *,
        is_connection: bool = False,
        may_repeat: bool = False,
        busy_seconds: float | None = None,
        was_asked: bool = True,
    ) -> None:
        """What the router and the breaker look at.

        `is_connection`: there was not one byte of an answer, which no request brings about;
        `may_repeat`: and the same may go well at once. `busy_seconds`: it said how long it does not
        want to be asked. `was_asked` is false where a breaker, or the settings, stood before it.
        """
        super().__init__(code, status, message, facts)
        self.is_connection = is_connection
        self.may_repeat = may_repeat
        self.busy_seconds = busy_seconds
        self.was_asked = was_asked


class OwnKeyError(QuernelError):
    """A provider refused the customer's own key, not the request: another key may well do better.

    It says nothing of the provider, so no breaker counts it.
    """

    def __init__(
        self,
        outcome: Literal["rejected", "quota_exceeded", "rate_limited"],
        retry_after: float | None = None,
    ) -> None:
        """`retry_after`: seconds that the provider asked to wait, where it did."""
        code, status, message = _OWN_KEY_REFUSALS[outcome]
        facts: dict[str, Any] = {"credential": "own"}
        if outcome != "rate_limited":
            facts["remedy"] = "replace_provider_key" if outcome == "rejected" else "pay_provider"
        elif retry_after is not None:
            facts["retry_after"] = retry_after
        super().__init__(code, status, message, facts)
        self.outcome = outcome


_OWN_KEY_REFUSALS = {
    "rejected": ("provider_key_rejected", 401, "The provider does not accept your own key."),
    "quota_exceeded": (
        "provider_quota_exceeded",
        402,
        "The provider says that your own key has no quota or credit left.",
    ),
    "rate_limited": (
        "provider_rate_limited",
        429,
        "The provider limits how often your own key may ask. Try again later.",
    ),
}


class AnswerCutOffError(QuernelError):
    """One of the limits above ended an answer; the model may have done nothing wrong.

    400, because clients repeat what failed with 5xx on their own, and this would end alike.
    """

    served: Served | None = None
    """Whose answer it was, where that is not known otherwise."""

    def __init__(self, limit: str) -> None:
        """`limit` says what was reached."""
        super().__init__(
            "answer_cut_off",
            400,
            f"The answer went on for more than {limit} and was cut off. Ask for less.",
        )


class Template:
    """A request's body without what differs between candidates; encoded once for all of them."""

    def __init__(self, request: Completion) -> None:
        """Raises QuernelError 400 when a number in the body cannot be written as JSON."""
        passed = {name: value for name, value in request.payload.items() if name not in _OURS}
        self._streams = request.streams
        try:
            self._start = wire.dumps(passed)[:-1]
        except ValueError as error:
            message = "The body holds a number that JSON cannot carry."
            raise InvalidRequestError("invalid_request", message) from error

    def fill(
        self,
        upstream_model: str,
        max_tokens: int | None,
        *,
        continuous_usage: bool = False,
        limit: str = "max_tokens",
    ) -> bytes:
        """The body to send.

        `continuous_usage` asks for figures with every chunk of a stream, not only with the last;
        `limit` is what the server calls its limit of an answer.
        """
        decided: dict[str, Json] = {"model": upstream_model}
        if max_tokens is not None:
            decided[limit] = max_tokens
        if self._streams:
            options = {"include_usage": True}
            if continuous_usage:
                options["continuous_usage_stats"] = True
            decided["stream_options"] = options
        return f"{self._start},{wire.dumps(decided)[1:]}".encode()


class Upstream:
    """One model server behind an HTTP client of its own."""

    def __init__(self, client: aiohttp.ClientSession, place: ProviderSettings) -> None:
        self._client = client
        self._chat = URL(f"{place.url}/chat/completions")
        self._embeddings = URL(f"{place.url}/embeddings")
        self._silence = place.timeout_seconds  # longest wait for the next bytes
        self._place = place

    def body(self, template: Template, upstream_model: str, max_tokens: int | None) -> bytes:
        """The body of a request, as this server wants it."""
        return template.fill(
            upstream_model,
            max_tokens,
            continuous_usage=self._place.continuous_usage,
            limit=self._place.limit_parameter,
        )

    async def complete(
        self, body: bytes, request_id: str, credential: Credential
    ) -> dict[str, Any]:
        """The answer in one piece. Raises QuernelError."""
        return await self._whole(self._chat, body, request_id, credential)

    async def embed(self, body: bytes, request_id: str, credential: Credential) -> dict[str, Any]:
        """Vectors. Raises QuernelError."""
        return await self._whole(self._embeddings, body, request_id, credential)

    @asynccontextmanager
    async def stream(
        self, body: bytes, request_id: str, credential: Credential
    ) -> AsyncIterator[AsyncIterator[list[dict[str, Any]]]]:
        """The chunks of a streamed answer, in lists as they arrive. Raises QuernelError.

        Leaving the context early closes the connection, which tells the model server to stop.
        """
        async with (
            self._open(self._chat, body, request_id, credential, "text/event-stream") as response,
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

    async def _whole(
        self, url: URL, body: bytes, request_id: str, credential: Credential
    ) -> dict[str, Any]:
        raw = bytearray()
        async with self._open(url, body, request_id, credential, "application/json") as response:
            async for data in self._read(response):
                raw += data
        if len(raw) > LONG_BYTES:
            # Not here: for as long as it takes, no stream of others would go on.
            return await asyncio.to_thread(_object, bytes(raw))
        return _object(bytes(raw))

    @asynccontextmanager
    async def _open(
        self, url: URL, body: bytes, request_id: str, credential: Credential, accept: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send the request; inside, the answer's headers have come and say 200."""
        headers = {"accept": accept, "x-request-id": request_id} | credential.headers
        response: aiohttp.ClientResponse | None = None
        # Runs on while the client takes its time, so it is no failure of the model server.
        exchange = asyncio.timeout(MAX_EXCHANGE_SECONDS)
        try:
            async with exchange:
                async with asyncio.timeout(self._silence):
                    response = await self._client.post(
                        url, data=body, headers=headers, allow_redirects=False
                    )
                if response.status != HTTPStatus.OK:
                    raise await self._refused(response, credential)
                yield response
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise UpstreamError(
                "upstream_unavailable",
                503,
                "The model server cannot be reached.",
                {"retry_after": 5},
                is_connection=True,
                may_repeat=isinstance(error, aiohttp.ClientConnectorError),
            ) from error
        except TimeoutError as error:  # of ours, or silence that the client noticed
            if exchange.expired():
                raise AnswerCutOffError(f"{MAX_EXCHANGE_SECONDS:.0f} seconds") from error
            raise UpstreamError(
                "upstream_timeout", 504, "The model server did not answer in time."
            ) from error
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

    async def _refused(
        self, response: aiohttp.ClientResponse, credential: Credential
    ) -> QuernelError:
        """Our error for an answer that is not 200."""
        status = response.status
        raw = bytearray()
        async for data in self._read(response):
            raw += data
            if len(raw) > MAX_ERROR_BYTES:
                break
        said = _message(bytes(raw))
        shown = _clean(said, credential)
        log_event(logger, logging.WARNING, "upstream refused", status=status, said=shown)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            header = response.headers.get("retry-after")
            seconds = _retry_after(header)
            return UpstreamError(
                "upstream_rate_limited",
                503,
                "The model server is busy. Try again later.",
                {"retry_after": seconds},
                busy_seconds=None if header is None else seconds,
            )
        if status in _TOO_SLOW:
            return UpstreamError(
                "upstream_timeout", 504, "The model server did not answer in time."
            )
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
            return QuernelError("upstream_rejected", 400, shown or "The model refused.")
        return broken("The model server failed.")


def _clean(text: str, credential: Credential) -> str:
    """What a model server said, without addresses, keys and control characters."""
    text = credential.strip_from(text)
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
        raise broken("The model server failed while it answered.")


def choices_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of an answer or a chunk. Raises UpstreamError 502 where there are none."""
    choices = body.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise malformed()
    return choices


def malformed() -> UpstreamError:
    """The error for an answer that is not in the protocol."""
    return broken("The model server sent something that is not in OpenAI's protocol.")


def broken(message: str, *, is_connection: bool = False, may_repeat: bool = False) -> UpstreamError:
    """The error for an answer that went wrong."""
    return UpstreamError(
        "upstream_error", 502, message, is_connection=is_connection, may_repeat=may_repeat
    )


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
