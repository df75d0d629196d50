"""Failures of peers with money that must not happen here; each docstring names peer and number."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tests.conftest import NewUser
from tests.credits.ledger import (
    CHAT_MODEL,
    Ledger,
    Payer,
    call,
    chat_arguments,
    expect_refusal,
    hold_arguments,
    new_key,
)
from tests.credits.parallel import at_once, open_doors, split

GRAIN = Decimal("0.000001")


def chat_finish(ledger: Ledger, hold_id: str, prompt: int, completion: int, **more: Any) -> Any:
    return ledger.rpc(
        "chat_finish",
        p_hold_id=hold_id,
        p_prompt_tokens=prompt,
        p_completion_tokens=completion,
        **more,
    )


# Negative amounts --------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", ["-1", "-0.000001", "-99999999999999", "NaN", "-Infinity"])
def test_a_negative_amount_credits_nobody(ledger: Ledger, amount: str) -> None:
    """LibreChat #2359: a negative amount credited the user (500 k became 83 M)."""
    payer = ledger.new_payer(100)
    lot_id = ledger.grant(payer, 50)["lot_id"]
    settled, active = ledger.spend(payer, 10), ledger.hold(payer, 10)["hold_id"]
    before = ledger.account(payer)
    for attempt in (
        lambda: ledger.grant(payer, amount),
        lambda: ledger.hold(payer, amount),
        lambda: ledger.settle(active, amount),
        lambda: ledger.refund(settled, amount),
        lambda: ledger.claw_back(lot_id, amount),
    ):
        expect_refusal(attempt, 400, "invalid_amount")
    assert ledger.account(payer) == before
    ledger.verify(payer)


def test_negative_token_counts_credit_nobody(ledger: Ledger) -> None:
    """LibreChat #2359: a negative token count credited the user."""
    payer = ledger.new_payer(100)
    for name in ("p_prompt_tokens", "p_max_tokens", "p_choices"):
        expect_refusal(
            lambda name=name: ledger.chat_start(payer, **{name: -5}), 400, "invalid_argument"
        )
    hold_id = ledger.chat_start(payer)["hold_id"]
    before = ledger.account(payer)
    for prompt, completion, cached in ((-1, 1, 0), (1, -1, 0), (1, 1, -1)):
        expect_refusal(
            lambda p=prompt, c=completion, k=cached: chat_finish(
                ledger, hold_id, p, c, p_cached_tokens=k
            ),
            400,
            "invalid_argument",
        )
    # More cached tokens than tokens would make the uncached ones negative.
    assert ledger.account(payer) == before
    charged = chat_finish(ledger, hold_id, 100, 0, p_cached_tokens=2_000_000_000)
    assert charged["credits_charged"] == Decimal("0.003")
    ledger.verify(payer)


@pytest.mark.parametrize("price", ["prompt_price", "completion_price", "credits_cost"])
def test_a_model_cannot_have_a_negative_price(ledger: Ledger, price: str) -> None:
    """LibreChat #2359: a negative price credited the user."""
    expect_refusal(
        lambda: ledger.rpc("model_upsert", p_model={"id": CHAT_MODEL, price: -1}, p_actor="tests"),
        400,
        "invalid_argument",
    )
    for value in ("-1", "NaN"):
        with pytest.raises(psycopg.errors.CheckViolation):
            ledger.admin.execute(
                f"update public.models set {price} = %s where id = %s".encode(),  # noqa: S608
                [value, CHAT_MODEL],
            )


# Charged twice, or not at all --------------------------------------------------------------------


