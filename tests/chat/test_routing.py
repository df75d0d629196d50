"""Who answers when the first provider does not; what is tried, what is charged, who is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from functions.chat import breaker as breakers
from functions.chat.service import ChatService
from functions.chat.streaming import Sink
from functions.core.errors import QuernelError
from local.processes import LOOPBACK, free_port
from local.stack import Stack
from tests.chat.conftest import (
    MODEL,
    Memory,
    NewPayer,
    Payer,
    ask_of,
    body,
    chat_service,
    settings_of,
    wait_for,
)
from tests.chat.second_provider import Second, add_model, second_provider
from tests.chat.test_settlement import Client

pytestmark = pytest.mark.anyio

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.fixture(scope="module")
def second(
    stack: Stack, functions_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Second]:
    assert functions_url
    with second_provider(stack, tmp_path_factory.mktemp("second")) as provider:
        yield provider


Service = Callable[..., Any]


@pytest.fixture
def routed(stack: Stack, second: Second) -> Service:
    """`routed(name=value)`: the chat service with both providers and breakers that open."""

    @asynccontextmanager
    async def open_service(**changes: Any) -> AsyncIterator[ChatService]:
        values = {"providers": second.providers, "breaker_failures": 3} | changes
        async with chat_service(settings_of(stack, **values)) as service:
            yield service

    return open_service


@dataclass
class Asked:
    """What each of two providers was asked under one mark."""

    upstream: Memory
    second: Second
    mark: str

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.upstream.bodies(self.mark)), len(self.second.memory.bodies(self.mark))


@pytest.fixture
def asked(upstream: Memory, second: Second, mark: str) -> Asked:
    return Asked(upstream, second, mark)


class Answered:
    """One answer, whole or streamed, as its client saw it."""

    def __init__(self, headers: dict[str, str], chunks: list[dict[str, Any]]) -> None:
        self.headers, self.chunks = headers, chunks
        self.model = chunks[-1]["model"]
        self.usage = chunks[-1].get("usage")

    @property
    def who(self) -> tuple[str, str]:
        return self.headers["x-quernel-provider"], self.headers["x-quernel-credential"]


async def answer(service: ChatService, payer: Payer, text: str, **options: Any) -> Answered:
    ask = ask_of(payer, text, **options)
    if not options.get("stream"):
        raw, headers = await service.complete(ask)
        return Answered(headers, [json.loads(raw)])
    client = Client()
    sink = Sink(client.send)
    await service.stream(ask, sink)
    return Answered(sink.headers, client.chunks)


async def refusal(service: ChatService, payer: Payer, text: str, **options: Any) -> QuernelError:
    with pytest.raises(QuernelError) as caught:
        await answer(service, payer, text, **options)
    return caught.value


def charged_for(payer: Payer, model: str) -> None:
    """The one settled request was charged once, at this model's prices, and names it."""
    [row] = [row for row in payer.usage() if row["status"] == "completed"]
    prices = payer.http.get(f"/models/{model}").json()["pricing"]
    cost = row["prompt_tokens"] * prices["prompt"] + row["completion_tokens"] * prices["completion"]
    assert payer.charges() == [row["credits"]]
    assert float(row["credits"]) == pytest.approx(cost / 1_000_000, abs=1e-6)
    assert row["model_id"] == model
    assert payer.account()["held"] == 0


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "status", "code", "param"),
    [
        (["a", "b", "c", "d"], 400, "invalid_request", "models"),
        ("a", 400, "invalid_request", "models"),
        ([""], 400, "invalid_request", "models[0]"),
        ([7], 400, "invalid_request", "models[0]"),
        (["nobody-has-this"], 404, "model_not_found", "model"),
    ],
)
async def test_models_that_cannot_stand_in_are_refused(
    idle_payer: Payer, models: Any, status: int, code: str, param: str
) -> None:
    response = idle_payer.ask("hi", models=models)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert error["param"] == param
    assert idle_payer.holds() == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_request_is_not_carried_around(
    routed: Service, payer: Payer, asked: Asked, stream: bool
) -> None:
    async with routed() as service:
        text = f"{asked.mark} simulate: status=422"
        error = await refusal(service, payer, text, models=[asked.second.model], stream=stream)
        assert error.code == "upstream_rejected"
        assert service.router.providers["quernel"].breaker.state == "closed"
    assert asked.counts == (1, 0)
    payer.require_free(count=1, code="upstream_rejected")


