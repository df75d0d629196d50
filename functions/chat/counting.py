"""Counts tokens where nobody else does: a bound before the call, what was produced after it.

The bound rests on one fact: a byte-level tokenizer never makes more tokens than the text has UTF-8
bytes. Qwen's normalizes to NFC first, which can lengthen a text (at most threefold, Unicode annex
15), so the longer of the two forms counts. What a template renders as JSON (tools, schemas, calls
and their results) is weighed as the longest JSON that an encoder may write for it: a control
character becomes six, and the arguments of a call are parsed and written anew. It is a reservation,
not a price: most is released.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any, Literal

from functions.core.json import Json

BYTES_PER_TOKEN = 4  # an estimate for text whose count the upstream did not tell; a digit is one
MESSAGE_TOKENS = 5  # <|im_start|>, role, newline, <|im_end|>, newline
BASE_OVERHEAD = 128  # tokens: a template's own system prompt and the opening of the answer
TOOLS_OVERHEAD = 512  # tokens: a template's instructions on how to call tools
MESSAGE_OVERHEAD = 16  # tokens: role, delimiters
NODE_OVERHEAD = 4  # tokens: colon, comma and indentation, or a tag's brackets, around what is shown
PIECE_CHARACTERS = 512  # of a text, normalized at once; private.text_bytes cuts at the same places
CUT_BYTES = 16  # what composes across a cut has fewer
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
        "models",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "route",
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

_RESULTS = frozenset({"tool", "function"})  # roles
_SAID = frozenset({"role", "content"})
_CALL = ("name", "arguments", "input")


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
    """Weigh everything of a request that can reach the model."""
    scale = _Scale()
    count = 0
    for name, value in payload.items():
        if name == "messages" and isinstance(value, list):
            count = len(value)
            for message in value:
                scale.add_message(message)
        elif name not in NOT_PROMPT:
            scale.add_data(value)
    tools = TOOLS_OVERHEAD if payload.get("tools") or payload.get("functions") else 0
    return PromptSize(
        bound=scale.bound + BASE_OVERHEAD + tools + MESSAGE_OVERHEAD * count,
        estimate=probable_tokens(scale.bytes, scale.digits) + MESSAGE_TOKENS * count,
    )


class _Scale:
    """Adds up a prompt: the most it can weigh once a template has rendered it, and what it has."""

    def __init__(self) -> None:
        self.bound = 0
        self.bytes = 0
        self.digits = 0

    def add_message(self, message: Json) -> None:
        """A message's content is shown as it is, what else it has as data."""
        if not isinstance(message, dict):
            self.add_data(message)
            return
        # Templates show the result of a tool as it is, or as JSON.
        add_text = self.add_shown if message.get("role") in _RESULTS else self.add_text
        content: Json = message.get("content")
        pieces: list[Json] = content if isinstance(content, list) else [content]
        for piece in pieces:
            self.bound += NODE_OVERHEAD
            kind = piece.get("type") if isinstance(piece, dict) else None
            if isinstance(piece, str):
                add_text(piece)
            elif isinstance(kind, str) and isinstance(piece.get(kind), str):
                add_text(piece[kind])
            elif kind == "image_url":
                self._add_image(piece.get("image_url"))
            else:
                self.add_data(piece)
        more = {name: part for name, part in message.items() if name not in _SAID}
        if more:
            self.add_data(more)

    def add_text(self, text: str) -> None:
        """Text that reaches the model as it is."""
        self._has(text)
        self.bound += text_bytes(text)

    def add_shown(self, text: str) -> None:
        """Text that is shown as it is, or as a JSON string."""
        self._has(text)
        self.bound += _json_length(text)

    def add_data(self, data: Json) -> None:
        """Data that is shown as JSON, or between tags that repeat a member's name."""
        names: list[str] = []
        texts: list[str] = []
        stack = [data]
        while stack:
            value = stack.pop()
            if isinstance(value, str):
                texts.append(value)
            elif isinstance(value, dict):
                names += value
                for name, part in value.items():
                    if name == "arguments" and isinstance(part, str):
                        self._add_arguments(part)
                    else:
                        stack.append(part)
            elif isinstance(value, list):
                self.bound += NODE_OVERHEAD * len(value)
                stack.extend(value)
            elif isinstance(value, int | float):
                # An integer has the same digits everywhere; false is one longer than True.
                text = str(value)
                self.bound += NUMBER_BYTES if isinstance(value, float) else len(text) + 1
                self._has(text)
        # Together, because that is much faster; a comma stands for what is between them.
        self.add_shown(",".join(texts))
        self.add_shown(",".join(names))
        self.bound += _json_length("".join(names)) + NODE_OVERHEAD * len(names)
        self.bound += 2 * len(texts) + 4 * len(names)  # quotes

    def _add_arguments(self, text: str) -> None:
        """Arguments of a call are JSON in a string, which servers parse and show anew.

        So 1e15 becomes 1000000000000000.0, and the escape of a letter the letter.
        """
        before = self.bound, self.bytes, self.digits
        self.add_shown(text)
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            return  # not parsed by servers either
        as_text, (self.bound, self.bytes, self.digits) = self.bound, before
        self.add_data(parsed)
        self.bound = max(self.bound, as_text)

    def _add_image(self, image: Json) -> None:
        """As many tokens as bytes, which no vision model makes of an image."""
        url = image.get("url") if isinstance(image, dict) else image
        size = len(url) if isinstance(url, str) else 0
        self.bound += size
        self.bytes += size

    def _has(self, text: str) -> None:
        size, digits = measure(text)
        self.bytes += size
        self.digits += digits


def probable_tokens(size: int, digits: int) -> int:
    """Tokens that a text of `size` bytes, `digits` of them digits, has for Qwen's tokenizers."""
    return digits - (digits - size) // BYTES_PER_TOKEN


