"""Customers' own keys: who pays, what it costs, who is told, and what is recorded."""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from functions.chat.embedding_schemas import parse_embedding
from functions.chat.embeddings import EmbeddingAsk, EmbeddingService
from functions.chat.service import ChatService
from functions.core.auth import Caller
from functions.core.errors import QuernelError
from local.paths import ROOT
from local.stack import Stack
from tests.chat.conftest import NewPayer, Payer, ask_of, chat_service, settings_of
from tests.chat.keyed_provider import KeyedProvider, keyed_provider
from tests.chat.second_provider import add_model
from tests.chat.test_routing import Answered, answer
from tests.support.provider_keys import bring_key, vault_of

pytestmark = pytest.mark.anyio

OUTCOMES = {
    "good": "completed",
    "rejected": "rejected",
    "out of quota": "quota_exceeded",
    "limited": "rate_limited",
    "outage": "failed",
}


@dataclass(frozen=True)
class Case:
    """One row of the table in docs/byok.md."""

    credential: str
    own_key: str
    credits: str
    status: int
    code: str
    paid_by: str

    @property
    def name(self) -> str:
        return "-".join([self.credential, self.own_key, self.credits]).replace(" ", "_")


def documented(path: Path) -> list[Case]:
    """The rows of the table."""
    rows = re.findall(
        r"^\| (auto|own|platform|own_first) \|(.*)\|$", path.read_text(), re.MULTILINE
    )
    cells = [(first, *(cell.strip() for cell in rest.split("|"))) for first, rest in rows]
    return [Case(c[0], c[1], c[2], int(c[3]), c[4], c[5]) for c in cells]


CASES = documented(ROOT / "docs" / "byok.md")


def test_the_table_is_read() -> None:
    assert {case.credential for case in CASES} == {"auto", "own", "platform", "own_first"}
    assert {case.status for case in CASES} == {200, 401, 402, 429, 502}
    assert len({case.name for case in CASES}) == len(CASES) > 30


@dataclass
class Bench:
    """Somebody with keys of their own, a provider, and the service between them."""

    payer: Payer
    provider: KeyedProvider
    service: ChatService
    stack: Stack

    async def bring(self, treatment: str, **columns: Any) -> str:
        """A key of the payer's that the provider treats so; its id."""
        secret = self.provider.new_key(treatment)
        return await bring_key(
            self.payer.connection,
            vault_of(settings_of(self.stack)),
            self.provider.slug,
            secret,
            user=self.payer.id,
            **columns,
        )

    async def ask(self, text: str = "Is it?", **options: Any) -> Answered:
        values = {"model": self.provider.model, "max_tokens": 50} | options
        return await answer(self.service, self.payer, text, **values)

    def uses(self) -> list[dict[str, Any]]:
        """What was recorded of the payer's keys, oldest first."""
        return self.payer.connection.execute(
            "select * from public.provider_key_uses where owner_id = %s order by created_at, id",
            [self.payer.id],
        ).fetchall()

    def key(self, key_id: str) -> dict[str, Any]:
        row = self.payer.connection.execute(
            "select * from public.provider_keys where id = %s", [key_id]
        ).fetchone()
        assert row is not None
        return row


@pytest.fixture
async def bench(stack: Stack, new_payer: NewPayer) -> AsyncIterator[Bench]:
    payer = new_payer()
    async with (
        keyed_provider(payer.connection) as provider,
        chat_service(settings_of(stack, providers=provider.providers)) as service,
    ):
        yield Bench(payer, provider, service, stack)


