"""Answers in the making: each runs on its own, whether its client stays or not.

A client subscribes to its answer. When it leaves, the answer is gone on with for a bounded time,
then broken off; either way what there is is charged once and kept. So it is, unlike a completion
under /v1, there when the client comes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from decimal import Decimal
from time import time
from typing import Any

from functions.chat import answers, wire
from functions.chat.answers import DONE, StreamedAnswer, frame
from functions.chat.candidates import Served
from functions.chat.metering import Background, Replay
from functions.chat.routing import Route, Router
from functions.chat.schemas import Completion
from functions.chat.templates import Template
from functions.chat.upstream_errors import AnswerCutOffError
from functions.conversations.channel import Channel
from functions.conversations.metering import MessageMeter
from functions.conversations.questions import Questions
from functions.core.database import Database
from functions.core.errors import QuernelError, body, internal_error
from functions.core.json import Json, dumps
from functions.core.logging import log_event

CLOSE_SECONDS = 5.0  # that a stopping server gives answers to end by themselves

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MessageAsk:
    """A checked message, who sends it and where."""

    arguments: dict[str, Json]  # of message_start
    path: str
    request_id: str
    since: float  # monotonic time of arrival, seconds


class Job:
    """One answer that is being made."""

    def __init__(self, meter: MessageMeter, ask: MessageAsk) -> None:
        self.meter = meter
        self.ask = ask
        self.channel = Channel()
        self.task: asyncio.Task[None] | None = None
        self.answer: dict[str, Any] | None = None  # once it is there
        self.error: QuernelError | None = None  # if it failed

    def leave(self, seconds: float) -> None:
        """Nobody waits for it any more: it has so many seconds left."""
        self.channel.abandon()
        if self.task is not None and not self.task.done():
            timer = asyncio.get_running_loop().call_later(seconds, self.task.cancel)
            self.task.add_done_callback(lambda _: timer.cancel())


class Answering:
    """The answers that this process is making."""

    def __init__(
        self, database: Database, router: Router, questions: Questions, abandoned_seconds: float
    ) -> None:
        """`abandoned_seconds` is how long an answer is gone on with when its reader has left."""
        self._database = database
        self._questions = questions
        self._router = router
        self._abandoned_seconds = abandoned_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self.background = Background()

    async def start(self, ask: MessageAsk) -> Job | Replay:
        """Store the message, hold, and begin the answer. Raises QuernelError; then nothing was.

        Cancelled, it begins all the same, as if the client had left right after.
        """
        starting = self.background.spawn(self._begin(ask))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._leave_when_started)
            raise

    async def events(self, job: Job) -> AsyncGenerator[str, None]:
        """The events of an answer, to its end. Left early (close it), the answer goes on."""
        try:
            async for events in job.channel.read():
                yield events
        finally:
            job.leave(self._abandoned_seconds)

    async def result(self, job: Job) -> dict[str, Any]:
        """The answer in one piece. Raises QuernelError with the ids of its messages."""
        async with aclosing(self.events(job)) as events:
            async for _ in events:
                pass
        if job.answer is None:
            error = job.error or internal_error()
            raise QuernelError(error.code, error.status, error.message, error.facts | _ids(job))
        return job.answer

    async def aclose(self) -> None:
        """Let answers end, break off those that do not, and wait until all are charged and kept."""
        self._abandoned_seconds = 0.0  # for one that is just beginning
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
        await self.background.drain()

    async def _begin(self, ask: MessageAsk) -> Job | Replay:
        meter = await MessageMeter.start(
            self._database,
            self.background,
            ask.since,
            begin=self._questions.begin,
            **ask.arguments,
        )
        if isinstance(meter, Replay):
            return meter
        job = Job(meter, ask)
        job.task = self.background.spawn(self._run(job))
        self._tasks.add(job.task)
        job.task.add_done_callback(self._tasks.discard)
        return job

    def _leave_when_started(self, starting: asyncio.Task[Job | Replay]) -> None:
        if not starting.cancelled() and starting.exception() is None:
            job = starting.result()
            if isinstance(job, Job):
                job.leave(self._abandoned_seconds)

    async def _run(self, job: Job) -> None:
        """Make the answer, and tell the reader what became of it."""
        try:
            begun = job.meter.ids | {"citations": job.meter.citations}
            job.channel.write(_event("started", begun))
            await self._produce(job)
        except QuernelError as error:
            self._tell(job, _without_prompt(error))
        except Exception:
            logger.exception("unhandled exception")
            self._tell(job, internal_error())
        finally:
            job.channel.close()

    async def _produce(self, job: Job) -> None:
        meter, ask = job.meter, job.ask
        async with meter:
            completion = _completion(meter)
            route = Route(
                meter.candidates,
                ask.request_id,
                caller=meter.account_id,
                needs_vision=completion.has_images,
                options=completion.payload,
                key_uses=meter.key_uses,
            )
            answer: StreamedAnswer | None = None
            by: Served | None = None
            said = Said()
            try:
                async with self._router.stream(route, Template(completion)) as (served, batches):
                    by = served
                    answer = StreamedAnswer(
                        completion,
                        served.candidate,
                        f"chatcmpl-{ask.request_id}",
                        is_kept=False,
                    )
                    async for chunks in batches:
                        said.take(chunks)
                        events = answer.take(chunks)
                        if events:
                            meter.mark_first_token()
                            job.channel.write(events)
                    answer.end()
            except (asyncio.CancelledError, AnswerCutOffError) as error:
                if answer is not None and by is not None and answer.tally.produced:
                    code = "answer_abandoned"
                    if isinstance(error, AnswerCutOffError):
                        code = error.code
                    kept = said.pack() | {"error_code": code}
                    meter.finish(answer.usage(ended=False), "cancelled", kept, by)
                raise
            usage = answer.usage(ended=True)
            last = answer.unpaid(usage)
            meter.finish(usage, "completed", said.pack(), by)
            receipt = await meter.closed()
            message = await meter.kept()
            rest = answer.rest(answers.with_receipt(last, receipt)).removesuffix(frame(DONE))
            told = usage.as_openai(answer.tally.reported) | {"credential": by.credential}
            if receipt is not None:
                told |= {
                    "credits_charged": receipt.charged,
                    "credits_remaining": receipt.balance,
                }
            job.answer = meter.ids | {"message": message, "usage": told}
            job.channel.write(rest + _event("finished", job.answer) + frame(DONE))

    @staticmethod
    def _tell(job: Job, error: QuernelError) -> None:
        job.error = error
        log_event(
            logger, logging.INFO, "answer failed", request_id=job.ask.request_id, code=error.code
        )
        job.channel.write(_event("error", body(error, job.ask.path) | _ids(job)) + frame(DONE))


class Said:
    """The text of an answer, as it is kept."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._finish_reason: str | None = None

    def take(self, chunks: list[dict[str, Any]]) -> None:
        """Look at chunks as they came; whoever takes them next says whether they are any."""
        for chunk in chunks:
            choices = chunk.get("choices")
            choice = choices[0] if isinstance(choices, list) and choices else None
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            for name in ("content", "refusal"):
                if isinstance(delta, dict) and isinstance(delta.get(name), str):
                    self._texts.append(delta[name])
            if isinstance(choice.get("finish_reason"), str):
                self._finish_reason = choice["finish_reason"]

    def pack(self) -> dict[str, Any]:
        """What message_finish keeps. Postgres stores neither NUL nor half a surrogate pair."""
        reason = self._finish_reason
        return {
            "content": _storable("".join(self._texts)),
            "finish_reason": None if reason is None else _storable(reason)[:100],
        }