async def test_an_empty_answer_is_not_carried_around(
    routed: Service, payer: Payer, second: Second, mark: str
) -> None:
    # A client can force it, and would have three models read its prompt for nothing.
    async with routed() as service:
        text = f"{mark} simulate: fault=empty"
        for stream in (False, True):
            error = await refusal(service, payer, text, models=[second.model], stream=stream)
            assert error.code == "upstream_empty_answer"
    assert second.memory.bodies(mark) == []
    payer.require_free(count=2)


async def test_nobody_else_answers_once_something_was_sent(
    routed: Service, payer: Payer, second: Second, mark: str
) -> None:
    async with routed() as service:
        for fault in ("reset", "malformed", "error", "cut"):
            client = Client()
            text = f"{mark} simulate: fault={fault} after=4"
            ask = ask_of(payer, text, models=[second.model], stream=True)
            with pytest.raises(QuernelError) as caught:
                await service.stream(ask, Sink(client.send))
            assert caught.value.code == "upstream_error"
            assert len(client.chunks) >= 4
            assert {chunk["model"] for chunk in client.chunks} == {MODEL}
    assert second.memory.bodies(mark) == []
    payer.require_free(count=4, code="upstream_error")


async def test_a_model_of_a_provider_that_is_not_configured(
    routed: Service, payer: Payer, second: Second
) -> None:
    async with routed(providers={}) as service:
        error = await refusal(service, payer, "hi", model=second.model)
        assert (error.status, error.code) == (503, "upstream_not_configured")
        assert (await answer(service, payer, "hi", model=second.model, models=[MODEL])).who == (
            "quernel",
            "platform",
        )


async def test_no_candidate_that_reads_images(
    routed: Service, payer: Payer, second: Second
) -> None:
    messages = [{"role": "user", "content": [IMAGE]}]
    async with routed() as service:
        for stream in (False, True):
            error = await refusal(
                service, payer, "", messages=messages, models=[second.model], stream=stream
            )
            assert (error.status, error.code) == (400, "unsupported_content")
    payer.require_free(count=2, code="unsupported_content")


# Fallbacks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        ("status=500", 1),
        ("status=503", 1),
        ("status=429 retry_after=1", 1),
        ("status=401", 1),
        ("status=408", 1),
        ("fault=drop", 2),
        ("fault=reset after=0", 1),
        ("fault=malformed after=0", 1),
    ],
)
async def test_a_provider_that_fails_before_it_speaks_is_replaced(
    routed: Service, asked: Asked, case: tuple[str, int], payer: Payer, stream: bool
) -> None:
    (fault, attempts), second = case, asked.second
    async with routed() as service:
        text = f"{asked.mark} simulate: {fault}"
        got = await answer(service, payer, text, models=[second.model], stream=stream)
    assert got.who == (second.slug, "platform")
    assert got.model == second.model
    assert asked.counts == (attempts, 1)
    [sent] = second.memory.bodies(asked.mark)
    assert sent["model"] == f"upstream/{second.model}"
    assert sent["max_tokens"] == 1024
    assert "models" not in sent
    assert "continuous_usage_stats" not in sent.get("stream_options", {})
    charged_for(payer, second.model)
    assert len(payer.holds()) == 1
    assert payer.holds()[0]["status"] == "settled"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["first_ms=20000", "fault=stall after=0"])
