"""Between OpenAI's protocol and what providers speak: every part, both ways."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from functions.chat.answers import StreamedAnswer, WholeAnswer
from functions.chat.candidates import Candidate
from functions.chat.credentials import Credential
from functions.chat.dialects.anthropic import AnthropicDialect
from functions.chat.dialects.base import Dialect
from functions.chat.dialects.openai import OpenAIDialect
from functions.chat.metering import ContentRefusedError, EmptyAnswerError
from functions.chat.providers import SPOKEN, open_providers
from functions.chat.schemas import parse
from functions.chat.templates import Template
from functions.chat.upstream_errors import UpstreamError
from functions.core.errors import InvalidRequestError, QuernelError
from functions.core.settings import Settings
from tests.support.http_server import serve

pytestmark = pytest.mark.anyio

ANTHROPIC = AnthropicDialect()
KEY = "sk-own-0123456789abcdef"


def sent(dialect: Dialect, messages: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    """The body that a request becomes."""
    raw = json.dumps({"model": "ours", "messages": messages} | options).encode()
    made: dict[str, Any] = json.loads(dialect.body(Template(parse(raw)), "theirs", 64))
    return made


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def read(*events: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks that a stream of Anthropic's becomes."""
    reader = ANTHROPIC.reader()
    chunks = [chunk for event in events for chunk in reader.take(event)]
    assert reader.is_over == any(event["type"] == "message_stop" for event in events)
    return chunks


def deltas(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


# Anthropic: what is asked -------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["system", "developer"])
def test_system_prompts_stand_apart(role: str) -> None:
    body = sent(
        ANTHROPIC,
        [
            {"role": role, "content": "One."},
            user("a"),
            {"role": role, "content": [text("Two."), text("Three.")]},
        ],
    )
    assert body["system"] == [text("One."), text("Two."), text("Three.")]
    assert body["messages"] == [{"role": "user", "content": [text("a")]}]


def test_without_a_system_prompt_there_is_none() -> None:
    assert "system" not in sent(ANTHROPIC, [user("a")])


def test_turns_of_one_side_become_one() -> None:
    body = sent(
        ANTHROPIC,
        [
            user("a"),
            user("b"),
            {"role": "assistant", "content": "c"},
            {"role": "assistant", "content": "d"},
            user("e"),
        ],
    )
    assert body["messages"] == [
        {"role": "user", "content": [text("a"), text("b")]},
        {"role": "assistant", "content": [text("c"), text("d")]},
        {"role": "user", "content": [text("e")]},
    ]


def test_texts_without_any_text_are_left_out() -> None:
    body = sent(
        ANTHROPIC,
        [
            {"role": "system", "content": ""},
            user([text(""), text("a")]),
            {"role": "assistant", "content": ""},
            user("b"),
        ],
    )
    assert "system" not in body
    assert body["messages"] == [{"role": "user", "content": [text("a"), text("b")]}]


def test_calls_and_their_results() -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Lyon"}'},
    }
    bare = {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": ""}}
    body = sent(
        ANTHROPIC,
        [
            user("a"),
            {"role": "assistant", "content": "Let me see.", "tool_calls": [call, bare]},
            {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."},
            {"role": "tool", "tool_call_id": "call_2", "content": [text("Noon.")]},
            user("Thanks."),
        ],
    )
    assert body["messages"][1]["content"] == [
        text("Let me see."),
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Lyon"}},
        {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
    ]
    assert body["messages"][2] == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "call_1", "content": [text("Sunny.")]},
            {"type": "tool_result", "tool_use_id": "call_2", "content": [text("Noon.")]},
            text("Thanks."),
        ],
    }


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/gif", "image/webp"])
def test_images(media_type: str) -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,iVBORw0KGgo="}}
    body = sent(ANTHROPIC, [user([part])])
    source = {"type": "base64", "media_type": media_type, "data": "iVBORw0KGgo="}
    assert body["messages"][0]["content"] == [{"type": "image", "source": source}]


