"""Invitations: a token shown once, good for one verified address, once, for a while."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.people import call, join, new_slug, put_on_plan, refused, wait_until_blocked


def invite(team, person, role="member", by=None):
    return (by or team.owner).call(
        "invite_member", p_organization_id=team.id, p_email=person.email, p_role=role
    )


def role_of(db, team, person):
    row = db().execute(
        "select role from public.organization_members where organization_id = %s and user_id = %s",
        [team.id, person.id],
    )
    found = row.fetchone()
    return found and found[0]


def test_a_member_cannot_invite(new_team, new_person):
    team = new_team()
    with refused("not_an_admin", 403):
        invite(team, new_person(), by=team.member)


def test_a_stranger_cannot_invite_themselves(new_team, new_person):
    team, stranger = new_team(), new_person()
    with refused("not_a_member", 403):
        invite(team, stranger, by=stranger)


@pytest.mark.parametrize("role", ["owner", "god", "", None])
def test_nobody_is_invited_as_owner_or_nonsense(new_team, new_person, role):
    team = new_team()
    with refused("invalid_argument", 400) as caught:
        invite(team, new_person(), role)
    assert caught[0].facts == {"param": "role"}


@pytest.mark.parametrize(
    "email", [None, "", "nobody", "a@b@c", "a b@example.com", "@", "a" * 250 + "@b.example"]
)
def test_what_is_no_address_is_not_invited(new_team, email):
    team = new_team()
    with refused("invalid_argument", 400) as caught:
        team.owner.call("invite_member", p_organization_id=team.id, p_email=email)
    assert caught[0].facts == {"param": "email"}


def test_a_member_is_not_invited_again(new_team):
    team = new_team()
    with refused("already_a_member", 409):
        invite(team, team.member)


@pytest.mark.parametrize("token", [None, "", "qi_" + "A" * 43])
def test_a_wrong_token_opens_nothing(new_person, token):
    with refused("invitation_not_found", 404):
        new_person().call("accept_invitation", p_token=token)


def test_the_stored_hash_is_not_the_token(new_team, new_person, db):
    team, guest = new_team(), new_person()
    invitation = invite(team, guest)
    row = db().execute(
        "select encode(token_hash, 'hex') from private.organization_invitation_tokens"
        " where invitation_id = %s and purpose = 'inviter'",
        [invitation["id"]],
    )
    [stored] = row.fetchone()
    assert stored == hashlib.sha256(invitation["token"].encode()).hexdigest()
    with refused("invitation_not_found", 404):
        guest.call("accept_invitation", p_token=stored)


def test_another_person_cannot_use_it(new_team, new_person, db):
    team, guest, thief = new_team(), new_person(), new_person()
    token = invite(team, guest)["token"]
    with refused("invitation_for_another_address", 403):
        thief.call("accept_invitation", p_token=token)
    assert role_of(db, team, thief) is None


def test_an_unverified_address_cannot_use_it(new_team, new_person, db):
    team, guest = new_team(), new_person(verified=False)
    token = invite(team, guest)["token"]
    with refused("email_not_verified", 403):
        guest.call("accept_invitation", p_token=token)
    assert role_of(db, team, guest) is None


def test_an_account_without_address_cannot_use_it(new_team, new_person):
    team, guest = new_team(), new_person()
    token = invite(team, guest)["token"]
    with refused("invitation_for_another_address", 403):
        new_person(email=None).call("accept_invitation", p_token=token)


def test_a_suspended_person_cannot_use_it(new_team, new_person, db):
    team, guest = new_team(), new_person()
    token = invite(team, guest)["token"]
    db().execute("update public.profiles set is_active = false where id = %s", [guest.id])
    with refused("account_suspended", 403):
        guest.call("accept_invitation", p_token=token)


def test_it_works_once(new_team, new_person):
    team, guest = new_team(), new_person()
    token = invite(team, guest)["token"]
    guest.call("accept_invitation", p_token=token)
    guest.call("leave_organization", p_organization_id=team.id)
    with refused("invitation_already_accepted", 409):
        guest.call("accept_invitation", p_token=token)


def test_it_expires(new_team, new_person, db):
    team, guest = new_team(), new_person()
    invitation = invite(team, guest)
    db().execute(
        "update public.organization_invitations"
        " set created_at = now() - interval '8 days', expires_at = now() - interval '1 second'"
        " where id = %s",
        [invitation["id"]],
    )
    with refused("invitation_expired", 410):
        guest.call("accept_invitation", p_token=invitation["token"])


def test_a_revoked_one_is_dead(new_team, new_person):
    team, guest = new_team(), new_person()
    invitation = invite(team, guest)
    team.admin.call("revoke_invitation", p_invitation_id=invitation["id"])
    with refused("invitation_revoked", 410):
        guest.call("accept_invitation", p_token=invitation["token"])


def test_a_new_one_to_the_same_address_ends_the_old(new_team, new_person, db):
    team, guest = new_team(), new_person()
    old, new = invite(team, guest, "admin"), invite(team, guest)
    with refused("invitation_revoked", 410):
        guest.call("accept_invitation", p_token=old["token"])
    guest.call("accept_invitation", p_token=new["token"])
    assert role_of(db, team, guest) == "member"


def test_a_suspended_organization_is_not_joined(new_team, new_person, db):
    team, guest = new_team(), new_person()
    token = invite(team, guest)["token"]
    db().execute("update public.organizations set is_active = false where id = %s", [team.id])
    with refused("account_suspended", 403):
        guest.call("accept_invitation", p_token=token)


def test_a_member_under_a_new_address_does_not_join_twice(new_team, new_person, db):
    team, guest = new_team(), new_person()
    invitation = invite(team, guest)
    db().execute("delete from auth.users where id = %s", [guest.id])
    db().execute("update auth.users set email = %s where id = %s", [guest.email, team.member.id])
    with refused("already_a_member", 409):
        team.member.call("accept_invitation", p_token=invitation["token"])


def test_a_member_cannot_revoke(new_team, new_person):
    team = new_team()
    invitation = invite(team, new_person())
    with refused("invitation_not_found", 404):
        team.member.call("revoke_invitation", p_invitation_id=invitation["id"])


def test_an_accepted_one_is_not_revoked(new_team, new_person):
    team, guest = new_team(), new_person()
    invitation = invite(team, guest)
    guest.call("accept_invitation", p_token=invitation["token"])
    with refused("invitation_already_accepted", 409):
        team.owner.call("revoke_invitation", p_invitation_id=invitation["id"])


def test_members_and_guests_do_not_see_invitations(new_team, new_person):
    team, guest = new_team(), new_person()
    invite(team, guest)
    for person in (team.member, guest):
        assert person.rows("select * from public.organization_invitations") == []


def test_a_hundred_invitations_may_wait_and_no_more(new_team, db):
    team = new_team()
    put_on_plan(db(), team.id, "enterprise")
    with team.owner.transaction() as connection:
        for number in range(100):
            call(
                connection,
                "public.invite_member",
                p_organization_id=team.id,
                p_email=f"guest-{number}@example.com",
            )
        with refused("invitation_limit_reached", 403) as caught:
            call(
                connection,
                "public.invite_member",
                p_organization_id=team.id,
                p_email="one-more@example.com",
            )
    assert caught[0].facts["available"] == 100


def test_a_free_organization_has_room_for_its_owner_only(new_person):
    owner, guest = new_person(), new_person()
    made = owner.call("create_organization", p_name="Free", p_slug=new_slug())
    with refused("plan_limit_reached", 402):
        owner.call("invite_member", p_organization_id=made["id"], p_email=guest.email)
    assert owner.rows("select * from public.organization_invitations") == []


def test_an_invitation_waits_for_a_plan_with_room(new_person, db):
    owner, guest = new_person(), new_person()
    made = owner.call("create_organization", p_name="Shrunk", p_slug=new_slug())
    put_on_plan(db(), made["id"], "business")
    invitation = owner.call("invite_member", p_organization_id=made["id"], p_email=guest.email)
    put_on_plan(db(), made["id"], "free")
    with refused("plan_limit_reached", 402):
        guest.call("accept_invitation", p_token=invitation["token"])
    put_on_plan(db(), made["id"], "business")
    assert guest.call("accept_invitation", p_token=invitation["token"])["role"] == "member"


def test_the_enterprise_plan_has_no_limit(new_person, db):
    owner = new_person()
    made = owner.call("create_organization", p_name="Big", p_slug=new_slug())
    put_on_plan(db(), made["id"], "enterprise")
    for _ in range(25):
        join(owner, made["id"], new_person())
    assert len(owner.rows("select * from public.organization_members")) == 26


def test_two_people_do_not_take_the_last_place(new_person, db):
    owner, guests = new_person(), [new_person() for _ in range(20)]
    made = owner.call("create_organization", p_name="Nearly full", p_slug=new_slug())
    put_on_plan(db(), made["id"], "enterprise")
    for guest in guests[:18]:
        join(owner, made["id"], guest)
    tokens = [
        owner.call("invite_member", p_organization_id=made["id"], p_email=guest.email)["token"]
        for guest in guests[18:]
    ]
    put_on_plan(db(), made["id"], "business")
    pids: list[int] = []

    def second() -> int:
        with (
            refused("plan_limit_reached", 402) as caught,
            guests[19].transaction(commit=True) as connection,
        ):
            pids.append(connection.info.backend_pid)
            call(connection, "public.accept_invitation", p_token=tokens[1])
        return caught[0].facts["limit"]

    with ThreadPoolExecutor(1) as pool:
        with guests[18].transaction(commit=True) as connection:
            call(connection, "public.accept_invitation", p_token=tokens[0])
            waiting = pool.submit(second)
            while not pids:
                assert not waiting.done()
            wait_until_blocked(db(), pids[0])
        assert waiting.result(timeout=10) == 20


def test_the_limit_holds_where_the_row_is_written(new_person, db):
    """Without any function of ours in between: two rows at once, one place."""
    owner, guests = new_person(), [new_person(), new_person()]
    made = owner.call("create_organization", p_name="Small", p_slug=new_slug())
    first, second, watcher = db(), db(), db()
    insert = "insert into public.organization_members (organization_id, user_id) values (%s, %s)"
    put_on_plan(first, made["id"], "business")
    for _ in range(18):
        first.execute(insert, [made["id"], new_person().id])
    with ThreadPoolExecutor(1) as pool:
        with first.transaction():
            first.execute(insert, [made["id"], guests[0].id])
            waiting = pool.submit(second.execute, insert, [made["id"], guests[1].id])
            wait_until_blocked(watcher, second.info.backend_pid)
        with refused("plan_limit_reached", 402):
            waiting.result(timeout=10)


def test_the_invited_person_joins_in_the_role_of_the_invitation(new_team, new_person, db):
    team, guest = new_team(), new_person()
    answer = guest.call("accept_invitation", p_token=invite(team, guest, "admin")["token"])
    assert (answer["organization_id"], answer["slug"], answer["role"]) == (
        team.id,
        team.slug,
        "admin",
    )
    assert role_of(db, team, guest) == "admin"


def test_addresses_are_compared_without_regard_to_case(new_team, new_person, db):
    team, guest = new_team(), new_person()
    db().execute("update auth.users set email = upper(email) where id = %s", [guest.id])
    invitation = team.owner.call(
        "invite_member", p_organization_id=team.id, p_email=f"  {guest.email.title()} "
    )
    assert guest.call("accept_invitation", p_token=invitation["token"])["role"] == "member"


def test_admins_see_what_waits_but_no_token(new_team, new_person):
    team, guest = new_team(), new_person()
    invite(team, guest)
    rows = team.admin.rows(
        "select * from public.organization_invitations where accepted_at is null"
    )
    assert [row["email"] for row in rows] == [guest.email]
    assert not any("token" in column for column in rows[0])


def test_every_token_is_another(new_team, new_person):
    team = new_team()
    tokens = {invite(team, new_person())["token"] for _ in range(17)}
    assert len(tokens) == 17
    assert {len(token) for token in tokens} == {46}


def test_revoking_twice_is_revoking_once(new_team, new_person):
    team = new_team()
    invitation = invite(team, new_person())
    first = team.owner.call("revoke_invitation", p_invitation_id=invitation["id"])
    assert team.owner.call("revoke_invitation", p_invitation_id=invitation["id"]) == first
