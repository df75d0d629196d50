"""Deleting an auth user always works, and leaves no organization without an owner."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from tests.support.people import call, join, new_slug, put_on_plan, refused, wait_until_blocked


def delete(connection, person):
    return connection.execute("delete from auth.users where id = %s", [person.id]).rowcount


def members(connection, organization_id):
    rows = connection.execute(
        "select user_id::text, role from public.organization_members where organization_id = %s",
        [organization_id],
    )
    return dict(rows.fetchall())


def is_active(connection, organization_id):
    row = connection.execute(
        "select is_active from public.organizations where id = %s", [organization_id]
    ).fetchone()
    return row[0]


def leave_traces(person, team, new_person, connection):
    """Does everything this chapter lets a person do."""
    person.execute(
        "insert into public.user_preferences (preference_type, preference_value)"
        " values ('ui_preferences', '{}')"
    )
    person.execute(
        "insert into public.user_model_preferences (model_id, is_favorite)"
        " values ('Qwen2.5-32B-Instruct-AWQ', true)"
    )
    join(team.owner, team.id, person, "admin")
    person.call("invite_member", p_organization_id=team.id, p_email=new_person().email)
    own = person.call("create_organization", p_name="Own", p_slug=new_slug())
    put_on_plan(connection, own["id"], "business")
    person.call("invite_member", p_organization_id=own["id"], p_email=new_person().email)
    return own["id"]


def test_deletion_of_an_auth_user_with_memberships_preferences_and_invitations_sent_works(
    new_team, new_person, db
):
    team, person, connection = new_team(), new_person(), db()
    leave_traces(person, team, new_person, connection)
    assert delete(connection, person) == 1
    for table, column in (
        ("profiles", "id"),
        ("user_preferences", "user_id"),
        ("user_model_preferences", "user_id"),
        ("organization_members", "user_id"),
        ("organization_invitations", "invited_by"),
        ("organization_invitations", "accepted_by"),
        ("organizations", "created_by"),
    ):
        row = connection.execute(
            f"select count(*) from public.{table} where {column} = %s",  # noqa: S608
            [person.id],
        )
        assert row.fetchone() == (0,), (table, column)


def test_deletion_works_as_the_auth_service_does_it(new_team, new_person, as_role, db):
    """The auth service owns auth.users and has no right on our tables."""
    team, person = new_team(), new_person()
    leave_traces(person, team, new_person, db())
    with as_role("authenticator", commit=True) as connection:
        assert delete(connection, person) == 1
    assert person.id not in members(db(), team.id)


def test_deletion_works_for_somebody_with_credits_and_a_hold(new_person, db, service):
    person = new_person()
    service.rpc(
        "credit_hold",
        p_user_id=person.id,
        p_organization_id=None,
        p_amount=1,
        p_idempotency_key="before-erasure",
        p_action="chat",
        p_seconds=60,
    )
    assert delete(db(), person) == 1


def test_the_oldest_admin_inherits(new_team, new_person, db):
    team, younger, connection = new_team(), new_person(), db()
    join(team.owner, team.id, younger, "admin")
    team.owner.call(
        "set_member_budget", p_organization_id=team.id, p_user_id=team.admin.id, p_budget=5
    )
    delete(connection, team.owner)
    assert members(connection, team.id) == {
        team.admin.id: "owner",
        younger.id: "admin",
        team.member.id: "member",
    }
    row = connection.execute(
        "select monthly_credit_budget from public.organization_members where user_id = %s",
        [team.admin.id],
    )
    assert row.fetchone() == (None,)


def test_without_admins_the_oldest_member_inherits(new_team, new_person, db):
    team, younger, connection = new_team(), new_person(), db()
    join(team.owner, team.id, younger)
    delete(connection, team.admin)
    delete(connection, team.owner)
    assert members(connection, team.id) == {team.member.id: "owner", younger.id: "member"}


def test_a_suspended_person_inherits_last(new_team, db):
    team, connection = new_team(), db()
    connection.execute(
        "update public.profiles set is_active = false where id = %s", [team.admin.id]
    )
    delete(connection, team.owner)
    assert members(connection, team.id) == {team.admin.id: "admin", team.member.id: "owner"}


def test_with_another_owner_nobody_inherits(new_team, new_person, db):
    team, second_owner, connection = new_team(), new_person(), db()
    join(team.owner, team.id, second_owner, "owner")
    delete(connection, team.owner)
    assert members(connection, team.id) == {
        second_owner.id: "owner",
        team.admin.id: "admin",
        team.member.id: "member",
    }


def test_with_nobody_left_the_organization_is_deactivated(new_person, db):
    person, connection = new_person(), db()
    made = person.call("create_organization", p_name="Alone", p_slug=new_slug())
    delete(connection, person)
    assert is_active(connection, made["id"]) is False


def test_everybody_deleted_in_one_statement(new_team, db):
    team, connection = new_team(), db()
    people = [team.owner.id, team.admin.id, team.member.id]
    deleted = connection.execute("delete from auth.users where id = any(%s::uuid[])", [people])
    assert deleted.rowcount == 3
    assert is_active(connection, team.id) is False


def test_an_organization_can_be_deleted_with_its_members(new_team, db):
    team, connection = new_team(), db()
    connection.execute("delete from public.organizations where id = %s", [team.id])
    assert members(connection, team.id) == {}


def test_two_owners_deleted_at_once_leave_an_heir(new_team, new_person, db):
    team, second_owner, connection = new_team(), new_person(), db()
    join(team.owner, team.id, second_owner, "owner")
    other, watcher = db(), db()
    with ThreadPoolExecutor(1) as pool:
        with connection.transaction():
            delete(connection, team.owner)
            waiting = pool.submit(delete, other, second_owner)
            wait_until_blocked(watcher, other.info.backend_pid)
        assert waiting.result(timeout=10) == 1
    assert members(connection, team.id) == {team.admin.id: "owner", team.member.id: "member"}


@pytest.mark.parametrize("first", ["the deletion", "the change"])
def test_a_deletion_and_a_change_of_the_same_member_do_not_deadlock(new_team, db, first):
    team, connection, watcher = new_team(), db(), db()

    def set_budget(budget_connection):
        return call(
            budget_connection,
            "public.set_member_budget",
            p_organization_id=team.id,
            p_user_id=team.member.id,
            p_budget=Decimal(1),
        )

    with ThreadPoolExecutor(1) as pool:
        if first == "the change":
            with team.owner.transaction(commit=True) as budget_connection:
                set_budget(budget_connection)
                waiting = pool.submit(delete, connection, team.member)
                wait_until_blocked(watcher, connection.info.backend_pid)
            assert waiting.result(timeout=10) == 1
        else:
            with team.owner.transaction() as budget_connection:
                with connection.transaction():
                    delete(connection, team.member)
                    waiting = pool.submit(set_budget, budget_connection)
                    wait_until_blocked(watcher, budget_connection.info.backend_pid)
                assert "member_not_found" in str(waiting.exception(timeout=10).diag.message_detail)
    assert team.member.id not in members(connection, team.id)


def test_a_deletion_and_an_acceptance_by_the_same_person_do_not_deadlock(new_team, new_person, db):
    team, guest, connection, watcher = new_team(), new_person(), db(), db()
    guest.call("create_organization", p_name="Own", p_slug=new_slug())
    invitation = team.owner.call("invite_member", p_organization_id=team.id, p_email=guest.email)
    with ThreadPoolExecutor(1) as pool:
        with guest.transaction(commit=True) as accepting:
            call(accepting, "public.accept_invitation", p_token=invitation["token"])
            waiting = pool.submit(delete, connection, guest)
            wait_until_blocked(watcher, connection.info.backend_pid)
        assert waiting.result(timeout=10) == 1
    assert guest.id not in members(connection, team.id)


def test_an_acceptance_by_somebody_being_deleted_is_refused(new_team, new_person, db):
    team, guest, connection, watcher = new_team(), new_person(), db(), db()
    invitation = team.owner.call("invite_member", p_organization_id=team.id, p_email=guest.email)
    pids: list[int] = []

    def accept():
        with (
            refused("account_suspended", 403),
            guest.transaction(commit=True) as accepting,
        ):
            pids.append(accepting.info.backend_pid)
            call(accepting, "public.accept_invitation", p_token=invitation["token"])

    with ThreadPoolExecutor(1) as pool:
        with connection.transaction():
            delete(connection, guest)
            waiting = pool.submit(accept)
            while not pids:
                assert not waiting.done()
            wait_until_blocked(watcher, pids[0])
        waiting.result(timeout=10)
    assert guest.id not in members(connection, team.id)


def test_a_founder_who_returns_while_being_deleted_does_not_deadlock(new_team, new_person, db):
    """Both need the founder's profile and the organization, and wait for the latter at once."""
    team, second_owner = new_team(), new_person()
    join(team.owner, team.id, second_owner, "owner")
    founder, deleting, watcher = team.owner, db(), db()
    founder.call("leave_organization", p_organization_id=team.id)
    token = second_owner.call("invite_member", p_organization_id=team.id, p_email=founder.email)[
        "token"
    ]
    with ThreadPoolExecutor(2) as pool, founder.transaction() as accepting:

        def accept():
            call(accepting, "public.accept_invitation", p_token=token)
            accepting.commit()

        with watcher.transaction():
            watcher.execute(
                "select 1 from public.organizations where id = %s for no key update", [team.id]
            )
            acceptance = pool.submit(accept)
            wait_until_blocked(db(), accepting.info.backend_pid)
            deletion = pool.submit(delete, deleting, founder)
            wait_until_blocked(db(), deleting.info.backend_pid)
        acceptance.result(timeout=10)
        assert deletion.result(timeout=10) == 1
    assert founder.id not in members(watcher, team.id)


