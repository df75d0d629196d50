"""Organizations: who makes, sees and changes them."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.support.people import Refusal, call, new_slug, refused, wait_until_blocked

PEOPLE_COLUMNS = {
    "user_id",
    "role",
    "first_name",
    "last_name",
    "full_name",
    "avatar_url",
    "joined_at",
}


@pytest.mark.parametrize(
    "slug",
    [
        None,
        "",
        "ab",
        "a" * 64,
        "Upper",
        "under_score",
        "-start",
        "end-",
        "two--hyphens",
        "with space",
        "é-accent",
        "line\nbreak",
        "trailing\n",
        "5f0d7c52-0f9d-4c3c-9c5e-1f6f0f4d8f11",
    ],
)
def test_a_malformed_slug_is_refused(new_person, slug):
    with refused("invalid_argument", 400) as caught:
        new_person().call("create_organization", p_name="Name", p_slug=slug)
    assert caught[0].facts == {"param": "slug"}


@pytest.mark.parametrize("slug", ["admin", "api", "quernel", "www", "support"])
def test_a_reserved_slug_is_refused(new_person, slug):
    with refused("slug_reserved", 400):
        new_person().call("create_organization", p_name="Name", p_slug=slug)


@pytest.mark.parametrize("name", [None, "", "   ", "n" * 256])
def test_a_malformed_name_is_refused(new_person, name):
    with refused("invalid_argument", 400) as caught:
        new_person().call("create_organization", p_name=name, p_slug=new_slug())
    assert caught[0].facts == {"param": "name"}


def test_a_taken_slug_is_refused(new_person):
    slug = new_slug()
    new_person().call("create_organization", p_name="First", p_slug=slug)
    with refused("slug_taken", 409):
        new_person().call("create_organization", p_name="Second", p_slug=slug)


def test_a_visitor_cannot_make_an_organization(as_role):
    with as_role("anon") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        call(connection, "public.create_organization", p_name="Name", p_slug=new_slug())


def test_a_suspended_person_cannot_make_an_organization(new_person, db):
    person = new_person()
    db().execute("update public.profiles set is_active = false where id = %s", [person.id])
    with refused("account_suspended", 403):
        person.call("create_organization", p_name="Name", p_slug=new_slug())


def test_one_person_makes_ten_organizations_and_no_more(new_person):
    person = new_person()
    for _ in range(10):
        person.call("create_organization", p_name="Name", p_slug=new_slug())
    with refused("organization_limit_reached", 403) as caught:
        person.call("create_organization", p_name="Name", p_slug=new_slug())
    assert caught[0].facts == {
        "limit_source": "settings.max_organizations_per_user",
        "required": 11,
        "available": 10,
        "remedy": "contact_support",
    }


def test_two_requests_at_once_do_not_pass_the_limit(new_person, db):
    person = new_person()
    for _ in range(9):
        person.call("create_organization", p_name="Name", p_slug=new_slug())
    pids: list[int] = []

    def tenth_or_eleventh() -> Refusal:
        with (
            refused("organization_limit_reached", 403) as caught,
            person.transaction(commit=True) as connection,
        ):
            pids.append(connection.info.backend_pid)
            call(connection, "public.create_organization", p_name="B", p_slug=new_slug())
        return caught[0]

    with ThreadPoolExecutor(1) as pool:
        with person.transaction(commit=True) as connection:
            call(connection, "public.create_organization", p_name="A", p_slug=new_slug())
            second = pool.submit(tenth_or_eleventh)
            while not pids:
                assert not second.done()
            wait_until_blocked(db(), pids[0])
        assert second.result(timeout=10).facts["required"] == 11


@pytest.mark.parametrize(
    "table", ["organizations", "organization_members", "organization_invitations"]
)
@pytest.mark.parametrize("verb", ["insert", "update", "delete"])
def test_not_even_an_owner_writes_the_tables(new_team, table, verb):
    team = new_team()
    statement = {
        "insert": f"insert into public.{table} default values",
        "update": f"update public.{table} set updated_at = now()",  # noqa: S608
        "delete": f"delete from public.{table}",  # noqa: S608
    }[verb]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        team.owner.execute(statement)


def test_a_stranger_sees_nothing_of_it(new_team, new_person):
    new_team()
    stranger = new_person()
    for table in ("organizations", "organization_members", "organization_invitations"):
        assert stranger.rows(f"select * from public.{table}") == []  # noqa: S608


def test_nobody_reads_the_hashes_of_tokens(new_team):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        new_team().owner.rows("select * from private.organization_invitation_tokens")


def test_a_member_cannot_change_it(new_team):
    team = new_team()
    with refused("not_an_admin", 403):
        team.member.call("update_organization", p_organization_id=team.id, p_name="Mine")


def test_a_stranger_cannot_change_it(new_team, new_person):
    team = new_team()
    with refused("not_a_member", 403):
        new_person().call("update_organization", p_organization_id=team.id, p_name="Mine")


@pytest.mark.parametrize(
    "settings", [[], {"a": "x" * 16384}], ids=["not an object", "more than 16 KiB"]
)
def test_bad_settings_are_refused(new_team, settings):
    team = new_team()
    with refused("invalid_argument", 400) as caught:
        team.owner.call("update_organization", p_organization_id=team.id, p_settings=settings)
    assert caught[0].facts == {"param": "settings"}


def test_a_stranger_is_told_no_names(new_team, new_person):
    team = new_team()
    with refused("not_a_member", 403):
        new_person().call("organization_people", p_organization_id=team.id)


def test_a_suspended_organization_is_seen_by_nobody(new_team, db):
    team = new_team()
    db().execute("update public.organizations set is_active = false where id = %s", [team.id])
    assert team.owner.rows("select * from public.organizations") == []
    assert team.owner.rows("select * from public.organization_members") == []
    with refused("account_suspended", 403):
        team.owner.call("organization_people", p_organization_id=team.id)


def test_who_makes_it_owns_it(new_person):
    person, slug = new_person(), new_slug()
    made = person.call("create_organization", p_name="  A name ", p_slug=slug)
    assert (made["name"], made["slug"], made["settings"]) == ("A name", slug, {})
    [membership] = person.rows("select * from public.organization_members")
    assert (str(membership["organization_id"]), membership["role"]) == (made["id"], "owner")


def test_an_admin_changes_name_and_settings_but_not_the_slug(new_team):
    team = new_team()
    answer = team.admin.call(
        "update_organization", p_organization_id=team.id, p_name="New", p_settings={"tone": "calm"}
    )
    assert (answer["name"], answer["settings"], answer["slug"]) == (
        "New",
        {"tone": "calm"},
        team.slug,
    )


def test_what_is_not_given_stays(new_team):
    team = new_team()
    team.owner.call("update_organization", p_organization_id=team.id, p_settings={"tone": "calm"})
    answer = team.owner.call("update_organization", p_organization_id=team.id, p_name="New")
    assert answer["settings"] == {"tone": "calm"}


def test_members_see_their_organization(new_team):
    team = new_team()
    for person in (team.owner, team.admin, team.member):
        [row] = person.rows("select * from public.organizations")
        assert str(row["id"]) == team.id


def test_a_member_sees_no_membership_but_their_own(new_team):
    team = new_team()
    rows = team.member.rows("select * from public.organization_members")
    assert [str(row["user_id"]) for row in rows] == [team.member.id]


@pytest.mark.parametrize("who", ["owner", "admin"])
def test_owners_and_admins_see_every_membership(new_team, who):
    team = new_team()
    rows = getattr(team, who).rows("select * from public.organization_members")
    assert {(str(row["user_id"]), row["role"]) for row in rows} == {
        (team.owner.id, "owner"),
        (team.admin.id, "admin"),
        (team.member.id, "member"),
    }


def test_a_member_is_told_who_the_others_are_and_nothing_private(new_team):
    team = new_team()
    team.owner.execute("update public.profiles set full_name = 'Ada'")
    people = team.member.call("organization_people", p_organization_id=team.id)
    assert [(p["user_id"], p["role"]) for p in people] == [
        (team.owner.id, "owner"),
        (team.admin.id, "admin"),
        (team.member.id, "member"),
    ]
    assert people[0]["full_name"] == "Ada"
    assert all(set(p) == PEOPLE_COLUMNS for p in people)


def test_an_organization_that_does_not_exist_is_answered_like_a_foreign_one(new_person):
    with refused("not_a_member", 403):
        new_person().call("organization_people", p_organization_id=str(uuid.uuid4()))
