"""What else than the balance stops a request: budgets, plan limits, suspension."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tests.credits.ledger import (
    CHAT_MODEL,
    Ledger,
    Payer,
    Refused,
    call,
    chat_arguments,
    expect_refusal,
    new_key,
)
from tests.credits.parallel import at_once, open_doors, split


def set_budget(ledger: Ledger, payer: Payer, budget: int | None) -> None:
    ledger.admin.execute(
        "update public.credit_accounts set monthly_credit_budget = %s where id = %s",
        [budget, payer.account_id],
    )


def set_member_budget(ledger: Ledger, payer: Payer, member: int, budget: int | None) -> None:
    ledger.admin.execute(
        "update public.organization_members set monthly_credit_budget = %s"
        " where organization_id = %s and user_id = %s",
        [budget, payer.organization_id, payer.users[member]],
    )


# Every 402 says what is missing ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "code", "remedy", "numbers"),
    [
        ("balance", "insufficient_credits", "buy_credits", (60, 50)),
        ("debt", "account_in_debt", "buy_credits", (80, 0)),
        ("account_budget", "budget_exceeded", "raise_budget", (60, 40)),
        ("member_budget", "budget_exceeded", "raise_budget", (60, 30)),
        ("plan.requests_per_month", "plan_limit_reached", "upgrade_plan", (1, 0)),
        ("plan.monthly_tokens", "plan_limit_reached", "upgrade_plan", (500, 200)),
    ],
)
def test_a_402_names_limit_required_available_and_remedy(
    ledger: Ledger,
    source: str,
    code: str,
    remedy: str,
    numbers: tuple[int, int],
) -> None:
    limits = {
        "plan.requests_per_month": {"requests_per_month": 1},
        "plan.monthly_tokens": {"monthly_tokens": 200},
    }.get(source, {})
    payer = ledger.new_organization(plan=ledger.new_plan(**limits))
    lot_id = ledger.grant(payer, 50 if source == "balance" else 100)["lot_id"]
    if source == "debt":
        ledger.spend(payer, 20)
        ledger.claw_back(lot_id, 100)
    elif source == "account_budget":
        set_budget(ledger, payer, 40)
    elif source == "member_budget":
        set_member_budget(ledger, payer, 0, 30)
    elif source == "plan.requests_per_month":
        ledger.spend(payer, 1)

    answer = expect_refusal(lambda: ledger.hold(payer, 60, p_tokens=500), 402, code)
    assert (
        answer.facts
        | {
            "limit_source": source,
            "required": numbers[0],
            "available": numbers[1],
            "remedy": remedy,
        }
        == answer.facts
    )
    ledger.verify(payer)


# Budgets -----------------------------------------------------------------------------------------


def test_the_budget_counts_what_is_spent_and_what_is_held_this_month(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer(100)
    set_budget(ledger, payer, 30)
    hold_id = ledger.spend(payer, 10)
    active = ledger.hold(payer, 15)["hold_id"]
    assert (
        expect_refusal(lambda: ledger.hold(payer, 6), 402, "budget_exceeded").facts["available"]
        == 5
    )
    ledger.release(active)
    ledger.hold(payer, 20)
    expect_refusal(lambda: ledger.hold(payer, "0.000001"), 402, "budget_exceeded")
    ledger.refund(hold_id, 10)
    ledger.hold(payer, 10)
    expect_refusal(lambda: ledger.hold(payer, 1), 402, "budget_exceeded")
    ledger.verify(payer)


def test_a_new_month_begins_with_the_whole_budget(ledger: Ledger) -> None:
    payer = ledger.new_organization(100)
    set_budget(ledger, payer, 30)
    set_member_budget(ledger, payer, 1, 20)
    hold_id = ledger.hold(payer, 20, member=1)["hold_id"]
    ledger.settle(hold_id, 20)
    expect_refusal(lambda: ledger.hold(payer, 1, member=1), 402, "budget_exceeded")
    ledger.new_month(payer)
    # A refund of last month's spending is no extra budget of this month.
    ledger.admin.execute(
        "update private.credit_holds set finished_at = finished_at - interval '40 days'"
        " where id = %s",
        [hold_id],
    )
    ledger.refund(hold_id, 20)
    ledger.hold(payer, 20, member=1)
    expect_refusal(lambda: ledger.hold(payer, 1, member=1), 402, "budget_exceeded")
    ledger.hold(payer, 10)
    expect_refusal(lambda: ledger.hold(payer, 1), 402, "budget_exceeded")
    ledger.verify(payer)


def test_a_hold_that_lives_over_midnight_counts_in_the_month_it_is_settled(
    ledger: Ledger,
) -> None:
    payer = ledger.new_organization(100)
    set_budget(ledger, payer, 30)
    hold_id = ledger.hold(payer, 25, member=1)["hold_id"]
    ledger.new_month(payer)
    expect_refusal(lambda: ledger.hold(payer, 6), 402, "budget_exceeded")
    ledger.settle(hold_id, 25)
    account = ledger.account(payer)
    assert (account["period_credits"], account["held"]) == (25, 0)
    expect_refusal(lambda: ledger.hold(payer, 6), 402, "budget_exceeded")
    ledger.verify(payer)


def test_a_transaction_that_began_before_midnight_does_not_turn_the_month_back(
    ledger: Ledger,
) -> None:
    payer = ledger.new_organization(100)
    first, second = (ledger.hold(payer, 10, member=1)["hold_id"] for _ in range(2))
    ledger.settle(first, 10)
    # Somebody whose clock is past midnight was here first.
    ledger.admin.execute(
        "update private.member_spending set period_start = private.month_start(now() + interval"
        " '32 days') where organization_id = %s",
        [payer.organization_id],
    )
    ledger.settle(second, 5)
    row = ledger.admin.execute(
        "select spent, period_start > now() from private.member_spending"
        " where organization_id = %s",
        [payer.organization_id],
    ).fetchone()
    assert row == (15, True)
    ledger.verify(payer)


def test_a_member_budget_is_per_member_and_a_refund_gives_it_back(
    ledger: Ledger,
) -> None:
    payer = ledger.new_organization(100, members=3)
    set_member_budget(ledger, payer, 1, 10)
    hold_id = ledger.hold(payer, 10, member=1)["hold_id"]
    ledger.settle(hold_id, 10)
    expect_refusal(lambda: ledger.hold(payer, 1, member=1), 402, "budget_exceeded")
    ledger.hold(payer, 50, member=2)
    ledger.refund(hold_id, 4)
    assert (
        expect_refusal(lambda: ledger.hold(payer, 5, member=1), 402, "budget_exceeded").facts[
            "available"
        ]
        == 4
    )
    ledger.hold(payer, 4, member=1)
    ledger.verify(payer)


def test_no_budget_and_a_budget_of_nothing(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    set_budget(ledger, payer, 0)
    expect_refusal(lambda: ledger.hold(payer, "0.000001"), 402, "budget_exceeded")
    ledger.hold(payer, 0)
    set_budget(ledger, payer, None)
    ledger.hold(payer, 100)
    ledger.verify(payer)


# Plan limits -------------------------------------------------------------------------------------


def test_requests_per_minute_are_a_burst_and_then_a_pace(ledger: Ledger) -> None:
    payer = ledger.new_payer(100, plan=ledger.new_plan(requests_per_minute=2))
    key = new_key()
    ledger.hold(payer, 1, key)
    ledger.hold(payer, 1)
    for _ in range(3):
        answer = expect_refusal(lambda: ledger.hold(payer, 1), 429, "rate_limited")
        assert 0 < answer.facts["retry_after"] <= 30
        assert answer.facts["limit"] == 2
    # A repeated request is not another one.
    assert ledger.hold(payer, 1, key)["status"] == "active"

    ledger.admin.execute(
        "update public.credit_accounts set next_request_at = next_request_at"
        " - make_interval(secs => %s) where id = %s",
        [float(answer.facts["retry_after"]), payer.account_id],
    )
    ledger.hold(payer, 1)
    expect_refusal(lambda: ledger.hold(payer, 1), 429, "rate_limited")
    ledger.verify(payer)


def test_a_plan_without_requests_allows_none(ledger: Ledger) -> None:
    payer = ledger.new_payer(100, plan=ledger.new_plan(requests_per_minute=0))
    assert (
        expect_refusal(lambda: ledger.hold(payer, 1), 429, "rate_limited").facts["retry_after"] > 0
    )


def test_concurrent_requests_end_with_settle_release_or_the_reaper(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer(100, plan=ledger.new_plan(concurrent_requests=1))
    for end in (
        lambda hold_id: ledger.settle(hold_id, 1),
        ledger.release,
        ledger.reap,
    ):
        hold_id = ledger.hold(payer, 1)["hold_id"]
        answer = expect_refusal(lambda: ledger.hold(payer, 1), 429, "too_many_concurrent_requests")
        assert answer.facts["retry_after"] > 0
        end(hold_id)
    # A settlement after the reaper frees no place a second time.
    ledger.hold(payer, 1)
    ledger.settle(hold_id, 1)
    expect_refusal(lambda: ledger.hold(payer, 1), 429, "too_many_concurrent_requests")
    ledger.verify(payer)


def test_a_request_that_failed_is_none_of_the_months(ledger: Ledger) -> None:
    payer = ledger.new_payer(100, plan=ledger.new_plan(requests_per_month=1))
    ledger.release(ledger.hold(payer, 1)["hold_id"])
    ledger.spend(payer, 1)
    expect_refusal(lambda: ledger.hold(payer, 1), 402, "plan_limit_reached")


def test_requests_per_month_begin_anew_with_the_month(ledger: Ledger) -> None:
    payer = ledger.new_payer(100, plan=ledger.new_plan(requests_per_month=2))
    ledger.spend(payer, 1)
    # What was refused is not counted.
    expect_refusal(lambda: ledger.hold(payer, 1000), 402, "insufficient_credits")
    ledger.spend(payer, 1)
    expect_refusal(lambda: ledger.hold(payer, 0), 402, "plan_limit_reached")
    ledger.new_month(payer)
    ledger.spend(payer, 1)
    ledger.verify(payer)


def test_monthly_tokens_count_what_was_used_and_what_may_be(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer(100, plan=ledger.new_plan(monthly_tokens=3000))
    first = ledger.chat_start(payer, p_prompt_tokens=500, p_max_tokens=1000)
    answer = expect_refusal(
        lambda: ledger.chat_start(payer, p_prompt_tokens=500, p_max_tokens=1001),
        402,
        "plan_limit_reached",
    )
    assert (answer.facts["required"], answer.facts["available"]) == (1501, 1500)
    ledger.rpc(
        "chat_finish", p_hold_id=first["hold_id"], p_prompt_tokens=400, p_completion_tokens=100
    )
    assert ledger.account(payer)["period_tokens"] == 500
    # Without a limit of the client's, the answer is as long as the plan allows.
    assert ledger.chat_start(payer, p_prompt_tokens=2000)["candidates"][0]["max_tokens"] == 500
    ledger.verify(payer)


def test_a_plans_tokens_are_held_by_the_estimate_and_counted_by_use(ledger: Ledger) -> None:
    """qwen-code #73: the check before the call wanted more than anything would use."""
    payer = ledger.new_payer(100, plan=ledger.new_plan(monthly_tokens=3000))
    prompt = {"p_prompt_tokens": 8000, "p_prompt_estimate": 2000, "p_max_tokens": 1000}
    quote = ledger.rpc("chat_quote", p_user_id=payer.user, p_model=CHAT_MODEL, **prompt)
    assert (quote["affordable"], quote["prompt_tokens"]) == (True, 8000)
    started = ledger.chat_start(payer, **prompt)
    # Credits are held for the bound all the same: 8,000 at 60 and 1,000 at 180 per million.
    assert started["held"] == quote["credits_max"] == Decimal("0.66")
    assert ledger.account(payer)["tokens_held"] == 3000
    ledger.rpc(
        "chat_finish", p_hold_id=started["hold_id"], p_prompt_tokens=2300, p_completion_tokens=200
    )
    assert ledger.account(payer)["period_tokens"] == 2500
    # Without a limit of the client's, the answer is as long as the plan allows by the estimate.
    shorter = ledger.chat_start(payer, p_prompt_tokens=1600, p_prompt_estimate=400)
    assert shorter["candidates"][0]["max_tokens"] == 100
    ledger.verify(payer)