async def test_a_silent_provider_is_replaced_in_time(
    routed: Service, payer: Payer, asked: Asked, fault: str, stream: bool
) -> None:
    began = time.monotonic()
    async with routed(llm_timeout_seconds=0.5) as service:
        text = f"{asked.mark} simulate: {fault}"
        got = await answer(service, payer, text, models=[asked.second.model], stream=stream)
    assert got.who == (asked.second.slug, "platform")
    assert time.monotonic() - began < 10
    charged_for(payer, asked.second.model)
    wait_for(lambda: asked.upstream.counts(asked.mark)["cancelled"] == 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fault", ["first_ms=400", "slow tokens=5", "fault=huge_usage", "fault=text_usage",
              "fault=negative_usage", "fault=no_usage"]
)  # fmt: skip
async def test_who_is_slow_or_counts_wrongly_has_answered(
    routed: Service, payer: Payer, asked: Asked, fault: str, stream: bool
) -> None:
    async with routed() as service:
        text = f"{asked.mark} simulate: {fault}"
        options = {"models": [asked.second.model], "stream": stream, "max_tokens": 50}
        got = await answer(service, payer, text, **options)
        assert service.router.providers["quernel"].breaker.state == "closed"
    assert got.who == ("quernel", "platform")
    assert asked.counts == (1, 0)
    charged_for(payer, MODEL)
    [hold] = payer.holds()
    assert 0 < hold["settled_amount"] <= hold["amount"]


async def test_nobody_listens_at_the_first(
    routed: Service, payer: Payer, second: Second, mark: str
) -> None:
    async with routed(llm_url=f"http://{LOOPBACK}:{free_port()}/v1") as service:
        got = await answer(service, payer, mark, models=[second.model], stream=True)
    assert got.who == (second.slug, "platform")
    charged_for(payer, second.model)


async def test_a_connection_that_broke_is_made_once_more(
    routed: Service, payer: Payer, upstream: Memory, second: Second, mark: str
) -> None:
    async with routed() as service:
        for stream in (False, True):
            text = f"{mark} {stream} simulate: fault=drop times=1"
            got = await answer(service, payer, text, models=[second.model], stream=stream)
            assert got.who == ("quernel", "platform")
            assert got.model == MODEL
        assert service.router.providers["quernel"].breaker.state == "closed"
    assert (len(upstream.bodies(mark)), len(second.memory.bodies(mark))) == (4, 0)
    assert len(payer.charges()) == 2


async def test_a_prompt_that_does_not_fit_goes_to_a_larger_window(
    routed: Service, payer: Payer, second: Second, mark: str
) -> None:
    async with routed() as service:
        text = f"{mark} simulate: fault=context"
        got = await answer(service, payer, text, models=[second.model])
        assert got.who == (second.slug, "platform")
        charged_for(payer, second.model)
        # The other way round nobody has a larger one.
        larger = "Qwen3-30B-A3B-Instruct-2507-FP8"
        error = await refusal(service, payer, text, model=larger, models=[second.model])
        assert error.code == "context_length_exceeded"
    assert len(second.memory.bodies(mark)) == 1


async def test_images_go_to_the_first_that_reads_them(
    routed: Service, payer: Payer, upstream: Memory, second: Second, mark: str
) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": mark}, IMAGE]}]
    async with routed() as service:
        got = await answer(
            service, payer, "", messages=messages, models=[second.model, second.seeing]
        )
        ask = ask_of(payer, "", messages=messages, models=[second.seeing])
        assert (await service.quote(ask))["affordable"]
        with pytest.raises(QuernelError, match="does not read images"):
            await service.quote(ask_of(payer, "", messages=messages, models=[second.model]))
    assert got.model == second.seeing
    assert upstream.bodies(mark) == []
    [sent] = second.memory.bodies(mark)
    assert sent["messages"] == messages
    charged_for(payer, second.seeing)


