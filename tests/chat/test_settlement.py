"""Settling when the database is away, slow, or has done it already; keeping long holds alive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest
from aiohttp import web

from functions.chat import metering, streaming, transports, upstream
from functions.chat.counting import Usage
from functions.chat.idempotency import StoredAnswer
from functions.chat.metering import ClientGoneError, Meter, Replay
from functions.chat.streaming import Sink
from functions.chat.wire import Unpaid
from functions.core.database import Database
from functions.core.errors import QuernelError, UnavailableError
from local.stack import Stack
from tests.chat.conftest import Memory, Payer, ask_of, chat_service, settings_of, wait_for
from tests.support.http_server import Handler, serve

pytestmark = pytest.mark.anyio


class Flaky:
    """The database behind a network that fails for the first calls of one function.

    `reaches` says whether those calls arrive, so that only their answer is lost.
    """

    def __init__(self, database: Database, function: str, failures: int, *, reaches: bool) -> None:
        self.database, self.function = database, function
        self.failures, self.reaches = failures, reaches
        self.calls: list[str] = []

    async def rpc(self, function: str, /, **arguments: Any) -> Any:
        self.calls.append(function)
        if function == self.function and self.failures:
            self.failures -= 1
            if self.reaches:
                await self.database.rpc(function, **arguments)
            raise UnavailableError("database_unavailable", "The database cannot be reached.")
        return await self.database.rpc(function, **arguments)


def flaky(function: str, failures: int, *, reaches: bool = False) -> Callable[[Database], Flaky]:
    return lambda database: Flaky(database, function, failures, reaches=reaches)


class Client:
    """The receiving end of a stream."""

    def __init__(self) -> None:
        self.text = ""

    async def send(self, message: Any) -> None:
        self.text += message.get("body", b"").decode()

    @property
    def chunks(self) -> list[dict[str, Any]]:
        lines = [line[6:] for line in self.text.splitlines() if line.startswith("data: {")]
        return [json.loads(line) for line in lines]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "RETRY_DELAYS", (0.2, 0.2))
    monkeypatch.setattr(metering, "SETTLE_WAIT_SECONDS", 0.1)


@pytest.mark.parametrize("reaches", [False, True])
async def test_an_answer_is_given_while_the_database_is_away_and_charged_later(
    stack: Stack, payer: Payer, reaches: bool
) -> None:
    wrap = flaky("chat_finish", 2, reaches=reaches)
    async with chat_service(settings_of(stack), wrap) as service:
        text, _ = await service.complete(ask_of(payer, "hello"))
        usage = json.loads(text)["usage"]
        assert usage["completion_tokens"] > 0
        assert "credits_charged" not in usage
        await service.background.drain()
    [row] = payer.settled_usage()
    assert row["status"] == "completed"
    assert payer.charges() == [row["credits"]]


async def test_a_stream_is_given_while_the_database_is_away_and_charged_later(
    stack: Stack, payer: Payer
) -> None:
    client = Client()
    async with chat_service(settings_of(stack), flaky("chat_finish", 1)) as service:
        await service.stream(ask_of(payer, "hello", stream=True), Sink(client.send))
        await service.background.drain()
    usage = client.chunks[-1]["usage"]
    assert "credits_charged" not in usage
    assert client.text.endswith("data: [DONE]\n\n")
    [row] = payer.settled_usage()
    assert payer.charges() == [row["credits"]]
    assert row["completion_tokens"] == usage["completion_tokens"]


async def test_a_database_that_stays_away_leaves_the_hold_to_the_reaper(
    stack: Stack, payer: Payer
) -> None:
    async with chat_service(settings_of(stack), flaky("chat_finish", 99)) as service:
        text, _ = await service.complete(ask_of(payer, "hello"))
        assert json.loads(text)["choices"]
        await service.background.drain()
    [hold] = payer.holds()
    assert hold["status"] == "active"
    payer.connection.execute(
        "update private.credit_holds set deadline = created_at + interval '1 microsecond'"
        " where id = %s",
        [hold["id"]],
    )
    payer.connection.execute("select backend.credit_reap()")
    assert payer.settled_usage()[0]["status"] == "expired"
    assert payer.charges() == []
    assert payer.account()["held"] == 0


async def test_a_failed_release_is_tried_again(stack: Stack, payer: Payer) -> None:
    async with chat_service(settings_of(stack), flaky("chat_fail", 1)) as service:
        with pytest.raises(QuernelError) as caught:
            await service.complete(ask_of(payer, "simulate: status=500"))
        assert caught.value.code == "upstream_error"
        await service.background.drain()
    payer.require_free(count=1, code="upstream_error")


async def test_one_call_before_and_one_after(stack: Stack, payer: Payer) -> None:
    spies: list[Flaky] = []

    def spy(database: Database) -> Flaky:
        spies.append(Flaky(database, "", 0, reaches=False))
        return spies[0]

    async with chat_service(settings_of(stack), spy) as service:
        await service.complete(ask_of(payer, "hello"))
        await service.stream(ask_of(payer, "hello", stream=True), Sink(Client().send))
    assert spies[0].calls == ["chat_start", "chat_finish"] * 2


async def test_a_long_answer_keeps_its_hold_alive(
    stack: Stack, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "EXTEND_AFTER", 0.002)  # of two minutes
    async with chat_service(settings_of(stack)) as service:
        await service.complete(ask_of(payer, "hello simulate: first_ms=800"))
    [hold] = payer.holds()
    assert hold["deadline"] > hold["created_at"] + timedelta(seconds=120.3)
    assert hold["status"] == "settled"


async def test_an_extension_that_fails_is_tried_again_while_there_is_time(
    stack: Stack, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "EXTEND_AFTER", 0.005)  # of two minutes
    monkeypatch.setattr(metering, "EXTEND_RETRY_SECONDS", 0.1)
    async with chat_service(settings_of(stack), flaky("chat_extend", 1)) as service:
        await service.complete(ask_of(payer, "hello simulate: first_ms=1000"))
    [hold] = payer.holds()
    assert hold["deadline"] > hold["created_at"] + timedelta(seconds=120.6)
    assert hold["status"] == "settled"


async def test_a_start_whose_answer_was_lost_is_repeated_and_holds_once(
    stack: Stack, payer: Payer
) -> None:
    async with chat_service(settings_of(stack), flaky("chat_start", 1, reaches=True)) as service:
        for number, key in enumerate((None, "lost")):
            ask = replace(ask_of(payer, "hello"), idempotency_key=key)
            text, _ = await service.complete(ask)
            assert len(payer.charges()) == number + 1
            assert json.loads(text)["usage"]["credits_charged"] > 0
    assert [hold["status"] for hold in payer.holds()] == ["settled"] * 2
    assert payer.account()["held"] == 0


async def test_a_start_that_fails_twice_is_refused(
    stack: Stack, payer: Payer, upstream: Memory, mark: str
) -> None:
    async with chat_service(settings_of(stack), flaky("chat_start", 2)) as service:
        with pytest.raises(UnavailableError):
            await service.complete(ask_of(payer, mark))
    assert upstream.bodies(mark) == []
    payer.require_free(count=0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_cancelled_while_it_starts_returns_its_hold(
    stack: Stack, payer: Payer, upstream: Memory, mark: str, stream: bool
) -> None:
    reached = asyncio.Event()

    class Slow:
        def __init__(self, database: Database) -> None:
            self.database = database

        async def rpc(self, function: str, /, **arguments: Any) -> Any:
            result = await self.database.rpc(function, **arguments)
            if function == "chat_start":
                reached.set()
                await asyncio.sleep(0.2)
            return result

    async with chat_service(settings_of(stack), Slow) as service:
        ask = ask_of(payer, mark, stream=stream)
        work = service.stream(ask, Sink(Client().send)) if stream else service.complete(ask)
        task = asyncio.ensure_future(work)
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await service.background.drain()
    payer.require_free(count=1, code="client_closed_request")
    assert upstream.bodies(mark) == []


async def test_the_first_end_of_a_hold_decides(stack: Stack, payer: Payer) -> None:
    async with chat_service(settings_of(stack)) as service:
        meter = await service.hold(ask_of(payer, "hello"))
        assert isinstance(meter, Meter)
        usage = Usage(prompt=5, completion=7, cached=0, source="upstream")
        async with meter:
            meter.finish(usage, "completed", None)
            meter.finish(usage, "cancelled", None)
            meter.fail("internal_error")
        receipt = await meter.closed()
    assert receipt is not None
    assert payer.charges() == [receipt.charged]
    assert payer.settled_usage()[0]["status"] == "completed"


async def test_a_defect_returns_the_hold(
    stack: Stack, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chat_service(settings_of(stack)) as service:

        async def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(upstream.Upstream, "complete", broken)
        with pytest.raises(ZeroDivisionError):
            await service.complete(ask_of(payer, "hello"))
        await service.background.drain()
    payer.require_free(count=1, code="internal_error")


async def test_a_client_that_takes_nothing_has_left(
    stack: Stack, payer: Payer, upstream: Memory, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "SEND_SECONDS", 0.3)
    sent = 0

    async def send(_: Any) -> None:
        nonlocal sent
        sent += 1
        if sent > 5:
            await asyncio.sleep(60)

    async with chat_service(settings_of(stack)) as service:
        ask = ask_of(payer, f"{mark} simulate: tokens=200 token_ms=10", stream=True)
        with pytest.raises(metering.ClientGoneError):
            await service.stream(ask, Sink(send))
        await service.background.drain()
    assert payer.settled_usage()[0]["status"] == "cancelled"
    assert len(payer.charges()) == 1
    wait_for(lambda: upstream.counts(mark)["cancelled"] == 1)


async def test_an_answer_with_nul_is_stored_and_replayed(stack: Stack, payer: Payer) -> None:
    # jsonb refuses an escaped NUL; a model may say one all the same.
    stored = StoredAnswer(['{"a":"\\u0000"}'], {"text": "\0 \ud83d"}, {"total_tokens": 12})
    ask = replace(ask_of(payer, "hello"), idempotency_key="nul")
    async with chat_service(settings_of(stack)) as service:
        meter = await service.hold(ask)
        assert isinstance(meter, Meter)
        async with meter:
            meter.finish(Usage(5, 7, 0, "upstream"), "completed", stored.pack())
            await meter.closed()
        replay = await service.hold(replace(ask, request_id=str(uuid.uuid4())))
    assert isinstance(replay, Replay)
    again = StoredAnswer.unpack(replay.answer)
    assert (again.events, again.last) == (stored.events, {"text": "\0 ?"})
    assert len(payer.charges()) == 1


@pytest.mark.parametrize("transport", ["rest", "direct"])
async def test_both_transports_settle_alike(
    stack: Stack, payer: Payer, transport: Literal["rest", "direct"]
) -> None:
    direct = {"database_url": stack.functions_dsn if transport == "direct" else None}
    client = Client()
    async with chat_service(settings_of(stack, **direct)) as service:
        text, _ = await service.complete(ask_of(payer, "hello"))
        await service.stream(ask_of(payer, "hello", stream=True), Sink(client.send))
    usages = [json.loads(text)["usage"], client.chunks[-1]["usage"]]
    assert [Decimal(str(usage["credits_charged"])) for usage in usages] == payer.charges()
    assert Decimal(str(usages[-1]["credits_remaining"])) == payer.balance


# Answers that go on and on, or say what cannot be sent --------------------------------------------


def chunk(text: str = "", finish: str | None = None, **more: Any) -> bytes:
    """One event of a stream."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    value = {"id": "u", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return f"data: {json.dumps(value | {'choices': [choice | more]})}\n\n".encode()


