"""The clients that people use, as they are: OpenAI's in Python and JavaScript, and an agent's.

With an access token and with an API key, which stand for each other.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from local.node import node
from local.paths import JAVASCRIPT
from local.stack import Stack
from tests.chat.conftest import MODEL, Memory, Payer, wait_for
from tests.chat.test_completions import WEATHER, user
from tests.chat.test_embeddings import EMBEDDING_MODEL
from tests.chat.test_routing import IMAGE

JAVASCRIPT_SECONDS = 60

NewKey = Callable[..., str]


@pytest.fixture
def new_key(stack: Stack, payer: Payer) -> NewKey:
    """`new_key(scopes=[…])`: an API key of the payer's, made as a client makes it."""

    def make(**values: Any) -> str:
        answer = httpx.post(
            f"{stack.supabase_url}/rest/v1/rpc/create_api_key",
            headers={
                "apikey": stack.keys.publishable_key,
                "Authorization": f"Bearer {payer.token}",
            },
            json={"p_name": "tests", "p_values": values},
            trust_env=False,
            timeout=30,
        )
        assert answer.status_code == 200, answer.text
        key: str = answer.json()["key"]
        return key

    return make


@dataclass
class Signed:
    """Somebody who shows a token or a key."""

    payer: Payer
    credential: str
    client: openai.OpenAI


@pytest.fixture(params=["access token", "API key"])
def signed(request: pytest.FixtureRequest, payer: Payer, new_key: NewKey) -> Iterator[Signed]:
    credential = payer.token if request.param == "access token" else new_key()
    with openai.OpenAI(base_url=payer.base_url, api_key=credential, max_retries=0) as client:
        yield Signed(payer, credential, client)


@pytest.fixture
def seeing(service: Any) -> Iterator[str]:
    """A model that reads images."""
    fields = {
        "id": "a-model-that-sees",
        "provider": "quernel",
        "name": "Eyes",
        "kind": "chat",
        "upstream_model": "eyes",
        "context_length": 32768,
        "max_output_tokens": 1024,
        "default_output_tokens": 256,
        "prompt_price": 1,
        "cached_prompt_price": 1,
        "completion_price": 1,
        "capabilities": {"vision": True},
        "is_active": True,
    }
    service.rpc("model_upsert", p_model=fields, p_actor="tests")
    yield fields["id"]
    service.rpc("model_upsert", p_model={"id": fields["id"], "is_active": False}, p_actor="tests")


# Python: what is refused, as which class ----------------------------------------------------------


def refusals(payer: Payer, key: Callable[..., openai.OpenAI]) -> dict[str, Callable[[], Any]]:
    """One request for each kind of refusal."""

    def ask(client: openai.OpenAI, text: str = "hi", **options: Any) -> Any:
        options = {"model": MODEL, "messages": user(text)} | options
        return client.chat.completions.create(**options)

    def conflict() -> Any:
        headers = {"Idempotency-Key": "clients"}
        ask(payer.client(), "one", extra_headers=headers)
        return ask(payer.client(), "another", extra_headers=headers)

    def too_often() -> Any:
        client = key(rate_limit_per_minute=1)
        return [ask(client) for _ in range(3)]

    return {
        "400 BadRequestError invalid_request": lambda: ask(payer.client(), n=99),
        "400 BadRequestError unsupported_parameter": lambda: ask(payer.client(), store=True),
        "401 AuthenticationError invalid_token": lambda: ask(
            payer.client().with_options(api_key="nonsense")
        ),
        "401 AuthenticationError invalid_api_key": lambda: ask(
            payer.client().with_options(api_key="qk_live_nonsense")
        ),
        "402 APIStatusError budget_exceeded": lambda: ask(key(monthly_credit_budget=0)),
        "403 PermissionDeniedError insufficient_scope": lambda: ask(key(scopes=["documents"])),
        "403 PermissionDeniedError not_a_member": lambda: ask(payer.client(organization="nobodys")),
        "404 NotFoundError model_not_found": lambda: ask(payer.client(), model="nobody-has-this"),
        "409 ConflictError idempotency_conflict": conflict,
        "429 RateLimitError rate_limited": too_often,
        "502 InternalServerError upstream_error": lambda: ask(
            payer.client(), "simulate: status=500"
        ),
        "503 InternalServerError upstream_rate_limited": lambda: ask(
            payer.client(), "simulate: status=429"
        ),
    }


