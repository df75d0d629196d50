"""Somebody tries to get credits for nothing, to be charged twice, or to stop the ledger."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.credits.ledger import (
    Ledger,
    call,
    chat_arguments,
    expect_refusal,
    new_key,
    one,
)

GRAIN = Decimal("0.000001")

# Numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "amount", ["NaN", "Infinity", "1e14", "1e400", "0.0000001", "1.0000001", None]
)
def test_no_number_is_too_strange_to_be_refused(ledger: Ledger, amount: str | None) -> None:
    payer = ledger.new_payer(100)
    lot_id = ledger.grant(payer, 50)["lot_id"]
    settled, active = ledger.spend(payer, 10), ledger.hold(payer, 10)["hold_id"]
    before = ledger.account(payer)
    attempts: list[Callable[[], Any]] = [
        lambda: ledger.grant(payer, amount),
        lambda: ledger.hold(payer, amount),
        lambda: ledger.settle(active, amount),
        lambda: ledger.refund(settled, amount),
        lambda: ledger.claw_back(lot_id, amount),
    ]
    if amount is not None:  # null lifts a budget
        attempts.append(lambda: set_my_budget(ledger, payer.user, amount))
    for attempt in attempts:
        expect_refusal(attempt, 400, "invalid_amount")
    assert ledger.account(payer) == before


def set_my_budget(ledger: Ledger, user_id: str, budget: Any) -> Any:
    with ledger.admin.transaction():
        ledger.admin.execute("set local role authenticated")
        ledger.admin.execute(
            "select set_config('request.jwt.claims', %s, true)", [json.dumps({"sub": user_id})]
        )
        return call(ledger.admin, "public.set_monthly_budget", p_budget=budget)


def test_nothing_is_granted_or_refunded_but_a_positive_amount(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    settled = ledger.spend(payer, 10)
    for attempt in (lambda: ledger.grant(payer, 0), lambda: ledger.refund(settled, 0)):
        expect_refusal(attempt, 400, "invalid_amount")


def test_a_balance_that_would_not_fit_is_refused_and_changes_nothing(ledger: Ledger) -> None:
    payer = ledger.new_payer(Decimal("99999999999999.999999"))
    before = ledger.account(payer), ledger.transactions(payer)
    expect_refusal(lambda: ledger.grant(payer, GRAIN), 400, "invalid_amount")
    assert (ledger.account(payer), ledger.transactions(payer)) == before
    hold_id = ledger.hold(payer, Decimal("99999999999999.999999"))["hold_id"]
    ledger.settle(hold_id, Decimal("99999999999999.999999"))
    assert ledger.balance(payer) == 0
    ledger.verify(payer)


@pytest.mark.parametrize("tokens", [-1, 2**63 - 1])
def test_a_hold_of_too_many_tokens_is_refused(ledger: Ledger, tokens: int) -> None:
    payer = ledger.new_payer(100)
    ledger.hold(payer, 1, p_tokens=10)
    expect_refusal(lambda: ledger.hold(payer, 1, p_tokens=tokens), 400, "invalid_argument")
    ledger.verify(payer)


@pytest.mark.parametrize(
    "arguments",
    [
        {"p_seconds": 0},
        {"p_seconds": -5},
        {"p_seconds": 2_000_000_000},
        {"p_action": None},
    ],
)
def test_a_hold_that_makes_no_sense_is_refused(ledger: Ledger, arguments: dict[str, Any]) -> None:
    payer = ledger.new_payer(100)
    expect_refusal(lambda: ledger.hold(payer, 1, **arguments), 400, "invalid_argument")


def test_an_operator_cannot_grant_what_only_a_payment_brings(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    for source in ("purchase", "plan", "refund", "ads_reward", "gift", None):
        expect_refusal(lambda s=source: ledger.grant(payer, 5, p_source=s), 400, "invalid_argument")
    expect_refusal(
        lambda: ledger.grant(payer, 5, p_expires_at="2026-01-01T00:00:00Z"),
        400,
        "invalid_argument",
    )
    assert ledger.balance(payer) == 0


# Rounding ----------------------------------------------------------------------------------------

prices = st.decimals(min_value=0, max_value=1000, places=6)
counts = st.integers(0, 10_000)


def test_rounding_mints_nothing(ledger: Ledger) -> None:
    """A price is never below the exact one, never a whole grain above it, and never above the hold.

    So splitting a request into many is never cheaper.
    """

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(prices, prices, prices, prices, counts, counts, counts)
    def check(  # noqa: PLR0917
        prompt_price: Decimal,
        cached_price: Decimal,
        completion_price: Decimal,
        request_price: Decimal,
        prompt: int,
        cached: int,
        completion: int,
    ) -> None:
        cached, cached_price = min(cached, prompt), min(cached_price, prompt_price)
        exact = (
            (prompt - cached) * prompt_price + cached * cached_price + completion * completion_price
        ) / Decimal(1_000_000) + request_price
        cost, worst = ledger.admin.execute(
            "select private.token_cost(t, %(p)s, %(k)s, %(c)s),"
            " private.token_cost(t, %(p)s, 0, %(c)s)"
            " from jsonb_build_object("
            "'prompt_price', %(pp)s::numeric, 'cached_prompt_price', %(kp)s::numeric,"
            " 'completion_price', %(cp)s::numeric, 'request_price', %(rp)s::numeric) as t",
            {
                "p": prompt,
                "k": cached,
                "c": completion,
                "pp": prompt_price,
                "kp": cached_price,
                "cp": completion_price,
                "rp": request_price,
            },
        ).fetchone() or (None, None)
        assert cost is not None
        assert exact <= cost < exact + GRAIN
        assert cost <= worst

    check()


def test_many_small_refunds_are_one_refund(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    for _ in range(3):
        ledger.grant(payer, Decimal("0.333333"))
    hold_id = ledger.spend(payer, Decimal("0.999999"))
    part = Decimal("0.142857")
    for _ in range(7):
        ledger.refund(hold_id, part)
    expect_refusal(lambda: ledger.refund(hold_id, GRAIN), 400, "refund_exceeds_settlement")
    assert ledger.balance(payer) == Decimal("0.999999")
    assert ledger.account(payer)["lifetime_spent"] == 0
    ledger.verify(payer)


# Refunds, clawbacks and holds in odd orders ------------------------------------------------------


def test_only_what_was_charged_is_refunded(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    active, released, expired, free = (ledger.hold(payer, 10)["hold_id"] for _ in range(4))
    ledger.release(released)
    ledger.reap(expired)
    ledger.settle(free, 0)
    for hold_id in (active, released, expired, free):
        expect_refusal(
            lambda hold_id=hold_id: ledger.refund(hold_id, GRAIN), 400, "refund_exceeds_settlement"
        )
    expect_refusal(lambda: ledger.refund(str(uuid.uuid4()), 1), 404, "hold_not_found")
    ledger.verify(payer)


def test_a_refund_of_refunded_money_gives_no_credits_twice(ledger: Ledger) -> None:
    """The purchase is refunded at Stripe, and the work it paid for is refunded as well."""
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 100)["lot_id"]
    hold_id = ledger.spend(payer, 60)
    ledger.claw_back(lot_id, 100)
    assert ledger.balance(payer) == -60
    ledger.refund(hold_id, 60)
    assert (ledger.balance(payer), ledger.account(payer)["debt"]) == (0, 0)
    expect_refusal(lambda: ledger.refund(hold_id, GRAIN), 400, "refund_exceeds_settlement")
    ledger.claw_back(lot_id, 0)
    assert ledger.balance(payer) == 100
    ledger.verify(payer)


def test_clawing_back_and_forth_mints_nothing(ledger: Ledger) -> None:
    payer = ledger.new_payer(20)
    lot_id = ledger.grant(payer, 100)["lot_id"]
    hold_id = ledger.spend(payer, 110)
    dice = random.Random(7)  # noqa: S311
    for _ in range(40):
        ledger.claw_back(lot_id, dice.randint(0, 100))
    ledger.claw_back(lot_id, 0)
    assert (ledger.balance(payer), ledger.account(payer)["debt"]) == (10, 0)
    ledger.refund(hold_id, 110)
    assert ledger.balance(payer) == 120
    ledger.verify(payer)


def test_expired_credits_are_not_revived_by_holding_them(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 10)["lot_id"]
    hold_id = ledger.hold(payer, 10)["hold_id"]
    ledger.expire(lot_id)
    assert ledger.balance(payer) == 10
    expect_refusal(lambda: ledger.hold(payer, GRAIN), 402, "insufficient_credits")
    ledger.release(hold_id)
    expect_refusal(lambda: ledger.hold(payer, GRAIN), 402, "insufficient_credits")
    ledger.expire(lot_id)
    assert ledger.balance(payer) == 0
    # A settlement that comes late does not find them either.
    ledger.verify(payer)


def test_a_late_settlement_after_the_credits_expired_is_owed(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 10)["lot_id"]
    hold_id = ledger.hold(payer, 10)["hold_id"]
    ledger.reap(hold_id)
    ledger.expire(lot_id)
    ledger.settle(hold_id, 8)
    assert (ledger.balance(payer), ledger.account(payer)["debt"]) == (-8, 8)
    # A refund of it repays the debt and grants nothing on top.
    ledger.refund(hold_id, 8)
    assert (ledger.balance(payer), ledger.account(payer)["debt"]) == (0, 0)
    ledger.verify(payer)


def test_an_account_of_thousands_of_lots_still_works(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    for first in range(0, 2000, 50):
        ledger.admin.execute(
            "select private.credit_grant(%s, 1, 'ads_reward', n::text,"
            " case when n %% 2 = 0 then now() + (n + 1) * interval '1 hour' end)"
            " from generate_series(%s::integer, %s) as n",
            [payer.account_id, first, first + 49],
        )
    ledger.spend(payer, GRAIN)
    assert len(ledger.transactions(payer)[-1]["lot_ids"]) == 1
    hold_id = ledger.spend(payer, Decimal("1500.5"))
    assert len(ledger.transactions(payer)[-1]["lot_ids"]) == 1501
    ledger.refund(hold_id, Decimal("1500.5"))
    balance = ledger.rpc("credit_balance", p_user_id=payer.user)
    assert (balance["balance"], len(balance["lots"])) == (2000 - GRAIN, 100)
    ledger.verify(payer)


# Organizations -----------------------------------------------------------------------------------


def test_a_key_is_not_shared_by_the_members_of_an_organization(ledger: Ledger) -> None:
    payer = ledger.new_organization(100)
    key = {"p_idempotency_key": new_key(), "p_fingerprint": "one"}
    started = ledger.chat_start(payer, member=0, **key)
    ledger.rpc(
        "chat_finish",
        p_hold_id=started["hold_id"],
        p_prompt_tokens=1,
        p_completion_tokens=1,
        p_answer={"secret": "of the first"},
    )
    # The other member's request runs and is theirs; nobody reads another's answer by its key.
    other = ledger.chat_start(payer, member=1, **key)
    assert other["state"] == "started"
    assert ledger.held(other["hold_id"])["user_id"] == payer.users[1]
    # Nor is a hold taken over.
    ledger.hold(payer, 1, "shared", member=0)
    expect_refusal(lambda: ledger.hold(payer, 1, "shared", member=1), 409, "idempotency_conflict")
    request_id = str(uuid.uuid4())
    ledger.chat_start(payer, member=0, p_request_id=request_id)
    expect_refusal(
        lambda: ledger.chat_start(payer, member=1, p_request_id=request_id),
        409,
        "idempotency_conflict",
    )
    ledger.verify(payer)


def test_a_removed_members_work_is_paid_for_and_their_next_is_refused(ledger: Ledger) -> None:
    payer = ledger.new_organization(100)
    first, second = (ledger.hold(payer, 20, member=1)["hold_id"] for _ in range(2))
    ledger.admin.execute(
        "delete from public.organization_members where user_id = %s", [payer.users[1]]
    )
    expect_refusal(lambda: ledger.hold(payer, 1, member=1), 403, "not_a_member")
    expect_refusal(lambda: ledger.chat_start(payer, member=1), 403, "not_a_member")
    # Also where the check of membership was passed an instant before.
    expect_refusal(
        lambda: call(
            ledger.admin,
            "private.credit_hold",
            p_user_id=payer.users[1],
            p_organization_id=payer.organization_id,
            p_amount=1,
            p_idempotency_key=new_key(),
            p_action="test",
        ),
        403,
        "not_a_member",
    )
    ledger.settle(first, 20)
    ledger.reap(second)
    assert (ledger.balance(payer), ledger.account(payer)["held"]) == (80, 0)
    ledger.verify(payer)


def test_a_stranger_spends_from_no_organization(ledger: Ledger) -> None:
    payer, stranger = ledger.new_organization(100), ledger.new_user()
    slug = one(
        ledger.admin, "select slug from public.organizations where id = %s", payer.organization_id
    )
    answers = [
        expect_refusal(
            lambda name=name: ledger.rpc(
                "chat_start",
                **(chat_arguments(payer) | {"p_user_id": stranger, "p_organization": name}),
            ),
            403,
            "not_a_member",
        )
        for name in (payer.organization_id, slug, str(uuid.uuid4()), "no-such-team")
    ]
    # And learns nothing about which of them exist.
    assert len({str(answer) for answer in answers}) == 1
