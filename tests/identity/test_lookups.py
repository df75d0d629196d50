"""What policies and other chapters ask of identity: who calls, and where they belong."""

from __future__ import annotations

import uuid

import psycopg
import pytest

from tests.support.people import call, refused


@pytest.mark.parametrize("function", ["require_member", "require_admin"])
def test_an_unknown_organization_and_a_foreign_one_get_the_same_answer(
    new_team, new_person, db, function
):
    team, stranger = new_team(), new_person()
    messages = set()
    for organization in (team.id, team.slug, str(uuid.uuid4()), "no-such-team", "", None):
        with refused("not_a_member", 403) as caught:
            call(db(), f"private.{function}", p_user_id=stranger.id, p_organization=organization)
        messages.add(str(caught[0]))
    assert len(messages) == 1


def test_a_member_is_not_an_admin(new_team, db):
    team = new_team()
    with refused("not_an_admin", 403):
        call(db(), "private.require_admin", p_user_id=team.member.id, p_organization=team.slug)


def test_a_suspended_member_is_refused(new_team, db):
    team = new_team()
    db().execute("update public.profiles set is_active = false where id = %s", [team.member.id])
    with refused("account_suspended", 403):
        call(db(), "private.require_member", p_user_id=team.member.id, p_organization=team.slug)


def test_a_suspended_organization_is_refused(new_team, db):
    team = new_team()
    db().execute("update public.organizations set is_active = false where id = %s", [team.id])
    with refused("account_suspended", 403):
        call(db(), "private.require_member", p_user_id=team.owner.id, p_organization=team.slug)


def test_nobody_is_no_active_user(as_role):
    with as_role("authenticated") as connection:
        assert call(connection, "private.active_user_id") is None


def test_somebody_without_an_account_is_no_active_user(as_role):
    with as_role("authenticated", {"sub": str(uuid.uuid4())}) as connection:
        assert call(connection, "private.active_user_id") is None


def test_a_suspended_person_is_no_active_user(new_person, db):
    person = new_person()
    db().execute("update public.profiles set is_active = false where id = %s", [person.id])
    with person.transaction() as connection:
        assert call(connection, "private.active_user_id") is None


def test_a_visitor_may_not_ask(as_role):
    with as_role("anon") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        call(connection, "private.active_user_id")


@pytest.mark.parametrize(
    "function",
    [
        "private.follow_auth_user",
        "private.require_role",
        "private.require_member",
        "private.enter_organization",
        "private.record_operator_action",
        "private.random_token",
    ],
)
def test_clients_cannot_reach_the_kernel(db, function):
    rows = db().execute(
        "select has_function_privilege(r, p.oid, 'execute') from pg_proc as p,"
        " unnest(array['anon', 'authenticated', 'service_role']) as r where p.oid = %s::regproc",
        [function],
    )
    assert {allowed for (allowed,) in rows} == {False}


def test_an_active_person_is_themselves(new_person):
    person = new_person()
    with person.transaction() as connection:
        assert str(call(connection, "private.active_user_id")) == person.id


def test_an_organization_is_found_by_id_and_by_slug(new_team, db):
    team = new_team()
    for organization in (team.id, team.id.upper(), team.slug):
        found = call(
            db(), "private.require_admin", p_user_id=team.admin.id, p_organization=organization
        )
        assert str(found) == team.id