def _storable(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def replayed(replay: Replay) -> dict[str, Any]:
    """The answer to a message that was answered before, in one piece."""
    message = replay.answer["message"]
    usage: dict[str, Json] = {
        "prompt_tokens": message["prompt_tokens"],
        "completion_tokens": message["completion_tokens"],
        "total_tokens": message["tokens_used"],
    }
    if replay.receipt is not None:
        usage["credits_charged"] = replay.receipt.charged
        usage["credits_remaining"] = replay.receipt.balance
    return {
        "conversation_id": message["conversation_id"],
        "user_message_id": message["parent_id"],
        "message_id": message["id"],
        "title": replay.answer["title"],
        "message": message,
        "usage": usage,
    }


def replay_events(replay: Replay, request_id: str) -> str:
    """The same as events: what it said comes in one chunk."""
    answer = replayed(replay)
    message = answer["message"]
    ids = {name: answer[name] for name in answer if name not in ("message", "usage")}
    chunk: dict[str, Any] = {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion.chunk",
        "created": int(time()),
        "model": message["model_used"],
        "choices": [
            {
                "index": 0,
                "delta": {"role": "assistant", "content": message["content"]},
                "finish_reason": message["finish_reason"],
            }
        ],
    }
    usage = {n: v for n, v in answer["usage"].items() if not isinstance(v, Decimal)}
    last = answers.with_receipt(wire.Unpaid.encode(chunk, usage), replay.receipt)
    begun = ids | {"citations": message["citations"]}
    return _event("started", begun) + frame(last) + _event("finished", answer) + frame(DONE)


def _completion(meter: MessageMeter) -> Completion:
    """What the model is asked; the database has put it together from what it keeps."""
    first = meter.candidates[0]
    payload = meter.parameters | {"messages": meter.messages, "stream": True}
    return Completion(
        payload=payload,
        model=first.id,
        choices=1,
        max_tokens=first.max_tokens,
        streams=True,
        wants_usage_chunk=False,
        has_images=any(isinstance(m["content"], list) for m in meter.messages),
        size=meter.size,
    )


def _event(name: str, data: Json) -> str:
    """A named server-sent event."""
    return f"event: {name}\n{frame(dumps(data).decode())}"


def _ids(job: Job) -> dict[str, Any]:
    return {name: job.meter.ids[name] for name in ("user_message_id", "message_id")}


def _without_prompt(error: QuernelError) -> QuernelError:
    """A model server may quote what it refuses: the system prompt of somebody's agent, say."""
    if error.code != "upstream_rejected":
        return error
    return QuernelError(
        "upstream_rejected", 400, "The model server refused the conversation as it is."
    )
