"""Who is told what, how often, and what is written down about them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from functions.core.database import Database
from functions.cron.jobs import CRON_JOBS
from tests.notifications.conftest import Connect, Desk
from tests.support.people import NewPerson, Person, Team, join, wait_until_blocked

FACTS = {"amount_minor": 2900, "currency": "eur", "credits": 1000}


def recipients(desk: Desk, tasks: list[dict[str, Any]]) -> set[str]:
    return {str(desk.email(task)["user_id"]) for task in tasks if task["kind"] == "email"}


def notifications(desk: Desk, owner: Person | Team) -> list[dict[str, Any]]:
    return desk.rows(
        "select * from private.notifications where %s in (user_id, organization_id)", owner.id
    )


# Refusals ---------------------------------------------------------------------------------------


def test_a_template_nobody_knows_is_a_mistake_of_ours(desk: Desk, person: Person) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="no notification template"):
        desk.tell(person, "unheard_of")
    assert notifications(desk, person) == []


def test_two_owners_are_a_mistake_of_ours(desk: Desk, person: Person, team: Team) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="a user or an organization"):
        desk.rows("select private.notify(%s, %s, 'receipt', '{}', 'k')", person.id, team.id)
    assert notifications(desk, person) == []


@pytest.mark.parametrize("owner", ["null", "gen_random_uuid()"])
def test_an_owner_who_was_erased_is_not_told(desk: Desk, owner: str) -> None:
    before = desk.rows("select count(*) from private.notifications where template = 'ping'")
    desk.rows(f"select private.notify({owner}, null, 'ping', '{{}}', 'k')")
    desk.rows(f"select private.notify(null, {owner}, 'ping', '{{}}', 'k')")
    assert before == desk.rows("select count(*) from private.notifications where template = 'ping'")


def test_an_owner_who_is_being_erased_is_not_waited_for(
    desk: Desk, db: Connect, person: Person
) -> None:
    """The caller may hold what the eraser waits for."""
    eraser = db()
    with eraser.transaction(force_rollback=True):
        eraser.execute("delete from auth.users where id = %s", [person.id])
        desk.rows("set lock_timeout = '2s'")
        assert desk.tell(person) == []


def test_who_has_no_address_is_not_written_to(desk: Desk, new_person: NewPerson) -> None:
    assert desk.tell(new_person(None)) == []


def test_an_address_that_was_not_verified_is_not_written_to(
    desk: Desk, new_person: NewPerson
) -> None:
    assert desk.tell(new_person(verified=False)) == []


def test_a_suspended_person_is_not_written_to(desk: Desk, person: Person) -> None:
    desk.rows("update public.profiles set is_active = false where id = %s", person.id)
    assert desk.tell(person) == []


@pytest.mark.parametrize("template", ["usage_threshold", "low_balance"])
def test_who_switched_notifications_off_gets_no_warnings(
    desk: Desk, person: Person, template: str
) -> None:
    person.execute("update public.profiles set notifications_enabled = false")
    assert desk.tell(person, template) == []


def test_members_are_not_told_what_concerns_the_bill(desk: Desk, team: Team) -> None:
    assert team.member.id not in recipients(desk, desk.tell(team))


# What is told -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    ["receipt", "payment_failed", "invoice_overdue", "subscription_expiring", "webhook_disabled"],
)
def test_what_concerns_the_account_is_told_to_everybody(
    desk: Desk, person: Person, template: str
) -> None:
    person.execute("update public.profiles set notifications_enabled = false")
    assert recipients(desk, desk.tell(person, template)) == {person.id}


def test_every_owner_and_admin_of_an_organization_is_told(
    desk: Desk, team: Team, new_person: NewPerson
) -> None:
    second = new_person()
    join(team.owner, team.id, second, "owner")
    told = recipients(desk, desk.tell(team))
    assert told == {team.owner.id, team.admin.id, second.id}


def test_each_person_decides_for_themselves(desk: Desk, team: Team) -> None:
    team.owner.execute("update public.profiles set notifications_enabled = false")
    assert recipients(desk, desk.tell(team, "low_balance")) == {team.admin.id}


def test_the_same_key_is_told_once(desk: Desk, person: Person) -> None:
    assert len(desk.tell(person, key="invoice-1")) == 1
    assert desk.tell(person, key="invoice-1") == []
    assert len(notifications(desk, person)) == 1


def test_another_template_or_owner_or_key_is_told(desk: Desk, person: Person, team: Team) -> None:
    desk.tell(person, key="k")
    assert len(desk.tell(person, "payment_failed", key="k")) == 1
    assert len(desk.tell(person, key="l")) == 1
    assert len(desk.tell(team, key="k")) == 2


def test_at_once_is_once(db: Connect, desk: Desk, person: Person) -> None:
    def tell(_: int) -> int:
        return len(Desk(db()).tell(person, key="at-once"))

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(tell, range(8))) == [0] * 7 + [1]
    assert len(notifications(desk, person)) == 1


def test_it_goes_with_its_transaction(desk: Desk, person: Person) -> None:
    with desk.connection.transaction(force_rollback=True):
        desk.connection.execute(
            "select private.notify(%s, null, 'receipt', '{}', 'k')", [person.id]
        )
    assert notifications(desk, person) == []


def test_only_endpoints_that_ask_for_the_event_get_it(desk: Desk, person: Person) -> None:
    all_, some, others, off = (
        desk.endpoint(person, f"https://quernel.test/{number}", **columns)["id"]
        for number, columns in enumerate(
            (
                {},
                {"event_types": ["low_balance", "receipt"]},
                {"event_types": ["low_balance"]},
                {"is_active": False},
            )
        )
    )
    got = {desk.event(t)["endpoint_id"] for t in desk.tell(person) if t["kind"] == "webhook"}
    assert got == {all_, some}
    assert not got & {others, off}


def test_events_are_the_owners_and_nobody_elses(desk: Desk, team: Team) -> None:
    own = desk.endpoint(team, "https://quernel.test/")
    desk.endpoint(team.owner, "https://quernel.test/")
    got = [desk.event(t) for t in desk.tell(team) if t["kind"] == "webhook"]
    assert [row["endpoint_id"] for row in got] == [own["id"]]
    assert (got[0]["event_type"], got[0]["status"]) == ("receipt", "queued")


def test_a_preference_about_email_does_not_concern_webhooks(desk: Desk, person: Person) -> None:
    person.execute("update public.profiles set notifications_enabled = false")
    desk.endpoint(person, "https://quernel.test/")
    assert [task["kind"] for task in desk.tell(person, "low_balance")] == ["webhook"]


# What is written down ---------------------------------------------------------------------------


def test_a_task_carries_the_id_of_its_delivery_and_nothing_else(
    desk: Desk, team: Team, new_person: NewPerson
) -> None:
    desk.endpoint(team, "https://quernel.test/secret-path")
    guest = new_person()
    tasks = desk.tell(team, facts=FACTS) + desk.invite(team, guest.email)["tasks"]
    assert len(tasks) == 4
    for task in tasks:
        assert list(task["payload"]) == ["delivery_id"]
        assert task["key"] == task["payload"]["delivery_id"]


def test_no_table_of_notifications_holds_an_address_a_name_or_a_token(
    desk: Desk, team: Team, new_person: NewPerson
) -> None:
    guest = new_person(user_metadata={"full_name": "Grace Hopper"})
    desk.tell(guest, facts=FACTS)
    invitation = desk.invite(team, guest.email)
    written = json.dumps(
        [
            desk.rows(f"select to_jsonb(t) from private.{table} as t")  # noqa: S608
            for table in ("notifications", "email_deliveries", "tasks")
        ]
    )
    for text in (guest.email, "Grace Hopper", invitation["token"]):
        assert text is not None
        assert text not in written


def test_what_was_told_goes_with_its_owner(desk: Desk, person: Person) -> None:
    desk.endpoint(person, "https://quernel.test/")
    tasks = desk.tell(person)
    desk.rows("delete from auth.users where id = %s", person.id)
    assert notifications(desk, person) == []
    ids = [task["payload"]["delivery_id"] for task in tasks]
    for table in ("private.email_deliveries", "public.webhook_deliveries"):
        assert desk.rows(f"select 1 from {table} where id = any(%s::uuid[])", ids) == []  # noqa: S608


def test_erasing_a_person_waits_for_a_report_and_does_not_lose_to_it(
    desk: Desk, db: Connect, person: Person
) -> None:
    endpoint = desk.endpoint(person, "https://quernel.test/", consecutive_failures=3)
    (task,) = [t for t in desk.tell(person) if t["kind"] == "webhook"]
    reporter, eraser, watcher = db(), db(), db()
    with ThreadPoolExecutor(1) as pool:
        with reporter.transaction():
            reporter.execute(
                "select e.id from public.webhook_endpoints as e where id = %s for no key update",
                [endpoint["id"]],
            )
            erasing = pool.submit(
                eraser.execute, "delete from auth.users where id = %s", [person.id]
            )
            wait_until_blocked(watcher, eraser.info.backend_pid)
            reporter.execute(
                "select backend.webhook_report(%s, 'sent', 200)", [task["payload"]["delivery_id"]]
            )
        assert erasing.result(timeout=10).rowcount == 1


# Retention --------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_what_is_old_is_deleted_with_its_deliveries(
    desk: Desk, database: Database, person: Person
) -> None:
    desk.tell(person, key="old")
    desk.tell(person, key="new")
    desk.rows(
        "update private.notifications set created_at = now() - interval '401 days'"
        " where user_id = %s and key = 'old'",
        person.id,
    )
    await CRON_JOBS["notifications"].run(database)
    assert [row["key"] for row in notifications(desk, person)] == ["new"]
    left = desk.rows("select 1 from private.email_deliveries where user_id = %s", person.id)
    assert len(left) == 1


@pytest.mark.anyio
async def test_a_delivery_whose_task_has_died_is_given_up(
    desk: Desk, database: Database, person: Person
) -> None:
    desk.endpoint(person, "https://quernel.test/")
    dead = desk.tell(person)
    alive = desk.tell(person)
    for task in dead:
        desk.rows(
            "update private.tasks set status = 'dead', last_error = 'x', finished_at = now(),"
            " lease_token = null, leased_until = null, leased_by = null where id = %s",
            task["id"],
        )
    for table in ("private.email_deliveries", "public.webhook_deliveries"):
        desk.rows(
            f"update {table} set created_at = now() - interval '2 hours'"  # noqa: S608
            " where id = any(%s::uuid[])",
            [task["payload"]["delivery_id"] for task in dead + alive],
        )
    await CRON_JOBS["notifications"].run(database)
    states = [
        (desk.email(t) if t["kind"] == "email" else desk.event(t))["status"] for t in dead + alive
    ]
    assert states == ["failed", "failed", "queued", "queued"]


def test_facts_are_small(desk: Desk, person: Person) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="facts_are_small"):
        desk.rows(
            "select private.notify(%s, null, 'receipt', %s, 'k')",
            person.id,
            Jsonb({"description": "x" * 20_000}),
        )
