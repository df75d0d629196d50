"""The nine invariants of the ledger, one after the other (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tests.credits.ledger import (
    Ledger,
    Refused,
    call,
    expect_refusal,
    hold_arguments,
    new_key,
    one,
    pass_expiry,
)

# 1 -----------------------------------------------------------------------------------------------


def test_invariant_1_balance_held_and_debt_are_what_lots_transactions_and_holds_say(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 100)["lot_id"]
    ledger.spend(payer, 30)
    hold_id = ledger.hold(payer, 50)["hold_id"]
    account = ledger.account(payer)
    assert (account["balance"], account["held"], account["debt"]) == (70, 50, 0)
    expect_refusal(lambda: ledger.hold(payer, "20.000001"), 402, "insufficient_credits")
    ledger.claw_back(lot_id, 100)
    account = ledger.account(payer)
    assert (account["balance"], account["held"], account["debt"]) == (-30, 50, 80)
    ledger.verify(payer)
    # What the hold did not need pays for the debt as soon as it is free.
    ledger.settle(hold_id, 10)
    account = ledger.account(payer)
    assert (account["balance"], account["held"], account["debt"]) == (-40, 0, 40)
    assert ledger.lot(lot_id)["remaining"] == 0
    ledger.verify(payer)


@pytest.mark.parametrize("end", ["settle", "release", "reap"])
def test_invariant_1_credits_that_come_off_hold_pay_the_debt_first(
    ledger: Ledger, end: str
) -> None:
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 100)["lot_id"]
    ledger.spend(payer, 30)
    hold_id = ledger.hold(payer, 50)["hold_id"]
    ledger.claw_back(lot_id, 90)
    account = ledger.account(payer)
    assert (account["balance"], account["held"], account["debt"]) == (-20, 50, 70)
    {
        "settle": lambda: ledger.settle(hold_id, 0),
        "release": lambda: ledger.release(hold_id),
        "reap": lambda: ledger.reap(hold_id),
    }[end]()
    account = ledger.account(payer)
    assert (account["balance"], account["held"], account["debt"]) == (-20, 0, 20)
    assert ledger.transactions(payer)[-1]["type"] == "debt_repayment"
    ledger.verify(payer)


def test_invariant_1_grants_repay_debt_first(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 100)["lot_id"]
    ledger.spend(payer, 100)
    ledger.claw_back(lot_id, 100)
    for amount, balance, debt, remaining in ((40, -60, 60, 0), (80, 20, 0, 20)):
        granted = ledger.grant(payer, amount)
        assert (granted["balance"], granted["debt"]) == (balance, debt)
        assert ledger.lot(granted["lot_id"])["remaining"] == remaining
    ledger.verify(payer)


@pytest.mark.parametrize("table", ["public.credit_transactions", "public.credit_lots"])
@pytest.mark.parametrize("role", ["supabase_admin", "postgres", "service_role", "authenticated"])
@pytest.mark.parametrize("replication", ["origin", "replica"])
def test_invariant_1_the_ledger_is_append_only_for_every_role(
    ledger: Ledger, table: str, role: str, replication: str
) -> None:
    payer = ledger.new_payer(5)
    statements = [f"delete from {table}", f"truncate {table} cascade"]  # noqa: S608
    if table == "public.credit_transactions":
        statements.append(f"update {table} set amount = amount + 1")  # noqa: S608
    for statement in statements:
        error = attempt(ledger, statement, role, replication)
        if role in {"supabase_admin", "postgres"}:
            assert isinstance(error, psycopg.errors.RestrictViolation)
        else:
            assert isinstance(error, psycopg.errors.InsufficientPrivilege)
    ledger.verify(payer)


def attempt(ledger: Ledger, statement: str, role: str, replication: str) -> psycopg.Error:
    """How the statement fails; always rolled back."""
    while True:
        with ledger.admin.transaction(force_rollback=True):
            # Only a superuser may set this, before becoming somebody else.
            ledger.admin.execute(f"set local session_replication_role = {replication}".encode())
            # TRUNCATE locks the table: it gives way to other tests, before it deadlocks with them.
            ledger.admin.execute("set local lock_timeout = '100ms'")
            ledger.admin.execute(f"set local role {role}".encode())
            with pytest.raises(psycopg.Error) as caught:
                ledger.admin.execute(statement.encode())
        if not isinstance(caught.value, psycopg.errors.LockNotAvailable):
            return caught.value


@pytest.mark.parametrize("replication", ["origin", "replica"])
def test_invariant_1_an_account_is_never_deleted(ledger: Ledger, replication: str) -> None:
    payer = ledger.new_payer()
    with ledger.admin.transaction(force_rollback=True):
        ledger.admin.execute(f"set local session_replication_role = {replication}".encode())
        with pytest.raises(psycopg.errors.RestrictViolation):
            ledger.admin.execute(
                "delete from public.credit_accounts where id = %s", [payer.account_id]
            )


# 2 -----------------------------------------------------------------------------------------------


def test_invariant_2_hold_the_worst_case_settle_at_most_that_return_the_rest(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer(100)
    started = ledger.chat_start(payer, p_prompt_tokens=2000, p_max_tokens=500, p_choices=3)
    assert started["held"] == (2000 * 60 + 500 * 3 * 180) / Decimal(1_000_000)
    assert (started["candidates"][0]["max_tokens"], started["available"]) == (
        500,
        100 - started["held"],
    )
    expect_refusal(
        lambda: ledger.settle(started["hold_id"], started["held"] + Decimal("0.000001")),
        400,
        "settle_exceeds_hold",
    )
    # An upstream that claims more than was asked for is not believed.
    finished = ledger.rpc(
        "chat_finish",
        p_hold_id=started["hold_id"],
        p_prompt_tokens=2_000_000,
        p_completion_tokens=2_000_000,
    )
    assert finished["credits_charged"] == started["held"]
    assert (ledger.account(payer)["held"], finished["available"]) == (0, 100 - started["held"])
    usage = ledger.usage(started["hold_id"])
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (2000, 1500)
    ledger.verify(payer)


@pytest.mark.parametrize(
    ("tokens", "cost"),
    [
        ((0, 0, 0), "0"),
        ((1, 0, 0), "0.00006"),
        ((1, 1, 0), "0.00003"),
        ((1000, 400, 100), "0.066"),
        ((32768, 0, 8192), "3.44064"),
    ],
)
def test_invariant_2_a_price_is_exact(
    ledger: Ledger, tokens: tuple[int, int, int], cost: str
) -> None:
    payer = ledger.new_payer(100)
    started = ledger.chat_start(payer, p_prompt_tokens=32768, p_max_tokens=8192)
    prompt, cached, completion = tokens
    finished = ledger.rpc(
        "chat_finish",
        p_hold_id=started["hold_id"],
        p_prompt_tokens=prompt,
        p_completion_tokens=completion,
        p_cached_tokens=cached,
    )
    assert finished["credits_charged"] == Decimal(cost)
    ledger.verify(payer)


# 3 -----------------------------------------------------------------------------------------------


def test_invariant_3_lots_burn_by_priority_then_expiry_then_age(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    soon, later = (datetime.now(UTC) + timedelta(days=days) for days in (1, 2))
    lots = {
        name: ledger.grant(payer, 10, p_priority=priority, p_expires_at=expires_at)["lot_id"]
        for name, priority, expires_at in (
            ("never, old", 100, None),
            ("never, young", 100, None),
            ("later", 100, later),
            ("soon", 100, soon),
            ("first", 50, None),
            ("last", 200, soon),
        )
    }
    order = ["first", "soon", "later", "never, old", "never, young", "last"]
    for name in order:
        ledger.spend(payer, 6)
        taken = ledger.transactions(payer)[-1]
        assert lots[name] in taken["lot_ids"]
        ledger.spend(payer, 4)
        taken = ledger.transactions(payer)[-1]
        assert (taken["lot_ids"], taken["lot_amounts"]) == ([lots[name]], [-4])
        assert ledger.lot(lots[name])["used_at"] is not None
    assert ledger.balance(payer) == 0
    ledger.verify(payer)


def test_invariant_3_a_refund_goes_back_to_its_lots_or_to_a_new_one_with_grace(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer()
    first = ledger.grant(payer, 10, p_priority=10)["lot_id"]
    second = ledger.grant(payer, 10)["lot_id"]
    hold_id = ledger.spend(payer, 15)
    ledger.refund(hold_id, 7)
    assert [ledger.lot(lot)["remaining"] for lot in (first, second)] == [2, 10]
    ledger.expire(first)
    ledger.refund(hold_id, 8)
    assert [ledger.lot(lot)["remaining"] for lot in (first, second)] == [0, 10]
    new_lot = ledger.lot(ledger.transactions(payer)[-1]["lot_ids"][-1])
    assert (new_lot["source"], new_lot["remaining"]) == ("refund", 8)
    grace = datetime.fromisoformat(new_lot["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < grace < timedelta(days=30, hours=1)
    expect_refusal(lambda: ledger.refund(hold_id, 1), 400, "refund_exceeds_settlement")
    ledger.verify(payer)


def test_invariant_3_refunds_in_parts_fill_the_lots_from_the_last_to_the_first(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer()
    lots = [ledger.grant(payer, 10)["lot_id"] for _ in range(3)]
    hold_id = ledger.spend(payer, 30)
    seen = []
    for amount in (4, 4, 4, 9, 9):
        ledger.refund(hold_id, amount)
        seen.append([ledger.lot(lot)["remaining"] for lot in lots])
    assert seen == [[0, 0, 4], [0, 0, 8], [0, 2, 10], [1, 10, 10], [10, 10, 10]]
    ledger.verify(payer)


def test_invariant_3_what_is_on_hold_expires_when_it_is_released(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 100)["lot_id"]
    hold_id = ledger.hold(payer, 60)["hold_id"]
    with ledger.admin.transaction():
        pass_expiry(ledger.admin, lot_id)
        # Before any sweep, the owner is told what is really theirs.
        told = call(
            ledger.admin,
            "backend.credit_balance",
            p_user_id=payer.user,
            p_organization_id=None,
        )
        assert (told["balance"], told["available"]) == (60, 0)
        # And nobody spends it.
        with pytest.raises(Refused, match="insufficient_credits"), ledger.admin.transaction():
            call(ledger.admin, "backend.credit_hold", **hold_arguments(payer, 1))
        call(ledger.admin, "backend.credit_expire", p_limit=5000)
    assert ledger.balance(payer) == 60
    ledger.release(hold_id)
    expect_refusal(lambda: ledger.hold(payer, 1), 402, "insufficient_credits")
    ledger.expire(lot_id)
    assert ledger.balance(payer) == 0
    assert ledger.transactions(payer)[-1]["type"] == "expiry"
    ledger.verify(payer)


def test_invariant_3_the_balance_told_before_a_sweep_is_the_one_after_it(ledger: Ledger) -> None:
    # The expired lot stands first in the queue, so it is the one that is on hold.
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 10, p_priority=10)["lot_id"]
    ledger.grant(payer, 10)
    ledger.hold(payer, 10)
    with ledger.admin.transaction():
        pass_expiry(ledger.admin, lot_id)
        told = one(ledger.admin, "select private.balance_of(%s)", payer.account_id)
        call(ledger.admin, "backend.credit_expire", p_limit=5000)
        found = one(ledger.admin, "select private.account_summary(%s)", payer.account_id)
    assert {name: told[name] for name in found} == found
    assert (found["balance"], found["available"]) == (20, 10)


@pytest.mark.parametrize("end", ["settle", "release"])
def test_invariant_3_the_balance_told_when_a_hold_ends_has_no_credit_that_expired_under_it(
    ledger: Ledger, end: str
) -> None:
    payer = ledger.new_payer(100)
    lot_id = ledger.grant(payer, 10, p_priority=10)["lot_id"]
    hold_id = ledger.hold(payer, 10)["hold_id"]
    ledger.expire(lot_id)
    assert ledger.balance(payer) == 110
    told = ledger.settle(hold_id, 1) if end == "settle" else ledger.release(hold_id)
    assert (told["balance"], told["available"]) == (100, 100)
    assert ledger.balance(payer) == 100
    assert ledger.lot(lot_id)["expired"] == (9 if end == "settle" else 10)
    ledger.verify(payer)


def test_invariant_3_a_lot_granted_later_does_not_uncover_what_is_on_hold(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 100, p_expires_at="2099-01-01T00:00:00Z")["lot_id"]
    hold_id = ledger.hold(payer, 100)["hold_id"]
    ledger.expire(lot_id)
    # It burns first by its priority, so it would stand before the credits that are on hold.
    first = ledger.grant(payer, 100, p_priority=10)["lot_id"]
    told = ledger.rpc("credit_balance", p_user_id=payer.user)
    assert (told["balance"], told["available"]) == (200, 100)
    ledger.expire(lot_id)
    assert ledger.lot(lot_id)["expired"] == 0
    ledger.settle(hold_id, 100)
    assert [ledger.lot(lot)["remaining"] for lot in (lot_id, first)] == [0, 100]
    ledger.verify(payer)


def test_invariant_3_what_expired_under_hold_burns_before_all_else(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    early, late, forever = (
        ledger.grant(payer, 10, p_priority=priority)["lot_id"] for priority in (200, 300, 10)
    )
    holds = [ledger.hold(payer, 10)["hold_id"] for _ in range(2)]
    ledger.expire(early, late)
    ledger.settle(holds[0], 6)
    # Four came off hold with it: they are gone, the last of them first.
    ledger.expire(early, late)
    assert [ledger.lot(lot)["remaining"] for lot in (early, late, forever)] == [4, 6, 10]
    ledger.settle(holds[1], 10)
    assert [ledger.lot(lot)["remaining"] for lot in (early, late, forever)] == [0, 0, 10]
    ledger.verify(payer)


def test_invariant_3_a_refund_of_what_was_owed_gets_no_date(ledger: Ledger) -> None:
    payer = ledger.new_payer(10)
    hold_id = ledger.hold(payer, 10)["hold_id"]
    ledger.reap(hold_id)
    ledger.spend(payer, 10)
    ledger.settle(hold_id, 10)
    assert ledger.account(payer)["debt"] == 10
    ledger.grant(payer, 20)
    # The settlement took nothing from a lot; credits that never expire paid for it.
    ledger.refund(hold_id, 10)
    new_lot = ledger.lot(ledger.transactions(payer)[-1]["lot_ids"][0])
    assert (new_lot["source"], new_lot["remaining"], new_lot["expires_at"]) == ("refund", 10, None)
    ledger.verify(payer)


def test_invariant_3_only_what_came_from_an_expired_lot_gets_a_grace_period(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer()
    expiring = ledger.grant(payer, 10)["lot_id"]
    hold_id = ledger.hold(payer, 10)["hold_id"]
    ledger.reap(hold_id)
    ledger.spend(payer, 6)
    ledger.settle(hold_id, 10)  # four from the lot, six owed
    ledger.grant(payer, 20)
    ledger.expire(expiring)
    new_lots = []
    for amount in (3, 3, 4):
        ledger.refund(hold_id, amount)
        new_lots += map(ledger.lot, ledger.transactions(payer)[-1]["lot_ids"])
    assert [
        (lot["remaining"], lot["stands_in_for"], lot["expires_at"] is None) for lot in new_lots
    ] == [(3, expiring, False), (1, expiring, False), (2, None, True), (4, None, True)]
    ledger.verify(payer)


# 4 -----------------------------------------------------------------------------------------------


def test_invariant_4_same_key_same_result_other_arguments_conflict(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    settled = ledger.spend(payer, 10)
    key = new_key()
    operations: list[tuple[Callable[[Any], Any], str]] = [
        (lambda amount: ledger.grant(payer, amount, key), "transaction_id"),
        (lambda amount: ledger.hold(payer, amount, key), "hold_id"),
        (lambda amount: ledger.refund(settled, amount, key), "transaction_id"),
    ]
    # One key for all: it is scoped by operation.
    for operate, identity in operations:
        first = operate("5")
        after = ledger.account(payer)
        assert operate("5.000000")[identity] == first[identity]
        expect_refusal(lambda operate=operate: operate("5.000001"), 409, "idempotency_conflict")
        assert ledger.account(payer) == after
    # And by owner.
    other = ledger.new_payer(100)
    assert ledger.grant(other, 7, key)["replayed"] is False
    ledger.hold(other, 7, key)
    ledger.verify(payer, other)


def test_invariant_4_a_released_hold_frees_its_key(ledger: Ledger) -> None:
    payer, key = ledger.new_payer(100), new_key()
    first = ledger.hold(payer, 10, key)["hold_id"]
    ledger.release(first)
    second = ledger.hold(payer, 10, key)
    assert second["hold_id"] != first
    assert (second["status"], second["held"]) == ("active", 10)
    # The one that was released pays for nothing, however late its work comes back.
    expect_refusal(lambda: ledger.settle(first, 1), 409, "hold_released")
    for end in (lambda: None, lambda: ledger.settle(second["hold_id"], 4)):
        end()
        assert ledger.hold(payer, 10, key)["hold_id"] == second["hold_id"]
    assert ledger.balance(payer) == 96
    assert [ledger.held(hold)["attempt"] for hold in (first, second["hold_id"])] == [1, 2]
    ledger.verify(payer)


def test_invariant_4_a_freed_key_takes_the_same_arguments_only(ledger: Ledger) -> None:
    payer, key = ledger.new_payer(100), new_key()
    ledger.release(ledger.hold(payer, 10, key)["hold_id"])
    expect_refusal(lambda: ledger.hold(payer, 11, key), 409, "idempotency_conflict")
    assert ledger.account(payer)["held"] == 0


def test_invariant_4_a_hold_that_the_reaper_returned_keeps_its_key(ledger: Ledger) -> None:
    payer, key = ledger.new_payer(100), new_key()
    hold_id = ledger.hold(payer, 10, key)["hold_id"]
    ledger.reap(hold_id)
    again = ledger.hold(payer, 10, key)
    assert (again["hold_id"], again["status"]) == (hold_id, "expired")
    # It can still be charged, and a second hold could be charged as well.
    ledger.settle(hold_id, 10)
    assert ledger.balance(payer) == 90


def test_invariant_4_the_expiry_is_an_argument_of_an_operators_grant(ledger: Ledger) -> None:
    payer, key = ledger.new_payer(), new_key()
    soon, later = "2100-01-01T00:00:00Z", "2100-01-02T00:00:00Z"
    ledger.grant(payer, 10, key, p_expires_at=soon)
    assert ledger.grant(payer, 10, key, p_expires_at="2100-01-01T01:00:00+01:00")["replayed"]
    for other in (later, None):
        expect_refusal(
            lambda other=other: ledger.grant(payer, 10, key, p_expires_at=other),
            409,
            "idempotency_conflict",
        )
    assert ledger.balance(payer) == 10


def test_invariant_4_an_operators_key_is_none_of_the_ledgers_own(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    for key in ("signup", "stripe:pi_test"):
        ledger.grant(payer, 1, key)
    # The welcome credits come all the same, and so does what was paid for.
    ledger.admin.execute(
        "update auth.users set email_confirmed_at = now() where id = %s", [payer.user]
    )
    assert ledger.balance(payer) == 102
    call(
        ledger.admin,
        "private.credit_grant",
        p_account_id=payer.account_id,
        p_amount=50,
        p_source="purchase",
        p_idempotency_key="stripe:pi_test",
    )
    assert ledger.balance(payer) == 152
    assert ledger.grant(payer, 1, "signup")["replayed"]
    ledger.verify(payer)


@pytest.mark.parametrize("key", [None, "", "x" * 301])
def test_invariant_4_a_key_has_1_to_300_characters(ledger: Ledger, key: str | None) -> None:
    payer = ledger.new_payer(100)
    settled = ledger.spend(payer, 10)
    for function, arguments in (
        ("credit_grant", {"p_user_id": payer.user, "p_source": "bonus", "p_actor": "tests"}),
        ("credit_hold", {**payer.owner(), "p_action": "test"}),
        ("credit_refund", {"p_hold_id": settled}),
    ):
        expect_refusal(
            lambda f=function, a=arguments: ledger.rpc(f, **a, p_amount=1, p_idempotency_key=key),
            400,
            "invalid_argument",
        )


def test_invariant_4_a_chat_key_replays_waits_conflicts_or_runs_again(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    key = {"p_idempotency_key": new_key(), "p_fingerprint": "one"}
    first = ledger.chat_start(payer, **key)
    waiting = expect_refusal(
        lambda: ledger.chat_start(payer, **key), 409, "idempotency_in_progress"
    )
    assert waiting.facts["retry_after"] > 0
    expect_refusal(
        lambda: ledger.chat_start(payer, **(key | {"p_fingerprint": "two"})),
        409,
        "idempotency_conflict",
    )
    ledger.rpc("chat_fail", p_hold_id=first["hold_id"], p_error_code="upstream_error")
    second = ledger.chat_start(payer, **key)
    assert second["hold_id"] != first["hold_id"]
    answer = {"id": "chatcmpl-1"}
    finished = ledger.rpc(
        "chat_finish",
        p_hold_id=second["hold_id"],
        p_prompt_tokens=10,
        p_completion_tokens=10,
        p_answer=answer,
    )
    replay = ledger.chat_start(payer, **key)
    assert (replay["state"], replay["answer"]) == ("replay", answer)
    assert ledger.balance(payer) == 100 - finished["credits_charged"]
    ledger.verify(payer)


def test_invariant_4_a_chat_key_that_ran_again_after_the_reaper_is_charged_once(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer(100)
    key = {"p_idempotency_key": new_key(), "p_fingerprint": "one"}
    used = {"p_prompt_tokens": 10, "p_completion_tokens": 10}
    first = ledger.chat_start(payer, **key)["hold_id"]
    ledger.reap(first)
    second = ledger.chat_start(payer, **key)["hold_id"]
    assert (ledger.held(first)["status"], ledger.held(first)["reason"]) == (
        "released",
        "superseded",
    )
    # The first work was only slow, and comes back before and after the second.
    for _ in range(2):
        expect_refusal(
            lambda: ledger.rpc("chat_finish", p_hold_id=first, p_answer={"id": "1"}, **used),
            409,
            "hold_released",
        )
        finished = ledger.rpc("chat_finish", p_hold_id=second, p_answer={"id": "2"}, **used)
    assert ledger.chat_start(payer, **key)["answer"] == {"id": "2"}
    assert ledger.balance(payer) == 100 - finished["credits_charged"]
    ledger.verify(payer)


def test_invariant_4_a_chat_key_that_cannot_run_again_leaves_the_first_to_be_charged(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer(1)
    key = {"p_idempotency_key": new_key(), "p_fingerprint": "one", "p_max_tokens": 1000}
    first = ledger.chat_start(payer, **key)["hold_id"]
    ledger.reap(first)
    ledger.hold(payer, 1)
    expect_refusal(lambda: ledger.chat_start(payer, **key), 402, "insufficient_credits")
    assert ledger.held(first)["status"] == "expired"
    ledger.rpc("chat_finish", p_hold_id=first, p_prompt_tokens=10, p_completion_tokens=10)
    ledger.verify(payer)


# 5 -----------------------------------------------------------------------------------------------


def test_invariant_5_limits_are_checked_in_the_transaction_of_the_hold(ledger: Ledger) -> None:
    """Budgets, plan limits and suspension one by one: test_limits.py."""
    payer = ledger.new_organization(100, plan=ledger.new_plan(concurrent_requests=5))
    ledger.admin.execute(
        "update public.credit_accounts set monthly_credit_budget = 50 where id = %s",
        [payer.account_id],
    )
    ledger.admin.execute(
        "update public.organization_members set monthly_credit_budget = 20 where user_id = %s",
        [payer.users[1]],
    )
    before = ledger.account(payer)
    for work, code in (
        (lambda: ledger.hold(payer, 21, member=1), "budget_exceeded"),
        (lambda: ledger.hold(payer, 51), "budget_exceeded"),
        (lambda: ledger.hold(payer, 101), "insufficient_credits"),
    ):
        refusal = expect_refusal(work, 402, code)
        assert refusal.facts.keys() >= {"limit_source", "required", "available", "remedy"}
    assert ledger.account(payer) == before


# 6 -----------------------------------------------------------------------------------------------


def test_invariant_6_the_usage_row_is_written_with_the_hold_and_finished_with_it(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer(100)
    ends = {
        "completed": lambda hold_id: ledger.rpc(
            "chat_finish", p_hold_id=hold_id, p_prompt_tokens=10, p_completion_tokens=1
        ),
        "cancelled": lambda hold_id: ledger.rpc(
            "chat_finish",
            p_hold_id=hold_id,
            p_prompt_tokens=10,
            p_completion_tokens=1,
            p_outcome="cancelled",
        ),
        "failed": lambda hold_id: ledger.rpc(
            "chat_fail", p_hold_id=hold_id, p_error_code="upstream_error"
        ),
        "expired": ledger.reap,
    }
    for status, end in ends.items():
        started = ledger.chat_start(payer, p_ip="192.0.2.7", p_user_agent="tests")
        row = ledger.usage(started["hold_id"])
        assert (row["status"], row["credits"], row["finished_at"]) == ("started", 0, None)
        assert (row["credits_held"], row["ip_address"]) == (started["held"], "192.0.2.7")
        end(started["hold_id"])
        row = ledger.usage(started["hold_id"])
        assert row["status"] == status
        assert row["finished_at"] is not None
        assert row["credits"] == (ledger.held(started["hold_id"])["settled_amount"] or 0)
    # A request that was refused never began.
    count = "select count(*) from public.usage_logs where account_id = %s"
    expect_refusal(lambda: ledger.hold(payer, 1000), 402, "insufficient_credits")
    assert one(ledger.admin, count, payer.account_id) == len(ends)
    ledger.verify(payer)


# 7 -----------------------------------------------------------------------------------------------


def test_invariant_7_a_settlement_after_the_reaper_charges_once(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    hold_id = ledger.hold(payer, 60)["hold_id"]
    ledger.reap(hold_id)
    assert ledger.usage(hold_id)["status"] == "expired"
    assert ledger.account(payer)["held"] == 0
    other = ledger.hold(payer, 70)["hold_id"]
    assert ledger.settle(hold_id, 50)["replayed"] is False
    account = ledger.account(payer)
    # 30 were free, 70 are still promised to the other request; 20 are owed.
    assert (account["balance"], account["debt"], account["held"]) == (50, 20, 70)
    assert ledger.settle(hold_id, 50)["replayed"] is True
    expect_refusal(lambda: ledger.settle(hold_id, 49), 409, "hold_already_settled")
    assert ledger.usage(hold_id)["status"] == "completed"
    ledger.settle(other, 10)
    account = ledger.account(payer)
    assert (account["balance"], account["debt"], account["held"]) == (40, 0, 0)
    ledger.verify(payer)


def test_invariant_7_work_that_failed_after_the_reaper_is_not_charged_any_more(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer(100)
    hold_id = ledger.hold(payer, 60)["hold_id"]
    ledger.reap(hold_id)
    ledger.release(hold_id)
    expect_refusal(lambda: ledger.settle(hold_id, 50), 409, "hold_released")
    assert ledger.usage(hold_id)["status"] == "failed"
    assert ledger.balance(payer) == 100
    ledger.verify(payer)


def test_invariant_7_an_extended_hold_is_not_reaped_and_has_a_longest_life(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer(100)
    hold = ledger.hold(payer, 60, p_seconds=1)
    extended = ledger.rpc("credit_extend", p_hold_id=hold["hold_id"], p_seconds=100)
    assert extended["deadline"] > hold["deadline"]
    # Never earlier than it was.
    shorter = ledger.rpc("credit_extend", p_hold_id=hold["hold_id"], p_seconds=1)
    assert shorter["deadline"] == extended["deadline"]
    for _ in range(2):
        longest = ledger.rpc("credit_extend", p_hold_id=hold["hold_id"], p_seconds=2_000_000_000)
        row = ledger.held(hold["hold_id"])
        life = datetime.fromisoformat(longest["deadline"]) - datetime.fromisoformat(
            row["created_at"]
        )
        assert life == timedelta(seconds=3600)
    call(ledger.admin, "backend.credit_reap", p_limit=5000)
    assert ledger.held(hold["hold_id"])["status"] == "active"
    for seconds in (0, -1, None):
        expect_refusal(
            lambda s=seconds: ledger.rpc("credit_extend", p_hold_id=hold["hold_id"], p_seconds=s),
            400,
            "invalid_argument",
        )


# 8 -----------------------------------------------------------------------------------------------


def test_invariant_8_a_clawback_grows_with_refunds_and_returns_with_a_dispute_won(
    ledger: Ledger,
) -> None:
    """What Stripe's events lead to such a target: tests/billing/test_reversals.py."""
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 100)["lot_id"]
    hold_id = ledger.hold(payer, 40)["hold_id"]
    seen = []
    for target in (25, 75, 100, 75, 0):
        ledger.claw_back(lot_id, target)
        account = ledger.account(payer)
        seen.append((account["balance"], account["debt"]))
        assert account["held"] == 40
        ledger.verify(payer)
    # What is on hold is not taken from under the work; what is missing is owed.
    assert seen == [(75, 0), (25, 15), (0, 40), (25, 15), (100, 0)]
    ledger.settle(hold_id, 40)
    assert ledger.balance(payer) == 60
    ledger.verify(payer)