async def outcome_of(case: Case, bench: Bench, *, stream: bool) -> Answered | QuernelError:
    model = bench.provider.dear if case.credits == "none" else bench.provider.model
    try:
        return await bench.ask(model=model, credential=case.credential, stream=stream)
    except QuernelError as error:
        return error


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_who_pays(
    case: Case, stream: bool, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="functions")
    key_id = None
    if case.own_key == "marked invalid":
        key_id = await bench.bring("rejected", is_valid=False, invalid_reason="rejected")
    elif case.own_key != "none":
        key_id = await bench.bring(case.own_key)
    if case.credits == "budget":
        bench.payer.connection.execute(
            "update public.credit_accounts set monthly_credit_budget = 0 where user_id = %s",
            [bench.payer.id],
        )
    got = await outcome_of(case, bench, stream=stream)
    own_key = next((key for key in bench.provider.keys if key != bench.provider.platform_key), "")
    is_tried = case.credential != "platform" and case.own_key in OUTCOMES
    assert bench.provider.shown == [own_key] * is_tried + [bench.provider.platform_key] * (
        case.paid_by == "platform"
    )
    check_answer(case, bench, got, key_id, own_key)
    check_books(case, bench, key_id, is_tried=is_tried)
    check_uses(case, bench, key_id, is_tried=is_tried)
    logged = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert not any(key in logged for key in bench.provider.keys)


def check_answer(
    case: Case, bench: Bench, got: Answered | QuernelError, key_id: str | None, own_key: str
) -> None:
    """Who is told what."""
    if case.status == 200:
        assert isinstance(got, Answered)
        assert got.who == (bench.provider.slug, case.paid_by)
        named = got.headers.get("x-quernel-provider-key")
        assert named == (key_id if case.paid_by == "own" else None)
    else:
        assert isinstance(got, QuernelError)
        assert (got.status, got.code) == (case.status, case.code)
        assert own_key == "" or own_key not in json.dumps([got.message, got.facts], default=str)
        assert got.retry_after == (7 if case.code == "provider_rate_limited" else None)


def check_books(case: Case, bench: Bench, key_id: str | None, *, is_tried: bool) -> None:
    """What it cost."""
    rows = bench.payer.usage()
    charges = bench.payer.charges()
    account = bench.payer.account()
    assert (account["held"], account["active_holds"], account["tokens_held"]) == (0, 0, 0)
    if case.paid_by == "platform":
        assert len(charges) == 1
        assert charges[0] > 0
        assert account["period_tokens"] == 12
    else:
        assert charges == []
        assert bench.payer.balance == 100
        assert account["period_tokens"] == 0
    if case.status == 200:
        [row] = rows
        assert row["credential"] == case.paid_by
        named = None if row["provider_key_id"] is None else str(row["provider_key_id"])
        assert named == (key_id if case.paid_by == "own" else None)
        assert row["cost_estimate"] > 0
        assert row["credits"] == (row["cost_estimate"] if case.paid_by == "platform" else 0)
        assert (row["prompt_tokens"], row["completion_tokens"]) == (9, 3)
    else:
        assert [row["status"] for row in rows] == ["failed"] * is_tried


def check_uses(case: Case, bench: Bench, key_id: str | None, *, is_tried: bool) -> None:
    """What is recorded of the key."""
    uses = bench.uses()
    assert len(uses) == is_tried
    for use in uses:
        assert use["outcome"] == OUTCOMES[case.own_key]
        assert str(use["provider_key_id"]) == key_id
        assert (use["provider"], use["action"]) == (bench.provider.slug, "chat")
        assert str(use["user_id"]) == bench.payer.id
        assert use["request_id"] == bench.payer.usage()[0]["id"]
        assert (use["error_code"] is None) == (case.own_key == "good")
    if key_id is not None:
        key = bench.key(key_id)
        is_refused = is_tried and case.own_key in ("rejected", "out of quota")
        assert key["is_valid"] is not (is_refused or case.own_key == "marked invalid")
        assert (key["last_used_at"] is not None) == is_tried


# More than one key --------------------------------------------------------------------------------


async def test_keys_are_tried_in_the_order_of_their_priority(bench: Bench) -> None:
    last = await bench.bring("good", priority=300)
    first = await bench.bring("rejected", priority=100)
    second = await bench.bring("limited", priority=200)
    await bench.bring("good", priority=1, is_enabled=False)
    got = await bench.ask()
    assert got.headers["x-quernel-provider-key"] == last
    assert [(str(use["provider_key_id"]), use["outcome"]) for use in bench.uses()] == [
        (first, "rejected"),
        (second, "rate_limited"),
        (last, "completed"),
    ]
    # The one that was rejected is asked no more.
    bench.provider.shown.clear()
    await bench.ask()
    treatments = [bench.provider.keys[key] for key in bench.provider.shown]
    assert treatments == ["limited", "good"]
    assert bench.payer.charges() == []


