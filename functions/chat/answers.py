"""From the model server's answer to ours: our names, usage with credits, counted on the way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from functions.chat import wire
from functions.chat.candidates import Candidate
from functions.chat.counting import Tally, Usage
from functions.chat.idempotency import MAX_STORED_BYTES, StoredAnswer, not_stored
from functions.chat.metering import ContentRefusedError, EmptyAnswerError, Receipt
from functions.chat.schemas import MAX_TOKENS, Completion
from functions.chat.upstream_errors import broken, choices_of, malformed, refuse_error_chunk

DONE = "[DONE]"
_HEAD = ("object", "created", "system_fingerprint", "service_tier")


def frame(text: str) -> str:
    """One server-sent event."""
    return f"data: {text}\n\n"


class Answer(ABC):
    """What both kinds of answers share: names, counts and what is kept for a replay."""

    def __init__(self, request: Completion, model: Candidate, answer_id: str) -> None:
        """`model` is the candidate that answers."""
        self.tally = Tally()
        self.model_id = model.id
        self._request = request
        self._names = {"id": answer_id, "model": model.id}
        most = MAX_TOKENS if model.max_tokens is None else model.max_tokens
        self._most_completion = most * request.choices
        self._was_filtered = False

    def usage(self, *, ended: bool) -> Usage:
        """What to charge, whether the answer ended or was cut off by the client."""
        return self.tally.usage(self._request.size, self._most_completion, ended=ended)

    @abstractmethod
    def stored(self, usage: Usage) -> dict[str, Any]:
        """What replays it."""

    def _require_content(self) -> None:
        if self.tally.is_empty(self._request.choices):
            raise ContentRefusedError if self._was_filtered else EmptyAnswerError

    def _note_end(self, choice: dict[str, Any]) -> bool:
        """Whether a choice gives a reason for its end."""
        reason = choice.get("finish_reason")
        self._was_filtered = self._was_filtered or reason == "content_filter"
        return bool(reason)


class WholeAnswer(Answer):
    """An answer in one piece."""

    _body: dict[str, Any]

    def take(self, body: dict[str, Any]) -> None:
        """Check and rename it. Raises QuernelError 502 for an error or an empty answer."""
        refuse_error_chunk(body)
        self.tally.reported = body.pop("usage", None)
        for choice in choices_of(body):
            message = choice.get("message")
            if not isinstance(message, dict):
                raise malformed()
            self.tally.add(message)
            self._note_end(choice)
        self._require_content()
        self._body = body | self._names

    def stored(self, usage: Usage) -> dict[str, Any]:
        return StoredAnswer([], self._body, usage.as_openai(self.tally.reported)).pack()

    def unpaid(self, usage: Usage) -> wire.Unpaid:
        """The body to send, encoded before anybody pays for it."""
        return wire.Unpaid.encode(self._body, usage.as_openai(self.tally.reported))


class StreamedAnswer(Answer):
    """An answer in chunks. The last waits for the settlement: it tells what was charged."""

    def __init__(
        self,
        request: Completion,
        model: Candidate,
        answer_id: str,
        *,
        is_kept: bool,
    ) -> None:
        """`is_kept` when chunks have to be collected for a replay."""
        super().__init__(request, model, answer_id)
        self._head: dict[str, Any] = {"object": "chat.completion.chunk"}
        self._last: dict[str, Any] | None = None  # a chunk that may turn out to be the last
        self._unsent: list[str] = []  # chunks from before the model said anything
        self._open: set[Any] = set()  # choices that have begun
        self._ended: set[Any] = set()  # choices that gave a reason for their end
        self._kept: list[str] | None = [] if is_kept else None
        self._kept_bytes = 0

    def take(self, chunks: list[dict[str, Any]]) -> str:
        """Events to send now; none before the model has spoken, so that errors keep their status.

        Raises QuernelError 502 for an error inside the stream or a chunk that is not one.
        """
        for chunk in chunks:
            refuse_error_chunk(chunk)
            usage, choices = chunk.pop("usage", None), choices_of(chunk)
            is_end = self._count(choices)
            if usage is not None:
                self.tally.report(usage, choices)
            if not choices:
                continue  # the upstream's usage; ours comes last
            chunk.update(self._names)
            self._head.update({name: chunk[name] for name in _HEAD if name in chunk})
            if self._last is not None:
                self._unsent.append(wire.dumps(self._last))
                self._last = None
            if self._request.wants_usage_chunk:
                chunk["usage"] = None
            elif is_end:
                self._last = chunk
                continue
            self._unsent.append(wire.dumps(chunk))
        return self._flush() if self.tally.produced else ""

    def end(self) -> None:
        """The stream is over. Raises QuernelError 502 if it broke off or said nothing."""
        self._require_content()
        if not self._ended or self._open - self._ended:
            raise broken("The model server broke off its answer.")

    def stored(self, usage: Usage) -> dict[str, Any]:
        if self._kept is None:
            return not_stored("too_large")
        events = self._kept + self._unsent
        return StoredAnswer(events, self._last_chunk(), usage.as_openai(self.tally.reported)).pack()

    def unpaid(self, usage: Usage) -> wire.Unpaid:
        """The last chunk, encoded before anybody pays for it."""
        return wire.Unpaid.encode(self._last_chunk(), usage.as_openai(self.tally.reported))

    def rest(self, last: str) -> str:
        """The events that end the stream: what was held back, the last chunk, [DONE]."""
        return self._flush() + frame(last) + frame(DONE)

    def _last_chunk(self) -> dict[str, Any]:
        return self._last or self._names | self._head | {"choices": []}

    def _count(self, choices: list[dict[str, Any]]) -> bool:
        is_end = False
        for choice in choices:
            index = choice.get("index")
            index = index if isinstance(index, int) else 0
            self._open.add(index)
            delta = choice.get("delta")
            if isinstance(delta, dict):
                self.tally.add(delta)
            if self._note_end(choice):
                self._ended.add(index)
                is_end = True
        return is_end

    def _flush(self) -> str:
        texts, self._unsent = self._unsent, []
        if self._kept is not None:
            self._kept += texts
            self._kept_bytes += sum(map(len, texts))
            if self._kept_bytes > MAX_STORED_BYTES:
                self._kept = None
        return "".join(map(frame, texts))


def replay_text(stored: StoredAnswer, receipt: Receipt | None) -> str:
    """The body of an answer in one piece, or the last chunk of a streamed one, again."""
    return with_receipt(wire.Unpaid.encode(stored.last, stored.usage), receipt)


def replay_events(stored: StoredAnswer, receipt: Receipt | None) -> list[str]:
    """The events of a streamed answer, again, one by one."""
    last = replay_text(stored, receipt)
    return [frame(text) for text in (*stored.events, last, DONE)]


def with_receipt(answer: wire.Unpaid, receipt: Receipt | None) -> str:
    """The answer with what it cost, where that is known."""
    if receipt is None:
        return answer.text(None, None)
    return answer.text(receipt.charged, receipt.balance)