def streams(*events: bytes, then: float = 0) -> Handler:
    """A model server that says this, and then nothing for a while."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            for event in events:
                await response.write(event)
            await asyncio.sleep(then)
        except OSError:
            pass  # it was cut off
        return response

    return handler


@pytest.mark.parametrize(
    ("limit", "events"),
    [
        ({"MAX_ANSWER_BYTES": 20_000}, [chunk("word ", logprobs="y" * 500)] * 100),
        (
            {"MAX_EVENT_BYTES": 20_000},
            [*[chunk("word ")] * 10, chunk("x", logprobs="y" * 20_000)],
        ),
        ({"MAX_EXCHANGE_SECONDS": 0.5}, [chunk("word ")] * 10),
    ],
)
async def test_a_stream_that_our_limits_cut_off_is_charged_for_what_was_delivered(
    stack: Stack,
    payer: Payer,
    monkeypatch: pytest.MonkeyPatch,
    limit: dict[str, float],
    events: list[bytes],
) -> None:
    [(name, value)] = limit.items()
    monkeypatch.setattr(upstream if hasattr(upstream, name) else transports, name, value)
    client = Client()
    async with (
        serve(streams(*events, then=5)) as url,
        chat_service(settings_of(stack, llm_url=f"{url}/v1")) as service,
    ):
        ask = replace(ask_of(payer, "hi", stream=True), idempotency_key="cut")
        with pytest.raises(QuernelError) as caught:
            await service.stream(ask, Sink(client.send))
        await service.background.drain()
        with pytest.raises(QuernelError, match="not kept"):
            await service.stream(replace(ask, request_id=str(uuid.uuid4())), Sink(client.send))
    assert (caught.value.status, caught.value.code) == (400, "answer_cut_off")
    delivered = client.text.count('"word "')
    assert delivered >= 10
    [row] = payer.settled_usage()
    assert (row["status"], row["completion_tokens"]) == ("cancelled", -(-delivered * 5 // 4))
    assert payer.charges() == [row["credits"]]
    assert row["credits"] > 0


async def test_the_time_that_a_client_takes_is_no_failure_of_the_model_server(
    stack: Stack, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "MAX_EXCHANGE_SECONDS", 0.5)
    client = Client()

    async def dawdle(message: Any) -> None:
        await client.send(message)
        if len(client.chunks) >= 10:
            await asyncio.sleep(10)

    async with (
        serve(streams(*[chunk("word ")] * 10, chunk(finish="stop"))) as url,
        chat_service(settings_of(stack, llm_url=f"{url}/v1")) as service,
    ):
        with pytest.raises(QuernelError, match="cut off"):
            await service.stream(ask_of(payer, "hi", stream=True), Sink(dawdle))
        await service.background.drain()
    [row] = payer.settled_usage()
    assert (row["status"], row["completion_tokens"]) == ("cancelled", 13)
    assert payer.charges() == [row["credits"]]


async def test_an_answer_in_one_piece_that_our_limits_cut_off_is_charged_for_its_prompt(
    stack: Stack, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "MAX_ANSWER_BYTES", 20_000)

    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response(body=b" " * 30_000)

    async with (
        serve(handler) as url,
        chat_service(settings_of(stack, llm_url=f"{url}/v1")) as service,
    ):
        with pytest.raises(QuernelError, match="cut off"):
            await service.complete(ask_of(payer, "hi"))
        await service.background.drain()
    [row] = payer.settled_usage()
    assert (row["status"], row["completion_tokens"]) == ("cancelled", 0)
    assert row["prompt_tokens"] > 0
    assert payer.charges() == [row["credits"]]


@pytest.mark.parametrize("where", ["logprobs", "usage"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_cannot_be_sent_is_not_charged(
    stack: Stack, payer: Payer, where: str, stream: bool
) -> None:
    choice = {"index": 0, "finish_reason": "stop", "message" if not stream else "delta": {}}
    choice["message" if not stream else "delta"] = {"role": "assistant", "content": "hello"}
    usage = {"prompt_tokens": 5, "completion_tokens": 5}
    (choice if where == "logprobs" else usage)["odd"] = "ODD"  # type: ignore[index]
    value = {"id": "u", "object": "x", "created": 1, "model": "m", "choices": [choice]}
    text = json.dumps(value | {"usage": usage}).replace('"ODD"', "-1e999").encode()

    async def whole(_: web.BaseRequest) -> web.Response:
        return web.Response(body=text)

    async with (
        serve(streams(b"data: " + text + b"\n\n") if stream else whole) as url,
        chat_service(settings_of(stack, llm_url=f"{url}/v1")) as service,
    ):
        ask = ask_of(payer, "hi", stream=stream)
        work = service.stream(ask, Sink(Client().send)) if stream else service.complete(ask)
        with pytest.raises(QuernelError) as caught:
            await work
        await service.background.drain()
    assert caught.value.code == "upstream_error"
    payer.require_free(count=1, code="upstream_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_encoded_before_it_is_charged(
    stack: Stack, payer: Payer, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async with chat_service(settings_of(stack)) as service:
        monkeypatch.setattr(Unpaid, "encode", broken)
        ask = ask_of(payer, "hi", stream=stream)
        work = service.stream(ask, Sink(Client().send)) if stream else service.complete(ask)
        with pytest.raises(ZeroDivisionError):
            await work
        await service.background.drain()
    payer.require_free(count=1, code="internal_error")


@pytest.mark.parametrize("choices", [1, 2])
async def test_leaving_just_before_the_last_chunk_is_no_discount(
    stack: Stack, payer: Payer, choices: int
) -> None:
    text = f"{'1' * 2000} simulate: tokens=64 chunk=16"
    tokens: list[tuple[int, int]] = []
    async with chat_service(settings_of(stack)) as service:
        for leaves in (False, True):
            client = Client()

            async def send(message: Any, client: Client = client, leaves: bool = leaves) -> None:
                await client.send(message)
                if leaves and client.text.count('"content":"') == 5 * choices:
                    raise ClientGoneError

            ask = ask_of(payer, text, stream=True, n=choices)
            with contextlib.suppress(ClientGoneError):
                await service.stream(ask, Sink(send))
            await service.background.drain()
            row = payer.settled_usage(len(tokens) + 1)[-1]
            assert row["usage_source"] == "upstream"
            tokens.append((row["prompt_tokens"], row["completion_tokens"]))
    assert payer.usage()[-1]["status"] == "cancelled"
    assert tokens[0] == tokens[1]
    assert payer.charges()[0] == payer.charges()[1]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_empty_answer_is_free_and_still_one_of_the_months_requests(
    stack: Stack, payer: Payer, stream: bool
) -> None:
    def requests() -> int:
        row = payer.connection.execute(
            "select period_requests from public.credit_accounts where user_id = %s", [payer.id]
        ).fetchone()
        assert row is not None
        return int(row["period_requests"])

    counts = []
    async with chat_service(settings_of(stack)) as service:
        for text in ("simulate: status=500", "simulate: tokens=1"):
            # The second is made to end with its first character.
            ask = ask_of(payer, text, stream=stream, stop=["["])
            work = service.stream(ask, Sink(Client().send)) if stream else service.complete(ask)
            with pytest.raises(QuernelError):
                await work
            await service.background.drain()
            counts.append(requests())
    assert counts == [0, 1]
    payer.require_free(count=2)