@pytest.mark.parametrize("url", ["data:image/svg+xml;base64,AAAA", "data:image/png,raw"])
def test_images_that_it_does_not_read_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sent(ANTHROPIC, [user([{"type": "image_url", "image_url": {"url": url}}])])
    assert caught.value.code == "unsupported_content"


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        ("auto", None, {"type": "auto"}),
        ("none", None, {"type": "none"}),
        ("required", None, {"type": "any"}),
        (
            {"type": "function", "function": {"name": "now"}},
            None,
            {"type": "tool", "name": "now"},
        ),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
        ("none", False, {"type": "none"}),
    ],
)
def test_which_tool(choice: Any, parallel: Any, expected: Any) -> None:
    tool = {"type": "function", "function": {"name": "now"}}
    body = sent(
        ANTHROPIC,
        [user("a")],
        tools=[tool],
        tool_choice=choice,
        parallel_tool_calls=parallel,
    )
    assert body["tools"] == [{"name": "now", "input_schema": {"type": "object", "properties": {}}}]
    assert body.get("tool_choice") == expected


def test_a_choice_without_tools_is_not_sent() -> None:
    assert "tool_choice" not in sent(ANTHROPIC, [user("a")], tools=[], tool_choice="auto")


def test_a_tool_keeps_its_description_its_schema_and_its_strictness() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    function = {"name": "weather", "description": "d", "parameters": schema, "strict": True}
    body = sent(ANTHROPIC, [user("a")], tools=[{"type": "function", "function": function}])
    assert body["tools"] == [
        {"name": "weather", "description": "d", "input_schema": schema, "strict": True}
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["A", "B"]}, {"stop_sequences": ["A", "B"]}),
        ({"stop": None}, {}),
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"temperature": 1, "top_p": 1}, {}),
        ({"top_k": 3}, {"top_k": 3}),
        ({"reasoning_effort": "high"}, {"output_config": {"effort": "high"}}),
        ({"reasoning_effort": "minimal"}, {"output_config": {"effort": "low"}}),
        ({"reasoning_effort": "none"}, {"output_config": {"effort": "low"}}),
        ({"response_format": {"type": "text"}}, {}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": 1}}}},
            {"output_config": {"format": {"type": "json_schema", "schema": {"a": 1}}}},
        ),
        ({"seed": 7, "user": "somebody", "verbosity": "low", "anything": 1}, {}),
    ],
)
def test_options(options: dict[str, Any], expected: dict[str, Any]) -> None:
    body = sent(ANTHROPIC, [user("a")], **options)
    usual = {
        "model": "theirs",
        "max_tokens": 64,
        "stream": False,
        "messages": [{"role": "user", "content": [text("a")]}],
    }
    assert body == usual | expected


def test_an_object_without_a_schema_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sent(ANTHROPIC, [user("a")], response_format={"type": "json_object"})
    assert (caught.value.code, caught.value.facts["param"]) == (
        "unsupported_parameter",
        "response_format",
    )


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        ([{"role": "assistant", "tool_calls": ["x"]}], {}),
        ([{"role": "assistant", "tool_calls": [{"function": "x"}]}], {}),
        ([{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}], {}),
        ([{"role": "assistant", "tool_calls": [{"function": {"arguments": "NaN"}}]}], {}),
        ([{"role": "assistant", "tool_calls": [{"function": {"arguments": 7}}]}], {}),
        ([user("a")], {"tools": [{"function": "x"}]}),
        ([user("a")], {"tools": {"a": 1}}),
        ([user("a")], {"tools": [{"function": {"name": "x"}}], "tool_choice": {"function": "x"}}),
        (
            [user("a")],
            {"response_format": {"type": "json_schema", "json_schema": "x"}},
        ),
    ],
)
def test_what_is_not_in_openais_shape_is_the_clients_fault(
    messages: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sent(ANTHROPIC, messages, **options)
    assert caught.value.status == 400


# Anthropic: what is answered ----------------------------------------------------------------------


REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "something_new": "stop",
    None: "stop",
}


