"""Use cases of chat: complete, stream, quote, list models; in which order hold, call, settle."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from functions.chat import answers
from functions.chat.answers import Answer, StreamedAnswer, WholeAnswer
from functions.chat.candidates import Served
from functions.chat.counting import Usage
from functions.chat.idempotency import StoredAnswer, fingerprint, not_stored
from functions.chat.metering import Background, ClientGoneError, Meter, Replay
from functions.chat.routing import Route, Router, able
from functions.chat.schemas import Completion
from functions.chat.streaming import Sink
from functions.chat.templates import Template
from functions.chat.upstream_errors import AnswerCutOffError
from functions.core.auth import Principal
from functions.core.database import Database
from functions.core.errors import NotFoundError

REPLAYED = "idempotent-replayed"


@dataclass(frozen=True)
class Ask:
    """A checked request, who makes it and who pays."""

    completion: Completion
    caller: Principal
    request_id: str
    since: float  # monotonic time of arrival, seconds
    organization: str | None = None  # id or slug; None: the caller pays
    idempotency_key: str | None = None
    ip: str | None = None
    user_agent: str | None = None

    @property
    def answer_id(self) -> str:
        return f"chatcmpl-{self.request_id}"

    def route(self, meter: Meter) -> Route:
        """Its way to an answer, once the hold says who may give it."""
        return Route(
            meter.candidates,
            self.request_id,
            caller=meter.account_id,
            needs_vision=self.completion.has_images,
            options=self.completion.payload,
            key_uses=meter.key_uses,
        )


class ChatService:
    """Chat for one process."""

    def __init__(self, database: Database, router: Router) -> None:
        self._database = database
        self.router = router
        self.background = Background()

    async def complete(self, ask: Ask) -> tuple[str, dict[str, str]]:
        """Answer in one piece: its body and headers. Raises QuernelError; then nothing was charged.

        But for AnswerCutOffError: then the prompt was. Cancelled before the model has answered, it
        costs nothing either.
        """
        template = Template(ask.completion)
        meter = await self.hold(ask)
        if isinstance(meter, Replay):
            stored = StoredAnswer.unpack(meter.answer)
            return answers.replay_text(stored, meter.receipt), {REPLAYED: "true"}
        async with meter:
            try:
                served, body = await self.router.complete(ask.route(meter), template)
            except AnswerCutOffError as error:
                if error.served is not None:
                    model = error.served.candidate
                    answer = WholeAnswer(ask.completion, model, ask.answer_id)
                    _charge_so_far(ask, meter, answer, error.served)
                raise
            answer = WholeAnswer(ask.completion, served.candidate, ask.answer_id)
            answer.take(body)
            usage = answer.usage(ended=True)
            text = answer.unpaid(usage)
            _charge(ask, meter, answer, usage, served)
            headers = meter.headers | served.headers
            return answers.with_receipt(text, await meter.closed()), headers

    async def stream(self, ask: Ask, sink: Sink) -> None:
        """Answer in chunks. Raises QuernelError; then nothing was charged.

        Cancelled, when the client takes no more, or cut off (AnswerCutOffError), it charges what
        the model has produced so far.
        """
        template = Template(ask.completion)
        meter = await self.hold(ask)
        if isinstance(meter, Replay):
            await _replay(meter, sink)
            return
        async with meter:
            answer: StreamedAnswer | None = None
            by: Served | None = None
            try:
                route = ask.route(meter)
                async with self.router.stream(route, template) as (served, batches):
                    by = served
                    sink.headers |= meter.headers | served.headers
                    answer = StreamedAnswer(
                        ask.completion,
                        served.candidate,
                        ask.answer_id,
                        is_kept=ask.idempotency_key is not None,
                    )
                    async for chunks in batches:
                        events = answer.take(chunks)
                        if events:
                            meter.mark_first_token()
                            await sink.write(events)
                    answer.end()
            except (asyncio.CancelledError, ClientGoneError, AnswerCutOffError):
                if answer is not None and by is not None and answer.tally.produced:
                    _charge_so_far(ask, meter, answer, by)
                raise
            usage = answer.usage(ended=True)
            last = answer.unpaid(usage)
            _charge(ask, meter, answer, usage, by)
            await sink.write(answer.rest(answers.with_receipt(last, await meter.closed())))

    async def quote(self, ask: Ask) -> dict[str, Any]:
        """What the request would cost at most, and whether the payer affords it.

        Raises QuernelError where a completion would refuse the request for what it is.
        """
        quote: dict[str, Any] = await self._database.rpc(
            "chat_quote",
            **ask.caller.arguments,
            p_model=ask.completion.model,
            p_fallbacks=list(ask.completion.fallbacks),
            p_prompt_tokens=ask.completion.size.bound,
            p_prompt_estimate=ask.completion.size.estimate,
            p_max_tokens=ask.completion.max_tokens,
            p_choices=ask.completion.choices,
            p_organization=ask.organization,
            p_credential=ask.completion.credential,
        )
        capabilities = [candidate["capabilities"] for candidate in quote.pop("candidates")]
        able(capabilities, ask.completion.has_images, ask.completion.payload)
        return quote

    async def models(
        self, caller: Principal, organization: str | None = None
    ) -> list[dict[str, Any]]:
        """The models a caller may chat with, in OpenAI's shape and with prices."""
        models = await self._database.rpc(
            "chat_models", **caller.arguments, p_organization=organization
        )
        return [{"object": "model"} | model for model in models]

    async def model(
        self, caller: Principal, model_id: str, organization: str | None = None
    ) -> dict[str, Any]:
        """One of them. Raises NotFoundError."""
        for model in await self.models(caller, organization):
            if model["id"] == model_id:
                return model
        raise NotFoundError("model_not_found", "There is no such model.", {"param": "model"})

    async def hold(self, ask: Ask) -> Meter | Replay:
        """Hold the worst case, or find the stored answer of the same key. Raises QuernelError."""
        completion = ask.completion
        keyed: dict[str, Any] = {}
        if ask.idempotency_key is not None:
            keyed["p_idempotency_key"] = ask.idempotency_key
            keyed["p_fingerprint"] = fingerprint(completion.payload)
        return await Meter.start(
            self._database,
            self.background,
            ask.since,
            **ask.caller.arguments,
            p_request_id=ask.request_id,
            p_model=completion.model,
            p_fallbacks=list(completion.fallbacks),
            p_prompt_tokens=completion.size.bound,
            p_prompt_estimate=completion.size.estimate,
            p_max_tokens=completion.max_tokens,
            p_choices=completion.choices,
            p_organization=ask.organization,
            p_stream=completion.streams,
            p_credential=completion.credential,
            p_ip=ask.ip,
            p_user_agent=ask.user_agent,
            **keyed,
        )


def _charge(ask: Ask, meter: Meter, answer: Answer, usage: Usage, served: Served) -> None:
    kept = answer.stored(usage) if ask.idempotency_key else None
    meter.finish(usage, "completed", kept, served)


def _charge_so_far(ask: Ask, meter: Meter, answer: Answer, served: Served) -> None:
    kept = not_stored("cancelled") if ask.idempotency_key else None
    meter.finish(answer.usage(ended=False), "cancelled", kept, served)


async def _replay(replay: Replay, sink: Sink) -> None:
    stored = StoredAnswer.unpack(replay.answer)
    sink.headers[REPLAYED] = "true"
    for event in answers.replay_events(stored, replay.receipt):
        await sink.write(event)