async def test_the_dearest_candidate_is_held_for(
    routed: Service, payer: Payer, second: Second
) -> None:
    async with routed() as service:
        quotes = [
            await service.quote(ask_of(payer, "hi", max_tokens=100, models=models))
            for models in ([], [second.model])
        ]
        await answer(service, payer, "hi", max_tokens=100, models=[second.model])
    assert quotes[1]["credits_max"] == 2 * quotes[0]["credits_max"]
    assert payer.holds()[0]["amount"] == quotes[1]["credits_max"]
    charged_for(payer, MODEL)


async def test_a_stand_in_answers_as_far_as_it_can(
    routed: Service, asked: Asked, payer: Payer
) -> None:
    """What the first model could give, one that stands in for it need not be able to."""
    second, short = asked.second, f"{asked.second.slug}-short"
    add_model(payer.connection, short, second.slug, max_output_tokens=64, default_output_tokens=64)
    async with routed() as service:
        text = f"{asked.mark} simulate: fault=reset after=0"
        quote = await service.quote(ask_of(payer, text, max_tokens=500, models=[short]))
        got = await answer(service, payer, text, max_tokens=500, models=[short])
        refused = await refusal(service, payer, text, max_tokens=500, model=short)
    assert got.model == short
    assert second.memory.bodies(asked.mark)[0]["max_tokens"] == 64
    assert quote["max_tokens"] == 500
    assert refused.facts["maximum"] == 64


async def test_all_attempts_together_are_bounded(
    routed: Service, payer: Payer, mark: str, upstream: Memory
) -> None:
    async with routed(llm_attempts_timeout_seconds=0.4) as service:
        for stream in (False, True):
            text = f"{mark} simulate: first_ms=20000"
            error = await refusal(service, payer, text, stream=stream)
            assert (error.status, error.code) == (504, "upstream_timeout")
        # An answer that has begun may take its time.
        slow = f"{mark} simulate: tokens=40 token_ms=30"
        got = await answer(service, payer, slow, stream=True)
        assert got.usage["completion_tokens"] == 40
    wait_for(lambda: upstream.counts(mark)["cancelled"] == 2)


async def test_a_client_that_leaves_stops_the_second_provider_and_pays_its_price(
    routed: Service, payer: Payer, asked: Asked
) -> None:
    client = Client()
    async with routed() as service:
        text = f"{asked.mark} simulate: status=500 tokens=500 token_ms=20"
        ask = ask_of(payer, text, models=[asked.second.model], stream=True)
        task = asyncio.ensure_future(service.stream(ask, Sink(client.send)))
        await asyncio.to_thread(wait_for, lambda: len(client.chunks) >= 6)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        wait_for(lambda: asked.second.memory.counts(asked.mark)["cancelled"] == 1, seconds=2)
        await service.background.drain()
    [row] = payer.settled_usage()
    assert (row["status"], row["model_id"]) == ("cancelled", asked.second.model)
    millionths = row["prompt_tokens"] * 120 + row["completion_tokens"] * 360
    assert payer.charges() == [row["credits"]]
    assert row["credits"] * 1_000_000 == millionths


async def test_a_client_that_leaves_between_two_attempts_asks_nobody_any_more(
    routed: Service, payer: Payer, asked: Asked
) -> None:
    async with routed() as service:
        text = f"{asked.mark} simulate: status=500 first_ms=600"
        ask = ask_of(payer, text, models=[asked.second.model])
        task = asyncio.ensure_future(service.complete(ask))
        await asyncio.to_thread(wait_for, lambda: asked.upstream.bodies(asked.mark))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await service.background.drain()
    assert asked.counts == (1, 0)
    payer.require_free(count=1, code="client_closed_request")


# The breaker --------------------------------------------------------------------------------------


