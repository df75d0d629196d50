"""The running stack: what is told arrives in the mailbox, through the worker, by itself."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage

import psycopg
import pytest

from local.stack import Stack
from tests.conftest import NewUser, User
from tests.notifications.test_emails import text_of

SECONDS = 20


def wait_for_email(stack: Stack, recipient: str, subject: str) -> EmailMessage:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for path in stack.mail.glob("*.eml"):
            message = message_from_bytes(path.read_bytes(), policy=policy.default)
            if recipient in str(message["To"]) and subject in message["Subject"]:
                return message
        time.sleep(0.1)
    raise AssertionError(f"no email with the subject {subject!r} arrived")


@pytest.mark.usefixtures("functions_url")
def test_a_receipt_arrives_in_the_mailbox(
    stack: Stack, new_user: NewUser, db: Callable[[], psycopg.Connection]
) -> None:
    user = new_user()
    db().execute(
        "select private.notify(%s, null, 'receipt',"
        ' \'{"amount_minor": 500, "currency": "eur"}\', %s)',
        [user.id, uuid.uuid4().hex],
    )
    message = wait_for_email(stack, user.email, "Reçu")
    assert message["From"] == "Quernel <quernel@localhost>"
    assert "5,00\N{NO-BREAK SPACE}€" in text_of(message)


@pytest.mark.usefixtures("functions_url")
def test_an_invitation_is_sent_and_its_link_accepted(
    stack: Stack, new_user: NewUser, db: Callable[[], psycopg.Connection]
) -> None:
    owner, guest = new_user(), new_user()
    organization = _organization(owner, db)
    owner.client.rpc(
        "invite_member", {"p_organization_id": organization, "p_email": guest.email}
    ).execute()
    text = text_of(wait_for_email(stack, guest.email, "Invitation"))
    token = text.split("/invitation#token=")[1].split()[0]
    joined = guest.client.rpc("accept_invitation", {"p_token": token}).execute().data
    assert joined["organization_id"] == organization


def _organization(owner: User, db: Callable[[], psycopg.Connection]) -> str:
    slug = f"org-{owner.id[-12:]}"
    made = owner.client.rpc("create_organization", {"p_name": "Org", "p_slug": slug}).execute()
    db().execute(
        "update public.organizations"
        " set plan_id = (select id from public.plans where slug = 'business') where slug = %s",
        [slug],
    )
    return str(made.data["id"])