def test_two_owners_struck_from_the_table_at_once_leave_an_heir(new_team, new_person, db):
    """An operator at the SQL prompt takes no lock beforehand; the trigger does."""
    team, second_owner = new_team(), new_person()
    join(team.owner, team.id, second_owner, "owner")
    first, second, watcher = db(), db(), db()

    def strike(connection, person):
        connection.execute(
            "delete from public.organization_members where user_id = %s", [person.id]
        )

    with ThreadPoolExecutor(1) as pool:
        with first.transaction():
            strike(first, team.owner)
            waiting = pool.submit(strike, second, second_owner)
            wait_until_blocked(watcher, second.info.backend_pid)
        waiting.result(timeout=10)
    assert members(first, team.id) == {team.admin.id: "owner", team.member.id: "member"}


def test_a_deletion_and_the_sending_of_an_invitation_do_not_deadlock(new_team, new_person, db):
    team, guest, deleting, sending, watcher = new_team(), new_person(), db(), db(), db()
    invitation = team.owner.call("invite_member", p_organization_id=team.id, p_email=guest.email)
    (delivery,) = deleting.execute(
        "select id from private.email_deliveries where invitation_id = %s", [invitation["id"]]
    ).fetchone()
    with ThreadPoolExecutor(1) as pool:
        with deleting.transaction():
            # What a deletion comes to first.
            deleting.execute(
                "select from public.organization_invitations where id = %s for update",
                [invitation["id"]],
            )
            waiting = pool.submit(call, sending, "backend.email_prepare", p_delivery_id=delivery)
            wait_until_blocked(watcher, sending.info.backend_pid)
            deleting.execute("delete from public.organizations where id = %s", [team.id])
        assert waiting.result(timeout=10) == {"status": "suppressed", "reason": "erased"}
