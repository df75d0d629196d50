"""Backends that are killed and a server that crashes: nothing is half done, nothing is lost."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from local.stack import Stack
from tests.checks.queries import all_findings
from tests.credits.ledger import (
    Ledger,
    Payer,
    Refused,
    call,
    chat_arguments,
    connect,
    hold_arguments,
    new_key,
    one,
    pass_deadline,
    pass_expiry,
    wait_until,
    wait_until_blocked,
)

WRITERS = 8


# A backend is killed -----------------------------------------------------------------------------


def terminate(admin: psycopg.Connection, pid: int) -> None:
    """Ends a backend and waits until it is gone, with its locks."""
    assert one(admin, "select pg_terminate_backend(%s)", pid)
    wait_until(
        lambda: not one(admin, "select exists (select from pg_stat_activity where pid = %s)", pid),
        f"backend {pid} did not end",
    )


def test_a_backend_killed_between_hold_and_settle_leaves_the_hold_to_the_reaper(
    ledger: Ledger,
) -> None:
    payer = ledger.new_payer(100)
    door = ledger.another_door()
    hold = call(door, "backend.credit_hold", **hold_arguments(payer, 60))
    terminate(ledger.admin, door.info.backend_pid)

    ledger.verify(payer)
    with pytest.raises(Refused, match="insufficient_credits"):
        ledger.hold(payer, 60)
    ledger.reap(hold["hold_id"])
    assert ledger.held(hold["hold_id"])["status"] == "expired"
    assert ledger.usage(hold["hold_id"])["status"] == "expired"
    ledger.spend(payer, 60)
    assert ledger.balance(payer) == 40
    ledger.verify(payer)


@dataclass
class Operation:
    """One kernel operation, and what else can be locked so that it stops half way."""

    function: str
    arguments: dict[str, Any]
    obstacle: str
    """A statement of another transaction that the operation runs into after it began to write."""
    values: list[Any]


def taken_version(payer: Payer) -> tuple[str, list[Any]]:
    """Somebody else is writing the account's next ledger row."""
    return (
        "insert into public.credit_transactions"
        " (account_id, version, operation, type, amount, balance_after)"
        " select id, version + 1, 'grant', 'bonus', 1, 1 from public.credit_accounts where id = %s",
        [payer.account_id],
    )


def locked_usage(hold_id: str) -> tuple[str, list[Any]]:
    """Somebody else has the request's usage row, which is written last."""
    return ("select from public.usage_logs where id = %s for update", [hold_id])


def _grant(_: Ledger, payer: Payer) -> Operation:
    arguments = {
        "p_user_id": payer.user,
        "p_amount": 10,
        "p_source": "bonus",
        "p_idempotency_key": new_key(),
        "p_actor": "tests",
    }
    return Operation("backend.credit_grant", arguments, *taken_version(payer))


def _hold(_: Ledger, payer: Payer) -> Operation:
    key = new_key()
    obstacle = (
        "insert into private.credit_holds"
        " (account_id, action, amount, idempotency_key, deadline)"
        " values (%s, 'test', 1, %s, now() + interval '1 minute')"
    )
    arguments = hold_arguments(payer, 10, key)
    return Operation("backend.credit_hold", arguments, obstacle, [payer.account_id, key])


def _chat_start(ledger: Ledger, payer: Payer) -> Operation:
    key = new_key()
    obstacle = (
        "insert into private.idempotent_requests (account_id, user_id, operation,"
        " idempotency_key, fingerprint, hold_id, is_streamed, expires_at)"
        " values (%s, %s, 'chat', %s, 'f', %s, false, now() + interval '1 minute')"
    )
    other = ledger.hold(payer, 1)["hold_id"]
    arguments = chat_arguments(payer, p_idempotency_key=key, p_fingerprint="f")
    return Operation(
        "backend.chat_start", arguments, obstacle, [payer.account_id, payer.user, key, other]
    )


def _settle(ledger: Ledger, payer: Payer) -> Operation:
    hold_id = ledger.hold(payer, 20)["hold_id"]
    arguments = {"p_hold_id": hold_id, "p_amount": 15}
    return Operation("backend.credit_settle", arguments, *locked_usage(hold_id))


def _late_settle(ledger: Ledger, payer: Payer) -> Operation:
    hold_id = ledger.hold(payer, 20)["hold_id"]
    ledger.reap(hold_id)
    arguments = {"p_hold_id": hold_id, "p_amount": 15}
    return Operation("backend.credit_settle", arguments, *locked_usage(hold_id))


