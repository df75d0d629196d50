"""Completions as the official client sees them: answers, streams, tools, and what they cost."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import openai
import pytest

from tests.chat.conftest import MODEL, Memory, Payer, body

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"type": "string", "enum": ["C", "F"]},
            },
            "required": ["city", "days"],
        },
    },
}


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def cost(payer: Payer, usage: dict[str, Any]) -> Decimal:
    """What a usage object has to cost at the model's listed price."""
    model = payer.http.get(f"/models/{MODEL}").json()
    price = {name: Decimal(str(p)) for name, p in model["pricing"].items() if name != "unit"}
    prompt = usage["prompt_tokens"] * price["prompt"]
    return (prompt + usage["completion_tokens"] * price["completion"]) / 1_000_000


def test_an_answer_is_paid_from_the_ledger_to_the_digit(payer: Payer) -> None:
    answer = payer.ask("hello").json()
    usage = json.loads(json.dumps(answer["usage"]), parse_float=Decimal)
    assert answer["choices"][0]["message"]["content"].startswith("[simulated]")
    assert payer.charges() == [cost(payer, usage)] == [usage["credits_charged"]]
    assert payer.balance == 100 - payer.charges()[0] == usage["credits_remaining"]
    [row] = payer.usage()
    assert (row["status"], row["usage_source"]) == ("completed", "upstream")
    assert row["prompt_tokens"] == usage["prompt_tokens"]
    assert row["completion_tokens"] == usage["completion_tokens"]
    assert row["latency_ms"] >= 0
    assert payer.account()["held"] == 0


def test_the_answer_carries_our_names(payer: Payer) -> None:
    raw = payer.client().chat.completions.with_raw_response.create(model=MODEL, messages=user("hi"))
    answer = raw.parse()
    assert answer.model == MODEL
    assert answer.id == f"chatcmpl-{raw.headers['x-request-id']}"
    assert answer.object == "chat.completion"


