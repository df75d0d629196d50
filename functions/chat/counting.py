"""Counts tokens where nobody else does: a bound before the call, what was produced after it.

The bound rests on one fact: a byte-level tokenizer never makes more tokens than the text has UTF-8
bytes. Qwen's normalizes to NFC first, which can lengthen a text (at most threefold, Unicode annex
15), so the longer of the two forms counts. It is a reservation, not a price: most is released.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from functions.core.json import Json

BYTES_PER_TOKEN = 4  # an estimate for text whose count the upstream did not tell
BASE_OVERHEAD = 128  # tokens: a template's own system prompt and the opening of the answer
TOOLS_OVERHEAD = 512  # tokens: a template's instructions on how to call tools
MESSAGE_OVERHEAD = 16  # tokens: role, delimiters
NODE_OVERHEAD = 4  # tokens: quotes, colon, comma and indentation where JSON is shown to a model
NUMBER_BYTES = 32  # longest float that JSON encoders write, and a little

# Members of a request that no model reads. Everything else, known or not, is taken to be prompt.
NOT_PROMPT = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "model",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "top_logprobs",
        "top_p",
        "user",
    }
)


@dataclass(frozen=True)
class PromptSize:
    """Tokens a prompt has at most (`bound`) and probably (`estimate`).

    Credits are held for the bound, the plan's tokens for the estimate.
    """

    bound: int
    estimate: int


@dataclass(frozen=True)
class Usage:
    """Tokens that are charged, and who counted them."""

    prompt: int
    completion: int
    cached: int
    source: Literal["upstream", "counted"]

    def as_openai(self, reported: Json) -> dict[str, Any]:
        """The `usage` object of an answer; what else the upstream reported stays in it."""
        kept = reported if self.source == "upstream" and isinstance(reported, dict) else {}
        return kept | {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


def prompt_size(payload: dict[str, Any]) -> PromptSize:
    """Weigh every string, key and number of a request that can reach the model."""
    read, nodes = _weigh([value for name, value in payload.items() if name not in NOT_PROMPT])
    messages = payload.get("messages")
    count = len(messages) if isinstance(messages, list) else 0
    tools = TOOLS_OVERHEAD if payload.get("tools") or payload.get("functions") else 0
    overhead = BASE_OVERHEAD + tools + MESSAGE_OVERHEAD * count + NODE_OVERHEAD * nodes
    return PromptSize(bound=read + overhead, estimate=-(-read // BYTES_PER_TOKEN))


def _weigh(values: list[Any]) -> tuple[int, int]:
    """UTF-8 bytes of all strings and numbers below, and the number of members and items."""
    size = nodes = 0
    stack = list(values)
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            size += text_bytes(value)
        elif isinstance(value, dict):
            nodes += len(value)
            size += sum(map(text_bytes, value))
            stack.extend(value.values())
        elif isinstance(value, list):
            nodes += len(value)
            stack.extend(value)
        elif isinstance(value, int):
            size += value.bit_length() // 3 + 8  # decimal digits, or true and false
        else:
            size += NUMBER_BYTES
    return size, nodes


def text_bytes(text: str) -> int:
    """UTF-8 bytes of a text, as it is or in NFC, whichever is more."""
    if text.isascii():
        return len(text)
    return max(_utf8(text), _utf8(unicodedata.normalize("NFC", text)))


def _utf8(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


class Tally:
    """What an answer has produced so far, counted from its deltas or its messages."""

    def __init__(self) -> None:
        self.deltas = 0  # pieces that carried text: each is one token or more
        self.bytes = 0  # UTF-8 bytes of text, reasoning and tool calls
        self.reported: Json = None  # the upstream's last usage object, unchecked

    @property
    def produced(self) -> bool:
        """Whether the model has said anything at all."""
        return self.bytes > 0

    @property
    def tokens(self) -> int:
        """At least one token per delta, and one per four bytes."""
        return max(self.deltas, -(-self.bytes // BYTES_PER_TOKEN))

    def add(self, piece: dict[str, Any]) -> None:
        """Count a choice's `delta` (or `message`)."""
        size = _length(piece.get("content")) + _length(piece.get("refusal"))
        # Servers in transition send both names with the same text.
        size += _length(piece.get("reasoning_content") or piece.get("reasoning"))
        calls = piece.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                size += _call_length(call.get("function")) + _call_length(call.get("custom"))
        size += _call_length(piece.get("function_call"))
        if size:
            self.deltas += 1
            self.bytes += size

    def usage(self, size: PromptSize, most_completion: int, *, ended: bool) -> Usage:
        """What to charge. The upstream's figures where they are possible, else our count.

        `most_completion` is the largest completion the hold allows for, in tokens, all choices
        together; `ended` is false when the stream was cut off, so figures may lag behind the text.
        """
        reported = self.reported if isinstance(self.reported, dict) else {}
        prompt = _count(reported.get("prompt_tokens"), at_least=1, at_most=size.bound)
        completion = _count(
            reported.get("completion_tokens"), at_least=int(self.produced), at_most=most_completion
        )
        counted = min(self.tokens, most_completion)
        details = reported.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        settled = ended and prompt is not None and completion is not None
        return Usage(
            prompt=size.estimate if prompt is None else prompt,
            completion=completion if ended and completion is not None else counted,
            cached=_count(cached, at_least=0, at_most=prompt or 0) or 0,
            source="upstream" if settled else "counted",
        )

    def is_empty(self, choices: int) -> bool:
        """Nothing was said, and no more was generated than the mark that ends each choice."""
        reported = self.reported if isinstance(self.reported, dict) else {}
        hidden = _count(reported.get("completion_tokens"), at_least=0, at_most=2**31)
        return not self.produced and (hidden or 0) <= choices


def _length(text: Json) -> int:
    """UTF-8 bytes of a string; anything else weighs nothing."""
    if not isinstance(text, str):
        return 0
    return len(text) if text.isascii() else _utf8(text)


def _call_length(call: Json) -> int:
    if not isinstance(call, dict):
        return 0
    return sum(_length(call.get(part)) for part in ("name", "arguments", "input"))


def _count(value: Json, *, at_least: int, at_most: int) -> int | None:
    """The value if it is a possible count, else None. True and 3.0 are not counts."""
    if type(value) is int and at_least <= value <= at_most:
        return value
    return None
