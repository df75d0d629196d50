"""Operators suspend people and organizations, and what they did cannot be unwritten."""

from __future__ import annotations

import uuid

import psycopg
import pytest

from tests.support.people import call
from tests.support.service import ServiceError


def about(db, person):
    """The subject of what operators did to a person."""
    row = db().execute(
        "select 'user:' || pseudonym from private.person_pseudonyms where user_id = %s", [person.id]
    )
    return row.fetchone()[0]


def actions(db, subject):
    rows = db().execute(
        "select actor, action, before, after, reason from private.operator_actions"
        " where subject = %s order by id",
        [subject],
    )
    return rows.fetchall()


@pytest.mark.parametrize("role", ["anon", "authenticated"])
@pytest.mark.parametrize("function", ["user_set_active", "organization_set_active"])
def test_clients_cannot_suspend_anybody(as_role, new_person, role, function):
    person = new_person()
    subject = "p_user_id" if function == "user_set_active" else "p_organization_id"
    with (
        as_role(role, {"sub": person.id}) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        call(
            connection,
            f"backend.{function}",
            **{subject: person.id},
            p_is_active=False,
            p_actor="me",
            p_reason="why not",
        )


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"p_actor": " "}, "p_actor"),
        ({"p_actor": None}, "p_actor"),
        ({"p_reason": ""}, "p_reason"),
        ({"p_reason": "x" * 1001}, "p_reason"),
        ({"p_is_active": None}, "p_is_active"),
    ],
    ids=str,
)
def test_a_suspension_names_actor_and_reason(service, new_person, db, changed, param):
    person = new_person()
    arguments = {"p_is_active": False, "p_actor": "ops", "p_reason": "abuse"} | changed
    with pytest.raises(ServiceError) as info:
        service.rpc("user_set_active", p_user_id=person.id, **arguments)
    assert (info.value.status, info.value.code) == (400, "invalid_argument")
    assert info.value.facts == {"param": param}
    row = db().execute("select is_active from public.profiles where id = %s", [person.id])
    assert row.fetchone() == (True,)


def test_an_unknown_user_is_not_found(service, db):
    nobody = uuid.uuid4()
    with pytest.raises(ServiceError) as info:
        service.rpc(
            "user_set_active", p_user_id=nobody, p_is_active=False, p_actor="o", p_reason="r"
        )
    assert (info.value.status, info.value.code) == (404, "user_not_found")
    assert actions(db, f"user:{nobody}") == []


def test_an_unknown_organization_is_not_found(service):
    with pytest.raises(ServiceError) as info:
        service.rpc(
            "organization_set_active",
            p_organization_id=uuid.uuid4(),
            p_is_active=False,
            p_actor="o",
            p_reason="r",
        )
    assert (info.value.status, info.value.code) == (404, "organization_not_found")


@pytest.mark.parametrize(
    "statement",
    [
        "update private.operator_actions set actor = 'somebody else'",
        "delete from private.operator_actions",
        "truncate private.operator_actions",
    ],
)
@pytest.mark.parametrize(
    "session",
    ["set role postgres", "set role supabase_admin", "set session_replication_role = replica"],
)
def test_nobody_rewrites_what_operators_did(db, service, new_person, statement, session):
    person = new_person()
    service.rpc(
        "user_set_active", p_user_id=person.id, p_is_active=False, p_actor="ops", p_reason="abuse"
    )
    connection = db()
    connection.execute(session.encode())
    with pytest.raises(psycopg.errors.RestrictViolation):
        connection.execute(statement.encode())
    assert len(actions(db, about(db, person))) == 1


def test_a_suspension_is_done_and_written_down(service, new_person, db):
    person = new_person()
    answer = service.rpc(
        "user_set_active", p_user_id=person.id, p_is_active=False, p_actor="ops", p_reason="abuse"
    )
    assert answer == {"user_id": person.id, "is_active": False, "changed": True}
    assert person.rows("select * from public.profiles") == []
    assert actions(db, about(db, person)) == [
        ("ops", "user_set_active", {"is_active": True}, {"is_active": False}, "abuse")
    ]


def test_what_operators_did_names_nobody_who_was_erased(service, new_person, db):
    person = new_person()
    service.rpc(
        "user_set_active", p_user_id=person.id, p_is_active=False, p_actor="ops", p_reason="abuse"
    )
    subject = about(db, person)
    assert person.id not in subject
    db().execute("delete from auth.users where id = %s", [person.id])
    assert len(actions(db, subject)) == 1
    row = db().execute(
        "select count(*) from private.person_pseudonyms where 'user:' || pseudonym = %s", [subject]
    )
    assert row.fetchone() == (0,)


def test_a_restored_person_is_back(service, new_person):
    person = new_person()
    for active in (False, True):
        service.rpc(
            "user_set_active",
            p_user_id=person.id,
            p_is_active=active,
            p_actor="ops",
            p_reason="mistake",
        )
    assert len(person.rows("select * from public.profiles")) == 1


def test_an_organization_is_suspended_and_restored(service, new_team, db):
    team = new_team()
    seen = []
    for active in (False, True):
        service.rpc(
            "organization_set_active",
            p_organization_id=team.id,
            p_is_active=active,
            p_actor="ops",
            p_reason="unpaid",
        )
        seen.append(len(team.member.rows("select * from public.organizations")))
    assert seen == [0, 1]
    assert [row[3] for row in actions(db, f"organization:{team.id}")] == [
        {"is_active": False},
        {"is_active": True},
    ]