def test_an_aborted_stream_that_two_paths_finish_is_charged_once(ledger: Ledger) -> None:
    """LibreChat PR #15889: the abort handler and the stream's end both charged."""
    payer = ledger.new_payer(100)
    hold_id = ledger.chat_start(payer)["hold_id"]
    doors = open_doors(ledger.functions_dsn, 24)

    def end(door: psycopg.Connection, index: int) -> Any:
        if index % 3 == 0:
            return call(door, "backend.chat_fail", p_hold_id=hold_id, p_error_code="aborted")
        return call(
            door,
            "backend.chat_finish",
            p_hold_id=hold_id,
            p_prompt_tokens=1000,
            p_completion_tokens=100 + index,
            p_outcome="cancelled" if index % 2 else "completed",
        )

    done, refused = split(at_once(doors, end))
    for door in doors:
        door.close()
    usage, account = ledger.usage(hold_id), ledger.account(payer)
    if usage["status"] == "failed":
        assert {r.code for r in refused} == {"hold_released"}
        assert account["balance"] == 100
    else:
        assert not refused
        assert {result["credits_charged"] for result in done} == {usage["credits"]}
        assert account["balance"] == 100 - usage["credits"] < 100
        assert [t["operation"] for t in ledger.transactions(payer)] == ["grant", "settle"]
    ledger.verify(payer)


def test_the_second_of_two_paths_learns_what_the_first_charged(ledger: Ledger) -> None:
    """LibreChat PR #15889, in either order and with other counts."""
    payer = ledger.new_payer(100)
    hold_id = ledger.chat_start(payer)["hold_id"]
    first = chat_finish(ledger, hold_id, 1000, 100, p_outcome="cancelled")
    for second in (
        chat_finish(ledger, hold_id, 1000, 2000),
        ledger.rpc("chat_fail", p_hold_id=hold_id, p_error_code="aborted"),
    ):
        assert second["credits_charged"] == first["credits_charged"] == Decimal("0.078")
    assert ledger.usage(hold_id)["status"] == "cancelled"
    assert ledger.balance(payer) == 100 - Decimal("0.078")
    ledger.verify(payer)


def test_the_same_request_again_is_no_free_answer(ledger: Ledger) -> None:
    """LibreChat PR #15889, turned round: a finished request pays for no second answer."""
    payer = ledger.new_payer(100)
    request_id = str(uuid.uuid4())
    first = ledger.chat_start(payer, p_request_id=request_id)
    assert ledger.chat_start(payer, p_request_id=request_id)["hold_id"] == first["hold_id"]
    chat_finish(ledger, first["hold_id"], 1000, 100)
    expect_refusal(
        lambda: ledger.chat_start(payer, p_request_id=request_id), 409, "idempotency_conflict"
    )
    ledger.verify(payer)


# Passing a budget, losing an increment -----------------------------------------------------------


@pytest.mark.parametrize("limit", ["balance", "account budget", "member budget"])
def test_five_parallel_long_prompts_do_not_pass_a_budget_for_one(
    ledger: Ledger, limit: str
) -> None:
    """LiteLLM PR #40002: five parallel long prompts passed a budget that covered one."""
    cost = Decimal("1.98")  # 30,000 prompt tokens and 1,000 of the answer
    payer = ledger.new_organization(Decimal(2) if limit == "balance" else 100)
    if limit == "account budget":
        ledger.admin.execute(
            "update public.credit_accounts set monthly_credit_budget = 2 where id = %s",
            [payer.account_id],
        )
    elif limit == "member budget":
        ledger.admin.execute(
            "update public.organization_members set monthly_credit_budget = 2"
            " where organization_id = %s",
            [payer.organization_id],
        )
    doors = open_doors(ledger.functions_dsn, 5)
    started, refused = split(
        at_once(
            doors,
            lambda door, _: call(
                door,
                "backend.chat_start",
                **chat_arguments(payer, p_prompt_tokens=30_000, p_max_tokens=1000),
            ),
        )
    )
    for door in doors:
        door.close()
    assert [result["held"] for result in started] == [cost]
    assert [r.status for r in refused] == [402] * 4
    ledger.verify(payer)