@pytest.mark.parametrize("reason", REASONS, ids=str)
def test_why_it_ended(reason: str | None) -> None:
    answer = ANTHROPIC.answer({"content": [text("a")], "stop_reason": reason, "usage": {}})
    assert answer["choices"][0]["finish_reason"] == REASONS[reason]
    chunks = read({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {}})
    assert chunks[0]["choices"][0]["finish_reason"] == REASONS[reason]


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input_tokens": 5, "output_tokens": 2}, (5, 0, 2)),
        ({"input_tokens": 5, "cache_read_input_tokens": 7, "output_tokens": 2}, (12, 7, 2)),
        (
            {
                "input_tokens": 5,
                "cache_read_input_tokens": 7,
                "cache_creation_input_tokens": 11,
                "output_tokens": 2,
            },
            (23, 7, 2),
        ),
        ({"input_tokens": 5, "cache_read_input_tokens": None, "output_tokens": 2}, (5, 0, 2)),
        ({"input_tokens": -5, "output_tokens": "2"}, (0, 0, 0)),
        (None, (0, 0, 0)),
    ],
)
def test_cached_tokens_are_part_of_the_prompt(usage: Any, expected: tuple[int, int, int]) -> None:
    answer = ANTHROPIC.answer({"content": [text("a")], "usage": usage})
    prompt, cached, completion = expected
    assert answer["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def test_figures_of_a_stream_are_the_last_of_each() -> None:
    chunks = read(
        {
            "type": "message_start",
            "message": {
                "usage": {
                    "input_tokens": 5,
                    "cache_read_input_tokens": 7,
                    "cache_creation_input_tokens": 0,
                    "output_tokens": 1,
                }
            },
        },
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 9, "input_tokens": None},
        },
        {"type": "message_stop"},
    )
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["prompt_tokens"] == 12
    assert chunks[-1]["usage"]["completion_tokens"] == 9


def test_a_stream_of_text_thought_and_calls() -> None:
    def start(index: int, **block: Any) -> dict[str, Any]:
        return {"type": "content_block_start", "index": index, "content_block": block}

    def delta(index: int, **part: Any) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": part}

    def stop(index: int) -> dict[str, Any]:
        return {"type": "content_block_stop", "index": index}

    chunks = read(
        {"type": "message_start", "message": {"usage": {"input_tokens": 1}}},
        {"type": "ping"},
        start(0, type="thinking", thinking=""),
        delta(0, type="thinking_delta", thinking="Hm."),
        delta(0, type="signature_delta", signature="abc"),
        stop(0),
        start(1, type="text", text="So"),
        delta(1, type="text_delta", text=" it"),
        delta(1, type="text_delta", text=" is."),
        stop(1),
        start(2, type="tool_use", id="t1", name="weather", input={}),
        delta(2, type="input_json_delta", partial_json=""),
        delta(2, type="input_json_delta", partial_json='{"city":'),
        delta(2, type="input_json_delta", partial_json=' "Lyon"}'),
        stop(2),
        start(3, type="tool_use", id="t2", name="now", input={}),
        delta(3, type="input_json_delta", partial_json=""),
        stop(3),
        start(4, type="server_tool_use", id="s", name="web_search", input={}),
        delta(4, type="input_json_delta", partial_json='{"q": 1}'),
        stop(4),
        {"type": "something_new"},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}},
        {"type": "message_stop"},
    )
    said = deltas(chunks)
    assert said[0] == {"role": "assistant", "content": ""}
    assert "".join(one.get("content", "") for one in said) == "So it is."
    calls = [call for one in said for call in one.get("tool_calls", [])]
    assert [(c["index"], c["id"], c["function"]["name"]) for c in calls if "id" in c] == [
        (0, "t1", "weather"),
        (1, "t2", "now"),
    ]
    arguments = {
        place: "".join(c["function"]["arguments"] for c in calls if c["index"] == place)
        for place in (0, 1)
    }
    assert arguments == {0: '{"city": "Lyon"}', 1: "{}"}
    assert "Hm." not in json.dumps(chunks)