async def test_a_key_out_of_quota_is_tried_after_the_others_and_comes_back(bench: Bench) -> None:
    empty = await bench.bring("out of quota", priority=1)
    await bench.bring("good", priority=2)
    await bench.ask()
    assert bench.key(empty)["invalid_reason"] == "quota_exceeded"
    bench.provider.shown.clear()
    await bench.ask()
    assert [bench.provider.keys[key] for key in bench.provider.shown] == ["good"]
    # Alone, and paid for again at the provider.
    bench.payer.connection.execute(
        "delete from public.provider_keys where user_id = %s and id <> %s", [bench.payer.id, empty]
    )
    for key in bench.provider.keys:
        bench.provider.keys[key] = "good"
    got = await bench.ask()
    assert got.headers["x-quernel-provider-key"] == empty
    key = bench.key(empty)
    assert (key["is_valid"], key["invalid_reason"]) == (True, None)


async def test_a_replaced_secret_is_not_blamed_for_the_old_one(bench: Bench) -> None:
    key_id = await bench.bring("rejected")
    answered = bench.provider.answered

    def replace() -> None:
        bench.payer.connection.execute(
            "update public.provider_keys set secret_version = 2 where id = %s", [key_id]
        )

    answered.append(replace)
    with pytest.raises(QuernelError):
        await bench.ask()
    assert bench.key(key_id)["is_valid"] is True
    assert [use["outcome"] for use in bench.uses()] == ["rejected"]


@pytest.mark.parametrize("treatment", ["limited", "rejected", "out of quota"])
async def test_trouble_with_the_operators_key_is_nobody_elses(
    stack: Stack, new_payer: NewPayer, treatment: str
) -> None:
    """Customers with keys of their own go on where the platform's is refused or limited."""
    strangers = [new_payer(), new_payer()]
    payer = new_payer()
    async with keyed_provider(payer.connection) as provider:
        provider.keys[provider.platform_key] = treatment
        settings = settings_of(stack, providers=provider.providers, breaker_failures=2)
        async with chat_service(settings) as service:
            for stranger in strangers * 3:
                with pytest.raises(QuernelError) as caught:
                    await answer(service, stranger, "hi", model=provider.model, max_tokens=9)
                assert caught.value.status == 503
            bench = Bench(payer, provider, service, stack)
            await bench.bring("good")
            assert (await bench.ask()).who == (provider.slug, "own")


# An own key that does not open --------------------------------------------------------------------


async def test_a_key_whose_master_key_is_gone_is_the_operators_and_no_other_suffers(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="functions")
    broken = await bench.bring("good", priority=1)
    bench.payer.connection.execute(
        "update private.provider_key_secrets set kid = 'lost' where provider_key_id = %s", [broken]
    )
    with pytest.raises(QuernelError) as caught:
        await bench.ask()
    assert (caught.value.status, caught.value.code) == (500, "internal_error")
    [told] = [r for r in caplog.records if r.getMessage() == "provider key not opened"]
    assert "lost" in str(vars(told))
    assert bench.provider.shown == []
    assert bench.uses() == []
    good = await bench.bring("good", priority=2)
    got = await bench.ask()
    assert got.headers["x-quernel-provider-key"] == good
    assert bench.payer.charges() == []


# Fees ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def fee(bench: Bench, percent: str) -> AsyncIterator[Callable[..., Any]]:
    """`call(function, **arguments)` in a transaction in which own keys cost a share of the price.

    Nobody else sees the setting, and all of it goes.
    """
    connection = bench.payer.connection
    with connection.transaction(force_rollback=True):
        connection.execute(
            "update private.settings set value = %s where name = 'byok_fee_percent'", [percent]
        )

        def call(function: str, **arguments: Any) -> dict[str, Any]:
            names = ", ".join(f"{name} => %({name})s" for name in arguments)
            row = connection.execute(
                f"select backend.{function}({names}) as answer",
                {
                    n: json.dumps(v) if isinstance(v, list | dict) else v
                    for n, v in arguments.items()
                },
            ).fetchone()
            assert row is not None
            result: dict[str, Any] = row["answer"]
            return result

        yield call


