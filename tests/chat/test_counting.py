"""Counting: bounds hold, impossible figures are not believed, nothing is ever negative."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.chat.counting import PromptSize, Tally, prompt_size, text_bytes
from local.simulator import tokens_of

SIZE = PromptSize(bound=1000, estimate=250)
MOST = 100
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def request(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]} | more


@given(st.text())
def test_a_prompt_has_no_more_tokens_than_its_bound(text: str) -> None:
    size = prompt_size(request(text))
    assert len(tokens_of(text)) <= len(text.encode()) <= size.bound
    assert 0 < size.estimate <= size.bound


@given(st.text())
def test_no_text_gets_longer_than_its_weight_by_normalization(text: str) -> None:
    assert len(unicodedata.normalize("NFC", text).encode()) <= text_bytes(text)


@given(ANYTHING)
def test_whatever_reaches_the_prompt_weighs_at_least_its_text(value: Any) -> None:
    plain = prompt_size(request("hello")).bound
    weight = sum(len(text.encode("utf-8", "surrogatepass")) for text in _strings(value))
    assert prompt_size(request("hello", tools_of_tomorrow=value)).bound >= plain + weight


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in _strings(item)]
    return []


@pytest.mark.parametrize(
    "extra",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 500}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"x" * 500: {}}}}},
        {"chat_template_kwargs": {"persona": "x" * 500}},
    ],
)
def test_tools_schemas_and_unknown_members_count_as_prompt(extra: dict[str, Any]) -> None:
    assert prompt_size(request("hi", **extra)).bound >= prompt_size(request("hi")).bound + 500


def test_members_that_no_model_reads_do_not_count() -> None:
    extra = {"user": "x" * 500, "metadata": {"note": "x" * 500}, "stop": ["x" * 500]}
    assert prompt_size(request("hi", **extra)) == prompt_size(request("hi"))


@given(
    reported=ANYTHING
    | st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens": ANYTHING,
            "completion_tokens": ANYTHING,
            "prompt_tokens_details": ANYTHING | st.fixed_dictionaries({"cached_tokens": ANYTHING}),
        },
    ),
    deltas=st.lists(st.text(max_size=30), max_size=20),
    ended=st.booleans(),
)
def test_no_report_leads_to_a_negative_or_unbounded_charge(
    reported: Any, deltas: list[str], ended: bool
) -> None:
    tally = Tally()
    for text in deltas:
        tally.add({"content": text})
    tally.reported = reported
    usage = tally.usage(SIZE, MOST, ended=ended)
    assert 0 < usage.prompt <= SIZE.bound
    assert int(tally.produced) <= usage.completion <= MOST
    assert 0 <= usage.cached <= usage.prompt


@pytest.mark.parametrize("count", [-1, -(10**9), 0, MOST + 1, 10**18, 1.5, "12", True, None, []])
def test_an_impossible_count_is_replaced_by_ours(count: Any) -> None:
    tally = Tally()
    tally.add({"content": "hello there"})  # 11 bytes
    tally.reported = {"prompt_tokens": 7, "completion_tokens": count}
    usage = tally.usage(SIZE, MOST, ended=True)
    assert (usage.prompt, usage.completion, usage.source) == (7, 3, "counted")


def test_possible_figures_are_taken_as_they_are() -> None:
    tally = Tally()
    tally.add({"content": "hello"})
    tally.reported = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    usage = tally.usage(SIZE, MOST, ended=True)
    assert (usage.prompt, usage.completion, usage.cached, usage.source) == (9, 5, 8, "upstream")
    assert usage.as_openai(tally.reported) == tally.reported | {"total_tokens": 14}


def test_a_stream_that_was_cut_off_is_counted_by_us() -> None:
    tally = Tally()
    for _ in range(10):
        tally.add({"content": "ab"})
    tally.reported = {"prompt_tokens": 9, "completion_tokens": 2}
    usage = tally.usage(SIZE, MOST, ended=False)
    assert (usage.prompt, usage.completion, usage.source) == (9, 10, "counted")


@pytest.mark.parametrize(
    ("piece", "size"),
    [
        ({"content": "abcd"}, 4),
        ({"content": "ü"}, 2),
        ({"content": None, "reasoning_content": "abc", "reasoning": "abc"}, 3),
        ({"refusal": "no"}, 2),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, 3),
        ({"tool_calls": [{"custom": {"name": "f", "input": "xy"}}]}, 3),
        ({"function_call": {"name": "f", "arguments": "{}"}}, 3),
        ({"role": "assistant", "content": ""}, 0),
        ({"content": 5, "tool_calls": "x"}, 0),
    ],
)
def test_text_reasoning_refusals_and_tool_calls_count(piece: dict[str, Any], size: int) -> None:
    tally = Tally()
    tally.add(piece)
    assert tally.bytes == size
    assert tally.deltas == int(size > 0)


def test_an_answer_of_only_end_marks_is_empty() -> None:
    tally = Tally()
    tally.reported = {"completion_tokens": 2}
    assert tally.is_empty(choices=2)
    assert not tally.is_empty(choices=1), "hidden tokens were generated"
    tally.add({"content": "x"})
    assert not tally.is_empty(choices=2)