def test_an_answer_in_one_piece_with_thought_and_a_call() -> None:
    answer = ANTHROPIC.answer(
        {
            "content": [
                {"type": "thinking", "thinking": "Hm."},
                {"type": "redacted_thinking", "data": "x"},
                text("It "),
                text("is."),
                {"type": "tool_use", "id": "t1", "name": "now", "input": {}},
            ],
            "stop_reason": "tool_use",
            "usage": {},
        }
    )
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": "It is.",
        "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
        ],
    }


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"content": "text"},
        {"content": [{"type": "text"}]},
        {"content": [{"type": "text", "text": 7}]},
        {"content": [text("a")], "stop_reason": ["x"]},
        {"choices": []},
    ],
)
def test_an_answer_in_no_shape_is_a_failure(body: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError) as caught:
        ANTHROPIC.answer(body)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    "event",
    [
        {"type": "message_start", "message": 7},
        {"type": "message_delta", "delta": 7},
        {"type": "message_delta", "delta": {"stop_reason": {"a": 1}}},
        {"type": "content_block_start"},
        {"type": "content_block_start", "content_block": 7},
        {"type": "content_block_start", "content_block": {"type": "tool_use"}},
        {"type": "content_block_delta"},
        {"type": "content_block_delta", "delta": {"type": "text_delta"}},
        {"type": "content_block_delta", "index": [], "delta": {"type": "input_json_delta"}},
    ],
)
def test_an_event_in_no_shape_is_a_failure(event: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError) as caught:
        ANTHROPIC.reader().take(event)
    assert caught.value.status == 502


# The others ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slug", "members"),
    [
        ("openai", {"max_completion_tokens", "seed", "stream_options"}),
        ("google", {"max_tokens", "seed", "stream_options"}),
        ("xai", {"max_tokens", "seed", "stream_options"}),
        ("mistral", {"max_tokens", "random_seed"}),
        ("openrouter", {"max_tokens", "seed", "stream_options"}),
    ],
)
def test_what_each_calls_its_members(slug: str, members: set[str]) -> None:
    body = sent(SPOKEN[slug].dialect, [user("a")], seed=7, stream=True, max_tokens=99)
    assert set(body) == members | {"model", "messages", "stream"}
    assert 64 in body.values()
    assert 7 in body.values()


def ended(reason: str | None) -> dict[str, Any]:
    message = {"role": "assistant", "content": "a"}
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}


@pytest.mark.parametrize(
    ("slug", "reason", "expected"),
    [
        ("google", "stop", "stop"),
        ("google", "STOP", "stop"),
        ("google", "MAX_TOKENS", "length"),
        ("google", "length", "length"),
        ("google", "tool_calls", "tool_calls"),
        ("google", "content_filter", "content_filter"),
        ("google", "content_filter: RECITATION", "content_filter"),
        ("google", "SAFETY", "content_filter"),
        ("google", "PROHIBITED_CONTENT", "content_filter"),
        ("google", None, None),
        ("mistral", "model_length", "length"),
        ("mistral", "tool_calls", "tool_calls"),
        ("openrouter", "length", "length"),
        ("openai", "content_filter", "content_filter"),
    ],
)
def test_reasons_to_end_are_openais(slug: str, reason: str | None, expected: str | None) -> None:
    dialect = SPOKEN[slug].dialect
    assert dialect.answer(ended(reason))["choices"][0]["finish_reason"] == expected
    [chunk] = dialect.reader().take(ended(reason))
    assert chunk["choices"][0]["finish_reason"] == expected


@pytest.mark.parametrize("slug", ["mistral", "openrouter"])
def test_an_answer_that_ended_in_an_error_is_a_failure(slug: str) -> None:
    dialect = SPOKEN[slug].dialect
    with pytest.raises(UpstreamError):
        dialect.answer(ended("error"))
    with pytest.raises(UpstreamError):
        dialect.reader().take(ended("error"))


@pytest.mark.parametrize("body", [{}, {"choices": None}, {"choices": [7]}, {"choices": [{}]}])
def test_what_has_no_reasons_is_left_as_it_is(body: dict[str, Any]) -> None:
    assert SPOKEN["google"].dialect.answer(json.loads(json.dumps(body))) == body


# Refusals with status 200 -------------------------------------------------------------------------


async def ask(slug: str, *events: dict[str, Any], stream: bool) -> list[dict[str, Any]]:
    """What our side makes of an answer of status 200 by a provider."""

    async def handler(_: web.BaseRequest) -> web.Response:
        if not stream:
            return web.json_response(events[0])
        raw = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return web.Response(text=": PROCESSING\n\n" + raw, content_type="text/event-stream")

    async with (
        serve(handler) as url,
        open_providers(Settings(providers={slug: {"url": url}})) as providers,  # type: ignore[dict-item]
    ):
        upstream = providers[slug].upstream
        credential = Credential("own", SecretStr(KEY), key_id="1")
        if not stream:
            return [await upstream.complete(b"{}", "id", credential)]
        async with upstream.stream(b"{}", "id", credential) as batches:
            return [chunk async for batch in batches for chunk in batch]


