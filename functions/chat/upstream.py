"""A model server: asked in its dialect over its transport, its answers in OpenAI's shape.

What goes wrong there becomes one of our codes: upstream_unavailable, upstream_timeout,
upstream_rate_limited, upstream_error, upstream_not_configured, upstream_rejected, content_refused,
context_length_exceeded; with the customer's own key provider_key_rejected, provider_quota_exceeded,
provider_rate_limited and provider_access_denied. What goes on for longer than we carry it is
answer_cut_off, which a client can bring about and so pays for. Neither its address nor its key is
ever repeated.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

from pydantic import SecretStr

from functions.chat import wire
from functions.chat.credentials import Credential
from functions.chat.dialects.base import Dialect
from functions.chat.sse import EventParser, EventTooLargeError
from functions.chat.templates import Template
from functions.chat.transports import Reply, Transport, too_slow
from functions.chat.upstream_errors import (
    AnswerCutOffError,
    OwnKeyError,
    OwnKeyOutcome,
    UpstreamError,
    broken,
    malformed,
)
from functions.core.errors import QuernelError
from functions.core.logging import log_event
from functions.providers.refusals import DEFAULT_RETRY_AFTER_SECONDS, Meaning, Refusal, understand

LONG_BYTES = 256 * 1024  # a few milliseconds of parsing
MAX_EVENT_BYTES = 4 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
DRAIN_SECONDS = 0.2

logger = logging.getLogger(__name__)

_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_SECRET = re.compile(r"\b(?:sk|qk|sb|key|bearer)[-_ ][\w.-]{8,}", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_OWN_KEY_OUTCOMES: dict[Meaning, OwnKeyOutcome] = {
    Meaning.KEY: "rejected",
    Meaning.QUOTA: "quota_exceeded",
    Meaning.RATE: "rate_limited",
    Meaning.ACCESS: "failed",
}
# Code, status, our words where the provider's would not help, and whether it is known what it is
# about.
_REQUEST_REFUSALS: dict[Meaning, tuple[str, int, str, bool]] = {
    Meaning.SAFETY: ("content_refused", 400, "", True),
    Meaning.OPTION: ("upstream_rejected", 400, "", False),
    Meaning.CONTEXT: (
        "context_length_exceeded",
        400,
        "The messages and the answer's limit do not fit the model's context window.",
        True,
    ),
}


def bearer(secret: SecretStr) -> dict[str, str]:
    """How most servers are shown a key."""
    return {"Authorization": f"Bearer {secret.get_secret_value()}"}


class Upstream:
    """One model server; or all servers of customers' own, each where its credential says."""

    def __init__(
        self,
        transport: Transport,
        base_url: str,
        dialect: Dialect,
        *,
        embeddings_path: str = "/embeddings",
        auth: Callable[[SecretStr], dict[str, str]] = bearer,
    ) -> None:
        """`auth` gives the headers that show a key."""
        self._transport = transport
        self._base_url = base_url
        self._dialect = dialect
        self._embeddings_path = embeddings_path
        self._auth = auth

    def body(self, template: Template, upstream_model: str, max_tokens: int | None) -> bytes:
        """The body of a request, as this server wants it. Raises InvalidRequestError."""
        return self._dialect.body(template, upstream_model, max_tokens)

    async def complete(
        self, body: bytes, request_id: str, credential: Credential
    ) -> dict[str, Any]:
        """The answer in one piece. Raises QuernelError."""
        answer = await self._whole(self._dialect.chat_path, body, request_id, credential)
        self._refuse(answer, credential)
        return self._dialect.answer(answer)

    async def embed(self, body: bytes, request_id: str, credential: Credential) -> dict[str, Any]:
        """Vectors. Raises QuernelError."""
        return await self._whole(self._embeddings_path, body, request_id, credential)

    @asynccontextmanager
    async def stream(
        self, body: bytes, request_id: str, credential: Credential
    ) -> AsyncIterator[AsyncIterator[list[dict[str, Any]]]]:
        """The chunks of a streamed answer, in lists as they arrive. Raises QuernelError.

        Leaving the context early closes the connection, which tells the model server to stop.
        """
        path = self._dialect.chat_path
        async with (
            self._open(path, body, request_id, credential, "text/event-stream") as reply,
            aclosing(self._chunks(reply, credential)) as chunks,
        ):
            yield chunks

    async def _chunks(
        self, reply: Reply, credential: Credential
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        parser, reader = EventParser(MAX_EVENT_BYTES), self._dialect.reader()
        is_silent = True  # until then a refusal can still be told as what it is
        try:
            async for data in reply.chunks:
                events = parser.feed(data)
                is_done = b"[DONE]" in events
                if is_done:
                    events = events[: events.index(b"[DONE]")]
                chunks = []
                for event in map(_object, events):
                    if is_silent:
                        self._refuse(event, credential)
                    taken = reader.take(event)
                    is_silent = is_silent and not any(map(_speaks, taken))
                    chunks += taken
                if chunks:
                    yield chunks
                if is_done or reader.is_over:
                    await _drain(reply.chunks)
                    return
            rest = [event for event in parser.close() if event != b"[DONE]"]
            yield [chunk for event in rest for chunk in reader.take(_object(event))]
        except EventTooLargeError as error:
            raise AnswerCutOffError(f"{MAX_EVENT_BYTES} bytes in one chunk") from error

    async def _whole(
        self, path: str, body: bytes, request_id: str, credential: Credential
    ) -> dict[str, Any]:
        raw = bytearray()
        async with self._open(path, body, request_id, credential, "application/json") as reply:
            async for data in reply.chunks:
                raw += data
        if len(raw) > LONG_BYTES:
            # Not here: for as long as it takes, no stream of others would go on.
            return await asyncio.to_thread(_object, bytes(raw))
        return _object(bytes(raw))

    def _refuse(self, answer: dict[str, Any], credential: Credential) -> None:
        """Raise our error for a refusal that came with status 200."""
        status = self._dialect.status_inside(answer)
        if status is not None:
            raise _understood(status, answer, {}, credential)

    @asynccontextmanager
    async def _open(
        self, path: str, body: bytes, request_id: str, credential: Credential, accept: str
    ) -> AsyncIterator[Reply]:
        """Send the request; inside, the answer's headers have come and say 200."""
        headers = {"accept": accept, "x-request-id": request_id}
        if credential.secret is not None:
            headers |= self._auth(credential.secret)
        # A known provider's key never goes anywhere else, whatever its row says.
        url = (self._base_url or credential.base_url or "").rstrip("/") + path
        async with self._transport.post(url, body, headers) as reply:
            if reply.status != HTTPStatus.OK:
                raise await _refused(reply, credential)
            yield reply


async def _refused(reply: Reply, credential: Credential) -> QuernelError:
    """Our error for an answer that is not 200."""
    raw = bytearray()
    async for data in reply.chunks:
        raw += data
        if len(raw) > MAX_ERROR_BYTES:
            break
    try:
        body = wire.loads(bytes(raw))
    except ValueError:
        body = None
    return _understood(reply.status, body, reply.headers, credential)


def _understood(
    status: int, body: object, headers: Mapping[str, str], credential: Credential
) -> QuernelError:
    refusal = understand(status, body, headers)
    shown = clean(refusal.message, credential)
    log_event(
        logger,
        logging.WARNING,
        "upstream refused",
        status=status,
        meaning=refusal.meaning.value,
        credential=credential.kind,
        said=shown,
    )
    return refusal_error(refusal, shown, credential)


def refusal_error(
    refusal: Refusal, shown: str, credential: Credential, param: str = "messages"
) -> QuernelError:
    """Our error for a refusal; `shown` is what was said, cleaned, `param` what it is about."""
    meaning = refusal.meaning
    outcome = _OWN_KEY_OUTCOMES.get(meaning) if credential.is_own else None
    if outcome is not None:
        return OwnKeyError(outcome, refusal.retry_after)
    if meaning is Meaning.RATE:
        seconds = int(refusal.retry_after or DEFAULT_RETRY_AFTER_SECONDS)
        return UpstreamError(
            "upstream_rate_limited",
            503,
            "The model server is busy. Try again later.",
            {"retry_after": seconds},
            busy_seconds=None if refusal.retry_after is None else seconds,
        )
    if meaning in (Meaning.KEY, Meaning.QUOTA, Meaning.ACCESS):
        # Nothing that a client could mend: the operator's key is wrong, nobody has paid, or the
        # catalog has a model that the provider does not.
        log_event(logger, logging.ERROR, "platform key refused", meaning=meaning.value)
        return UpstreamError(
            "upstream_not_configured",
            503,
            "The model server does not let us in.",
            {"retry_after": 60},
        )
    if meaning is Meaning.SLOW:
        return too_slow()
    if meaning not in _REQUEST_REFUSALS:
        return broken("The model server failed.")
    code, status, message, names_it = _REQUEST_REFUSALS[meaning]
    facts = {"param": param} if names_it else {}
    return QuernelError(code, status, message or shown or "The model refused.", facts)


def clean(text: str, credential: Credential) -> str:
    """What a model server said, without addresses, keys and control characters."""
    text = credential.strip_from(text)
    text = _SECRET.sub("[key]", _ADDRESS.sub("[address]", _CONTROL.sub(" ", text)))
    return text.strip()[:300]


def _speaks(chunk: dict[str, Any]) -> bool:
    """Whether the model has said something in it."""
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if isinstance(delta, dict) and any(delta[name] for name in delta if name != "role"):
            return True
    return False


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read to the end of a stream that said it is done: only then its connection is reused."""
    with suppress(Exception):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in chunks:
                pass


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = wire.loads(text)
    except ValueError as error:
        raise malformed() from error
    if not isinstance(value, dict):
        raise malformed()
    return value
