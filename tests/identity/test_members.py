"""Members: who may remove, promote and limit whom, and why an owner always remains."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from tests.support.people import call, join, refused, wait_until_blocked


def members(db, team):
    rows = db().execute(
        "select user_id::text, role from public.organization_members where organization_id = %s",
        [team.id],
    )
    return dict(rows.fetchall())


def change(function, **arguments):
    """A change to the target, to be tried by somebody."""

    def attempt(who, team, target):
        return who.call(function, p_organization_id=team.id, p_user_id=target.id, **arguments)

    attempt.__name__ = "_".join([function, *map(str, arguments.values())])
    return attempt


CHANGES = [
    change("remove_member"),
    change("change_member_role", p_role="member"),
    change("change_member_role", p_role="admin"),
    change("change_member_role", p_role="owner"),
    change("set_member_budget", p_budget=5),
]
by_name = pytest.mark.parametrize("attempt", CHANGES, ids=lambda attempt: attempt.__name__)


@by_name
def test_a_stranger_changes_nobody(new_team, new_person, db, attempt):
    team = new_team()
    before = members(db, team)
    with refused("not_a_member", 403):
        attempt(new_person(), team, team.member)
    assert members(db, team) == before


@by_name
def test_a_member_changes_nobody_not_even_themselves(new_team, db, attempt):
    team = new_team()
    before = members(db, team)
    for target in (team.owner, team.admin, team.member):
        with refused("not_an_admin", 403):
            attempt(team.member, team, target)
    assert members(db, team) == before


@by_name
def test_an_admin_changes_no_owner(new_team, db, attempt):
    team = new_team()
    before = members(db, team)
    with refused("not_an_owner", 403):
        attempt(team.admin, team, team.owner)
    assert members(db, team) == before


@by_name
def test_a_person_of_another_organization_is_not_found(new_team, new_person, attempt):
    team = new_team()
    with refused("member_not_found", 404):
        attempt(team.owner, team, new_person())


@by_name
def test_a_suspended_owner_changes_nobody(new_team, db, attempt):
    team = new_team()
    db().execute("update public.profiles set is_active = false where id = %s", [team.owner.id])
    with refused("account_suspended", 403):
        attempt(team.owner, team, team.member)


@pytest.mark.parametrize("target", ["admin", "member"])
def test_an_admin_makes_no_owner(new_team, db, target):
    team = new_team()
    with refused("not_an_owner", 403):
        change("change_member_role", p_role="owner")(team.admin, team, getattr(team, target))
    assert list(members(db, team).values()).count("owner") == 1


@pytest.mark.parametrize("role", ["god", "", None])
def test_an_unknown_role_is_refused(new_team, role):
    team = new_team()
    with refused("invalid_argument", 400):
        change("change_member_role", p_role=role)(team.owner, team, team.member)


@pytest.mark.parametrize("budget", ["-0.000001", "-5", "NaN", "1e14", "1e40", "Infinity"])
def test_a_budget_is_a_credit_amount(new_team, db, budget):
    team = new_team()
    with refused("invalid_amount", 400):
        change("set_member_budget", p_budget=Decimal(budget))(team.owner, team, team.member)
    row = db().execute(
        "select count(*) from public.organization_members"
        " where organization_id = %s and monthly_credit_budget is not null",
        [team.id],
    )
    assert row.fetchone() == (0,)


def test_the_last_owner_cannot_leave(new_team, db):
    team = new_team()
    with refused("last_owner", 409):
        team.owner.call("leave_organization", p_organization_id=team.id)
    assert members(db, team)[team.owner.id] == "owner"


def test_the_last_owner_is_not_removed(new_team, db):
    team = new_team()
    with refused("last_owner", 409):
        change("remove_member")(team.owner, team, team.owner)
    assert members(db, team)[team.owner.id] == "owner"


@pytest.mark.parametrize("role", ["admin", "member"])
def test_the_last_owner_is_not_demoted(new_team, db, role):
    team = new_team()
    with refused("last_owner", 409):
        change("change_member_role", p_role=role)(team.owner, team, team.owner)
    assert members(db, team)[team.owner.id] == "owner"


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("leave_organization", []),
        ("remove_member", ["p_user_id"]),
        ("change_member_role", ["p_user_id", "p_role"]),
    ],
    ids=["leaves", "removes themselves", "demotes themselves"],
)
def test_of_two_owners_going_at_once_one_stays(new_team, new_person, db, function, arguments):
    team, second_owner = new_team(), new_person()
    join(team.owner, team.id, second_owner, "owner")
    pids: list[int] = []

    def way_out(connection, me):
        values = {"p_user_id": me.id, "p_role": "member"}
        wanted = {name: values[name] for name in arguments}
        call(connection, f"public.{function}", p_organization_id=team.id, **wanted)

    def second_goes() -> None:
        with refused("last_owner", 409), second_owner.transaction(commit=True) as connection:
            pids.append(connection.info.backend_pid)
            way_out(connection, second_owner)

    with ThreadPoolExecutor(1) as pool:
        with team.owner.transaction(commit=True) as connection:
            way_out(connection, team.owner)
            waiting = pool.submit(second_goes)
            while not pids:
                assert not waiting.done()
            wait_until_blocked(db(), pids[0])
        waiting.result(timeout=10)
    assert members(db, team)[second_owner.id] == "owner"
    assert list(members(db, team).values()).count("owner") == 1


def test_an_owner_demoted_meanwhile_no_longer_decides(new_team, new_person, db):
    """The role is read again after the wait for the lock."""
    team, second_owner = new_team(), new_person()
    join(team.owner, team.id, second_owner, "owner")
    pids: list[int] = []

    def demoted_promotes() -> None:
        with (
            refused("not_an_admin", 403),
            second_owner.transaction(commit=True) as connection,
        ):
            pids.append(connection.info.backend_pid)
            call(
                connection,
                "public.change_member_role",
                p_organization_id=team.id,
                p_user_id=team.member.id,
                p_role="owner",
            )

    with ThreadPoolExecutor(1) as pool:
        with team.owner.transaction(commit=True) as connection:
            call(
                connection,
                "public.change_member_role",
                p_organization_id=team.id,
                p_user_id=second_owner.id,
                p_role="member",
            )
            waiting = pool.submit(demoted_promotes)
            while not pids:
                assert not waiting.done()
            wait_until_blocked(db(), pids[0])
        waiting.result(timeout=10)
    assert members(db, team)[team.member.id] == "member"


def test_with_another_owner_the_first_may_leave(new_team, new_person, db):
    team, second_owner = new_team(), new_person()
    join(team.owner, team.id, second_owner, "owner")
    team.owner.call("leave_organization", p_organization_id=team.id)
    assert team.owner.id not in members(db, team)
    assert team.owner.rows("select * from public.organizations") == []


def test_a_member_leaves(new_team, db):
    team = new_team()
    team.member.call("leave_organization", p_organization_id=team.id)
    assert team.member.id not in members(db, team)


def test_an_admin_removes_members_and_admins(new_team, new_person, db):
    team, other_admin = new_team(), new_person()
    join(team.owner, team.id, other_admin, "admin")
    change("remove_member")(team.admin, team, team.member)
    change("remove_member")(team.admin, team, other_admin)
    assert members(db, team) == {team.owner.id: "owner", team.admin.id: "admin"}


def test_an_admin_promotes_to_admin_and_back(new_team, db):
    team = new_team()
    change("change_member_role", p_role="admin")(team.admin, team, team.member)
    assert members(db, team)[team.member.id] == "admin"
    change("change_member_role", p_role="member")(team.admin, team, team.member)
    assert members(db, team)[team.member.id] == "member"


def test_an_owner_makes_another(new_team, db):
    team = new_team()
    change("change_member_role", p_role="owner")(team.owner, team, team.member)
    assert members(db, team)[team.member.id] == "owner"


@pytest.mark.parametrize("budget", [Decimal(0), Decimal("12.5"), None])
def test_an_admin_sets_a_members_budget(new_team, budget):
    team = new_team()
    answer = change("set_member_budget", p_budget=budget)(team.admin, team, team.member)
    [row] = team.member.rows("select * from public.organization_members")
    assert row["monthly_credit_budget"] == budget
    assert answer["user_id"] == team.member.id
