"""Texts to vectors: one hold before the model is called, one settlement after.

There are no fallbacks: another model's vectors would lie elsewhere.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from functions.chat import answers, wire
from functions.chat.candidates import Candidate
from functions.chat.counting import Usage, possible_count
from functions.chat.embedding_schemas import Embedding
from functions.chat.metering import Background, Meter, repeat_start
from functions.chat.routing import Leg, Route, Router
from functions.chat.transports import MAX_ANSWER_BYTES
from functions.chat.upstream import LONG_BYTES
from functions.chat.upstream_errors import AnswerCutOffError, malformed, refuse_error_chunk
from functions.core.auth import Principal
from functions.core.database import Database
from functions.core.errors import InvalidRequestError, QuernelError
from functions.core.json import Json

FLOAT_BYTES = 24  # of one number as JSON, at most: -1.2345678901234567e-05 and a comma
BASE64_BYTES = 6  # of one number of four bytes, rounded up


@dataclass(frozen=True)
class EmbeddingAsk:
    """A checked request, who makes it and who pays."""

    embedding: Embedding
    caller: Principal
    request_id: str
    since: float  # monotonic time of arrival, seconds
    organization: str | None = None  # id or slug; None: the caller pays
    ip: str | None = None
    user_agent: str | None = None


class EmbeddingMeter(Meter):
    """Opened by embedding_start, closed as a completion's is."""

    @staticmethod
    async def _begin(database: Database, arguments: dict[str, Json]) -> dict[str, Any]:
        return await repeat_start("embedding_start", database, arguments)


class EmbeddingService:
    """Embeddings for one process."""

    def __init__(self, database: Database, router: Router, background: Background) -> None:
        self._database = database
        self._router = router
        self._background = background

    async def embed(self, ask: EmbeddingAsk) -> tuple[str, dict[str, str]]:
        """The vectors: body and headers. Raises QuernelError; then nothing was charged.

        But for AnswerCutOffError: then the texts were.
        """
        meter = await self._hold(ask)
        async with meter:
            [model] = meter.candidates
            _require_dimensions(ask.embedding, model)
            try:
                served, body = await self._router.ask(
                    _route(ask, meter), lambda leg: _call(ask, leg)
                )
            except AnswerCutOffError as error:
                if error.served is not None:
                    meter.finish(_usage(ask.embedding, None), "cancelled", None, error.served)
                raise
            usage = _usage(ask.embedding, body.pop("usage", None))
            text = await _encode(body | {"model": model.id}, usage)
            meter.finish(usage, "completed", None, served)
            headers = meter.headers | served.headers
            return answers.with_receipt(text, await meter.closed()), headers

    async def _hold(self, ask: EmbeddingAsk) -> EmbeddingMeter:
        meter = await EmbeddingMeter.start(
            self._database,
            self._background,
            ask.since,
            **ask.caller.arguments,
            p_request_id=ask.request_id,
            p_model=ask.embedding.model,
            p_prompt_tokens=ask.embedding.size.bound,
            p_prompt_estimate=ask.embedding.size.estimate,
            p_inputs=ask.embedding.inputs,
            p_organization=ask.organization,
            p_credential=ask.embedding.credential,
            p_ip=ask.ip,
            p_user_agent=ask.user_agent,
        )
        assert isinstance(meter, EmbeddingMeter)  # noqa: S101 - nothing is replayed without a key
        return meter


def _route(ask: EmbeddingAsk, meter: EmbeddingMeter) -> Route:
    return Route(meter.candidates, ask.request_id, caller=meter.account_id, key_uses=meter.key_uses)


async def _call(ask: EmbeddingAsk, leg: Leg) -> dict[str, Any]:
    body = await leg.provider.upstream.embed(
        ask.embedding.body(leg.candidate.upstream_model), ask.request_id, leg.credential
    )
    refuse_error_chunk(body)
    data = body.get("data")
    if not isinstance(data, list) or len(data) != ask.embedding.inputs:
        raise malformed()
    for vector in data:
        if not isinstance(vector, dict) or not isinstance(vector.get("embedding"), list | str):
            raise malformed()
    return body


def _require_dimensions(embedding: Embedding, model: Candidate) -> None:
    """Raises InvalidRequestError for vectors that the model does not make, or too many of them."""
    own = possible_count(model.capabilities.get("dimensions"), at_least=1)
    least = possible_count(model.capabilities.get("min_dimensions"), at_least=1)
    asked = embedding.dimensions
    if asked is not None and asked != own:
        if least is None or own is None:
            raise InvalidRequestError(
                "unsupported_parameter",
                "This model's vectors have one length.",
                {"param": "dimensions"} | ({} if own is None else {"dimensions": own}),
            )
        if not least <= asked <= own:
            raise InvalidRequestError(
                "invalid_argument",
                "The model makes no vectors of this length.",
                {"param": "dimensions", "minimum": least, "maximum": own},
            )
    size = (asked or own or 0) * (BASE64_BYTES if embedding.is_base64 else FLOAT_BYTES)
    if size * embedding.inputs > MAX_ANSWER_BYTES:
        raise QuernelError(
            "body_too_large",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "The vectors would be too many for one answer. Send fewer texts at once, or ask for "
            "base64.",
            {"param": "input", "max_inputs": MAX_ANSWER_BYTES // size},
        )


def _usage(embedding: Embedding, reported: object) -> Usage:
    """What to charge: the upstream's figure where it is possible, else our count."""
    told = reported.get("prompt_tokens") if isinstance(reported, dict) else None
    tokens = possible_count(told, at_least=1)
    if tokens is None:
        return Usage(embedding.size.estimate, 0, 0, "counted")
    return Usage(min(tokens, embedding.size.bound), 0, 0, "upstream")


async def _encode(body: dict[str, Any], usage: Usage) -> wire.Unpaid:
    """The body to send, encoded before anybody pays for it."""
    shown = {"prompt_tokens": usage.prompt, "total_tokens": usage.prompt}
    numbers = sum(len(vector["embedding"]) for vector in body["data"])
    if numbers * FLOAT_BYTES > LONG_BYTES:
        return await asyncio.to_thread(wire.Unpaid.encode, body, shown)
    return wire.Unpaid.encode(body, shown)