# 9 -----------------------------------------------------------------------------------------------


def test_invariant_9_welcome_credits_come_once_when_the_address_is_verified(
    ledger: Ledger,
) -> None:
    user_id = ledger.new_user()

    def welcomed() -> list[Any]:
        return one(
            ledger.admin,
            "select coalesce(array_agg(t.amount), '{}') from public.credit_transactions as t"
            " inner join public.credit_accounts as a on a.id = t.account_id where a.user_id = %s",
            user_id,
        )

    def verify(moment: str | None) -> None:
        ledger.admin.execute(
            "update auth.users set email_confirmed_at = %s::timestamptz where id = %s",
            [moment, user_id],
        )

    assert welcomed() == []
    verify("now")
    assert welcomed() == [100]
    verify(None)
    ledger.admin.execute("update auth.users set email = 'again-' || email where id = %s", [user_id])
    verify("tomorrow")
    assert welcomed() == [100]


def test_invariant_9_an_account_made_verified_is_welcomed_at_once(ledger: Ledger) -> None:
    user_id = ledger.new_user(verified=True)
    balance = ledger.rpc("credit_balance", p_user_id=user_id)
    assert (balance["balance"], balance["lifetime_granted"]) == (100, 100)
    assert [lot["source"] for lot in balance["lots"]] == ["bonus"]


