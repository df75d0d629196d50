"""Who locks what in which order: nobody waits in a circle, and jobs wait for nobody."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.checks.queries import findings
from tests.credits.ledger import (
    Ledger,
    Refused,
    call,
    connect,
    hold_arguments,
    new_key,
    one,
    pass_deadline,
    pass_expiry,
    wait_until_blocked,
)


@pytest.mark.parametrize("payer_kind", ["person", "organization"])
def test_erasing_a_person_and_holding_for_them_never_wait_for_each_other(
    ledger: Ledger, payer_kind: str
) -> None:
    """The hold is stopped half way; the erasure then comes in between, and must wait its turn."""
    payer = ledger.new_payer(100) if payer_kind == "person" else ledger.new_organization(100)
    user_id, key = payer.users[-1], new_key()
    door, eraser, obstacle = ledger.another_door(), ledger.another_admin(), ledger.another_admin()
    arguments = hold_arguments(payer, 10, key, member=len(payer.users) - 1)
    with ThreadPoolExecutor(2) as pool:
        with obstacle.transaction(force_rollback=True):
            obstacle.execute(
                "insert into private.credit_holds"
                " (account_id, action, amount, idempotency_key, deadline)"
                " values (%s, 'test', 1, %s, now() + interval '1 minute')",
                [payer.account_id, key],
            )
            holding = pool.submit(call, door, "backend.credit_hold", **arguments)
            wait_until_blocked(ledger.admin, door.info.backend_pid)
            erasing = pool.submit(eraser.execute, "delete from auth.users where id = %s", [user_id])
            wait_until_blocked(ledger.admin, eraser.info.backend_pid)
        hold_id = holding.result()["hold_id"]
        erasing.result()
    assert ledger.held(hold_id)["user_id"] is None
    ledger.settle(hold_id, 10)
    assert ledger.balance(payer) == 90
    ledger.verify(payer)


@pytest.mark.parametrize("payer_kind", ["person", "organization"])
def test_erasing_a_person_and_finishing_their_chat_never_wait_for_each_other(
    ledger: Ledger, payer_kind: str
) -> None:
    """The settlement is stopped half way; the erasure then comes in between, and must wait."""
    payer = ledger.new_payer(100) if payer_kind == "person" else ledger.new_organization(100)
    member = len(payer.users) - 1
    hold_id = ledger.chat_start(payer, member=member)["hold_id"]
    door, eraser, obstacle = ledger.another_door(), ledger.another_admin(), ledger.another_admin()
    with ThreadPoolExecutor(2) as pool:
        with obstacle.transaction(force_rollback=True):
            obstacle.execute("select from public.usage_logs where id = %s for update", [hold_id])
            finishing = pool.submit(call, door, "backend.chat_finish", **finish_arguments(hold_id))
            wait_until_blocked(ledger.admin, door.info.backend_pid)
            erasing = pool.submit(
                eraser.execute, "delete from auth.users where id = %s", [payer.users[member]]
            )
            wait_until_blocked(ledger.admin, eraser.info.backend_pid)
        charged = finishing.result()["credits_charged"]
        erasing.result()
    assert ledger.held(hold_id)["user_id"] is None
    assert ledger.balance(payer) == 100 - charged < 100
    ledger.verify(payer)


def finish_arguments(hold_id: str) -> dict[str, Any]:
    """Of backend.chat_finish."""
    return {"p_hold_id": hold_id, "p_prompt_tokens": 10, "p_completion_tokens": 10}


def test_a_storm_of_finishing_chats_and_erasures_never_deadlocks(ledger: Ledger) -> None:
    """Every person leaves while their chats are settled; nobody is left waiting, all are paid."""
    organization = ledger.new_organization(1000, members=13)
    chats = [(organization, member) for member in range(1, 13)]
    chats += [(ledger.new_payer(100), 0) for _ in range(12)]
    for payer, member in chats:
        starts = [ledger.chat_start(payer, member=member)["hold_id"] for _ in range(3)]
        doors = [ledger.another_door() for _ in starts]
        eraser, begin = ledger.another_admin(), threading.Barrier(len(starts) + 1)

        def finish(door: Any, hold_id: str, begin: threading.Barrier = begin) -> Any:
            begin.wait()
            return call(door, "backend.chat_finish", **finish_arguments(hold_id))

        def erase(
            eraser: Any = eraser, user: str = payer.users[member], begin: Any = begin
        ) -> None:
            begin.wait()
            eraser.execute("delete from auth.users where id = %s", [user])

        with ThreadPoolExecutor(len(starts) + 1) as pool:
            running = [
                pool.submit(finish, door, hold_id)
                for door, hold_id in zip(doors, starts, strict=True)
            ]
            running.append(pool.submit(erase))
            for one_of_them in running:
                one_of_them.result()
        for connection in (*doors, eraser):
            connection.close()
        assert {ledger.held(hold_id)["status"] for hold_id in starts} == {"settled"}
    ledger.verify(*{payer.account_id: payer for payer, _ in chats}.values())


def test_erasing_a_person_and_attaching_their_customer_never_wait_for_each_other(
    ledger: Ledger,
) -> None:
    """The erasure is stopped after it has reached the account; the answer of Stripe then comes."""
    payer = ledger.new_payer(100)
    hold_id = ledger.hold(payer, 1)["hold_id"]
    claim_id = ledger.rpc("customer_claim", p_user_id=payer.user)["claim_id"]
    door, eraser, obstacle = ledger.another_door(), ledger.another_admin(), ledger.another_admin()
    with ThreadPoolExecutor(2) as pool:
        with obstacle.transaction(force_rollback=True):
            obstacle.execute("select from public.usage_logs where id = %s for update", [hold_id])
            erasing = pool.submit(
                eraser.execute, "delete from auth.users where id = %s", [payer.user]
            )
            wait_until_blocked(ledger.admin, eraser.info.backend_pid)
            attaching = pool.submit(
                call,
                door,
                "backend.customer_attach",
                p_claim_id=claim_id,
                p_customer_id=f"cus_{new_key()}",
            )
            wait_until_blocked(ledger.admin, door.info.backend_pid)
        erasing.result()
        assert attaching.result()["customer_id"].startswith("cus_")
    ledger.verify(payer)


def test_a_hold_for_somebody_who_is_erased_meanwhile_is_refused(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    door, eraser = ledger.another_door(), ledger.another_admin()
    with ThreadPoolExecutor(1) as pool:
        with eraser.transaction():
            eraser.execute("delete from auth.users where id = %s", [payer.user])
            holding = pool.submit(call, door, "backend.credit_hold", **hold_arguments(payer, 1))
            wait_until_blocked(ledger.admin, door.info.backend_pid)
        with pytest.raises(Refused, match="account_suspended"):
            holding.result()
    ledger.verify(payer)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("credit_settle", {"p_amount": 1}),
        ("credit_release", {"p_reason": "test"}),
        ("credit_refund", {"p_amount": 1, "p_idempotency_key": "key", "p_reason": "test"}),
        ("chat_finish", {"p_prompt_tokens": 1, "p_completion_tokens": 1}),
        ("chat_fail", {"p_error_code": "test"}),
    ],
)
def test_the_account_is_locked_before_the_hold(
    ledger: Ledger, function: str, arguments: dict[str, Any]
) -> None:
    """Everybody in one order. Who waits for the account has locked nothing that others need."""
    payer = ledger.new_payer(100)
    hold_id = ledger.chat_start(payer)["hold_id"]
    if function == "credit_refund":
        ledger.settle(hold_id, Decimal("0.01"))
        arguments = arguments | {"p_amount": Decimal("0.01")}
    elif function == "credit_settle":
        arguments = arguments | {"p_amount": Decimal("0.01")}
    door, user = ledger.another_door(), ledger.another_admin()
    with ThreadPoolExecutor(1) as pool:
        with user.transaction(force_rollback=True):
            user.execute("select private.lock_account(%s)", [payer.account_id])
            working = pool.submit(call, door, f"backend.{function}", p_hold_id=hold_id, **arguments)
            wait_until_blocked(ledger.admin, door.info.backend_pid)
            user.execute(
                "select from private.credit_holds where id = %s for update nowait", [hold_id]
            )
        working.result()
    ledger.verify(payer)


@pytest.mark.parametrize("payer_kind", ["person", "organization"])
def test_erasing_an_owner_and_settling_what_their_key_asked_for_never_wait_for_each_other(
    ledger: Ledger, payer_kind: str
) -> None:
    """The erasure is stopped at the key's state; it has the account by then, so the other waits."""
    payer = ledger.new_payer(100) if payer_kind == "person" else ledger.new_organization(100)
    organization = payer.organization_id if payer_kind == "organization" else None
    key_id = one(
        ledger.admin,
        "insert into public.api_keys (user_id, organization_id, name, key_prefix, scopes)"
        " values (%(user)s, %(organization)s, 'a program', 'qk_live_', '{chat}')"
        " returning id::text",
        user=None if organization else payer.user,
        organization=organization,
    )
    ledger.admin.execute("insert into private.api_key_states (api_key_id) values (%s)", [key_id])
    ledger.admin.execute(
        "select private.place_hold(p.account, p.limits, k.user_id, 10, 0, 'a', 'test', null)"
        " from public.api_keys as k, private.payer(k.user_id, k.organization_id, k.id) as p"
        " where k.id = %s",
        [key_id],
    )
    hold_id = one(
        ledger.admin,
        "select id::text from private.credit_holds where api_key_id = %(key)s",
        key=key_id,
    )
    eraser, settler, obstacle = (ledger.another_admin() for _ in range(3))
    table = "public.organizations" if organization else "auth.users"
    with ThreadPoolExecutor(2) as pool:
        with obstacle.transaction(force_rollback=True):
            obstacle.execute(
                "select from private.api_key_states where api_key_id = %s for update", [key_id]
            )
            erasing = pool.submit(
                eraser.execute,
                f"delete from {table} where id = %s".encode(),  # noqa: S608
                [organization or payer.user],
            )
            wait_until_blocked(ledger.admin, eraser.info.backend_pid)
            settling = pool.submit(
                call, settler, "private.credit_settle", p_hold_id=hold_id, p_amount=4
            )
            wait_until_blocked(ledger.admin, settler.info.backend_pid)
        erasing.result()
        assert settling.result()["charged"] == 4
    assert ledger.held(hold_id)["status"] == "settled"