@pytest.mark.parametrize("case", refusals(None, None))  # type: ignore[arg-type]
def test_an_error_has_the_class_that_the_client_gives_its_status(
    payer: Payer, new_key: NewKey, case: str
) -> None:
    def key(**values: Any) -> openai.OpenAI:
        return payer.client().with_options(api_key=new_key(**values))

    with pytest.raises(openai.APIStatusError) as caught:
        refusals(payer, key)[case]()
    error = caught.value
    assert f"{error.status_code} {type(error).__name__} {error.code}" == case
    assert error.request_id == error.response.headers["x-request-id"]


def test_a_key_for_documents_embeds_nothing(payer: Payer, new_key: NewKey) -> None:
    client = payer.client().with_options(api_key=new_key(scopes=["documents", "images"]))
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.embeddings.create(model=EMBEDDING_MODEL, input="a")
    assert caught.value.code == "insufficient_scope"
    assert payer.holds() == []


# Python -------------------------------------------------------------------------------------------


def test_tools_make_a_round_trip(signed: Signed) -> None:
    messages = user("Use get_weather for Bern.")
    completions = signed.client.chat.completions
    first = completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    [call] = first.choices[0].message.tool_calls or []
    messages += [
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "snow"},
    ]
    second = completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert "The tool said: snow" in (second.choices[0].message.content or "")
    assert len(signed.payer.charges()) == 2


def test_the_clients_own_parser_reads_a_schema(signed: Signed) -> None:
    class Answer(BaseModel):
        name: str
        ok: bool

    answer = signed.client.chat.completions.parse(
        model=MODEL, messages=user("x"), response_format=Answer
    )
    assert answer.choices[0].message.parsed is not None
    assert answer.choices[0].message.parsed.ok is True


def test_the_clients_own_stream_helper_collects_an_answer(signed: Signed) -> None:
    with signed.client.chat.completions.stream(
        model=MODEL, messages=user("hello"), n=2, logprobs=True, stop=["ated]"]
    ) as stream:
        answer = stream.get_final_completion()
    assert [choice.message.content for choice in answer.choices] == ["[simul"] * 2
    assert answer.choices[0].logprobs is not None
    assert answer.usage is not None
    assert [Decimal(str(answer.usage.credits_charged))] == signed.payer.charges()  # type: ignore[attr-defined]


def test_images_reach_the_model(signed: Signed, seeing: str, upstream: Memory, mark: str) -> None:
    content = [{"type": "text", "text": mark}, IMAGE | {"image_url": IMAGE["image_url"]}]
    answer = signed.client.chat.completions.create(
        model=seeing,
        messages=[{"role": "user", "content": content}],  # type: ignore[list-item]
    )
    assert answer.model == seeing
    [sent] = upstream.bodies(mark)
    assert sent["messages"][0]["content"] == content


def test_unknown_members_pass_through(signed: Signed, upstream: Memory, mark: str) -> None:
    signed.client.chat.completions.create(
        model=MODEL, messages=user(mark), extra_body={"member_of_tomorrow": [1]}
    )
    assert upstream.bodies(mark)[0]["member_of_tomorrow"] == [1]


def test_texts_are_embedded(signed: Signed) -> None:
    answer = signed.client.embeddings.create(model=EMBEDDING_MODEL, input=["a", "b"], dimensions=32)
    assert [len(vector.embedding) for vector in answer.data] == [32, 32]
    assert len(signed.payer.charges()) == 1


def test_models_are_listed_with_window_and_price(signed: Signed) -> None:
    listed = {model.id: model.model_dump() for model in signed.client.models.list()}
    assert {MODEL, EMBEDDING_MODEL} <= set(listed)
    assert listed[MODEL]["context_length"] == 32768
    assert listed[MODEL]["pricing"]["prompt"] == 60
    assert signed.client.models.retrieve(MODEL).model_dump() == listed[MODEL]