def test_no_spend_is_lost_when_many_members_spend_at_once(ledger: Ledger) -> None:
    """LiteLLM #34887: increments of spend were lost to deadlocks between workers."""
    payer = ledger.new_organization(1000, members=4)
    doors = open_doors(ledger.functions_dsn, 20)

    def spend(door: psycopg.Connection, index: int) -> Decimal:
        spent = Decimal(0)
        for turn in range(8):
            amount = Decimal(index + turn + 1) / 100
            arguments = hold_arguments(payer, 1, member=index % 4, p_tokens=10)
            hold = call(door, "backend.credit_hold", **arguments)
            call(door, "backend.credit_settle", p_hold_id=hold["hold_id"], p_amount=amount)
            spent += amount
        return spent

    done, refused = split(at_once(doors, spend))
    for door in doors:
        door.close()
    assert refused == []
    account = ledger.account(payer)
    assert account["lifetime_spent"] == account["period_credits"] == sum(done)
    assert account["balance"] == 1000 - sum(done)
    assert account["period_requests"] == 160
    per_member = ledger.admin.execute(
        "select sum(spent) from private.member_spending where organization_id = %s",
        [payer.organization_id],
    ).fetchone()
    assert per_member == (sum(done),)
    ledger.verify(payer)


# Reservations ------------------------------------------------------------------------------------


def test_a_reservation_that_nobody_returns_does_not_pin_a_team_at_its_limit(
    ledger: Ledger,
) -> None:
    """LiteLLM PR #27509 and eliza PR #11493: leaked reservations pinned a team at its limit."""
    plan = ledger.new_plan(concurrent_requests=2, monthly_tokens=5000)
    payer = ledger.new_organization(10, plan=plan)
    ledger.admin.execute(
        "update public.organization_members set monthly_credit_budget = 10"
        " where organization_id = %s",
        [payer.organization_id],
    )
    leaked = [ledger.hold(payer, 5, p_tokens=2500)["hold_id"] for _ in range(2)]
    expect_refusal(lambda: ledger.hold(payer, 1), 429, "too_many_concurrent_requests")

    ledger.reap(*leaked)

    account = ledger.account(payer)
    assert (account["held"], account["active_holds"], account["tokens_held"]) == (0, 0, 0)
    again = ledger.hold(payer, 10, p_tokens=5000)["hold_id"]
    ledger.settle(again, 10)
    # The leaked ones come back after all: they are charged, and return nothing a second time.
    ledger.settle(leaked[0], 5)
    ledger.release(leaked[1])
    account = ledger.account(payer)
    assert (account["held"], account["active_holds"], account["tokens_held"]) == (0, 0, 0)
    assert (account["balance"], account["debt"]) == (-5, 5)
    ledger.verify(payer)


def test_no_reservation_is_skipped_because_a_price_is_unknown(ledger: Ledger) -> None:
    """LiteLLM #35524: a model without a price was served without a reservation."""
    payer = ledger.new_payer(100)
    model = {
        "id": f"priceless-{new_key()[:8]}",
        "provider": "quernel",
        "name": "Priceless",
        "kind": "chat",
        "context_length": 1000,
        "max_output_tokens": 100,
        "default_output_tokens": 100,
    }
    expect_refusal(
        lambda: ledger.rpc("model_upsert", p_model=model, p_actor="tests"), 400, "invalid_argument"
    )
    with pytest.raises(psycopg.errors.CheckViolation):
        ledger.admin.execute(
            "update public.models set completion_price = null where id = %s", [CHAT_MODEL]
        )
    for unknown in (model["id"], "gpt-unknown", ""):
        expect_refusal(
            lambda name=unknown: ledger.chat_start(payer, p_model=name), 404, "model_not_found"
        )
    # An embedding model has no price per completion token, and is no chat model.
    embedding = model | {"id": f"vectors-{new_key()[:8]}", "kind": "embedding", "prompt_price": 1}
    ledger.rpc("model_upsert", p_model=embedding, p_actor="tests")
    expect_refusal(
        lambda: ledger.chat_start(payer, p_model=embedding["id"]), 404, "model_not_found"
    )
    # Nor is a hold without prices charged as a chat.
    hold_id = ledger.hold(payer, 50)["hold_id"]
    expect_refusal(lambda: chat_finish(ledger, hold_id, 10, 10), 404, "hold_not_found")
    assert ledger.account(payer)["balance"] == 100
    ledger.verify(payer)