# Erasure -----------------------------------------------------------------------------------------


def test_an_erased_owner_leaves_the_account_as_nobodys_and_in_order(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    team = ledger.new_organization(100)
    ledger.grant(payer, 10)
    settled, active = ledger.spend(payer, 10), ledger.hold(payer, 20)["hold_id"]
    lent = ledger.hold(team, 30, member=1)["hold_id"]
    ledger.admin.execute(
        "delete from auth.users where id = any(%s::uuid[])", [[payer.user, team.users[1]]]
    )

    account = ledger.account(payer)
    assert (account["user_id"], account["organization_id"]) == (None, None)
    assert account["erased_at"] is not None
    assert (account["balance"], account["held"]) == (100, 20)
    assert ledger.held(active)["user_id"] is None
    assert ledger.usage(active)["user_id"] is None
    everything = str([ledger.transactions(payer), account, ledger.held(active)])
    assert payer.user not in everything
    ledger.verify(payer, team)

    # Work in flight ends as ever, and what was asked for can be given back.
    ledger.settle(active, 15)
    ledger.refund(settled, 5)
    ledger.settle(lent, 30)
    assert (ledger.balance(payer), ledger.balance(team)) == (90, 70)
    expect_refusal(lambda: ledger.hold(payer, 1), 403, "account_suspended")
    ledger.verify(payer, team)