def test_erasing_a_person_and_refunding_their_purchase_never_wait_for_each_other(
    ledger: Ledger,
) -> None:
    """The erasure is stopped after it has reached the account; the refund then comes in between."""
    payer = ledger.new_payer()
    lot_id = ledger.grant(payer, 100)["lot_id"]
    purchase_id = one(
        ledger.admin,
        "insert into public.credit_purchases (user_id, bought_by, account_id, pack_id, pack_name,"
        " credits, price_minor, currency, status, lot_id, paid_at)"
        " select %(user)s, %(user)s, %(account)s, p.id, p.name, 100, 500, 'eur', 'paid', %(lot)s,"
        " now() from public.credit_packs as p order by p.slug limit 1 returning id::text",
        user=payer.user,
        account=payer.account_id,
        lot=lot_id,
    )
    hold_id = ledger.hold(payer, 10)["hold_id"]
    eraser, refunder, obstacle = (ledger.another_admin() for _ in range(3))
    with ThreadPoolExecutor(2) as pool:
        with obstacle.transaction(force_rollback=True):
            obstacle.execute("select from public.usage_logs where id = %s for update", [hold_id])
            erasing = pool.submit(
                eraser.execute, "delete from auth.users where id = %s", [payer.user]
            )
            wait_until_blocked(ledger.admin, eraser.info.backend_pid)
            refunding = pool.submit(
                call, refunder, "private.purchase_apply_reversals", p_purchase_id=purchase_id
            )
            wait_until_blocked(ledger.admin, refunder.info.backend_pid)
        erasing.result()
        assert refunding.result()["status"] == "paid"
    ledger.verify(payer)