def test_a_price_that_changes_while_the_model_answers_changes_nothing(ledger: Ledger) -> None:
    """LiteLLM #35524, late: the price is fixed when the hold is placed."""
    payer = ledger.new_payer(100)
    model = {
        "id": f"rising-{new_key()[:8]}",
        "provider": "quernel",
        "name": "Rising",
        "kind": "chat",
        "context_length": 10_000,
        "max_output_tokens": 1000,
        "default_output_tokens": 1000,
        "prompt_price": 100,
        "cached_prompt_price": 50,
        "completion_price": 1000,
    }
    ledger.rpc("model_upsert", p_model=model, p_actor="tests")
    hold_id = ledger.chat_start(payer, p_model=model["id"])["hold_id"]
    ledger.rpc(
        "model_upsert", p_model={"id": model["id"], "completion_price": 900_000}, p_actor="tests"
    )
    charged = chat_finish(ledger, hold_id, 1000, 1000, p_cached_tokens=500)["credits_charged"]
    assert charged == Decimal("0.05") + Decimal("0.025") + 1
    ledger.verify(payer)


# Organizations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("named_by", ["id", "slug"])
def test_an_organizations_budget_is_enforced_however_it_is_named(
    ledger: Ledger, named_by: str
) -> None:
    """LiteLLM #17054, #20532, PR #30799: not enforced, or lost when it came through a team."""
    payer = ledger.new_organization(100)
    ledger.grant(Payer(payer.account_id, payer.users[1:]), 100)  # a member's own credits
    ledger.admin.execute(
        "update public.credit_accounts set monthly_credit_budget = 0.1 where id = %s",
        [payer.account_id],
    )
    row = ledger.admin.execute(
        "select id::text, slug from public.organizations where id = %s", [payer.organization_id]
    ).fetchone()
    assert row is not None
    name = row[0] if named_by == "id" else row[1]

    def start() -> Any:
        return ledger.chat_start(payer, member=1, p_organization=name, p_max_tokens=100)

    chat_finish(ledger, start()["hold_id"], 1000, 100)
    refusal = expect_refusal(start, 402, "budget_exceeded")
    assert refusal.facts["limit_source"] == "account_budget"
    assert refusal.facts["available"] == Decimal("0.1") - Decimal("0.078")
    ledger.verify(payer)


def test_a_members_budget_holds_in_that_organization_and_only_there(ledger: Ledger) -> None:
    """LiteLLM #17054, #20532, PR #30799."""
    payer = ledger.new_organization(100)
    ledger.admin.execute(
        "update public.organization_members set monthly_credit_budget = 0.1 where user_id = %s",
        [payer.users[1]],
    )
    first = ledger.chat_start(payer, member=1, p_max_tokens=100)
    assert first["held"] == Decimal("0.078")
    refusal = expect_refusal(
        lambda: ledger.chat_start(payer, member=1, p_max_tokens=100), 402, "budget_exceeded"
    )
    assert refusal.facts["limit_source"] == "member_budget"
    # Without a limit of the client's the answer fits what the budget leaves.
    chat_finish(ledger, first["hold_id"], 0, 100)
    assert ledger.chat_start(payer, member=1)["candidates"][0]["max_tokens"] == 122
    ledger.chat_start(payer, member=0)
    ledger.verify(payer)


# Expiry ------------------------------------------------------------------------------------------


def test_expiry_takes_neither_what_is_spent_nor_what_is_on_hold(ledger: Ledger) -> None:
    """ducto: expiry removed credit that had already been spent."""
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 100, p_expires_at="2099-01-01T00:00:00Z")["lot_id"]
    ledger.grant(payer, 50)
    ledger.spend(payer, 60)
    hold_id = ledger.hold(payer, 30)["hold_id"]

    ledger.expire(lot_id)
    assert ledger.balance(payer) == 50 + 30
    ledger.expire(lot_id)
    assert ledger.balance(payer) == 50 + 30
    ledger.settle(hold_id, 20)
    ledger.expire(lot_id)
    assert ledger.balance(payer) == 50
    assert ledger.lot(lot_id)["expired"] == 20
    assert [(t["operation"], t["amount"]) for t in ledger.transactions(payer)[2:]] == [
        ("settle", -60),
        ("expire", -10),
        ("settle", -20),
        ("expire", -10),
    ]
    ledger.verify(payer)


