"""The server of QUERNEL_LLM_URL, asked for Quernel itself: what an image shows, vectors of pages.

The operator pays, and waits. Chat has a way of its own there: fallbacks, breakers and codes that
clients read. Here all that matters is whether asking again later could help.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from functions.chat import wire
from functions.chat.transports import Reply, SessionTransport
from functions.chat.upstream_errors import AnswerCutOffError, UpstreamError
from functions.core import telemetry
from functions.core.logging import log_event, request_id_var
from functions.core.settings import OWN_PROVIDER, ProviderSettings, Settings
from functions.providers.refusals import retry_after

ASK_SECONDS = 100.0
"""One question, a card that wakes included; one that takes longer is asked again later."""

MAX_ANSWER_BYTES = 256 * 1024
"""Unless the caller expects more. A vector of 1,536 numbers is about 35 KB."""

_MAY_PASS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)

logger = logging.getLogger(__name__)


class NoAnswerError(Exception):
    """The model said nothing of use. `reason` is stored: it holds nothing that the server sent."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RefusedError(NoAnswerError):
    """It never will: there is no such model, or it does not take this."""


class UnreadableError(NoAnswerError):
    """It answered with something else. It may do better another time, and may not."""


class NotNowError(NoAnswerError):
    """It cannot be reached, wakes, or has no time: later it will. `seconds`: as it asked for."""

    def __init__(self, reason: str, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.seconds = seconds


class ModelServer:
    """One server."""

    def __init__(self, place: ProviderSettings, transport: SessionTransport, subject: str) -> None:
        """`subject` is what the questions are about, for its log, where no request asks them."""
        self._place = place
        self._transport = transport
        self._headers = {
            "accept": "application/json",
            "x-request-id": request_id_var.get() or subject,
        }
        if place.api_key is not None:
            self._headers["Authorization"] = f"Bearer {place.api_key.get_secret_value()}"

    async def ask(
        self, path: str, body: dict[str, Any], *, max_bytes: int | None = None
    ) -> dict[str, Any]:
        """The JSON object that it answers. Raises NoAnswerError."""
        url = f"{self._place.url}{path}"
        try:
            with telemetry.span(
                "upstream", OWN_PROVIDER, provider=OWN_PROVIDER, model=body.get("model")
            ):
                async with (
                    asyncio.timeout(ASK_SECONDS),
                    self._transport.post(url, wire.dumps(body).encode(), self._headers) as reply,
                ):
                    return await _read(reply, max_bytes or MAX_ANSWER_BYTES)
        except TimeoutError:
            raise NotNowError("upstream_timeout") from None
        except AnswerCutOffError:
            raise UnreadableError("unreadable") from None
        except UpstreamError as error:
            raise NotNowError(error.code) from None


@asynccontextmanager
async def open_model_server(settings: Settings, subject: str) -> AsyncIterator[ModelServer | None]:
    """It, with connections that are closed at the end; None where there is none."""
    place = settings.model_servers.get(OWN_PROVIDER)
    if place is None:
        yield None
        return
    transport = SessionTransport(place)
    try:
        yield ModelServer(place, transport, subject)
    finally:
        await transport.aclose()


async def _read(reply: Reply, max_bytes: int) -> dict[str, Any]:
    if reply.status != HTTPStatus.OK:
        raise _refusal(reply)
    raw = bytearray()
    async for data in reply.chunks:
        raw += data
        if len(raw) > max_bytes:
            raise UnreadableError("unreadable")
    try:
        answer = wire.loads(bytes(raw))
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise UnreadableError("unreadable")
    return answer


def _refusal(reply: Reply) -> NoAnswerError:
    status = reply.status
    is_final = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    log_event(logger, logging.WARNING, "no answer from the model server", status=status)
    if not is_final or status in _MAY_PASS:
        return NotNowError(f"status_{status}", retry_after(reply.headers.get("retry-after")))
    return RefusedError("not_served" if status == HTTPStatus.NOT_FOUND else f"status_{status}")
