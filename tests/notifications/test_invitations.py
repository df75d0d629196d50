"""Invitations by email: the link works, no token is kept, and nobody is flooded."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest

from functions.tasks.context import TaskRetryError
from tests.notifications.conftest import Desk, Postman
from tests.notifications.test_emails import html_of, one, text_of
from tests.support.people import NewPerson, Team, refused

pytestmark = pytest.mark.anyio

LINK = re.compile(r"https://quernel\.test/invitation#token=(qi_[A-Za-z0-9_-]{43})")


def token_in(postman: Postman) -> str:
    message = postman.mailbox.received[-1].message
    (token,) = LINK.findall(text_of(message))
    assert LINK.findall(html_of(message)) == [token]
    return str(token)


def hashes(desk: Desk, invitation: dict[str, Any]) -> dict[str, bytes]:
    rows = desk.rows(
        "select purpose, token_hash from private.organization_invitation_tokens"
        " where invitation_id = %s",
        invitation["id"],
    )
    return {row["purpose"]: row["token_hash"] for row in rows}


def accept(guest: Any, token: str) -> Any:
    return guest.call("accept_invitation", p_token=token)


# What is not sent -------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["revoke", "accept", "expire", "replace", "suspend"])
async def test_an_invitation_that_is_over_is_not_sent(
    desk: Desk,
    team: Team,
    new_person: NewPerson,
    postman: Postman,
    end: str,
) -> None:
    guest = new_person()
    invitation = desk.invite(team, guest.email)
    match end:
        case "revoke":
            team.owner.call("revoke_invitation", p_invitation_id=invitation["id"])
        case "accept":
            accept(guest, invitation["token"])
        case "expire":
            desk.rows(
                "update public.organization_invitations set created_at = now() - interval '8 days',"
                " expires_at = now() where id = %s",
                invitation["id"],
            )
        case "replace":
            desk.invite(team, guest.email)
        case "suspend":
            desk.rows("update public.organizations set is_active = false where id = %s", team.id)
    task = one(invitation["tasks"])
    assert await postman.send(task) == {"status": "suppressed"}
    assert postman.mailbox.received == []
    assert set(hashes(desk, invitation)) == {"inviter"}


def test_an_address_gets_three_invitations_a_day(desk: Desk, team: Team) -> None:
    email = f"flooded-{team.slug}@quernel.test"
    tasks = [desk.invite(team, email)["tasks"] for _ in range(4)]
    assert [len(each) for each in tasks] == [1, 1, 1, 0]


def test_an_organization_sends_a_hundred_a_day(desk: Desk, team: Team) -> None:
    # Two went to its admin and its member.
    desk.rows(
        "insert into private.notifications (organization_id, template, key)"
        " select %s, 'invitation', n::text from generate_series(1, 97) as n",
        team.id,
    )
    tasks = [desk.invite(team, f"g{n}-{team.slug}@quernel.test")["tasks"] for n in range(2)]
    assert [len(each) for each in tasks] == [1, 0]


async def test_an_invitation_that_was_not_sent_works_all_the_same(
    desk: Desk, team: Team, new_person: NewPerson
) -> None:
    guest = new_person()
    invitations = [desk.invite(team, guest.email) for _ in range(4)]
    assert accept(guest, invitations[-1]["token"])["role"] == "member"


async def test_without_a_mail_server_no_token_is_made(
    desk: Desk, team: Team, new_person: NewPerson, postman: Postman
) -> None:
    invitation = desk.invite(team, new_person().email)
    task = one(invitation["tasks"])
    await postman.send(task, smtp_url=None)
    assert set(hashes(desk, invitation)) == {"inviter"}


# What is sent -----------------------------------------------------------------------------------


async def test_the_link_of_the_email_is_accepted(
    desk: Desk, team: Team, new_person: NewPerson, postman: Postman
) -> None:
    guest = new_person()
    invitation = desk.invite(team, guest.email, "admin")
    task = one(invitation["tasks"])
    await postman.send(task)
    assert postman.mailbox.received[0].recipients == (guest.email,)
    token = token_in(postman)
    assert token != invitation["token"]
    assert accept(guest, token)["organization_id"] == team.id
    for used in (token, invitation["token"]):
        with refused("invitation_already_accepted", 409):
            accept(guest, used)


async def test_the_inviters_token_goes_on_working(
    desk: Desk, team: Team, new_person: NewPerson, postman: Postman
) -> None:
    guest = new_person()
    invitation = desk.invite(team, guest.email)
    task = one(invitation["tasks"])
    await postman.send(task)
    assert accept(guest, invitation["token"])["organization_id"] == team.id
    with refused("invitation_already_accepted", 409):
        accept(guest, token_in(postman))


async def test_revoking_ends_both_tokens(
    desk: Desk, team: Team, new_person: NewPerson, postman: Postman
) -> None:
    guest = new_person()
    invitation = desk.invite(team, guest.email)
    task = one(invitation["tasks"])
    await postman.send(task)
    team.owner.call("revoke_invitation", p_invitation_id=invitation["id"])
    for token in (token_in(postman), invitation["token"]):
        with refused("invitation_revoked", 410):
            accept(guest, token)


async def test_another_attempt_replaces_the_token_of_the_one_before(
    desk: Desk, team: Team, new_person: NewPerson, postman: Postman
) -> None:
    guest = new_person()
    invitation = desk.invite(team, guest.email)
    task = one(invitation["tasks"])
    seen = []
    for number in (1, 2, 3):
        postman.mailbox.refusals["END"] = ["451 4.3.0 later"]
        with pytest.raises(TaskRetryError):
            await postman.send(task, number=number)
        seen.append(hashes(desk, invitation))
    assert all(set(each) == {"inviter", "email"} for each in seen)
    assert len({each["email"] for each in seen}) == 3
    await postman.send(task, number=4)
    token = token_in(postman)
    assert hashes(desk, invitation)["email"] == hashlib.sha256(token.encode()).digest()
    assert accept(guest, token)["organization_id"] == team.id


async def test_it_says_who_invites_to_what(desk: Desk, team: Team, postman: Postman) -> None:
    """To somebody who has no account yet, in the inviter's language."""
    desk.rows(
        "update public.profiles set first_name = 'Ada', last_name = 'Lovelace', language = 'en'"
        " where id = %s",
        team.owner.id,
    )
    task = one(desk.invite(team, f"nobody-{team.slug}@quernel.test")["tasks"])
    await postman.send(task)
    message = postman.mailbox.received[0].message
    assert message["Subject"] == "Invitation to join A team"
    text = text_of(message)
    assert "Ada Lovelace invites you to join the organization A team on Quernel." in text
    assert "You will join as member." in text


async def test_somebody_with_an_account_is_written_to_in_their_language(
    desk: Desk, team: Team, new_person: NewPerson, postman: Postman
) -> None:
    guest = new_person()
    desk.rows("update public.profiles set language = 'en' where id = %s", guest.id)
    task = one(desk.invite(team, guest.email)["tasks"])
    await postman.send(task)
    assert postman.mailbox.received[0].message["Subject"] == "Invitation to join A team"


async def test_who_switched_notifications_off_is_invited(
    desk: Desk, team: Team, new_person: NewPerson, postman: Postman
) -> None:
    guest = new_person()
    guest.execute("update public.profiles set notifications_enabled = false")
    task = one(desk.invite(team, guest.email)["tasks"])
    assert await postman.send(task) == {"status": "sent"}