def measure(text: str) -> tuple[int, int]:
    """UTF-8 bytes of a text, and how many of them are digits."""
    data = text.encode("utf-8", "surrogatepass")
    return len(data), len(data) - len(data.translate(None, b"0123456789"))


def text_bytes(text: str) -> int:
    """UTF-8 bytes of a text, as it is or in NFC, whichever is more."""
    if text.isascii():
        return len(text)
    return _pieces(text)


def _json_length(text: str) -> int:
    """Length of a string as JSON with its quotes, where all that may be escaped is escaped.

    Jinja and Go escape what is special in HTML, and some encoders all that is not ASCII, with six
    characters each. That is never less than the bytes of the text in NFC.
    """
    return len(encode_basestring_ascii(text)) + 5 * sum(map(text.count, "<>&'"))


def _pieces(text: str) -> int:
    """As text_bytes, at most a few per cent more.

    In pieces: to put combining marks in order takes time that grows with the square of their
    number, and a request can be full of them.
    """
    if len(text) > PIECE_CHARACTERS:
        half = len(text) // 2
        return _pieces(text[:half]) + _pieces(text[half:]) + CUT_BYTES
    return max(_utf8(text), _utf8(unicodedata.normalize("NFC", text)))


def _utf8(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


class Tally:
    """What an answer has produced so far, counted from its deltas or its messages."""

    def __init__(self) -> None:
        self.deltas = 0  # pieces that carried text: each is one token or more
        self.bytes = 0  # UTF-8 bytes of text, reasoning and tool calls
        self.digits = 0  # of these
        self.reported: Json = None  # the upstream's last usage object, unchecked
        self._so_far: dict[Json, Json] = {}  # completion tokens told with each choice's last chunk
        self._is_told = False  # whether figures came with the last piece, or after it

    @property
    def produced(self) -> bool:
        """Whether the model has said anything at all."""
        return self.bytes > 0

    @property
    def tokens(self) -> int:
        """At least one token per delta, one per digit, and one per four bytes of the rest."""
        return max(self.deltas, probable_tokens(self.bytes, self.digits))

    def add(self, piece: dict[str, Any]) -> None:
        """Count a choice's `delta` (or `message`)."""
        before = self.bytes
        for text in _texts(piece):
            size, digits = measure(text)
            self.bytes += size
            self.digits += digits
        if self.bytes > before:
            self.deltas += 1
            self._is_told = False

    def report(self, usage: Json, choices: list[dict[str, Any]]) -> None:
        """Take the upstream's figures after its chunk: with one choice's they are that one's.

        So vLLM and SGLang have it under `continuous_usage_stats`; the last ones, for all choices
        together, come without any.
        """
        self.reported = usage
        self._is_told = True
        if len(choices) == 1 and isinstance(usage, dict):
            index = choices[0].get("index")
            self._so_far[index if isinstance(index, int) else 0] = usage.get("completion_tokens")
        else:
            self._so_far.clear()

    def usage(self, size: PromptSize, most_completion: int, *, ended: bool) -> Usage:
        """What to charge. The upstream's figures where they are possible, else our count.

        `most_completion` is the largest completion the hold allows for, in tokens, all choices
        together; `ended` is false when the stream was cut off, so figures that did not come with
        the last piece lag behind, and then the larger count holds. A prompt beyond its bound is cut
        down to it.
        """
        reported = self.reported if isinstance(self.reported, dict) else {}
        prompt = possible_count(reported.get("prompt_tokens"), at_least=1)
        prompt = None if prompt is None else min(prompt, size.bound)
        counted = min(self.tokens, most_completion)
        completion = self._told(at_least=int(self.produced))
        if completion is not None and completion > most_completion:
            completion = None
        least = self.deltas if self._is_told else counted
        if completion is not None and not ended and completion < least:
            completion = None
        details = reported.get("prompt_tokens_details")
        cached = possible_count(
            details.get("cached_tokens") if isinstance(details, dict) else None, at_least=0
        )
        return Usage(
            prompt=size.estimate if prompt is None else prompt,
            completion=counted if completion is None else completion,
            cached=0 if cached is None or prompt is None or cached > prompt else cached,
            source="counted" if prompt is None or completion is None else "upstream",
        )

    def is_empty(self, choices: int) -> bool:
        """Nothing was said, and no more was generated than the mark that ends each choice."""
        return not self.produced and (self._told(at_least=0) or 0) <= choices

    def _told(self, *, at_least: int) -> int | None:
        """Completion tokens of all choices, as the upstream has them; None if it tells none."""
        if not self._so_far:
            reported = self.reported if isinstance(self.reported, dict) else {}
            return possible_count(reported.get("completion_tokens"), at_least=at_least)
        told = [possible_count(value, at_least=0) for value in self._so_far.values()]
        total = sum(count for count in told if count is not None)
        return None if None in told or total < at_least else total


def _texts(piece: dict[str, Any]) -> Iterator[str]:
    """The texts of a delta or a message."""
    # Servers in transition send both names of reasoning with the same text.
    said = [piece.get("content"), piece.get("refusal")]
    said.append(piece.get("reasoning_content") or piece.get("reasoning"))
    calls = piece.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            said += _call_texts(call.get("function")) + _call_texts(call.get("custom"))
    said += _call_texts(piece.get("function_call"))
    return (text for text in said if isinstance(text, str))


def _call_texts(call: Json) -> list[Json]:
    return [call.get(part) for part in _CALL] if isinstance(call, dict) else []


def possible_count(value: Json, *, at_least: int) -> int | None:
    """The value if it is a possible count, else None. True and 3.0 are not counts."""
    return value if type(value) is int and value >= at_least else None
