"""JSON: amounts to the digit, and nothing that is not JSON."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.chat import wire


@given(st.decimals(min_value=0, max_value=10**13, places=6, allow_nan=False))
def test_an_amount_is_written_to_the_digit(value: Decimal) -> None:
    text = wire.amount(value)
    assert json.loads(text, parse_float=Decimal) == value
    assert "E" not in text.upper()


def test_credits_are_the_last_members_of_usage() -> None:
    answer = wire.Unpaid.encode({"id": "a", "usage": None}, {"total_tokens": 3})
    text = answer.text(Decimal("0.10"), Decimal(7))
    assert (
        text == '{"id":"a","usage":{"total_tokens":3,"credits_charged":0.1,"credits_remaining":7}}'
    )


def test_credits_that_are_not_known_are_left_out() -> None:
    assert wire.Unpaid.encode({"id": "a"}, {}).text(None, None) == '{"id":"a","usage":{}}'


@pytest.mark.parametrize(
    "text",
    [b"NaN", b"[Infinity]", b"-1e999", b'{"a":[1E400]}', b"{", b"\xff", b"", b"[" * 100_000],
)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.loads(text)


def test_half_a_surrogate_pair_does_not_break_the_answer() -> None:
    assert wire.dumps(wire.loads(rb'"a\ud83d"')) == '"a?"'
