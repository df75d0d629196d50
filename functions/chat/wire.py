"""JSON as this domain reads and writes it: strict, compact, with exact decimal amounts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from math import isinf
from typing import Any, NoReturn

from functions.core.json import Json


def _not_a_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):  # -1e999 is legal to write, and nobody could be sent it on
        _not_a_number(text[:20])
    return number


_decode = json.JSONDecoder(parse_float=_finite, parse_constant=_not_a_number).decode
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def loads(text: bytes) -> Json:
    """Parse what a model server sent.

    Raises ValueError when it is not JSON in UTF-8, or holds a number that is not finite.
    """
    try:
        return _decode(text.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dumps(value: Json) -> str:
    """Compact JSON, not ASCII-only. Raises ValueError for NaN, infinity or a cycle.

    Half a surrogate pair, which some servers send, becomes a question mark.
    """
    text = _encode(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def amount(value: Decimal | int) -> str:
    """A JSON number without exponent or trailing zeros: credits to the digit, never a float."""
    text = format(Decimal(value), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True)
class Unpaid:
    """An answer that is encoded but for its credits, which are known once it has been charged."""

    body: str
    usage: str

    @classmethod
    def encode(cls, answer: dict[str, Any], usage: dict[str, Any]) -> Unpaid:
        """Encode `answer` with `usage` as its last member. Raises ValueError, before any charge."""
        body = dumps({name: value for name, value in answer.items() if name != "usage"})
        return cls(body[:-1], dumps(usage)[1:-1])

    def text(self, charged: Decimal | None, left: Decimal | None) -> str:
        """The whole text; credits are added when they are known."""
        members = self.usage
        if charged is not None:
            members += f',"credits_charged":{amount(charged)}'
        if left is not None:
            members += f',"credits_remaining":{amount(left)}'
        return f'{self.body},"usage":{{{members.removeprefix(",")}}}}}'