async def test_a_fee_is_a_share_of_the_price(bench: Bench) -> None:
    key_id = await bench.bring("good")
    common = {
        "p_model": bench.provider.model,
        "p_prompt_tokens": 1000,
        "p_user_id": bench.payer.id,
        "p_max_tokens": 100,
    }
    async with fee(bench, "5") as call:
        quotes = [
            Decimal(str(call("chat_quote", **common, p_credential=credential)["credits_max"]))
            for credential in ("platform", "own")
        ]
        assert quotes[1] == quotes[0] * 5 / 100
        started = call("chat_start", **common, p_request_id=str(uuid.uuid4()))
        assert Decimal(str(started["held"])) == quotes[1]
        finished = call(
            "chat_finish",
            p_hold_id=started["hold_id"],
            p_prompt_tokens=500,
            p_completion_tokens=50,
            p_credential="own",
            p_provider_key_id=key_id,
        )
        # 500 at 120 and 50 at 360 credits per million, of which one in twenty.
        assert Decimal(str(finished["charged"])) == Decimal("0.0039")
        [row] = bench.payer.usage()
        assert row["cost_estimate"] == Decimal("0.078")
        assert bench.payer.account()["period_tokens"] == 0


async def test_a_fee_is_refused_like_any_price(bench: Bench) -> None:
    await bench.bring("good")
    common = {
        "p_model": bench.provider.dear,
        "p_prompt_tokens": 1000,
        "p_user_id": bench.payer.id,
        "p_max_tokens": 100,
    }
    async with fee(bench, "5") as call:
        quote = call("chat_quote", **common)
        assert (quote["affordable"], quote["credential"]) == (False, "own")
        assert quote["refusal"]["code"] == "insufficient_credits"
        bench.payer.connection.execute(
            "update public.credit_accounts set monthly_credit_budget = 0 where user_id = %s",
            [bench.payer.id],
        )
        quote = call("chat_quote", **(common | {"p_model": bench.provider.model}))
        assert quote["refusal"]["code"] == "budget_exceeded"


async def test_more_than_was_offered_is_not_settled(bench: Bench) -> None:
    """A hold for an own key's fee never pays for the platform's key, nor the other way round."""
    await bench.bring("good")
    common = {"p_prompt_tokens": 10, "p_user_id": bench.payer.id, "p_max_tokens": 10}
    async with fee(bench, "0") as call:
        for credential, other in (("own", "platform"), ("platform", "own")):
            started = call(
                "chat_start",
                **common,
                p_model=bench.provider.model,
                p_credential=credential,
                p_request_id=str(uuid.uuid4()),
            )
            [candidate] = started["candidates"]
            assert candidate["credentials"] == [credential]
            assert bool(candidate["own_keys"]) == (credential == "own")
            with (
                pytest.raises(Exception, match="placed for another credential"),
                bench.payer.connection.transaction(),
            ):
                call(
                    "chat_finish",
                    p_hold_id=started["hold_id"],
                    p_prompt_tokens=5,
                    p_completion_tokens=5,
                    p_credential=other,
                )


# Fallback models, other kinds of requests ---------------------------------------------------------


async def test_an_own_key_never_turns_into_credits_by_a_fallback_model(bench: Bench) -> None:
    await bench.bring("rejected")
    other = "Qwen2.5-32B-Instruct-AWQ"
    with pytest.raises(QuernelError) as caught:
        await bench.ask(models=[other])
    assert caught.value.code == "provider_key_rejected"
    assert bench.payer.charges() == []


async def test_credits_before_an_own_key_is_the_order_that_was_asked_for(bench: Bench) -> None:
    await bench.bring("good")
    quernel = "Qwen2.5-32B-Instruct-AWQ"
    got = await bench.ask(
        "hello simulate: status=500", model=quernel, models=[bench.provider.model]
    )
    assert got.who == (bench.provider.slug, "own")
    assert bench.payer.charges() == []