def test_credits_that_expired_unspent_are_not_taken_back_a_second_time(ledger: Ledger) -> None:
    """Ducto and ledger-fortress: a refund after the expiry took other credits instead."""
    payer = ledger.new_payer(50)
    lot_id = ledger.grant(payer, 100, p_priority=10)["lot_id"]
    ledger.spend(payer, 30)
    ledger.expire(lot_id)
    assert ledger.balance(payer) == 50
    # The payment is refunded in full: 30 were used, 70 had expired.
    assert ledger.claw_back(lot_id, 100)["delta"] == 30
    assert (ledger.balance(payer), ledger.account(payer)["debt"]) == (20, 0)
    assert ledger.claw_back(lot_id, 100)["delta"] == 0
    # The dispute is won: what was taken comes back.
    assert ledger.claw_back(lot_id, 0)["delta"] == -30
    assert ledger.balance(payer) == 50
    ledger.verify(payer)


# Clawback ----------------------------------------------------------------------------------------


def test_refunds_at_stripe_claw_back_the_difference(ledger: Ledger) -> None:
    """ledger-fortress and eliza PR #10938: no clawback, or the whole amount at every event."""
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 100)["lot_id"]
    ledger.spend(payer, 70)
    deltas, balances = [], []
    for target in (20, 20, 50, 100, 100):
        deltas.append(ledger.claw_back(lot_id, target)["delta"])
        balances.append(ledger.balance(payer))
    assert deltas == [20, 0, 30, 50, 0]
    assert balances == [10, 10, -20, -70, -70]
    assert ledger.account(payer)["debt"] == 70
    expect_refusal(lambda: ledger.hold(payer, GRAIN), 402, "account_in_debt")
    expect_refusal(lambda: ledger.claw_back(lot_id, 101), 400, "invalid_amount")
    # The next purchase repays first; a dispute that is won returns what was taken.
    ledger.grant(payer, 100)
    assert (ledger.balance(payer), ledger.account(payer)["debt"]) == (30, 0)
    ledger.claw_back(lot_id, 0)
    assert ledger.balance(payer) == 130
    ledger.verify(payer)


def test_what_stood_in_for_a_clawback_comes_back_where_it_was(ledger: Ledger) -> None:
    """Eliza PR #10938: credits that never expire must not come back with a date."""
    payer = ledger.new_payer()
    disputed = ledger.grant(payer, 100, p_priority=10)["lot_id"]
    forever = ledger.grant(payer, 100)["lot_id"]
    ledger.spend(payer, 80)
    ledger.claw_back(disputed, 100)
    assert [ledger.lot(lot)["remaining"] for lot in (disputed, forever)] == [0, 20]
    ledger.expire(disputed)
    ledger.claw_back(disputed, 20)
    assert ledger.lot(forever)["remaining"] == 100
    ledger.verify(payer)


@pytest.mark.parametrize("given_back_by", ["dispute", "refund of the work"])
def test_what_expired_in_the_place_of_a_lot_is_not_taken_back_from_others(
    ledger: Ledger, given_back_by: str
) -> None:
    """Ducto, a step further: credits that nobody spent became debt, by way of a grace period."""
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 100)["lot_id"]
    if given_back_by == "dispute":
        ledger.spend(payer, 30)
        ledger.claw_back(lot_id, 70)
        ledger.expire(lot_id)
        ledger.claw_back(lot_id, 0)
    else:
        ledger.spend(payer, 30)
        hold_id = ledger.spend(payer, 70)
        ledger.expire(lot_id)
        ledger.refund(hold_id, 70)
    grace_lot = ledger.transactions(payer)[-1]["lot_ids"][0]
    assert ledger.lot(grace_lot)["stands_in_for"] == lot_id
    ledger.spend(payer, 20)
    ledger.expire(grace_lot)
    ledger.grant(payer, 80)
    # The payment is refunded in full: 50 were used, 50 expired.
    assert ledger.claw_back(lot_id, 100)["delta"] == 50
    assert (ledger.balance(payer), ledger.account(payer)["debt"]) == (30, 0)
    ledger.verify(payer)


