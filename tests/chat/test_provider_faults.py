"""What is no fault of the request: whose key it is about, who hears of it, and who is not hit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from functions.chat.service import ChatService
from local.stack import Stack
from tests.chat.conftest import NewPayer, Payer, chat_service, settings_of
from tests.chat.keyed_provider import KeyedProvider, keyed_provider
from tests.chat.test_routing import answer, refusal
from tests.support.provider_keys import bring_key, vault_of

pytestmark = pytest.mark.anyio

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


class Bench:
    """A provider, the service in front of it, and people with and without keys."""

    def __init__(
        self, stack: Stack, new_payer: NewPayer, provider: KeyedProvider, service: ChatService
    ) -> None:
        self.stack, self.new_payer = stack, new_payer
        self.provider, self.service = provider, service

    async def bring(self, payer: Payer, treatment: str, **columns: Any) -> str:
        return await bring_key(
            payer.connection,
            vault_of(settings_of(self.stack)),
            self.provider.slug,
            self.provider.new_key(treatment),
            user=payer.id,
            **columns,
        )

    def platform_key(self, treatment: str) -> None:
        """From now on the operator's key is treated so."""
        self.provider.keys[self.provider.platform_key] = treatment

    @property
    def model(self) -> dict[str, Any]:
        return {"model": self.provider.model, "max_tokens": 50}


@pytest.fixture
async def bench(stack: Stack, new_payer: NewPayer) -> AsyncIterator[Bench]:
    async with keyed_provider(new_payer().connection) as provider:
        settings = settings_of(stack, providers=provider.providers, breaker_failures=2)
        async with chat_service(settings) as service:
            yield Bench(stack, new_payer, provider, service)


# The operator's key -------------------------------------------------------------------------------


@pytest.mark.parametrize("treatment", ["limited", "rejected", "out of quota", "no access"])
@both_ways
async def test_trouble_with_the_operators_key_keeps_nobody_from_their_own(
    bench: Bench, treatment: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    owner = bench.new_payer()
    key_id = await bench.bring(owner, "good")
    bench.platform_key(treatment)
    for _ in range(4):
        error = await refusal(
            bench.service, bench.new_payer(), "Is it?", stream=stream, **bench.model
        )
        code = "upstream_rate_limited" if treatment == "limited" else "upstream_not_configured"
        assert (error.status, error.code) == (503, code)
    told = [one for one in caplog.records if one.getMessage() == "platform key refused"]
    assert len(told) == (0 if treatment == "limited" else 4)
    got = await answer(bench.service, owner, "Is it?", stream=stream, **bench.model)
    assert got.headers["x-quernel-provider-key"] == key_id
    # And once the operator's key is good again, it is used at once, unless it was limited.
    if treatment != "limited":
        bench.platform_key("good")
        payer = bench.new_payer()
        got = await answer(bench.service, payer, "Is it?", stream=stream, **bench.model)
        assert got.who == (bench.provider.slug, "platform")


# A key of the customer's that may not use a model -------------------------------------------------


@both_ways
async def test_a_key_without_access_stays_good_and_another_is_tried(
    bench: Bench, stream: bool
) -> None:
    payer = bench.new_payer()
    closed = await bench.bring(payer, "no access", priority=1)
    error = await refusal(bench.service, payer, "Is it?", stream=stream, **bench.model)
    assert (error.status, error.code) == (403, "provider_access_denied")
    assert error.facts["remedy"] == "ask_provider"
    other = await bench.bring(payer, "good", priority=2)
    got = await answer(bench.service, payer, "Is it?", stream=stream, **bench.model)
    assert got.headers["x-quernel-provider-key"] == other
    uses = payer.connection.execute(
        "select provider_key_id::text, outcome, error_code from public.provider_key_uses"
        " where owner_id = %s order by created_at, id",
        [payer.id],
    ).fetchall()
    assert [tuple(use.values()) for use in uses] == [
        (closed, "failed", "provider_access_denied"),
        (closed, "failed", "provider_access_denied"),
        (other, "completed", None),
    ]
    key = payer.connection.execute(
        "select is_valid from public.provider_keys where id = %s", [closed]
    ).fetchone()
    assert key is not None
    assert key["is_valid"] is True
    assert payer.charges() == []


async def test_credits_stand_in_for_it_where_they_were_asked_for(bench: Bench) -> None:
    payer = bench.new_payer()
    await bench.bring(payer, "no access")
    got = await answer(bench.service, payer, "Is it?", credential="own_first", **bench.model)
    assert got.who == (bench.provider.slug, "platform")
    assert len(payer.charges()) == 1


# What is not answered for its content -------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("kind", ["own", "platform"])
async def test_a_prompt_that_is_not_allowed_costs_nothing_and_says_so(
    bench: Bench, kind: str, stream: bool
) -> None:
    payer = bench.new_payer()
    if kind == "own":
        await bench.bring(payer, "filtered")
    else:
        bench.platform_key("filtered")
    error = await refusal(bench.service, payer, "Is it?", stream=stream, **bench.model)
    assert (error.status, error.code) == (400, "content_refused")
    assert error.facts["param"] == "messages"
    assert payer.charges() == []
    assert payer.balance == 100
    account = payer.account()
    assert (account["held"], account["active_holds"]) == (0, 0)
    [row] = payer.usage()
    assert (row["status"], row["error_code"]) == ("failed", "content_refused")