async def test_a_model_that_is_not_sold_takes_an_own_key(bench: Bench) -> None:
    model = f"{bench.provider.slug}/own-only"
    add_model(
        bench.payer.connection,
        model,
        bench.provider.slug,
        byok_allowed=True,
        platform_allowed=False,
    )
    for credential, status, code in (
        ("auto", 402, "provider_key_required"),
        ("own_first", 402, "provider_key_required"),
        ("platform", 404, "model_not_found"),
    ):
        with pytest.raises(QuernelError) as caught:
            await bench.ask(model=model, credential=credential)
        assert (caught.value.status, caught.value.code) == (status, code)
    listed = {
        row["id"]: row for row in await bench.service.models(Caller(uuid.UUID(bench.payer.id)))
    }
    assert model not in listed
    assert listed[bench.provider.model]["credentials"] == ["platform"]
    await bench.bring("good")
    assert (await bench.ask(model=model)).who == (bench.provider.slug, "own")
    listed = {
        row["id"]: row for row in await bench.service.models(Caller(uuid.UUID(bench.payer.id)))
    }
    assert listed[model]["credentials"] == ["own"]
    assert listed[bench.provider.model]["credentials"] == ["own", "platform"]


async def test_a_model_whose_maker_takes_no_own_keys(bench: Bench) -> None:
    await bench.bring("good")
    model = f"{bench.provider.slug}/sold-only"
    add_model(bench.payer.connection, model, bench.provider.slug, byok_allowed=False)
    assert (await bench.ask(model=model)).who == (bench.provider.slug, "platform")
    with pytest.raises(QuernelError) as caught:
        await bench.ask(model=model, credential="own")
    assert caught.value.code == "provider_key_required"


async def test_embeddings_take_own_keys(bench: Bench) -> None:
    model = f"{bench.provider.slug}/vectors"
    add_model(
        bench.payer.connection,
        model,
        bench.provider.slug,
        kind="embedding",
        byok_allowed=True,
        prompt_price=120,
        max_output_tokens=None,
        default_output_tokens=None,
        completion_price=None,
        cached_prompt_price=None,
        capabilities={"dimensions": 3},
    )
    embeddings = EmbeddingService(
        bench.service._database,
        bench.service.router,
        bench.service.background,
    )

    async def embed(credential: str) -> tuple[str, dict[str, str]]:
        ask = ask_of(bench.payer, "")
        return await embeddings.embed(
            EmbeddingAsk(
                parse_embedding(
                    json.dumps({"model": model, "input": "hi", "credential": credential}).encode()
                ),
                ask.caller,
                ask.request_id,
                ask.since,
            )
        )

    _, headers = await embed("auto")
    assert headers["x-quernel-credential"] == "platform"
    [charge] = bench.payer.charges()
    key_id = await bench.bring("good")
    _, headers = await embed("auto")
    assert headers["x-quernel-credential"] == "own"
    assert headers["x-quernel-provider-key"] == key_id
    assert bench.payer.charges() == [charge]
    [use] = bench.uses()
    assert (use["action"], use["outcome"]) == ("embedding", "completed")
    assert "credential" not in bench.provider.bodies[-1]


async def test_the_members_that_are_ours_reach_no_provider(bench: Bench) -> None:
    await bench.bring("good")
    await bench.ask(credential="own_first")
    [body] = bench.provider.bodies
    assert set(body) == {"model", "messages", "max_tokens"}


# Whose keys ---------------------------------------------------------------------------------------


async def test_nobody_pays_with_the_key_of_another(bench: Bench, new_payer: NewPayer) -> None:
    await bench.bring("good")
    stranger = new_payer()
    got = await answer(bench.service, stranger, "Is it?", model=bench.provider.model, max_tokens=50)
    assert got.who == (bench.provider.slug, "platform")
    with pytest.raises(QuernelError) as caught:
        await answer(
            bench.service,
            stranger,
            "Is it?",
            model=bench.provider.model,
            max_tokens=50,
            credential="own",
        )
    assert caught.value.code == "provider_key_required"
    assert bench.uses() == []