def test_a_clawback_takes_what_stands_in_for_its_lot_before_other_credits(ledger: Ledger) -> None:
    """Ducto: a refund took other credits than those that were paid for."""
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 100)["lot_id"]
    hold_id = ledger.spend(payer, 100)
    ledger.expire(lot_id)
    ledger.refund(hold_id, 100)
    grace_lot = ledger.transactions(payer)[-1]["lot_ids"][0]
    other = ledger.grant(payer, 100, p_priority=10)["lot_id"]
    ledger.claw_back(lot_id, 60)
    assert [ledger.lot(lot)["remaining"] for lot in (grace_lot, other)] == [40, 100]
    ledger.claw_back(lot_id, 0)
    assert [ledger.lot(lot)["remaining"] for lot in (grace_lot, other)] == [100, 100]
    ledger.verify(payer)


def test_what_a_later_grant_repaid_comes_back_without_a_date(ledger: Ledger) -> None:
    """Eliza PR #10938, by way of debt: the dispute is won after its lot has expired."""
    payer = ledger.new_payer()
    disputed = ledger.grant(payer, 100)["lot_id"]
    ledger.spend(payer, 60)
    ledger.claw_back(disputed, 100)
    ledger.grant(payer, 60)
    assert ledger.account(payer)["debt"] == 0
    ledger.expire(disputed)
    ledger.claw_back(disputed, 0)
    back = [ledger.lot(lot) for lot in ledger.transactions(payer)[-1]["lot_ids"]]
    assert [(lot["remaining"], lot["expires_at"] is None) for lot in back] == [
        (40, False),
        (60, True),
    ]
    ledger.verify(payer)


# Access ------------------------------------------------------------------------------------------


def test_a_user_cannot_touch_their_balance_through_postgrest(new_user: NewUser) -> None:
    """suna: a policy let users update their own balance row."""
    user = new_user()
    tables = {
        "credit_accounts": {"balance": 1e6},
        "credit_lots": {"remaining": 1e6, "amount": 1e6},
        "credit_transactions": {"amount": 1e6},
        "usage_logs": {"credits": 0},
        "profiles": {"credits_balance": 1e6},
        "credit_purchases": {"credits": 1e6},
        "organization_members": {"monthly_credit_budget": None},
    }
    with user.rest() as rest:
        before = rest.get("/credit_accounts").json()
        assert [row["balance"] for row in before] == [100]
        answers: Counter[str] = Counter()
        for table, change in tables.items():
            for method, body in (("PATCH", change), ("POST", change), ("DELETE", None)):
                answer = rest.request(
                    method,
                    f"/{table}",
                    params=None if method == "POST" else {"created_at": "gt.2000-01-01"},
                    json=body,
                )
                assert answer.status_code >= 400, (method, table, answer.text)
                answers[method] += 1
        assert set(answers.values()) == {len(tables)}
        assert rest.get("/credit_accounts").json() == before


