"""api_usage is the sum of the requests that ended, whatever becomes of them, many at once too."""

from __future__ import annotations

import random
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tests.checks.queries import findings
from tests.credits.ledger import CHAT_MODEL, Ledger, Payer, call, connect, new_key, one
from tests.credits.parallel import at_once, open_doors
from tests.usage.conftest import add_row, counts, rollups


def finish(ledger: Ledger, hold_id: str, **more: Any) -> Any:
    return ledger.rpc(
        "chat_finish",
        **({"p_prompt_tokens": 100, "p_completion_tokens": 20} | more),
        p_hold_id=hold_id,
    )


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
@pytest.mark.parametrize(
    "statement",
    [
        "update public.api_usage set credits = 0",
        "delete from public.api_usage",
        "insert into public.api_usage (account_id) values (gen_random_uuid())",
        "select private.rebuild_api_usage(now())",
        "select private.add_usage('{}')",
        "select private.move_usage('{}')",
    ],
)
def test_no_role_of_the_api_writes_a_rollup(ledger: Ledger, role: str, statement: str) -> None:
    with ledger.admin.transaction(force_rollback=True):
        ledger.admin.execute(f"set local role {role}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ledger.admin.execute(statement.encode())


def test_a_month_whose_rows_are_gone_is_not_rebuilt(ledger: Ledger) -> None:
    with pytest.raises(psycopg.DatabaseError, match="not kept any more"):
        ledger.admin.execute("select private.rebuild_api_usage('2001-01-01')")


def test_a_platforms_request_names_no_key_of_a_customer(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    with pytest.raises(psycopg.errors.CheckViolation, match="a_provider_key_is_ones_own"):
        add_row(ledger.admin, payer, provider_key_id=str(uuid.uuid4()))
    assert rollups(ledger.admin, payer) == []


def test_a_refused_settlement_counts_nothing(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    hold_id = ledger.hold(payer, 10)["hold_id"]
    with pytest.raises(Exception, match="settle_exceeds_hold"):
        ledger.settle(hold_id, 11)
    assert rollups(ledger.admin, payer) == []
    ledger.verify(payer)


# What counts -------------------------------------------------------------------------------------


def test_a_request_counts_when_it_ends_and_not_before(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    hold_id = ledger.chat_start(payer)["hold_id"]
    assert rollups(ledger.admin, payer) == []
    charged = finish(ledger, hold_id, p_cached_tokens=40)["credits_charged"]
    (row,) = rollups(ledger.admin, payer)
    assert counts(row) == {
        "request_count": 1,
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "cached_tokens": 40,
        "credits": charged,
        "cost_estimate": charged,
    }
    assert row["tokens_used"] == 120
    assert (str(row["user_id"]), row["organization_id"]) == (payer.user, None)
    assert (row["model_id"], row["action"], row["credential"]) == (CHAT_MODEL, "chat", "platform")
    assert row["provider"] == ledger.usage(hold_id)["provider"]
    day = one(ledger.admin, "select date_trunc('day', now() at time zone 'utc') at time zone 'utc'")
    assert row["period_start"] == day
    assert (row["period_end"] - row["period_start"]).total_seconds() == 86_400
    ledger.verify(payer)


def test_two_requests_of_a_kind_share_a_row(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    for _ in range(2):
        finish(ledger, ledger.chat_start(payer)["hold_id"])
    (row,) = rollups(ledger.admin, payer)
    assert (row["request_count"], row["tokens_used"]) == (2, 240)
    ledger.verify(payer)


def test_how_a_request_ended_is_counted(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    finish(ledger, ledger.chat_start(payer)["hold_id"], p_outcome="cancelled")
    ledger.rpc("chat_fail", p_hold_id=ledger.chat_start(payer)["hold_id"], p_error_code="x")
    ledger.reap(ledger.chat_start(payer)["hold_id"])
    (row,) = rollups(ledger.admin, payer)
    assert (row["request_count"], row["cancelled_count"], row["failed_count"]) == (3, 1, 2)
    assert row["tokens_used"] == 120
    ledger.verify(payer)


def test_the_model_that_answered_is_the_one_that_counts(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    other = one(
        ledger.admin,
        "select id from public.models where kind = 'chat' and is_active and id <> %s limit 1",
        CHAT_MODEL,
    )
    hold_id = ledger.chat_start(payer, p_fallbacks=[other])["hold_id"]
    finish(ledger, hold_id, p_model=other)
    assert [row["model_id"] for row in rollups(ledger.admin, payer)] == [other]
    ledger.verify(payer)


def test_members_of_an_organization_have_rows_of_their_own(ledger: Ledger) -> None:
    payer = ledger.new_organization(100)
    for member in (0, 1):
        ledger.settle(ledger.hold(payer, 5, member=member)["hold_id"], 2 + member)
    rows = {str(row["user_id"]): row for row in rollups(ledger.admin, payer)}
    assert [rows[user]["credits"] for user in payer.users] == [2, 3]
    assert {str(row["organization_id"]) for row in rows.values()} == {payer.organization_id}
    ledger.verify(payer)


def test_ones_own_key_costs_no_credits_and_has_an_estimate(ledger: Ledger) -> None:
    """What bringing your own key will do: the terms of the usage row come with hold and end."""
    payer, key = ledger.new_payer(100), str(uuid.uuid4())
    hold = call(
        ledger.admin,
        "private.credit_hold",
        p_user_id=payer.user,
        p_organization_id=None,
        p_amount=0,
        p_idempotency_key=new_key(),
        p_action="chat",
        p_usage={"credential": "own", "provider_key_id": key, "model_id": "m"},
    )
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "cost_estimate": "1.25"}
    hold_id = one(
        ledger.admin,
        "select id::text from private.credit_holds where account_id = %s",
        payer.account_id,
    )
    assert hold
    call(ledger.admin, "private.credit_settle", p_hold_id=hold_id, p_amount=0, p_usage=usage)
    (row,) = rollups(ledger.admin, payer)
    assert (row["credential"], str(row["provider_key_id"])) == ("own", key)
    assert (row["credits"], row["cost_estimate"]) == (0, Decimal("1.25"))
    ledger.verify(payer)


def test_a_request_that_fell_back_to_credits_names_no_key_of_the_customer(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    call(
        ledger.admin,
        "private.credit_hold",
        p_user_id=payer.user,
        p_organization_id=None,
        p_amount=3,
        p_idempotency_key=new_key(),
        p_action="chat",
        p_usage={"credential": "own", "provider_key_id": str(uuid.uuid4())},
    )
    hold_id = one(
        ledger.admin,
        "select id::text from private.credit_holds where account_id = %s",
        payer.account_id,
    )
    call(
        ledger.admin,
        "private.credit_settle",
        p_hold_id=hold_id,
        p_amount=3,
        p_usage={"credential": "platform"},
    )
    (row,) = rollups(ledger.admin, payer)
    assert (row["credential"], row["provider_key_id"], row["credits"]) == ("platform", None, 3)
    assert ledger.usage(hold_id)["cost_estimate"] == 3
    ledger.verify(payer)


# What was counted changes ------------------------------------------------------------------------


def test_a_settlement_after_the_reaper_moves_the_counts(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    hold_id = ledger.chat_start(payer)["hold_id"]
    ledger.reap(hold_id)
    (row,) = rollups(ledger.admin, payer)
    assert counts(row) == {"request_count": 1, "failed_count": 1}
    charged = finish(ledger, hold_id)["credits_charged"]
    (row,) = rollups(ledger.admin, payer)
    assert (row["request_count"], row["failed_count"], row["credits"]) == (1, 0, charged)
    ledger.verify(payer)


def test_a_late_answer_of_another_model_moves_to_its_row(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    other = one(
        ledger.admin,
        "select id from public.models where kind = 'chat' and is_active and id <> %s limit 1",
        CHAT_MODEL,
    )
    hold_id = ledger.chat_start(payer, p_fallbacks=[other])["hold_id"]
    ledger.reap(hold_id)
    finish(ledger, hold_id, p_model=other)
    assert [(row["model_id"], row["request_count"]) for row in rollups(ledger.admin, payer)] == [
        (other, 1)
    ]
    ledger.verify(payer)


def test_a_release_after_the_reaper_counts_once(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    hold_id = ledger.chat_start(payer)["hold_id"]
    ledger.reap(hold_id)
    ledger.rpc("chat_fail", p_hold_id=hold_id, p_error_code="x")
    (row,) = rollups(ledger.admin, payer)
    assert counts(row) == {"request_count": 1, "failed_count": 1}
    ledger.verify(payer)


def test_a_repeated_settlement_counts_once(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    hold_id = ledger.spend(payer, 5)
    before = rollups(ledger.admin, payer)
    ledger.settle(hold_id, 5)
    assert rollups(ledger.admin, payer) == before


def test_a_refund_shows(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    hold_id, key = ledger.spend(payer, 5), new_key()
    for _ in range(2):
        ledger.refund(hold_id, 2, key)
    ledger.refund(hold_id, 1)
    (row,) = rollups(ledger.admin, payer)
    assert (row["request_count"], row["credits"], row["credits_refunded"]) == (1, 5, 3)
    assert ledger.usage(hold_id)["credits_refunded"] == 3
    ledger.verify(payer)


def test_a_row_that_moves_to_another_month_moves_its_counts(ledger: Ledger) -> None:
    """An update that moves a row between partitions is a deletion and an insertion inside."""
    payer = ledger.new_payer(100)
    hold_id = ledger.spend(payer, 5)
    (before,) = rollups(ledger.admin, payer)
    ledger.admin.execute(
        "update public.usage_logs set created_at = created_at + interval '40 days' where id = %s",
        [hold_id],
    )
    (after,) = rollups(ledger.admin, payer)
    assert (after["period_start"] - before["period_start"]).days == 40
    assert counts(after) == counts(before)
    ledger.admin.execute(
        "update public.usage_logs set created_at = created_at - interval '40 days' where id = %s",
        [hold_id],
    )
    ledger.verify(payer)


def test_rows_of_one_statement_are_summed(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    for _ in range(3):
        add_row(ledger.admin, payer, model_id="a")
    add_row(ledger.admin, payer, model_id="b")
    ledger.admin.execute(
        "update public.usage_logs set action = 'other' where account_id = %s", [payer.account_id]
    )
    assert [
        (row["action"], row["model_id"], row["request_count"])
        for row in rollups(ledger.admin, payer)
    ] == [("other", "a", 3), ("other", "b", 1)]
    ledger.admin.execute("delete from public.usage_logs where account_id = %s", [payer.account_id])
    assert rollups(ledger.admin, payer) == []


def test_what_does_not_count_touches_no_rollup(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    hold_id = ledger.spend(payer, 5)
    before = rollups(ledger.admin, payer)
    ledger.admin.execute(
        "update public.usage_logs set user_agent = 'x', latency_ms = 5 where id = %s", [hold_id]
    )
    assert rollups(ledger.admin, payer) == before


def test_a_rebuilt_month_is_what_it_was(ledger: Ledger) -> None:
    payer = ledger.new_organization(100)
    for member in (0, 1):
        ledger.settle(ledger.hold(payer, 5, member=member)["hold_id"], 2)
    order = "user_id"
    before = [counts(row) for row in rollups(ledger.admin, payer, order)]
    ledger.admin.execute(
        "update public.api_usage set request_count = 9, credits = 90 where account_id = %s",
        [payer.account_id],
    )
    ledger.admin.execute("select private.rebuild_api_usage(now())")
    assert [counts(row) for row in rollups(ledger.admin, payer, order)] == before
    ledger.verify(payer)


def test_a_rebuild_misses_no_request_that_ends_meanwhile(ledger: Ledger) -> None:
    payer = ledger.new_payer(1000)
    door, rebuilder = ledger.another_door(), ledger.another_admin()
    stop = threading.Event()

    def spend() -> int:
        spent = 0
        while not stop.is_set():
            hold = call(
                door,
                "backend.credit_hold",
                **payer.owner(),
                p_amount=1,
                p_idempotency_key=new_key(),
                p_action="test",
            )
            call(door, "backend.credit_settle", p_hold_id=hold["hold_id"], p_amount=1)
            spent += 1
        return spent

    with ThreadPoolExecutor(1) as pool:
        spending = pool.submit(spend)
        for _ in range(20):
            rebuilder.execute("select private.rebuild_api_usage(now())")
        stop.set()
        spent = spending.result()
    assert sum(row["request_count"] for row in rollups(ledger.admin, payer)) == spent > 0
    ledger.verify(payer)


# Many at once ------------------------------------------------------------------------------------


def test_ends_at_once_of_one_account_are_all_counted(ledger: Ledger) -> None:
    payer = ledger.new_organization(1000, members=4)
    holds = [ledger.hold(payer, 1, member=n % 4)["hold_id"] for n in range(40)]
    doors = open_doors(ledger.functions_dsn, 8)
    try:
        at_once(
            doors,
            lambda door, index: [
                call(door, "backend.credit_settle", p_hold_id=hold_id, p_amount=1)
                for hold_id in holds[index::8]
            ],
        )
    finally:
        for door in doors:
            door.close()
    rows = rollups(ledger.admin, payer)
    assert [row["request_count"] for row in rows] == [10, 10, 10, 10]
    ledger.verify(payer)


def test_a_storm_over_many_accounts_never_deadlocks_and_adds_up(ledger: Ledger) -> None:
    """Settlements, late ones, releases, refunds, and statements over many accounts at once."""
    payers: list[Payer] = [ledger.new_payer(1000) for _ in range(6)]
    payers.append(ledger.new_organization(1000, members=3))
    ids = [payer.account_id for payer in payers]
    doors = open_doors(ledger.functions_dsn, 6)
    admins = [connect(ledger.admin_dsn) for _ in range(2)]

    def work(door: psycopg.Connection, index: int) -> None:
        chance = random.Random(index)  # noqa: S311
        if index >= len(doors):
            for _ in range(25):
                order = "asc" if chance.random() < 0.5 else "desc"
                # Rows of every account, in either order.
                door.execute(
                    "with picked as (select id, created_at from public.usage_logs"  # noqa: S608
                    " where account_id = any(%s::uuid[]) and status <> 'started'"
                    f" order by account_id {order}, id for no key update skip locked)"
                    " update public.usage_logs as u set prompt_tokens = prompt_tokens + 1"
                    " from picked as p where u.id = p.id and u.created_at = p.created_at".encode(),
                    [ids],
                )
            return
        for _ in range(25):
            payer = chance.choice(payers)
            hold_id = call(
                door,
                "backend.credit_hold",
                **payer.owner(chance.randrange(len(payer.users))),
                p_amount=2,
                p_idempotency_key=new_key(),
                p_action=chance.choice(["a", "b"]),
            )["hold_id"]
            if chance.random() < 0.3:
                call(door, "backend.credit_release", p_hold_id=hold_id, p_reason="test")
                continue
            call(door, "backend.credit_settle", p_hold_id=hold_id, p_amount=2)
            if chance.random() < 0.3:
                call(
                    door,
                    "backend.credit_refund",
                    p_hold_id=hold_id,
                    p_amount=1,
                    p_idempotency_key=new_key(),
                    p_reason="test",
                )

    try:
        at_once([*doors, *admins], work)
    finally:
        for door in (*doors, *admins):
            door.close()
    assert (
        sum(row["request_count"] for payer in payers for row in rollups(ledger.admin, payer)) == 150
    )
    assert findings(ledger.admin, ids) == []
