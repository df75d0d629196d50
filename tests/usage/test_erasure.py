"""Who asked is forgotten with their account; what was used stays, and still adds up."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.credits.ledger import Ledger, call, new_key, one, wait_until_blocked
from tests.usage.conftest import add_row, counts, rollups


def erase(connection: Any, user_id: str) -> None:
    connection.execute("delete from auth.users where id = %s", [user_id])


def named(ledger: Ledger, user_id: str) -> int:
    """Rollups, usage rows and holds that name somebody."""
    return sum(
        one(ledger.admin, f"select count(*) from {table} where user_id = %s", user_id)  # noqa: S608
        for table in ("public.api_usage", "public.usage_logs", "private.credit_holds")
    )


def test_a_person_is_forgotten_and_their_account_keeps_its_counts(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    ledger.spend(payer, 5)
    (before,) = rollups(ledger.admin, payer)
    erase(ledger.admin, payer.user)
    (after,) = rollups(ledger.admin, payer)
    assert counts(after) == counts(before)
    assert after["user_id"] is None
    assert named(ledger, payer.user) == 0
    ledger.verify(payer)


def test_colleagues_who_were_erased_are_one_row_and_the_others_stay(ledger: Ledger) -> None:
    """Two rows of one key otherwise: both name nobody."""
    payer = ledger.new_organization(100, members=4)
    for member in range(4):
        ledger.settle(ledger.hold(payer, 5, member=member)["hold_id"], 2)
    for user_id in payer.users[1:3]:
        erase(ledger.admin, user_id)
    rows = {
        row["user_id"] and str(row["user_id"]): row["request_count"]
        for row in rollups(ledger.admin, payer)
    }
    assert rows == {None: 2, payer.users[0]: 1, payer.users[3]: 1}
    ledger.verify(payer)


def test_several_people_erased_in_one_statement(ledger: Ledger) -> None:
    payer = ledger.new_organization(100, members=3)
    for member in range(3):
        ledger.settle(ledger.hold(payer, 5, member=member)["hold_id"], 2)
    ledger.admin.execute("delete from auth.users where id = any(%s::uuid[])", [list(payer.users)])
    (row,) = rollups(ledger.admin, payer)
    assert (row["user_id"], row["request_count"], row["credits"]) == (None, 3, 6)
    ledger.verify(payer)


def test_months_whose_rows_are_gone_forget_too(ledger: Ledger) -> None:
    payer = ledger.new_organization(100, members=3)
    for member in range(3):
        ledger.settle(ledger.hold(payer, 5, member=member)["hold_id"], 2)
    with ledger.admin.transaction(force_rollback=True):
        # What dropping the partition does: the usage rows go, and nobody is told.
        ledger.admin.execute("set local session_replication_role = replica")
        ledger.admin.execute(
            "delete from public.usage_logs where account_id = %s", [payer.account_id]
        )
        ledger.admin.execute("set local session_replication_role = origin")
        before = len(rollups(ledger.admin, payer))
        for user_id in payer.users[1:]:
            erase(ledger.admin, user_id)
            assert named(ledger, user_id) == 0
        rows = {row["user_id"] and str(row["user_id"]): row for row in rollups(ledger.admin, payer)}
    assert (before, len(rows)) == (3, 2)
    assert (rows[None]["request_count"], rows[None]["credits"]) == (2, 4)


def test_an_organization_that_is_deleted_is_forgotten(ledger: Ledger) -> None:
    payer = ledger.new_organization(100)
    ledger.settle(ledger.hold(payer, 5)["hold_id"], 2)
    add_row(ledger.admin, payer, model_id="gone")
    ledger.admin.execute("delete from public.organizations where id = %s", [payer.organization_id])
    rows = rollups(ledger.admin, payer)
    assert [row["organization_id"] for row in rows] == [None, None]
    assert {str(row["user_id"]) for row in rows} == {payer.user}
    ledger.verify(payer)


def test_a_request_that_ends_late_after_the_erasure_counts_for_nobody(ledger: Ledger) -> None:
    payer = ledger.new_organization(100)
    hold_id = ledger.hold(payer, 5, member=1)["hold_id"]
    ledger.reap(hold_id)
    erase(ledger.admin, payer.users[1])
    ledger.settle(hold_id, 4)
    (row,) = rollups(ledger.admin, payer)
    assert (row["user_id"], row["request_count"], row["failed_count"]) == (None, 1, 0)
    assert row["credits"] == 4
    ledger.verify(payer)


@pytest.mark.parametrize("payer_kind", ["person", "organization"])
def test_erasing_a_person_and_ending_their_request_never_wait_for_each_other(
    ledger: Ledger, payer_kind: str
) -> None:
    """The settlement is stopped at its usage row; the erasure then comes in between, and waits."""
    payer = ledger.new_payer(100) if payer_kind == "person" else ledger.new_organization(100)
    member = len(payer.users) - 1
    hold_id = ledger.hold(payer, 5, member=member)["hold_id"]
    door, eraser, obstacle = ledger.another_door(), ledger.another_admin(), ledger.another_admin()
    with ThreadPoolExecutor(2) as pool:
        with obstacle.transaction(force_rollback=True):
            obstacle.execute("select from public.usage_logs where id = %s for update", [hold_id])
            settling = pool.submit(
                call, door, "backend.credit_settle", p_hold_id=hold_id, p_amount=5
            )
            wait_until_blocked(ledger.admin, door.info.backend_pid)
            erasing = pool.submit(erase, eraser, payer.users[member])
            wait_until_blocked(ledger.admin, eraser.info.backend_pid)
        settling.result()
        erasing.result()
    assert named(ledger, payer.users[member]) == 0
    ledger.verify(payer)


def test_a_storm_of_settlements_and_erasures_in_one_organization_never_deadlocks(
    ledger: Ledger,
) -> None:
    organization = ledger.new_organization(1000, members=9)
    leavers = list(range(1, 9))
    holds = [
        (member, ledger.hold(organization, 2, member=member)["hold_id"])
        for member in leavers
        for _ in range(4)
    ]
    random.Random(1).shuffle(holds)  # noqa: S311
    doors = [ledger.another_door() for _ in range(4)]
    erasers = [ledger.another_admin() for _ in range(2)]
    begin = threading.Barrier(len(doors) + len(erasers))

    def settle(index: int) -> None:
        begin.wait()
        for _, hold_id in holds[index :: len(doors)]:
            call(doors[index], "backend.credit_settle", p_hold_id=hold_id, p_amount=1)

    def leave(index: int) -> None:
        begin.wait()
        for member in leavers[index :: len(erasers)]:
            erase(erasers[index], organization.users[member])

    with ThreadPoolExecutor(len(doors) + len(erasers)) as pool:
        running = [pool.submit(settle, index) for index in range(len(doors))]
        running += [pool.submit(leave, index) for index in range(len(erasers))]
        for one_of_them in running:
            one_of_them.result()
    (row,) = rollups(ledger.admin, organization)
    assert (row["user_id"], row["request_count"], row["credits"]) == (None, 32, 32)
    ledger.verify(organization)


def test_a_key_of_a_person_who_was_erased_keeps_its_row(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    key = "00000000-0000-4000-8000-000000000001"
    for api_key_id in (key, None):
        add_row(ledger.admin, payer, api_key_id=api_key_id)
    erase(ledger.admin, payer.user)
    assert sorted(str(row["api_key_id"]) for row in rollups(ledger.admin, payer)) == [key, "None"]
    ledger.verify(payer)


def test_an_idempotency_key_of_the_ledger_is_nobodys_after_an_erasure(ledger: Ledger) -> None:
    """The hold that is set to nobody before the foreign keys would do it is the same hold."""
    payer = ledger.new_organization(100)
    key = new_key()
    hold_id = ledger.hold(payer, 5, key, member=1)["hold_id"]
    erase(ledger.admin, payer.users[1])
    held = ledger.held(hold_id)
    assert (held["user_id"], held["status"], held["idempotency_key"]) == (None, "active", key)
    ledger.settle(hold_id, 5)
    ledger.verify(payer)