def test_a_key_is_named_by_its_usage_rows(payer: Payer, new_key: NewKey) -> None:
    client = payer.client().with_options(api_key=new_key())
    client.chat.completions.create(model=MODEL, messages=user("hi"))
    client.embeddings.create(model=EMBEDDING_MODEL, input="hi", dimensions=32)
    assert all(row["api_key_id"] for row in payer.settled_usage(2))


# JavaScript ---------------------------------------------------------------------------------------


def test_the_javascript_client_works_as_it_is(signed: Signed) -> None:
    ran = subprocess.run(
        [node(), JAVASCRIPT / "client.mjs", signed.payer.base_url, MODEL, EMBEDDING_MODEL],
        check=False,
        capture_output=True,
        text=True,
        timeout=JAVASCRIPT_SECONDS,
        env={"CREDENTIAL": signed.credential, "PATH": os.environ["PATH"]},
    )
    assert ran.returncode == 0, ran.stderr
    got = json.loads(ran.stdout)
    assert (got["provider"], got["credential"]) == ("quernel", "platform")
    assert [c["message"]["content"] for c in got["whole"]["choices"]] == ["[simul"] * 2
    assert got["whole"]["choices"][0]["logprobs"]["content"]
    assert got["whole"]["usage"]["credits_charged"] > 0
    assert got["streamed"]["text"].startswith("[simulated]")
    assert got["streamed"]["usage"]["credits_remaining"] < 100
    assert set(got["tool"]["arguments"]) == {"city"}
    assert "The tool said: snow" in got["tool"]["said"]
    assert got["schema"] == {"ok": True}
    assert got["left"] == 5
    assert got["embedded"]["lengths"] == [32, 32]
    assert got["retrieved"]["context_length"] == 32768
    assert got["retrieved"] in got["listed"]
    assert [(e["kind"], e["status"], e["code"]) for e in got["errors"]] == [
        ("BadRequestError", 400, "invalid_request"),
        ("AuthenticationError", 401, "invalid_token"),
        ("NotFoundError", 404, "model_not_found"),
        ("InternalServerError", 502, "upstream_error"),
        ("InternalServerError", 503, "upstream_rate_limited"),
        ("BadRequestError", 400, "unsupported_parameter"),
    ]
    payer = signed.payer
    wait_for(lambda: all(row["status"] != "started" for row in payer.usage()))
    settled = [hold for hold in payer.holds() if hold["status"] == "settled"]
    assert len(settled) == len(payer.charges()) == 7
    assert [row["status"] for row in payer.usage()].count("cancelled") == 1


# An agent -----------------------------------------------------------------------------------------


def agent_of(signed: Signed, **options: Any) -> Agent[None, Any]:
    provider = OpenAIProvider(base_url=signed.payer.base_url, api_key=signed.credential)
    return Agent(OpenAIChatModel(MODEL, provider=provider), **options)


@pytest.mark.anyio
async def test_an_agent_calls_its_tool(signed: Signed) -> None:
    agent = agent_of(signed)
    asked: list[str] = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        asked.append(city)
        return "snow"

    result = await agent.run("Use get_weather for Bern.")
    assert len(asked) == 1
    assert "The tool said: snow" in result.output
    usage = signed.payer.settled_usage(2)
    assert sum(row["completion_tokens"] for row in usage) == result.usage.output_tokens


@pytest.mark.anyio
async def test_an_agent_streams_and_gets_its_type(signed: Signed) -> None:
    class Weather(BaseModel):
        city: str
        days: int

    result = await agent_of(signed, output_type=Weather).run("The weather, please.")
    assert isinstance(result.output, Weather)
    async with agent_of(signed).run_stream("hello") as stream:
        text = [piece async for piece in stream.stream_text(delta=True)]
    assert "".join(text).startswith("[simulated]")
    assert len(signed.payer.charges()) == 2
