"""What outside providers are sent for a chat, beside what their own libraries send.

Both ask the same double. What they ask has to agree, member by member, and what it answers has to
be read by both.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest
from mistralai.client import Mistral
from pydantic import SecretStr

from functions.chat.credentials import Credential
from functions.chat.dialects.anthropic import AnthropicDialect
from functions.chat.providers import open_providers
from functions.chat.schemas import parse
from functions.chat.templates import Template
from functions.chat.upstream import Upstream
from functions.chat.upstream_errors import UpstreamError
from functions.core.errors import QuernelError
from functions.core.settings import Settings
from local.providers import chat as answers
from local.providers.double import Double
from local.providers.errors import TREATMENTS
from tests.support.providers import provider_double

pytestmark = pytest.mark.anyio

SLUGS = ("openai", "google", "xai", "anthropic", "mistral", "openrouter")
MODEL = "some-model"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "What it is like outside.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
PIXEL = "iVBORw0KGgo="


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries read proxies from the environment."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@asynccontextmanager
async def upstreams(double: Double) -> AsyncIterator[dict[str, Upstream]]:
    settings = Settings(providers=double.settings)  # type: ignore[arg-type]
    async with open_providers(settings) as providers:
        assert all(providers[slug].platform is None for slug in SLUGS)
        yield {slug: provider.upstream for slug, provider in providers.items()}


def own(key: str) -> Credential:
    return Credential("own", SecretStr(key), key_id="1")


async def ask(
    upstream: Upstream, key: str, request: dict[str, Any], max_tokens: int = 64
) -> list[dict[str, Any]]:
    """The answer's chunks, or the answer alone."""
    completion = parse(json.dumps({"model": "ours"} | request).encode())
    body = upstream.body(Template(completion), MODEL, max_tokens)
    if not completion.streams:
        return [await upstream.complete(body, "id", own(key))]
    async with upstream.stream(body, "id", own(key)) as batches:
        return [chunk async for batch in batches for chunk in batch]


# Requests, beside the libraries' ---------------------------------------------------------------


CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Is it?"},
    {"role": "assistant", "content": "What?"},
    {"role": "user", "content": "That."},
]
ASKED: dict[str, Any] = {"messages": CHAT, "temperature": 0.5, "stop": ["END"]}