def _chat_finish(ledger: Ledger, payer: Payer) -> Operation:
    hold_id = ledger.chat_start(payer)["hold_id"]
    arguments = {"p_hold_id": hold_id, "p_prompt_tokens": 1000, "p_completion_tokens": 100}
    return Operation("backend.chat_finish", arguments, *locked_usage(hold_id))


def _release(ledger: Ledger, payer: Payer) -> Operation:
    hold_id = ledger.hold(payer, 20)["hold_id"]
    arguments = {"p_hold_id": hold_id, "p_reason": "test"}
    return Operation("backend.credit_release", arguments, *locked_usage(hold_id))


def _refund(ledger: Ledger, payer: Payer) -> Operation:
    arguments = {
        "p_hold_id": ledger.spend(payer, 20),
        "p_amount": 15,
        "p_idempotency_key": new_key(),
        "p_reason": "test",
    }
    return Operation("backend.credit_refund", arguments, *taken_version(payer))


def _claw_back(ledger: Ledger, payer: Payer) -> Operation:
    lot_id = ledger.grant(payer, 50)["lot_id"]
    ledger.spend(payer, 120)
    arguments = {
        "p_lot_id": lot_id,
        "p_target": 50,
        "p_reason": "test",
        "p_reference": "pi_test",
    }
    return Operation("private.credit_claw_back", arguments, *taken_version(payer))