@pytest.mark.parametrize("job", ["reap", "expire"])
def test_a_job_waits_for_nobody_and_passes_over_accounts_in_use(ledger: Ledger, job: str) -> None:
    busy, idle = ledger.new_payer(), ledger.new_payer()
    due = datetime.now(UTC) + timedelta(seconds=0.5)
    ledger.grant(busy, 100, p_expires_at=due if job == "expire" else None)
    lot_id = ledger.grant(idle, 100)["lot_id"]
    holds = [ledger.hold(payer, 30)["hold_id"] for payer in (busy, idle)]
    user = ledger.another_admin()
    with user.transaction(force_rollback=True):
        user.execute("select private.lock_account(%s)", [busy.account_id])
        time.sleep(max((due - datetime.now(UTC)).total_seconds(), 0))
        with ledger.admin.transaction():
            ledger.admin.execute("set local statement_timeout = '10s'")
            if job == "reap":
                pass_deadline(ledger.admin, *holds)
            else:
                pass_expiry(ledger.admin, lot_id)
            call(ledger.admin, f"backend.credit_{job}", p_limit=5000)
        if job == "reap":
            assert [ledger.held(hold)["status"] for hold in holds] == ["active", "expired"]
        else:
            assert (ledger.balance(busy), ledger.balance(idle)) == (100, 30)
    ledger.reap(*holds)
    ledger.expire(lot_id)
    ledger.verify(busy, idle)