async def test_a_provider_that_keeps_failing_is_not_asked_until_a_probe_succeeds(
    routed: Service, new_payer: NewPayer, upstream: Memory, second: Second, mark: str
) -> None:
    one, other = new_payer(), new_payer()
    async with routed(breaker_seconds=0.6) as service:
        breaker = service.router.providers["quernel"].breaker
        for payer in (one, other, one):
            text = f"{mark} simulate: status=500"
            assert (await answer(service, payer, text, models=[second.model])).who[0] == second.slug
        assert breaker.state == "open"
        assert len(upstream.bodies(mark)) == 3
        got = await answer(service, other, mark, models=[second.model], stream=True)
        assert got.who[0] == second.slug
        assert len(upstream.bodies(mark)) == 3
        await asyncio.sleep(0.7)
        assert breaker.state == "half_open"
        assert (await answer(service, other, mark, models=[second.model])).who[0] == "quernel"
        assert breaker.state == "closed"


async def test_when_nobody_is_left_the_client_is_told_when_to_come_back(
    routed: Service, new_payer: NewPayer, upstream: Memory, mark: str
) -> None:
    one, other = new_payer(), new_payer()
    async with routed() as service:
        for payer in (one, other, one):
            await refusal(service, payer, f"{mark} simulate: status=500")
        for stream in (False, True):
            error = await refusal(service, other, mark, stream=stream)
            assert (error.status, error.code) == (503, "upstream_unavailable")
            assert error.retry_after is not None
            assert 8 < error.retry_after <= 10
    assert len(upstream.bodies(mark)) == 3
    other.require_free(count=3)


async def test_a_busy_provider_is_left_alone_until_it_said(
    routed: Service, payer: Payer, upstream: Memory, second: Second, mark: str
) -> None:
    async with routed() as service:
        error = await refusal(service, payer, f"{mark} simulate: status=429 retry_after=2")
        assert error.retry_after == 2
        error = await refusal(service, payer, mark)
        assert error.code == "upstream_rate_limited"
        assert error.retry_after is not None
        assert 0 < error.retry_after <= 2
        got = await answer(service, payer, mark, models=[second.model])
        assert got.who[0] == second.slug
        assert len(upstream.bodies(mark)) == 1
        await asyncio.sleep(2)
        assert (await answer(service, payer, mark, models=[second.model])).who[0] == "quernel"


async def test_a_stream_that_breaks_counts_against_its_provider(
    routed: Service, new_payer: NewPayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breakers, "WINDOW", 4)
    payers = [new_payer(), new_payer()]
    async with routed() as service:
        for payer in payers:
            await refusal(service, payer, "simulate: fault=reset after=4", stream=True)
        # Each spoke, and then broke: half of what is remembered are failures.
        assert service.router.providers["quernel"].breaker.state == "open"


async def test_failures_are_logged_with_provider_and_reason_and_without_keys(
    routed: Service, payer: Payer, second: Second, caplog: pytest.LogCaptureFixture
) -> None:
    async with routed() as service:
        await answer(service, payer, "simulate: fault=drop", models=[second.model])
        assert "sk-second" not in repr(service.router.providers)
    fields = [record.fields for record in caplog.records if record.message == "attempt failed"]
    assert [(f["provider"], f["model"], f["code"], f["attempts"]) for f in fields] == [
        ("quernel", MODEL, "upstream_error", 1),
        ("quernel", MODEL, "upstream_error", 2),
    ]
    assert "sk-second" not in caplog.text + str([vars(record) for record in caplog.records])


# Over HTTP ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_the_answer_says_who_gave_it_and_who_paid(payer: Payer, stream: bool) -> None:
    answer = payer.ask("hi", stream=stream, models=[MODEL], route="fallback")
    assert answer.headers["x-quernel-provider"] == "quernel"
    assert answer.headers["x-quernel-credential"] == "platform"


def test_a_base_url_of_the_clients_is_not_followed(payer: Payer, mark: str) -> None:
    # CVE-2024-6587: the platform's key went to whatever address a request named.
    answer = payer.http.post(
        "/chat/completions",
        json=body(mark, api_base="http://127.0.0.1:9/v1", base_url="http://127.0.0.1:9/v1"),
        headers={"x-base-url": "http://127.0.0.1:9/v1"},
    )
    assert answer.status_code == 200
    assert answer.headers["x-quernel-provider"] == "quernel"