OPERATIONS: dict[str, Callable[[Ledger, Payer], Operation]] = {
    "grant": _grant,
    "hold": _hold,
    "settle": _settle,
    "late settle": _late_settle,
    "release": _release,
    "refund": _refund,
    "claw back": _claw_back,
    "chat start": _chat_start,
    "chat finish": _chat_finish,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_killed_half_way_has_not_happened_and_can_be_repeated(
    ledger: Ledger, name: str
) -> None:
    payer = ledger.new_payer(100)
    operation = OPERATIONS[name](ledger, payer)
    before = ledger.account(payer), ledger.transactions(payer)
    is_private = operation.function.startswith("private.")

    def door() -> psycopg.Connection:
        return ledger.another_admin() if is_private else ledger.another_door()

    victim, obstacle = door(), ledger.another_admin()
    with ThreadPoolExecutor(1) as pool, obstacle.transaction(force_rollback=True):
        obstacle.execute(operation.obstacle.encode(), operation.values)
        attempt = pool.submit(call, victim, operation.function, **operation.arguments)
        wait_until_blocked(ledger.admin, victim.info.backend_pid)
        terminate(ledger.admin, victim.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            attempt.result()
    assert (ledger.account(payer), ledger.transactions(payer)) == before
    ledger.verify(payer)

    first = call(door(), operation.function, **operation.arguments)
    assert ledger.account(payer) != before[0]
    again = call(door(), operation.function, **operation.arguments)
    for fact in ("balance", "held", "debt", "hold_id", "lot_id", "credits_charged"):
        assert first.get(fact) == again.get(fact)
    ledger.verify(payer)


@pytest.mark.parametrize("job", ["reap", "expire"])
def test_a_job_killed_half_way_has_done_nothing_and_does_it_the_next_time(
    ledger: Ledger, job: str
) -> None:
    # In one transaction with the passing of time, so that the stack's own cron is not in the way.
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 100)["lot_id"]
    hold_id = ledger.hold(payer, 30)["hold_id"]
    before = ledger.account(payer)
    victim, obstacle = ledger.another_admin(), ledger.another_admin()

    def work() -> None:
        with victim.transaction():
            if job == "reap":
                pass_deadline(victim, hold_id)
            else:
                pass_expiry(victim, lot_id)
            call(victim, f"backend.credit_{job}", p_limit=5000)

    with ThreadPoolExecutor(1) as pool, obstacle.transaction(force_rollback=True):
        query, values = locked_usage(hold_id) if job == "reap" else taken_version(payer)
        obstacle.execute(query.encode(), values)
        attempt = pool.submit(work)
        wait_until_blocked(ledger.admin, victim.info.backend_pid)
        terminate(ledger.admin, victim.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            attempt.result()
    assert ledger.account(payer) == before
    ledger.verify(payer)

    if job == "reap":
        ledger.reap(hold_id)
        assert ledger.account(payer)["held"] == 0
    else:
        ledger.expire(lot_id)
        assert ledger.account(payer)["balance"] == 30
    ledger.verify(payer)


# The server crashes ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(stack: Stack) -> Iterator[Stack]:
    """A Postgres of its own with the migrations, which a test may crash."""
    server = Stack(
        state=stack.state / f"crash-{os.getpid()}", services=False, migrations=stack.migrations
    )
    try:
        server.start_database()
        yield server
    finally:
        server.stop()
        server.postgres.destroy()


def test_a_crash_in_the_middle_of_a_storm_loses_nothing_committed_and_breaks_nothing(
    server: Stack,
) -> None:
    ledger = Ledger(server.admin_dsn, server.functions_dsn)
    payers = [ledger.new_payer(10_000) for _ in range(3)] + [ledger.new_organization(10_000)]
    ledger.close()
    acknowledged: list[tuple[str, str, Decimal]] = []
    under_way = threading.Event()

    def write(seed: int) -> None:
        dice = random.Random(seed)  # noqa: S311
        with contextlib.suppress(psycopg.OperationalError), connect(server.functions_dsn) as door:
            while True:
                payer = dice.choice(payers)
                amount = Decimal(dice.randint(1, 100)) / 100
                hold = call(door, "backend.credit_hold", **hold_arguments(payer, amount))
                acknowledged.append(("active", hold["hold_id"], amount))
                if dice.random() < 0.7:
                    call(door, "backend.credit_settle", p_hold_id=hold["hold_id"], p_amount=amount)
                    acknowledged.append(("settled", hold["hold_id"], amount))
                if len(acknowledged) > 300:
                    under_way.set()

    with ThreadPoolExecutor(WRITERS) as pool:
        writers = [pool.submit(write, n) for n in range(WRITERS)]
        assert under_way.wait(60)
        server.postgres.crash()
        for writer in writers:
            writer.result()
    server.postgres.start()

    ledger = Ledger(server.admin_dsn, server.functions_dsn)
    try:
        assert all_findings(ledger.admin) == []
        settled = {hold_id for state, hold_id, _ in acknowledged if state == "settled"}
        for hold_id in settled:
            assert ledger.held(hold_id)["status"] == "settled"
        # Whoever did not hear the answer asks again, and what was done is not done twice.
        unheard = {
            hold_id: amount
            for state, hold_id, amount in acknowledged
            if state == "active" and hold_id not in settled
        }
        for hold_id, amount in unheard.items():
            ledger.settle(hold_id, amount)
        # A hold that was placed but never heard of is returned by the reaper.
        orphans = one(
            ledger.admin,
            "select coalesce(array_agg(id::text), '{}') from private.credit_holds"
            " where status = 'active'",
        )
        assert not set(orphans) & {hold_id for _, hold_id, _ in acknowledged}
        ledger.reap(*orphans)
        spent = sum(amount for state, _, amount in acknowledged if state == "active")
        accounts = [ledger.account(payer) for payer in payers]
        assert sum(account["lifetime_spent"] for account in accounts) == spent
        assert sum(account["balance"] for account in accounts) == 40_000 - spent
        assert {account["held"] for account in accounts} == {0}
        assert all_findings(ledger.admin) == []
    finally:
        ledger.close()


def test_after_a_crash_the_reaper_returns_the_hold_and_a_late_settle_charges_once(
    server: Stack,
) -> None:
    ledger = Ledger(server.admin_dsn, server.functions_dsn)
    rich, poor = ledger.new_payer(100), ledger.new_payer(100)
    holds = {payer: ledger.hold(payer, 80)["hold_id"] for payer in (rich, poor)}
    ledger.close()
    server.postgres.crash()
    server.postgres.start()

    ledger = Ledger(server.admin_dsn, server.functions_dsn)
    try:
        ledger.reap(*holds.values())
        assert [ledger.account(payer)["held"] for payer in holds] == [0, 0]
        ledger.spend(poor, 90)
        for _ in range(2):
            ledger.settle(holds[rich], 70)
            ledger.settle(holds[poor], 70)
        assert (ledger.balance(rich), ledger.account(rich)["debt"]) == (30, 0)
        assert (ledger.balance(poor), ledger.account(poor)["debt"]) == (-60, 60)
        with pytest.raises(Refused, match="account_in_debt"):
            ledger.hold(poor, 1)
        ledger.grant(poor, 100)
        assert (ledger.balance(poor), ledger.account(poor)["debt"]) == (40, 0)
        assert all_findings(ledger.admin) == []
    finally:
        ledger.close()