@pytest.mark.parametrize("slug", ["openai", "google", "xai", "openrouter"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_openais_library_asks_the_same(slug: str, stream: bool) -> None:
    async with provider_double() as double, upstreams(double) as ours:
        key = double.new_key()
        request = ASKED | {"stream": stream, "tools": [TOOL], "seed": 7}
        await ask(ours[slug], key, request)
        sent = double.last(slug)
        limit = "max_completion_tokens" if slug == "openai" else "max_tokens"
        base_url = double.base_url(slug) + ("/openai" if slug == "google" else "")
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
            theirs: dict[str, Any] = request | {"model": MODEL, limit: 64}
            if stream:
                theirs["stream_options"] = {"include_usage": True}
            answer = await client.chat.completions.create(**theirs)
            if stream:
                assert [chunk async for chunk in answer]
        expected = double.last(slug)
        assert (sent.method, sent.path) == (expected.method, expected.path)
        assert sent.headers["authorization"] == expected.headers["authorization"]
        assert sent.body == expected.body


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_anthropics_library_asks_the_same(stream: bool) -> None:
    async with provider_double() as double, upstreams(double) as ours:
        key = double.new_key()
        format_ = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
        options = {"stream": stream, "response_format": format_, "reasoning_effort": "low"}
        await ask(ours["anthropic"], key, ASKED | options | {"temperature": 1})
        sent = double.last("anthropic")
        async with anthropic.AsyncAnthropic(
            base_url=f"{double.address}/anthropic", api_key=key, max_retries=0
        ) as client:
            answer = await client.messages.create(
                model=MODEL,
                max_tokens=64,
                system=[{"type": "text", "text": "Be short."}],
                messages=[
                    {
                        "role": turn["role"],  # type: ignore[typeddict-item]
                        "content": [{"type": "text", "text": turn["content"]}],
                    }
                    for turn in CHAT[1:]
                ],
                stop_sequences=["END"],
                output_config={
                    "format": {"type": "json_schema", "schema": SCHEMA},
                    "effort": "low",
                },
                stream=stream,
            )
            if stream:
                assert [event async for event in answer]  # type: ignore[union-attr]
        expected = double.last("anthropic")
        assert (sent.method, sent.path) == (expected.method, expected.path)
        for name in ("authorization", "anthropic-version"):
            assert sent.headers[name] == expected.headers[name]
        assert sent.body == expected.body


async def test_anthropic_is_told_of_tools_and_images_as_its_library_tells() -> None:
    turns = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Where is this?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": f"call_{number}",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Lyon"}'},
                }
                for number in (1, 2)
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."},
        {"role": "tool", "tool_call_id": "call_2", "content": "Windy."},
    ]
    async with provider_double() as double, upstreams(double) as ours:
        key = double.new_key()
        choice = {"type": "function", "function": {"name": "weather"}}
        await ask(
            ours["anthropic"],
            key,
            {
                "messages": turns,
                "tools": [TOOL],
                "tool_choice": choice,
                "parallel_tool_calls": False,
            },
        )
        sent = double.last("anthropic")
        function = TOOL["function"]
        async with anthropic.AsyncAnthropic(
            base_url=f"{double.address}/anthropic", api_key=key, max_retries=0
        ) as client:
            message = await client.messages.create(
                model=MODEL,
                max_tokens=64,
                messages=[
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "Where is this?"},
                            {
                                "type": "image",
                                "source": {
                                    "type": "base64",
                                    "media_type": "image/png",
                                    "data": PIXEL,
                                },
                            },
                        ],
                    },
                    {
                        "role": "assistant",
                        "content": [
                            {
                                "type": "tool_use",
                                "id": f"call_{number}",
                                "name": "weather",
                                "input": {"city": "Lyon"},
                            }
                            for number in (1, 2)
                        ],
                    },
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "tool_result",
                                "tool_use_id": f"call_{number}",
                                "content": [{"type": "text", "text": text}],
                            }
                            for number, text in ((1, "Sunny."), (2, "Windy."))
                        ],
                    },
                ],
                tools=[
                    {
                        "name": function["name"],  # type: ignore[index]
                        "description": function["description"],  # type: ignore[index]
                        "input_schema": function["parameters"],  # type: ignore[index]
                    }
                ],
                tool_choice={
                    "type": "tool",
                    "name": "weather",
                    "disable_parallel_tool_use": True,
                },
                stream=False,
            )
        assert message.content[0].type == "tool_use"
        assert sent.body == double.last("anthropic").body


async def test_mistrals_library_asks_the_same() -> None:
    async with provider_double() as double, upstreams(double) as ours:
        key = double.new_key()
        request = ASKED | {"seed": 7}
        for stream in (False, True):
            await ask(ours["mistral"], key, request | {"stream": stream})
        streamed, whole = double.records[1], double.records[0]
        async with Mistral(api_key=key, server_url=f"{double.address}/mistral") as client:
            asked: dict[str, Any] = {
                "model": MODEL,
                "messages": CHAT,
                "temperature": 0.5,
                "stop": ["END"],
                "random_seed": 7,
                "max_tokens": 64,
            }
            answer = await client.chat.complete_async(**asked)
            assert answer.choices[0].message.content == answers.TEXT
            expected = double.last("mistral")
            stream_ = await client.chat.stream_async(**asked)
            assert [event async for event in stream_]
        for mine, theirs in ((whole, expected), (streamed, double.last("mistral"))):
            assert (mine.method, mine.path) == (theirs.method, theirs.path.partition("#")[0])
            assert mine.headers["authorization"] == theirs.headers["authorization"]
            # The library also says what is so anyway.
            said = {name: value for name, value in theirs.body.items() if value is not None}
            for message in said["messages"]:
                message.pop("prefix", None)
            assert {name: said[name] for name in mine.body} == mine.body
            assert set(said) - set(mine.body) <= {"stream", "safe_prompt", "guardrails"}


# Answers -----------------------------------------------------------------------------------------


USAGE = {
    "prompt_tokens": answers.PROMPT_TOKENS,
    "completion_tokens": answers.COMPLETION_TOKENS,
    "total_tokens": answers.PROMPT_TOKENS + answers.COMPLETION_TOKENS,
    "prompt_tokens_details": {"cached_tokens": answers.CACHED_TOKENS},
}