def test_a_stream_ends_with_usage_and_credits_in_its_last_chunk(payer: Payer) -> None:
    chunks = list(
        payer.client().chat.completions.create(model=MODEL, messages=user("hello"), stream=True)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.startswith("[simulated]")
    assert {chunk.model for chunk in chunks} == {MODEL}
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    last = chunks[-1]
    assert last.choices[0].finish_reason == "stop"
    assert last.usage is not None
    [charged] = payer.charges()
    assert Decimal(str(last.usage.credits_charged)) == charged == cost(payer, dict(last.usage))
    assert Decimal(str(last.usage.credits_remaining)) == payer.balance
    [row] = payer.usage()
    assert row["is_streamed"]
    assert 0 <= row["first_token_ms"] <= row["latency_ms"]


def test_a_stream_that_includes_usage_ends_with_a_chunk_without_choices(payer: Payer) -> None:
    chunks = list(
        payer.client().chat.completions.create(
            model=MODEL,
            messages=user("hello"),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert Decimal(str(chunks[-1].usage.credits_charged)) == payer.charges()[0]
    assert all(chunk.choices and chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("options", [{}, {"include_usage": True}])
def test_streams_are_server_sent_events_that_end_with_done(
    payer: Payer, options: dict[str, Any]
) -> None:
    answer = payer.ask("hello", stream=True, stream_options=options)
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = answer.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]
    assert sum(bool(chunk.get("usage")) for chunk in chunks) == 1
    assert all(("usage" in chunk) == bool(options) for chunk in chunks[:-1])


@pytest.mark.anyio
async def test_the_async_client_streams(payer: Payer) -> None:
    async with openai.AsyncOpenAI(
        base_url=payer.base_url, api_key=payer.token, max_retries=0
    ) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=user("hello simulate: tokens=40"), stream=True
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 40
    assert payer.charges() == [cost(payer, dict(chunks[-1].usage))]


@pytest.mark.parametrize("stream", [False, True])
def test_several_choices_are_charged_together(payer: Payer, stream: bool) -> None:
    text = "hello simulate: tokens=10"
    completions = payer.client().chat.completions
    if stream:
        chunks = list(
            completions.create(model=MODEL, messages=user(text), n=3, max_tokens=50, stream=True)
        )
        assert {c.index for chunk in chunks for c in chunk.choices} == {0, 1, 2}
        reasons = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
        assert reasons == ["stop"] * 3
        usage = chunks[-1].usage
    else:
        answer = completions.create(model=MODEL, messages=user(text), n=3, max_tokens=50)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        usage = answer.usage
    assert usage is not None
    assert usage.completion_tokens == 30
    assert payer.charges() == [cost(payer, dict(usage))]


def test_max_tokens_cuts_the_answer(payer: Payer, upstream: Memory, mark: str) -> None:
    answer = payer.client().chat.completions.create(
        model=MODEL, messages=user(mark), max_completion_tokens=5
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    [sent] = upstream.bodies(mark)
    assert sent["max_tokens"] == 5
    assert "max_completion_tokens" not in sent


def test_stop_is_respected(payer: Payer) -> None:
    answer = payer.client().chat.completions.create(
        model=MODEL, messages=user("hello simulate: tokens=60"), stop=["ated]"]
    )
    assert answer.choices[0].message.content == "[simul"


def test_tools_make_a_round_trip(payer: Payer) -> None:
    completions = payer.client().chat.completions
    messages = user("Use get_weather for Bern.")
    first = completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert first.choices[0].finish_reason == "tool_calls"
    [call] = first.choices[0].message.tool_calls or []
    assert set(json.loads(call.function.arguments)) == {"city", "days"}
    messages += [
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "snow"},
    ]
    second = completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert "The tool said: snow" in (second.choices[0].message.content or "")
    assert len(payer.charges()) == 2


def test_a_streamed_tool_call_is_an_answer(payer: Payer) -> None:
    stream = payer.client().chat.completions.create(
        model=MODEL, messages=user("x"), tools=[WEATHER], tool_choice="required", stream=True
    )
    arguments, last = "", None
    for last in stream:
        for call in last.choices[0].delta.tool_calls or []:
            arguments += (call.function and call.function.arguments) or ""
    assert set(json.loads(arguments)) == {"city", "days"}
    assert last is not None
    assert last.choices[0].finish_reason == "tool_calls"
    assert last.usage is not None
    assert payer.charges() == [cost(payer, dict(last.usage))]


def test_a_json_schema_is_answered_in_its_shape(payer: Payer) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "ok": {"type": "boolean"}},
        "required": ["name", "ok"],
    }
    answer = payer.client().chat.completions.create(
        model=MODEL,
        messages=user("x"),
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
    )
    value = json.loads(answer.choices[0].message.content or "")
    assert isinstance(value["name"], str)
    assert value["ok"] is True


def test_logprobs_pass_through(payer: Payer) -> None:
    answer = payer.client().chat.completions.create(
        model=MODEL, messages=user("x"), logprobs=True, max_tokens=4
    )
    assert answer.choices[0].logprobs is not None
    assert len(answer.choices[0].logprobs.content or []) == 4


def test_unknown_members_pass_through_and_personal_ones_do_not(
    payer: Payer, upstream: Memory, mark: str
) -> None:
    payer.client().chat.completions.create(
        model=MODEL,
        messages=user(mark),
        temperature=0.25,
        user="somebody@example.com",
        metadata={"customer": "42"},
        extra_body={"member_of_tomorrow": {"deep": [1, 2.5, None, "ü\u2028"]}},
    )
    [sent] = upstream.bodies(mark)
    assert sent["member_of_tomorrow"] == {"deep": [1, 2.5, None, "ü\u2028"]}
    assert sent["temperature"] == 0.25
    assert sent["max_tokens"] == 2048
    assert "user" not in sent
    assert "metadata" not in sent


def test_the_upstream_sees_its_own_model_name_and_our_request_id(
    payer: Payer, upstream: Memory, mark: str
) -> None:
    answer = payer.ask(mark, stream=True)
    [sent], [headers] = upstream.bodies(mark), upstream.headers(mark)
    assert sent["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert headers["x-request-id"] == answer.headers["x-request-id"]
    listed = payer.connection.execute(
        "select upstream_model from public.models where id = %s", [MODEL]
    ).fetchone()
    assert listed == {"upstream_model": sent["model"]}


def test_text_in_every_script_survives_the_stream(payer: Payer) -> None:
    text = "naïve 東京 🙂 \u0000".replace("\u0000", "") + "e\u0301"
    messages = [
        {"role": "user", "content": "Say it."},
        {"role": "tool", "tool_call_id": "c", "content": text},
    ]
    request = body("", stream=True) | {"messages": messages}
    answer = payer.http.post("/chat/completions", json=request).text
    chunks = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert said.startswith(f"[simulated] The tool said: {text}")


def test_models_are_listed_with_context_and_price(payer: Payer) -> None:
    client = payer.client()
    listed = {model.id: model for model in client.models.list()}
    assert MODEL in listed
    model = client.models.retrieve(MODEL)
    assert model == listed[MODEL]
    assert model.context_length == 32768  # type: ignore[attr-defined]
    assert model.pricing["completion"] == 180  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no/such-model")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_prompt_tokens_that_the_upstream_had_cached_cost_less(payer: Payer, stream: bool) -> None:
    answer = payer.ask("A question. simulate: cached=7", stream=stream)
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines()]
    [usage] = [
        found for line in lines if line.startswith("{") and (found := json.loads(line).get("usage"))
    ]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 7
    [row] = payer.settled_usage()
    assert (row["cached_tokens"], row["usage_source"]) == (7, "upstream")
    uncached = row["prompt_tokens"] - 7
    # Credits per million: 60 a prompt token, 30 a cached one, 180 a token of the answer.
    millionths = Decimal(uncached * 60 + 7 * 30 + row["completion_tokens"] * 180)
    assert uncached > 0
    assert payer.charges() == [millionths / 1_000_000]


def test_where_a_request_came_from_is_in_its_usage_row(payer: Payer) -> None:
    agent = "curl/8 " + "x" * 500
    payer.ask("hello", headers={"User-Agent": agent})
    payer.ask("hello", headers={"User-Agent": agent}, stream=True)
    for row in payer.settled_usage(2):
        assert str(row["ip_address"]).split("/")[0] == "127.0.0.1"
        assert row["user_agent"] == agent[:400]


def test_a_quote_takes_no_idempotency_key(payer: Payer) -> None:
    document = payer.http.get(f"{payer.base_url.removesuffix('/v1')}/openapi.json").json()
    named = {
        path: {
            parameter["name"].lower() for parameter in document["paths"][path]["post"]["parameters"]
        }
        for path in ("/v1/quote", "/v1/chat/completions")
    }
    assert "openai-organization" in named["/v1/quote"]
    assert named["/v1/chat/completions"] - named["/v1/quote"] == {"idempotency-key"}
    # A key that a completion would refuse is none of its business.
    answer = payer.http.post("/quote", json=body("hello"), headers={"Idempotency-Key": "x" * 256})
    assert answer.status_code == 200


def test_a_quote_says_that_its_prompt_tokens_are_a_bound_in_bytes(payer: Payer) -> None:
    document = payer.http.get(f"{payer.base_url.removesuffix('/v1')}/openapi.json").json()
    described = " ".join(document["paths"]["/v1/quote"]["post"]["description"].split())
    assert "`prompt_tokens` is an upper bound: the UTF-8 bytes" in described
    ascii_, cyrillic = (
        payer.http.post("/quote", json=body(text)).json()["prompt_tokens"] for text in ("aa", "яя")
    )
    assert cyrillic == ascii_ + 2


def test_a_quote_bounds_the_charge_and_holds_nothing(payer: Payer) -> None:
    request = body("hello", max_tokens=100)
    quote = payer.http.post("/quote", json=request).json()
    assert quote["affordable"] is True
    assert quote["max_tokens"] == 100
    assert (payer.usage(), payer.holds(), payer.balance) == ([], [], 100)
    payer.http.post("/chat/completions", json=request)
    assert 0 < payer.charges()[0] <= Decimal(str(quote["credits_max"]))
    assert payer.holds()[0]["amount"] == Decimal(str(quote["credits_max"]))


def test_a_quote_says_what_is_not_affordable(payer: Payer) -> None:
    payer.connection.execute(
        "update public.credit_accounts set monthly_credit_budget = 0.1 where user_id = %s",
        [payer.id],
    )
    quote = payer.http.post("/quote", json=body("hello", max_tokens=8000, n=4)).json()
    assert quote["affordable"] is False
    assert quote["refusal"]["code"] == "budget_exceeded"