def test_a_user_cannot_call_what_moves_money_through_postgrest(
    ledger: Ledger, new_user: NewUser
) -> None:
    """suna: what was not closed was open. Each call is complete: with EXECUTE it would succeed."""
    user = new_user()
    payer = Payer(_account_of(ledger, user.id), (user.id,))
    lot_id = ledger.grant(payer, 50)["lot_id"]
    settled = ledger.spend(payer, 10)
    running = ledger.hold(payer, 10, p_action="chat")["hold_id"]
    key = new_key()
    calls: dict[str, dict[str, Any]] = {
        "backend.credit_grant": {
            "p_user_id": user.id,
            "p_amount": 1000,
            "p_source": "bonus",
            "p_idempotency_key": key,
            "p_actor": "me",
        },
        "backend.credit_settle": {"p_hold_id": running, "p_amount": 0},
        "backend.credit_refund": {"p_hold_id": settled, "p_amount": 1, "p_idempotency_key": key},
        "backend.credit_release": {"p_hold_id": running},
        "private.credit_grant": {
            "p_account_id": payer.account_id,
            "p_amount": 1000,
            "p_source": "bonus",
            "p_idempotency_key": key,
        },
        "private.credit_claw_back": {
            "p_lot_id": lot_id,
            "p_target": 0,
            "p_reason": "mine",
            "p_reference": "mine",
        },
        "private.credit_refund": {
            "p_hold_id": settled,
            "p_amount": 1,
            "p_idempotency_key": key,
            "p_reason": "mine",
        },
    }
    before = ledger.account(payer)
    for function, arguments in calls.items():
        # That the call is complete: as the owner of the database it succeeds.
        with ledger.admin.transaction(force_rollback=True):
            call(ledger.admin, function, **arguments)
    with user.rest() as rest:
        for function, arguments in calls.items():
            for schema in ("public", "backend", "private"):
                answer = rest.post(
                    f"/rpc/{function.split('.')[1]}",
                    json=arguments,
                    headers={"Content-Profile": schema},
                )
                assert answer.status_code >= 400, (schema, function, answer.text)
    # Past the API, with the role and the claims of the user, it is a privilege that stops them.
    for function, arguments in calls.items():
        with ledger.admin.transaction(force_rollback=True):
            ledger.admin.execute("set local role authenticated")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                call(ledger.admin, function, **arguments)
    assert ledger.account(payer) == before


def _account_of(ledger: Ledger, user_id: str) -> str:
    return str(ledger.rpc("credit_balance", p_user_id=user_id)["account_id"])


@pytest.mark.parametrize(
    "statement",
    [
        "update public.credit_accounts set balance = 1",
        "delete from public.credit_accounts",
        "insert into public.credit_lots (account_id, source, amount, remaining)"
        " select id, 'bonus', 1, 1 from public.credit_accounts",
        "update public.credit_lots set remaining = amount",
        "insert into public.credit_transactions"
        " (account_id, version, operation, type, amount, balance_after)"
        " select id, 99, 'grant', 'bonus', 1, 1 from public.credit_accounts",
        "update private.credit_holds set status = 'released'",
        "update private.member_spending set spent = 0",
        "update public.usage_logs set credits = 0",
        "update public.organization_members set monthly_credit_budget = null",
        "update private.settings set value = '1000000' where name = 'signup_credits'",
        "select private.credit_grant(id, 1, 'bonus', 'k') from public.credit_accounts",
        "select private.credit_claw_back(id, 0, 'r', 'r') from public.credit_lots",
    ],
)
@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role", "quernel_functions"])
def test_no_role_of_the_api_writes_money(ledger: Ledger, role: str, statement: str) -> None:
    """suna, and a leaked service key: money changes through the ledger's functions alone."""
    payer = ledger.new_payer(1)
    with ledger.admin.transaction(force_rollback=True):
        ledger.admin.execute(f"set local role {role}".encode())
        ledger.admin.execute(
            "select set_config('request.jwt.claims', %s, true)",
            [json.dumps({"sub": payer.user, "role": role})],
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ledger.admin.execute(statement.encode())


# No limit of the client's ------------------------------------------------------------------------


def test_a_request_without_max_tokens_is_not_refused_for_a_window_it_will_not_use(
    ledger: Ledger,
) -> None:
    """qwen-code #73: without max_tokens the check demanded the model's full window."""
    payer = ledger.new_payer(Decimal("0.1"))
    started = ledger.chat_start(payer, p_prompt_tokens=500)
    # 0.03 for the prompt; what is left affords 388 tokens of an answer, not 8,192.
    assert started["candidates"][0]["max_tokens"] == 388
    assert started["held"] == Decimal("0.09984")
    chat_finish(ledger, started["hold_id"], 500, 388)
    ledger.verify(payer)

    rich = ledger.new_payer(1000)
    assert ledger.chat_start(rich, p_prompt_tokens=500)["candidates"][0]["max_tokens"] == 2048
    # Only where not even a short answer is affordable, it is refused, and says what would do.
    refusal = expect_refusal(
        lambda: ledger.chat_start(payer, p_prompt_tokens=500), 402, "insufficient_credits"
    )
    assert refusal.facts["required"] == Decimal("0.03288")