@pytest.mark.parametrize("slug", SLUGS)
async def test_every_answer_comes_in_openais_shape(slug: str) -> None:
    async with provider_double() as double, upstreams(double) as ours:
        key = double.new_key()
        [whole] = await ask(ours[slug], key, {"messages": CHAT})
        choice = whole["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (answers.TEXT, "stop")
        assert whole["usage"] == USAGE
        chunks = await ask(ours[slug], key, {"messages": CHAT, "stream": True})
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == answers.TEXT
        reasons = [c.get("finish_reason") for chunk in chunks for c in chunk["choices"]]
        assert reasons[-1] == "stop"
        assert [chunk["usage"] for chunk in chunks if chunk.get("usage")] == [USAGE]


@pytest.mark.parametrize("slug", SLUGS)
async def test_every_tool_call_comes_in_openais_shape(slug: str) -> None:
    call_id, name, arguments = answers.CALL
    async with provider_double() as double, upstreams(double) as ours:
        key = double.new_key()
        request = {"messages": CHAT, "tools": [TOOL]}
        [whole] = await ask(ours[slug], key, request)
        [call] = whole["choices"][0]["message"]["tool_calls"]
        assert (call["id"], call["function"]["name"]) == (call_id, name)
        assert json.loads(call["function"]["arguments"]) == arguments
        assert whole["choices"][0]["finish_reason"] == "tool_calls"
        chunks = await ask(ours[slug], key, request | {"stream": True})
        parts = [
            part
            for chunk in chunks
            for choice in chunk["choices"]
            for part in choice["delta"].get("tool_calls", [])
        ]
        assert {part["index"] for part in parts} == {0}
        assert (parts[0]["id"], parts[0]["function"]["name"]) == (call_id, name)
        said = "".join(part["function"].get("arguments", "") for part in parts)
        assert json.loads(said) == arguments


@pytest.mark.parametrize("slug", ["openai", "google", "mistral", "openrouter"])
async def test_embeddings(slug: str) -> None:
    async with provider_double() as double, upstreams(double) as ours:
        body = json.dumps({"model": MODEL, "input": ["a", "b"]}).encode()
        answer = await ours[slug].embed(body, "id", own(double.new_key()))
    assert [row["embedding"] for row in answer["data"]] == [answers.VECTOR] * 2
    assert answer["usage"]["prompt_tokens"] == 6


# Refusals ----------------------------------------------------------------------------------------


OWN = {
    "rejected": (401, "provider_key_rejected"),
    "out of quota": (402, "provider_quota_exceeded"),
    "limited": (429, "provider_rate_limited"),
    "refused": (400, "content_refused"),
    "bad option": (400, "upstream_rejected"),
    "outage": (502, "upstream_error"),
}
PLATFORM = OWN | {
    "rejected": (503, "upstream_not_configured"),
    "out of quota": (503, "upstream_not_configured"),
    "limited": (503, "upstream_rate_limited"),
}


@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize("slug", SLUGS)
@pytest.mark.parametrize("kind", ["own", "platform"])
async def test_what_a_refusal_means(slug: str, treatment: str, kind: str) -> None:
    async with provider_double() as double, upstreams(double) as ours:
        key = double.new_key(treatment)
        credential = Credential(kind, SecretStr(key))  # type: ignore[arg-type]
        completion = parse(json.dumps({"model": "ours", "messages": CHAT}).encode())
        body = ours[slug].body(Template(completion), MODEL, 10)
        with pytest.raises(QuernelError) as caught:
            await ours[slug].complete(body, "id", credential)
    error = caught.value
    assert (error.status, error.code) == (OWN if kind == "own" else PLATFORM)[treatment]
    assert key not in str(error) + repr(error.facts)
    if treatment == "limited":
        assert error.retry_after == 7
    is_failure = treatment == "outage" or (kind == "platform" and error.status == 503)
    assert isinstance(error, UpstreamError) == is_failure


async def test_a_stream_that_fails_in_the_middle_is_a_failure() -> None:
    reader = AnthropicDialect().reader()
    assert reader.take({"type": "message_start", "message": {"usage": {"input_tokens": 1}}})
    for kind, code in (
        ("overloaded_error", "upstream_rate_limited"),
        ("api_error", "upstream_error"),
    ):
        with pytest.raises(UpstreamError) as caught:
            reader.take({"type": "error", "error": {"type": kind, "message": "no"}})
        assert caught.value.code == code


async def test_a_refusal_by_the_model_is_told_as_such() -> None:
    answer = AnthropicDialect().answer(
        {"content": [{"type": "text", "text": "No."}], "stop_reason": "refusal", "usage": {}}
    )
    assert answer["choices"][0]["finish_reason"] == "content_filter"
