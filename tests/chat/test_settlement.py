"""Settling when the database is away, slow, or has done it already; keeping long holds alive."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest

from functions.chat import metering, streaming
from functions.chat.counting import Usage
from functions.chat.idempotency import StoredAnswer
from functions.chat.metering import Meter, Replay
from functions.chat.streaming import Sink
from functions.core.database import Database
from functions.core.errors import QuernelError, UnavailableError
from local.stack import Stack
from tests.chat.conftest import Memory, Payer, ask_of, chat_service, settings_of, wait_for

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

        monkeypatch.setattr(service._upstream, "complete", broken)
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
