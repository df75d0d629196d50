"""Counting: bounds hold, impossible figures are not believed, nothing is ever negative."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.chat.counting import (
    MESSAGE_TOKENS,
    PIECE_CHARACTERS,
    PromptSize,
    Tally,
    prompt_size,
    text_bytes,
)
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


RENDERERS: list[Callable[[Any], str]] = [
    lambda value: json.dumps(value, ensure_ascii=False),  # of transformers, for vLLM and SGLang
    json.dumps,
    lambda value: re.sub("[<>&']", lambda m: f"\\u{ord(m[0]):04x}", json.dumps(value)),  # of Jinja
    lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
]
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


@given(DATA, st.sampled_from(RENDERERS))
def test_data_has_no_more_tokens_than_its_bound_however_it_is_rendered(
    value: Any, render: Callable[[Any], str]
) -> None:
    shown = len(unicodedata.normalize("NFC", render(value)).encode())
    plain = prompt_size(request("hi")).bound
    for extra in (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": value}}]},
        {"response_format": {"schema": value}},
    ):
        assert prompt_size(request("hi", **extra)).bound >= plain + shown
    spoken = calling(json.dumps(value))
    assert prompt_size(spoken).bound >= prompt_size(calling("")).bound + shown
    result = {"messages": [{"role": "tool", "content": str(value), "tool_call_id": "1"}]}
    assert prompt_size(result).bound >= len(
        unicodedata.normalize("NFC", render(str(value))).encode()
    )


def calling(arguments: str) -> dict[str, Any]:
    """A request whose history has a call."""
    function = {"name": "f", "arguments": arguments}
    call = {"id": "1", "type": "function", "function": function}
    return {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}


def test_arguments_weigh_what_a_server_makes_of_them() -> None:
    # 1e15 becomes 1000000000000000.0, and Qwen has a token for each digit.
    shown = json.dumps(json.loads("[" + ",".join(["1e15"] * 500) + "]"))
    short = calling("[" + ",".join(["1e15"] * 500) + "]")
    assert prompt_size(short).bound >= sum(map(str.isdigit, shown)) == 500 * 17
    # What is no JSON, or too deep, is shown as it is.
    for text in ("{", "[" * 100_000, "9" * 5000):
        assert prompt_size(calling(text)).bound >= len(text)


def test_a_control_character_weighs_as_much_as_its_escape() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "\x01" * 1000}}
    assert prompt_size(request("hi", tools=[tool])).bound >= 6000
    result = {"role": "tool", "content": "\x01" * 1000, "tool_call_id": "1"}
    assert prompt_size({"messages": [result]}).bound >= 6000
    # What a person says is shown as it is.
    assert prompt_size(request("\x01" * 1000)).bound < 2000


def test_an_image_weighs_its_bytes() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "1" * 4000}}
    size = prompt_size({"messages": [{"role": "user", "content": [part]}]})
    assert 4000 <= size.bound < 4300
    assert size.estimate < 1100


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


def test_a_prompt_beyond_its_bound_is_cut_down_to_it() -> None:
    tally = Tally()
    tally.add({"content": "hello"})
    tally.reported = {
        "prompt_tokens": SIZE.bound + 1,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": SIZE.bound + 1},
    }
    usage = tally.usage(SIZE, MOST, ended=True)
    assert (usage.prompt, usage.completion, usage.cached) == (SIZE.bound, 5, 0)


def test_a_digit_is_a_token_and_so_is_a_quarter_of_other_text() -> None:
    assert prompt_size(request("12345678")).estimate == 8 + MESSAGE_TOKENS
    assert prompt_size(request("abcdefgh")).estimate == 2 + MESSAGE_TOKENS
    tally = Tally()
    tally.add({"content": "12345678"})
    tally.add({"content": "abcd"})
    assert tally.tokens == 9


def so_far(index: int, tokens: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What comes with a chunk under continuous_usage_stats."""
    return {"prompt_tokens": 9, "completion_tokens": tokens}, [{"index": index}]


@pytest.mark.parametrize("ended", [False, True])
def test_figures_that_come_with_each_choice_are_added_up(ended: bool) -> None:
    tally = Tally()
    for index, tokens in ((0, 0), (1, 0), (0, 8), (1, 8), (0, 16)):
        tally.add({"content": "longer" * tokens})  # than we would have thought
        tally.report(*so_far(index, tokens))
    usage = tally.usage(SIZE, MOST, ended=ended)
    assert (usage.prompt, usage.completion, usage.source) == (9, 24, "upstream")
    # The last figures are those of all together.
    tally.report({"prompt_tokens": 9, "completion_tokens": 25}, [])
    assert tally.usage(SIZE, MOST, ended=ended).completion == 25


@pytest.mark.parametrize("tokens", [-1, None, "many", MOST + 1, 2])
def test_a_stream_that_was_cut_off_costs_no_less_than_we_counted(tokens: Any) -> None:
    tally = Tally()
    for _ in range(10):
        tally.add({"content": "ab"})
        tally.report(*so_far(0, tokens))
    usage = tally.usage(SIZE, MOST, ended=False)
    assert (usage.prompt, usage.completion, usage.source) == (9, 10, "counted")


def test_figures_that_lag_behind_the_text_are_no_discount() -> None:
    tally = Tally()
    tally.add({"content": "ab"})
    tally.report(*so_far(0, 2))
    tally.add({"content": "ab" * 40})
    usage = tally.usage(SIZE, MOST, ended=False)
    assert (usage.prompt, usage.completion, usage.source) == (9, 21, "counted")
    assert tally.usage(SIZE, MOST, ended=True).completion == 2


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


def test_a_text_is_normalized_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """To put combining marks in order takes time that grows with the square of their number."""
    lengths = []
    normalize = unicodedata.normalize

    def watched(form: Any, text: str) -> str:
        lengths.append(len(text))
        return normalize(form, text)

    monkeypatch.setattr(unicodedata, "normalize", watched)
    text = "a" + "\u0301\u0316" * 50_000
    assert text_bytes(text) >= len(normalize("NFC", text).encode())
    assert max(lengths) <= PIECE_CHARACTERS
