"""What a request asks for, beside what models say that they cannot do."""

from __future__ import annotations

import json
import re
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from functions.chat import options
from functions.chat.options import unsupported
from functions.chat.routing import able
from functions.core.errors import InvalidRequestError
from local.paths import ROOT
from local.stack import Stack

# Capability, the request that needs it, and the member that is named.
NEEDS: list[tuple[str, dict[str, Any], str]] = [
    ("streaming", {"stream": True}, "stream"),
    ("tools", {"tools": [{"type": "function"}]}, "tools"),
    ("reasoning", {"reasoning_effort": "high"}, "reasoning_effort"),
    ("json_schema", {"response_format": {"type": "json_schema"}}, "response_format"),
    ("json_object", {"response_format": {"type": "json_object"}}, "response_format"),
    ("choices", {"n": 2}, "n"),
    ("logprobs", {"logprobs": True}, "logprobs"),
    ("logprobs", {"top_logprobs": 3}, "top_logprobs"),
    ("logit_bias", {"logit_bias": {"7": 1}}, "logit_bias"),
    ("seed", {"seed": 0}, "seed"),
    ("stop", {"stop": "END"}, "stop"),
    ("stop", {"stop": ["END"]}, "stop"),
    ("sampling", {"temperature": 0}, "temperature"),
    ("sampling", {"top_p": 0.5}, "top_p"),
    ("sampling", {"top_k": 3}, "top_k"),
    ("penalties", {"presence_penalty": -0.5}, "presence_penalty"),
    ("penalties", {"frequency_penalty": 1}, "frequency_penalty"),
]
HARMLESS: dict[str, Any] = {
    "stream": False,
    "tools": [],
    "reasoning_effort": "none",
    "response_format": {"type": "text"},
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "logit_bias": {},
    "seed": None,
    "stop": None,
    "temperature": 1,
    "top_p": 1,
    "top_k": None,
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
}
NOTHING = {capability: False for capability, _, _ in NEEDS}


@pytest.mark.parametrize(
    ("capability", "payload", "param"),
    NEEDS,
    ids=[f"{c}-{p}" for c, _, p in NEEDS[:-6]]
    + [f"{c}-{p}-{n}" for n, (c, _, p) in enumerate(NEEDS[-6:])],
)
def test_what_a_model_says_it_cannot_do_is_refused_by_name(
    capability: str, payload: dict[str, Any], param: str
) -> None:
    error = unsupported(payload, {capability: False})
    assert isinstance(error, InvalidRequestError)
    assert (error.status, error.code, error.facts["param"]) == (400, "unsupported_parameter", param)
    others = {name: False for name in NOTHING if name != capability}
    for allowing in ({}, {capability: True}, {capability: None}, others):
        assert unsupported(payload, allowing) is None


def test_what_makes_no_difference_is_taken() -> None:
    assert unsupported(HARMLESS, NOTHING) is None
    assert unsupported({}, NOTHING) is None
    assert unsupported(dict.fromkeys(HARMLESS), NOTHING) is None


@pytest.mark.parametrize(
    ("most", "wanted", "is_taken"),
    [(1, 1.0, True), (1, 1.01, False), (1, None, True), (None, 2, True), ("1", 2, True)],
)
def test_how_high_a_temperature(most: Any, wanted: Any, is_taken: bool) -> None:
    error = unsupported({"temperature": wanted}, {"max_temperature": most})
    assert (error is None) == is_taken
    if error is not None:
        assert (error.code, error.facts) == (
            "invalid_argument",
            {"param": "temperature", "maximum": most},
        )


def test_models_that_cannot_are_passed_over_and_the_first_says_why_none_can() -> None:
    models: list[dict[str, Any]] = [{"tools": False}, {"seed": False}, {}]
    assert able(models, needs_vision=False, options={"seed": 1}) == [0, 2]
    assert able(models, needs_vision=False, options={}) == [0, 1, 2]
    asked = {"seed": 1, "tools": [{"type": "function"}]}
    with pytest.raises(InvalidRequestError) as caught:
        able(models[:2], needs_vision=False, options=asked)
    assert caught.value.facts["param"] == "tools"
    seeing: list[dict[str, Any]] = [{"vision": True}, {}]
    assert able(seeing, needs_vision=True, options={}) == [0]
    with pytest.raises(InvalidRequestError) as caught:
        able(seeing[1:], needs_vision=True, options={})
    assert caught.value.code == "unsupported_content"


def documented() -> set[str]:
    chapter = (ROOT / "docs" / "models.md").read_text().split("\n## ")[1]
    return set(re.findall(r"^\| `(\w+)` \|", chapter, re.MULTILINE))


def test_the_vocabulary_is_documented() -> None:
    checked = {capability for _, capability, _ in options._NEEDS}  # type: ignore[attr-defined]
    assert checked == {capability for capability, _, _ in NEEDS}
    assert documented() == checked | {"vision", "max_temperature"}


def test_the_catalog_speaks_it(stack: Stack) -> None:
    with psycopg.connect(stack.admin_dsn, row_factory=dict_row) as connection:
        rows = connection.execute(
            "select m.id, m.capabilities, m.platform_allowed, m.byok_allowed, m.prompt_price,"
            " m.cached_prompt_price, m.completion_price, m.context_length, m.max_output_tokens,"
            " m.default_output_tokens from public.models as m"
            " inner join public.model_providers as mp on m.provider_id = mp.id"
            " where mp.slug in ('openai', 'google', 'xai', 'anthropic', 'mistral', 'openrouter')"
            " and m.kind = 'chat'"
        ).fetchall()
    assert len(rows) >= 12
    known = documented()
    for row in rows:
        assert set(row["capabilities"]) <= known, row["id"]
        assert row["capabilities"]["streaming"] is True
        assert (row["byok_allowed"], row["platform_allowed"]) == (True, False)
        assert 0 < row["cached_prompt_price"] <= row["prompt_price"] < row["completion_price"]
        assert row["default_output_tokens"] <= row["max_output_tokens"] <= row["context_length"]
        assert json.dumps(row["capabilities"])
