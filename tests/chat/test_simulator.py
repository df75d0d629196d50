"""The simulator keeps to the protocol, says what it is, and never counts more than bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from local.simulator import WORDS, Plan, Simulator, tokens_of


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(Simulator(seed=7).application()) as client:
        yield client


def ask(client: TestClient, text: str, **options: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]} | options
    answer: dict[str, Any] = client.post("/v1/chat/completions", json=body).json()
    return answer


@given(st.text())
def test_tokens_are_a_partition_of_the_text(text: str) -> None:
    tokens = tokens_of(text)
    assert "".join(tokens) == text
    assert len(tokens) <= len(text.encode("utf-8", "surrogatepass"))


def test_every_answer_is_labelled(client: TestClient) -> None:
    for path in ("/health", "/v1/models", "/_stats", "/_requests"):
        assert client.get(path).headers["x-simulated"] == "true"
    answer = ask(client, "hello")
    assert answer["system_fingerprint"] == "simulated"
    assert answer["choices"][0]["message"]["content"].startswith("[simulated]")


def test_the_same_seed_gives_the_same_answer(client: TestClient) -> None:
    one, other = ask(client, "hello"), ask(client, "hello")
    assert one["choices"] == other["choices"]
    assert ask(client, "hello", seed=8)["choices"] != one["choices"]
    with TestClient(Simulator(seed=8).application()) as elsewhere:
        assert ask(elsewhere, "hello")["choices"] != one["choices"]


def test_prose_has_the_length_asked_for_and_ends_with_a_word(client: TestClient) -> None:
    for count in range(5, 60):
        text = ask(client, f"simulate: tokens={count}")["choices"][0]["message"]["content"]
        assert len(tokens_of(text)) == count
        assert set(text.removeprefix("[simulated]").split()) <= set(WORDS)


def test_stream_and_whole_say_the_same(client: TestClient) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    lines = client.post("/v1/chat/completions", json=body).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert said == ask(client, "hello")["choices"][0]["message"]["content"]
    assert lines[-2] == "data: [DONE]"


def test_a_schema_is_satisfied(client: TestClient) -> None:
    schema = {
        "type": "object",
        "properties": {
            "list": {"type": "array", "items": {"type": "integer", "minimum": 3}, "minItems": 2},
            "kind": {"enum": ["a", "b"]},
            "inner": {"type": "object", "properties": {"x": {"type": ["number", "null"]}}},
            "optional": {"type": "string"},
        },
        "required": ["list", "kind", "inner"],
    }
    answer = ask(
        client, "x", response_format={"type": "json_schema", "json_schema": {"schema": schema}}
    )
    value = json.loads(answer["choices"][0]["message"]["content"])
    assert value["list"] == [3, 3]
    assert value["kind"] == "a"
    assert isinstance(value["inner"]["x"], int | float)
    assert "optional" not in value


def test_directives_are_read_and_others_ignored() -> None:
    plan = Plan.read("tokens=5 fault=stall slow nonsense=3 after=x")
    assert (plan.tokens, plan.fault, plan.first_ms, plan.token_ms, plan.after) == (
        *(5, "stall", 300, 100),
        3,
    )


def test_a_header_works_like_a_directive(client: TestClient) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    answer = client.post(
        "/v1/chat/completions", json=body, headers={"x-simulate": "status=429 retry_after=3"}
    )
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")


def test_requests_are_counted(client: TestClient) -> None:
    ask(client, "counted")
    ask(client, "counted simulate: status=500")
    assert client.get("/_stats").json() == {
        "open": 0,
        "completed": 1,
        "cancelled": 0,
        "failed": 1,
    }
    assert client.get("/_stats", params={"contains": "nobody"}).json()["completed"] == 0
    client.post("/v1/chat/completions", content=b"{")
    assert len(client.get("/_requests").json()) == 2


@pytest.mark.parametrize("options", [{}, {"continuous_usage_stats": True}])
def test_usage_comes_with_every_chunk_where_it_is_asked_for(
    client: TestClient, options: dict[str, Any]
) -> None:
    body = {"messages": [{"role": "user", "content": "hi simulate: tokens=6 chunk=3"}], "n": 2}
    body |= {"stream": True, "stream_options": options | {"include_usage": True}}
    lines = client.post("/v1/chat/completions", json=body).text.split("\n\n")
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    told = [chunk.get("usage", {}).get("completion_tokens") for chunk in chunks]
    so_far = [0, 0, 3, 3, 6, 6, 6, 6] if options else [None] * 8
    assert told == [*so_far, 12]