def openrouter_error(code: int) -> dict[str, Any]:
    return {"error": {"code": code, "message": f"no, {KEY}"}}


def anthropic_error(kind: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": f"no, {KEY}"}}


INSIDE = [
    ("openrouter", openrouter_error(401), 401, "provider_key_rejected"),
    ("openrouter", openrouter_error(402), 402, "provider_quota_exceeded"),
    ("openrouter", openrouter_error(429), 429, "provider_rate_limited"),
    ("openrouter", openrouter_error(400), 400, "upstream_rejected"),
    ("openrouter", openrouter_error(408), 504, "upstream_timeout"),
    ("openrouter", openrouter_error(502), 502, "upstream_error"),
    ("anthropic", anthropic_error("authentication_error"), 401, "provider_key_rejected"),
    ("anthropic", anthropic_error("billing_error"), 402, "provider_quota_exceeded"),
    ("anthropic", anthropic_error("rate_limit_error"), 429, "provider_rate_limited"),
    ("anthropic", anthropic_error("invalid_request_error"), 400, "upstream_rejected"),
    ("anthropic", anthropic_error("api_error"), 502, "upstream_error"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "number", range(len(INSIDE)), ids=[f"{slug}-{code}" for slug, _, _, code in INSIDE]
)
async def test_a_refusal_inside_a_success(number: int, stream: bool) -> None:
    slug, event, status, code = INSIDE[number]
    events = [event]
    if stream and slug == "anthropic":
        events = [{"type": "message_start", "message": {"usage": {}}}, event]
    with pytest.raises(QuernelError) as caught:
        await ask(slug, *events, stream=stream)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert KEY not in caught.value.message + repr(caught.value.facts)


async def test_once_the_model_has_spoken_it_is_a_failure_of_the_provider() -> None:
    spoken = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
    chunks = await ask("openrouter", spoken, openrouter_error(429), stream=True)
    assert chunks == [spoken, openrouter_error(429)]  # which the answer takes for what it is
    with pytest.raises(UpstreamError):
        await ask("openrouter", spoken, ended("error"), stream=True)


# Answers that were stopped before they began ------------------------------------------------------


def answer_of(kind: type[WholeAnswer] | type[StreamedAnswer]) -> Any:
    completion = parse(json.dumps({"model": "ours", "messages": [user("a")]}).encode())
    candidate = Candidate("ours", "theirs", "google", 1000, 64)
    if kind is WholeAnswer:
        return WholeAnswer(completion, candidate, "id")
    return StreamedAnswer(completion, candidate, "id", is_kept=False)


@pytest.mark.parametrize(
    ("reason", "completion", "error"),
    [
        ("content_filter", 0, ContentRefusedError),
        ("content_filter", None, ContentRefusedError),
        ("stop", 0, EmptyAnswerError),
        ("content_filter", 40, None),  # the model worked, and is paid for that
    ],
)
def test_an_answer_without_a_word(
    reason: str, completion: int | None, error: type[QuernelError] | None
) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": completion}
    choice = {"index": 0, "finish_reason": reason}
    whole, streamed = answer_of(WholeAnswer), answer_of(StreamedAnswer)

    def take_whole() -> None:
        message = {"role": "assistant", "content": None}
        whole.take({"choices": [choice | {"message": message}], "usage": usage})

    def take_streamed() -> None:
        streamed.take([{"choices": [choice | {"delta": {}}]}, {"choices": [], "usage": usage}])
        streamed.end()

    for take in (take_whole, take_streamed):
        if error is None:
            take()
            continue
        with pytest.raises(QuernelError) as caught:
            take()
        assert type(caught.value) is error


def test_what_was_said_before_it_was_stopped_is_an_answer() -> None:
    streamed = answer_of(StreamedAnswer)
    streamed.take([{"choices": [{"index": 0, "delta": {"content": "a"}}]}])
    streamed.take([{"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]}])
    streamed.end()


def test_servers_that_speak_openais_protocol_are_read_as_they_are() -> None:
    dialect = OpenAIDialect()
    body = ended("whatever") | {"error": {"code": 429}}
    assert dialect.answer(body) is body
    assert dialect.status_inside(body) is None