def test_parallel_requests_pass_a_plans_tokens_by_no_more_than_their_estimates_are_wrong(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer(100, plan=ledger.new_plan(monthly_tokens=1000))
    prompt = {"p_prompt_tokens": 1600, "p_prompt_estimate": 400, "p_max_tokens": 100}
    doors = open_doors(ledger.functions_dsn, 8)

    def start(door: psycopg.Connection, _: int) -> Any:
        return call(door, "backend.chat_start", **chat_arguments(payer, **prompt))

    started, refused = split(at_once(doors, start))
    for door in doors:
        door.close()
    assert len(started) == 2
    assert {refusal.code for refusal in refused} == {"plan_limit_reached"}
    for answer in started:
        ledger.rpc(
            "chat_finish", p_hold_id=answer["hold_id"], p_prompt_tokens=450, p_completion_tokens=100
        )
    assert ledger.account(payer)["period_tokens"] == 1000 + 2 * 50
    # And what they used beyond it counts: there is nothing left.
    refusal = expect_refusal(
        lambda: ledger.chat_start(payer, p_prompt_tokens=1, p_max_tokens=1),
        402,
        "plan_limit_reached",
    )
    assert refusal.facts["available"] == 0
    ledger.verify(payer)


@pytest.mark.parametrize(("estimate", "held"), [(None, 900), (5000, 900), (0, 100)])
def test_an_estimate_is_at_most_the_bound_and_without_one_the_bound_counts(
    ledger: Ledger, estimate: int | None, held: int
) -> None:
    payer = ledger.new_payer(100)
    ledger.chat_start(payer, p_prompt_tokens=800, p_prompt_estimate=estimate, p_max_tokens=100)
    assert ledger.account(payer)["tokens_held"] == held


def test_without_a_limit_all_choices_share_what_the_balance_affords(ledger: Ledger) -> None:
    payer = ledger.new_payer(Decimal("0.1"))
    # 0.03 for the prompt, and 97 tokens of each of four answers at 180 per million.
    started = ledger.chat_start(payer, p_prompt_tokens=500, p_choices=4)
    assert started["candidates"][0]["max_tokens"] == 97
    assert started["held"] == Decimal("0.09984")
    ledger.verify(payer)


def test_without_a_limit_all_choices_share_what_the_plan_has_left(ledger: Ledger) -> None:
    payer = ledger.new_payer(100, plan=ledger.new_plan(monthly_tokens=1000))
    assert (
        ledger.chat_start(payer, p_prompt_tokens=200, p_choices=4)["candidates"][0]["max_tokens"]
        == 200
    )
    assert ledger.account(payer)["tokens_held"] == 1000
    ledger.verify(payer)


def test_the_plan_of_who_pays_rules(ledger: Ledger) -> None:
    strict = ledger.new_plan(requests_per_month=0)
    team = ledger.new_organization(100)
    ledger.grant(Payer(team.account_id, team.users[:1]), 5)  # the person's own account
    for user_id in team.users:
        ledger.admin.execute(
            "update public.profiles set plan_id = (select id from public.plans where slug = %s)"
            " where id = %s",
            [strict, user_id],
        )
    ledger.hold(team, 1)
    own = {"p_user_id": team.user, "p_amount": 1, "p_idempotency_key": new_key(), "p_action": "x"}
    expect_refusal(
        lambda: ledger.rpc("credit_hold", p_organization_id=None, **own), 402, "plan_limit_reached"
    )
    ledger.admin.execute(
        "update public.organizations set plan_id = (select id from public.plans where slug = %s)"
        " where id = %s",
        [strict, team.organization_id],
    )
    expect_refusal(lambda: ledger.hold(team, 1), 402, "plan_limit_reached")


def test_an_expired_plan_is_the_free_one(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    for _ in range(3):
        ledger.hold(payer, 1)
    ledger.admin.execute(
        "update public.profiles set plan_expires_at = now() - interval '1 second' where id = %s",
        [payer.user],
    )
    with pytest.raises(Refused, match="too_many_concurrent_requests") as caught:
        ledger.hold(payer, 1)
    assert caught.value.facts["plan"] == "free"


# Quote -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", ["0", "0.05", "0.062879", "0.06288", "0.5", "100"])
@pytest.mark.parametrize("max_tokens", [None, 1, 1000])
def test_a_quote_says_what_the_request_would_then_meet(
    ledger: Ledger, balance: str, max_tokens: int | None
) -> None:
    payer = ledger.new_payer(Decimal(balance))
    quote = ledger.rpc(
        "chat_quote",
        p_user_id=payer.user,
        p_model="Qwen2.5-32B-Instruct-AWQ",
        p_prompt_tokens=1000,
        p_max_tokens=max_tokens,
    )
    assert ledger.account(payer)["held"] == 0
    if quote["affordable"]:
        started = ledger.chat_start(payer, p_prompt_tokens=1000, p_max_tokens=max_tokens)
        assert (started["held"], started["candidates"][0]["max_tokens"]) == (
            quote["credits_max"],
            quote["max_tokens"],
        )
    else:
        with pytest.raises(Refused) as caught:
            ledger.chat_start(payer, p_prompt_tokens=1000, p_max_tokens=max_tokens)
        assert quote["refusal"] == {"code": caught.value.code, **caught.value.facts}
        assert caught.value.facts["required"] == quote["credits_max"] > Decimal(balance)
    ledger.verify(payer)


# Suspension --------------------------------------------------------------------------------------


def test_a_suspended_person_holds_nothing_but_what_runs_is_settled(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer(100)
    hold_id = ledger.hold(payer, 10)["hold_id"]
    ledger.rpc(
        "user_set_active", p_user_id=payer.user, p_is_active=False, p_actor="t", p_reason="test"
    )
    expect_refusal(lambda: ledger.hold(payer, 1), 403, "account_suspended")
    expect_refusal(lambda: ledger.chat_start(payer), 403, "account_suspended")
    ledger.settle(hold_id, 10)
    assert ledger.balance(payer) == 90
    ledger.rpc(
        "user_set_active", p_user_id=payer.user, p_is_active=True, p_actor="t", p_reason="test"
    )
    ledger.hold(payer, 1)
    ledger.verify(payer)


def test_nobody_spends_from_a_suspended_organization(ledger: Ledger) -> None:
    payer = ledger.new_organization(100)
    ledger.rpc(
        "organization_set_active",
        p_organization_id=payer.organization_id,
        p_is_active=False,
        p_actor="t",
        p_reason="test",
    )
    expect_refusal(lambda: ledger.hold(payer, 1), 403, "account_suspended")
    expect_refusal(lambda: ledger.chat_start(payer), 403, "account_suspended")
    # Also past the check of membership, where other functions of the kernel come in.
    with pytest.raises(Exception, match="suspended"):
        ledger.admin.execute(
            "select private.credit_hold(%s, %s, 1, %s, 'test')",
            [payer.user, payer.organization_id, new_key()],
        )