@pytest.mark.parametrize("job", ["reap", "expire"])
def test_one_damaged_account_does_not_stop_a_job_for_the_others(ledger: Ledger, job: str) -> None:
    damaged, sound = ledger.new_payer(), ledger.new_payer()
    lots = [ledger.grant(payer, 100)["lot_id"] for payer in (damaged, sound)]
    holds = [ledger.hold(payer, 30)["hold_id"] for payer in (damaged, sound)]
    with ledger.admin.transaction(force_rollback=True):
        if job == "reap":
            pass_deadline(ledger.admin, *holds)
            ledger.admin.execute(
                "update public.credit_accounts set held = 0, active_holds = 0 where id = %s",
                [damaged.account_id],
            )
        else:
            for lot_id in lots:
                pass_expiry(ledger.admin, lot_id)
            ledger.admin.execute(
                "update public.credit_accounts set version = -1 + version where id = %s",
                [damaged.account_id],
            )
        call(ledger.admin, f"backend.credit_{job}", p_limit=5000)
        assert [ledger.held(hold)["status"] for hold in holds] == [
            "active",
            "expired" if job == "reap" else "active",
        ]
        assert ledger.balance(damaged) == 100
        assert ledger.balance(sound) == (100 if job == "reap" else 30)


class Crowd:
    """Requests, tasks, jobs and an eraser, all on a few accounts."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.payers = [ledger.new_payer(10_000) for _ in range(2)]
        self.payers += [ledger.new_organization(10_000, members=6) for _ in range(2)]
        self.kind = f"crowd_{new_key()[:12]}"
        self.holds: list[str] = []
        self.done = 0

    def requests(self, dice: random.Random, door: Any, admin: Any) -> None:
        payer = dice.choice(self.payers)
        member = dice.randrange(max(len(payer.users) - 2, 1))
        hold_id = call(door, "backend.credit_hold", **hold_arguments(payer, 1, member=member))[
            "hold_id"
        ]
        self.holds.append(hold_id)
        if dice.random() < 0.6:
            one(
                admin,
                "select private.task_enqueue(%s, '{}', p_hold_id => %s, p_max_attempts => %s)",
                self.kind,
                hold_id,
                dice.choice([1, 3]),
            )
        else:
            call(door, "backend.credit_settle", p_hold_id=hold_id, p_amount=dice.choice([0, 1]))

    def works(self, dice: random.Random, door: Any, admin: Any) -> None:
        tasks = call(
            door,
            "backend.task_claim",
            p_kinds=[self.kind],
            p_worker="tests",
            p_limit=dice.randint(1, 5),
            p_lease_seconds=60,
        )
        for task in tasks:
            lease = {"p_id": task["id"], "p_lease_token": task["lease_token"]}
            match dice.randrange(4):
                case 0:
                    call(door, "backend.credit_settle", p_hold_id=task["hold_id"], p_amount=1)
                    call(door, "backend.task_complete", **lease)
                case 1:
                    call(door, "backend.task_renew", **lease, p_lease_seconds=60)
                case 2:
                    call(door, "backend.task_fail", **lease, p_error="test", p_retry_after=0)
                case _:
                    admin.execute(
                        "update private.tasks set leased_until = now() - interval '1 second'"
                        " where id = %s",
                        [task["id"]],
                    )

    def sweeps(self, dice: random.Random, door: Any, admin: Any) -> None:
        for hold_id in dice.sample(self.holds, min(3, len(self.holds))):
            pass_deadline(admin, hold_id)
        job = dice.choice(["credit_reap", "credit_expire", "task_sweep", "task_bury"])
        call(door, f"backend.{job}", p_limit=dice.choice([3, 500]))

    def refunds(self, dice: random.Random, door: Any, _: Any) -> None:
        if self.holds:
            call(
                door,
                "backend.credit_refund",
                p_hold_id=dice.choice(self.holds),
                p_amount=Decimal("0.1"),
                p_idempotency_key=new_key(),
            )

    def run(self, act: Callable[[random.Random, Any, Any], None], seed: int) -> None:
        dice = random.Random(seed)  # noqa: S311
        with (
            connect(self.ledger.functions_dsn) as door,
            connect(self.ledger.admin_dsn) as admin,
        ):
            for _ in range(60):
                try:
                    act(dice, door, admin)
                    self.done += 1
                except Refused:
                    continue  # others were quicker

    def erase(self) -> None:
        """The last two members of each organization go, while the others work."""
        with connect(self.ledger.admin_dsn) as admin:
            for payer in self.payers[2:]:
                for user_id in payer.users[-2:]:
                    admin.execute("delete from auth.users where id = %s", [user_id])


def test_requests_tasks_jobs_and_erasure_never_deadlock(ledger: Ledger) -> None:
    crowd = Crowd(ledger)
    account_ids = [payer.account_id for payer in crowd.payers]
    acts = [crowd.requests] * 4 + [crowd.works] * 3 + [crowd.sweeps] * 3 + [crowd.refunds] * 2
    is_over = threading.Event()

    def watch() -> None:
        with connect(ledger.admin_dsn) as watcher:
            while not is_over.wait(0.05):
                assert findings(watcher, account_ids) == []

    with ThreadPoolExecutor(len(acts) + 2) as pool:
        watching = pool.submit(watch)
        running = [pool.submit(crowd.run, act, seed) for seed, act in enumerate(acts)]
        running.append(pool.submit(crowd.erase))
        try:
            for thread in running:
                thread.result()
        finally:
            is_over.set()
        watching.result()
    assert crowd.done > 300
    ledger.verify(*crowd.payers)
    ledger.admin.execute(
        "select backend.task_cancel(id, 'end of test') from private.tasks"
        " where kind = %s and status in ('queued', 'running')",
        [crowd.kind],
    )
    ledger.reap(*crowd.holds)
    for payer in crowd.payers:
        assert ledger.account(payer)["held"] == 0
