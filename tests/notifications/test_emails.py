"""Emails: to whom, in which words, what cannot get in, and what happens when nobody takes them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from email.message import EmailMessage
from html.parser import HTMLParser
from typing import Any

import pytest

from functions.notifications.retries import PAUSES_SECONDS
from functions.tasks.context import TaskRejectedError, TaskRetryError
from local.processes import free_port
from tests.notifications.conftest import Desk, Postman
from tests.support.people import NewPerson, Person, Team

pytestmark = pytest.mark.anyio

RECEIPT = {
    "amount_minor": 123456,
    "currency": "eur",
    "description": "25 000 crédits",
    "credits": 25000,
    "invoice_url": "https://invoice.stripe.com/i/acct_1/test_1",
}
NBSP, NARROW = "\u00a0", "\u202f"


def one(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    (task,) = tasks
    return task


def text_of(message: EmailMessage) -> str:
    part = message.get_body(("plain",))
    assert part is not None
    content: str = part.get_content()
    return content.replace("\r\n", "\n")


def html_of(message: EmailMessage) -> str:
    part = message.get_body(("html",))
    assert part is not None
    content: str = part.get_content()
    return content


@dataclass(frozen=True)
class Alert:
    """What billing tells, and what is to be read of it."""

    template: str
    facts: dict[str, Any]
    subject: str
    sentences: list[str]


class Anatomy(HTMLParser):
    """Which elements a page has, and where its links lead."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.links: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.links += [value for name, value in attrs if name == "href"]


# Nobody to write to -----------------------------------------------------------------------------


async def test_an_erased_person_gets_nothing(desk: Desk, person: Person, postman: Postman) -> None:
    task = one(desk.tell(person))
    desk.rows("delete from auth.users where id = %s", person.id)
    result = await postman.send(task)
    assert result == {"status": "suppressed"}
    assert postman.mailbox.received == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("email = null", "no_address"),
        ("email_verified_at = null", "unverified"),
        ("is_active = false", "suspended"),
        ("notifications_enabled = false", "opted_out"),
    ],
)
async def test_what_has_changed_since_counts(
    desk: Desk, person: Person, postman: Postman, change: str, reason: str
) -> None:
    task = one(desk.tell(person, "low_balance"))
    desk.rows(f"update public.profiles set {change} where id = %s", person.id)  # noqa: S608
    assert await postman.send(task) == {"status": "suppressed"}
    assert postman.mailbox.received == []
    row = desk.email(task)
    assert (row["status"], row["reason"], row["attempts"]) == ("suppressed", reason, 0)


async def test_who_administers_no_longer_gets_nothing(
    desk: Desk, team: Team, postman: Postman
) -> None:
    tasks = desk.tell(team)
    team.owner.call(
        "change_member_role", p_organization_id=team.id, p_user_id=team.admin.id, p_role="member"
    )
    results = [await postman.send(task) for task in tasks]
    assert sorted(result["status"] for result in results) == ["sent", "suppressed"]
    assert postman.mailbox.received[0].recipients == (team.owner.email,)


async def test_without_a_mail_server_the_task_is_done_and_the_email_suppressed(
    desk: Desk, person: Person, postman: Postman
) -> None:
    task = one(desk.tell(person))
    assert await postman.send(task, smtp_url=None) == {"status": "suppressed"}
    row = desk.email(task)
    assert (row["status"], row["reason"]) == ("suppressed", "not_configured")


@pytest.mark.parametrize(
    "payload", [{}, {"delivery_id": None}, {"delivery_id": 1}, {"delivery_id": "x"}]
)
async def test_a_task_that_names_no_email_is_dead(
    desk: Desk, person: Person, postman: Postman, payload: dict[str, Any]
) -> None:
    task = one(desk.tell(person))
    with pytest.raises(TaskRejectedError):
        await postman.send(task | {"payload": payload})


# What cannot get in -----------------------------------------------------------------------------


async def test_a_name_cannot_add_a_header(desk: Desk, person: Person, postman: Postman) -> None:
    desk.rows(
        "update public.profiles set full_name = %s where id = %s",
        "Eve\r\nBcc: victim@quernel.test\r\n\r\n<script>alert(1)</script>",
        person.id,
    )
    message = await postman.sent(one(desk.tell(person, facts=RECEIPT)))
    assert message["Bcc"] is None
    assert postman.mailbox.received[0].recipients == (person.email,)
    assert [command for command in postman.mailbox.said if command.startswith("RCPT")] == [
        f"RCPT TO:<{person.email}>"
    ]
    assert message["To"].addresses[0].addr_spec == person.email


async def test_a_fact_in_the_subject_cannot_add_a_header(
    desk: Desk, person: Person, postman: Postman
) -> None:
    task = one(
        desk.tell(person, "invoice_overdue", {"number": "1\r\nBcc: x@quernel.test\n\n\u2028"})
    )
    message = await postman.sent(task)
    assert message["Bcc"] is None
    assert message["Subject"].splitlines() == [message["Subject"]]
    assert "Bcc:" in message["Subject"]


@pytest.mark.parametrize(
    "address",
    [
        "a@quernel.test,b@quernel.test",
        "a@quernel.test\r\nBcc: b@quernel.test",
        "a@quernel.test>\r\nRCPT TO:<b@quernel.test",
        "<a@quernel.test>",
        "no-address",
        "a b@quernel.test",
        "@quernel.test",
        "a@",
    ],
)
async def test_what_is_not_one_address_is_written_to_by_nobody(
    desk: Desk, person: Person, postman: Postman, address: str
) -> None:
    task = one(desk.tell(person))
    desk.rows("update public.profiles set email = %s where id = %s", address, person.id)
    assert await postman.send(task) == {"status": "suppressed"}
    assert postman.mailbox.received == []
    assert postman.mailbox.said == []
    assert desk.email(task)["reason"] == "no_address"


async def test_html_shows_what_was_written_and_runs_none_of_it(
    desk: Desk, person: Person, postman: Postman
) -> None:
    evil = "<img src=x onerror=alert(1)> & \"quoted\" 'too' <a href=x>"
    desk.rows("update public.profiles set full_name = %s where id = %s", evil, person.id)
    task = one(desk.tell(person, facts=RECEIPT | {"description": evil}))
    page = html_of(await postman.sent(task))
    anatomy = Anatomy(page)
    assert set(anatomy.elements) == {"html", "head", "meta", "title", "body", "p", "a"}
    assert anatomy.links == [RECEIPT["invoice_url"]]
    assert "&lt;img src=x onerror=alert(1)&gt; &amp; &quot;quoted&quot;" in page


@pytest.mark.parametrize(
    "url",
    [
        "http://invoice.stripe.com/i/1",
        "javascript:alert(1)",
        "https://invoice.stripe.com/\r\nBcc: x",
        'https://x/"><script>',
        "",
        None,
        7,
        "https://x/" + "y" * 3000,
    ],
)
async def test_a_link_is_https_or_none(
    desk: Desk, person: Person, postman: Postman, url: object
) -> None:
    task = one(desk.tell(person, facts=RECEIPT | {"invoice_url": url}))
    message = await postman.sent(task)
    assert Anatomy(html_of(message)).links == ["https://quernel.test"]
    assert "Ouvrir Quernel\nhttps://quernel.test\n" in text_of(message)


async def test_no_mail_program_finds_a_link_in_a_name(
    desk: Desk, team: Team, new_person: NewPerson, postman: Postman
) -> None:
    desk.rows(
        "update public.organizations set name = 'You won! https://evil.example/win' where id = %s",
        team.id,
    )
    task = one(desk.invite(team, new_person().email)["tasks"])
    message = await postman.sent(task)
    assert "evil.example" not in text_of(message) + html_of(message) + message["Subject"]
    assert "https://evil" not in text_of(message) + html_of(message) + message["Subject"]


async def test_a_fact_that_is_not_known_leaves_its_sentence_out(
    desk: Desk, person: Person, postman: Postman
) -> None:
    facts = {"amount_minor": None, "currency": 7, "credits": "many", "description": ["x"]}
    message = await postman.sent(one(desk.tell(person, facts=facts)))
    assert message["Subject"] == "Reçu de votre paiement"
    assert "{" not in text_of(message)
    assert "None" not in text_of(message)


# What is said -----------------------------------------------------------------------------------


async def test_a_receipt_in_french(desk: Desk, person: Person, postman: Postman) -> None:
    desk.rows("update public.profiles set full_name = 'Ada Lovelace' where id = %s", person.id)
    message = await postman.sent(one(desk.tell(person, facts=RECEIPT)))
    amount = f"1{NARROW}234,56{NBSP}€"
    assert message["Subject"] == f"Reçu de votre paiement de {amount}"
    assert message["From"] == "Quernel <hello@quernel.test>"
    assert message["To"] == f"Ada Lovelace <{person.email}>"
    text = text_of(message)
    assert text.startswith("Bonjour Ada Lovelace,\n\nNous avons bien reçu votre paiement")
    assert amount in text
    assert "Objet : 25 000 crédits" in text
    assert f"25{NARROW}000 crédits ont été ajoutés" in text
    assert f"Voir la facture\n{RECEIPT['invoice_url']}\n" in text
    assert 'lang="fr"' in html_of(message)
    assert "Nous avons bien reçu votre paiement" in html_of(message)


async def test_a_receipt_in_english(desk: Desk, person: Person, postman: Postman) -> None:
    person.execute("update public.profiles set language = 'en'")
    message = await postman.sent(one(desk.tell(person, facts=RECEIPT)))
    assert message["Subject"] == "Receipt for your payment of €1,234.56"
    assert message["To"] == person.email
    text = text_of(message)
    assert text.startswith("Hello,\n\nWe have received your payment of €1,234.56. Thank you!")
    assert "25,000 credits were added" in text
    assert 'lang="en"' in html_of(message)


async def test_the_language_is_the_one_of_now(desk: Desk, person: Person, postman: Postman) -> None:
    task = one(desk.tell(person))
    person.execute("update public.profiles set language = 'en'")
    assert (await postman.sent(task))["Subject"] == "Receipt for your payment"


async def test_an_organization_is_named_to_those_who_have_several(
    desk: Desk, team: Team, postman: Postman
) -> None:
    for task in desk.tell(team, "payment_failed", {"amount_minor": 500, "currency": "jpy"}):
        message = await postman.sent(task)
        assert "l\N{RIGHT SINGLE QUOTATION MARK}organisation A team." in text_of(message)
        assert message["Subject"] == f"Votre paiement de 500{NBSP}JPY a été refusé"
    assert {received.recipients for received in postman.mailbox.received} == {
        (team.owner.email,),
        (team.admin.email,),
    }


@pytest.mark.parametrize(
    "alert",
    [
        Alert(
            "subscription_expiring",
            {"plan": "Pro", "ends_at": "2030-01-02T00:00:00Z", "reason": "end"},
            "Your Pro subscription ends on 2 January 2030",
            ["Your subscription ends on 2 January 2030. Unless it is renewed"],
        ),
        Alert(
            "subscription_expiring",
            {"plan": "Pro", "trial_ends_at": "2030-01-02T00:00:00Z", "reason": "trial"},
            "Your trial ends on 2 January 2030",
            ["Your trial ends on 2 January 2030; after it the paid subscription begins."],
        ),
        Alert(
            "usage_threshold",
            {"percent": 80, "used": 80000, "limit": 100000, "limit_source": "plan.monthly_tokens"},
            "You have used 80% of your limit",
            ["Used: 80,000 of 100,000 tokens\n"],
        ),
        Alert(
            "usage_threshold",
            {"percent": 100, "used": 5, "limit": 5, "limit_source": "something new"},
            "You have used 100% of your limit",
            ["Used: 5 of 5\n"],
        ),
        Alert(
            "low_balance",
            {"threshold": 50, "balance": 49.5},
            "You have 49.50 credits left",
            ["Your balance has fallen below 50 credits.", "Balance: 49.50 credits"],
        ),
        Alert(
            "invoice_overdue",
            {
                "number": "F-7",
                "due_at": "2030-01-02T00:00:00Z",
                "amount_minor": 1,
                "currency": "eur",
            },
            "Invoice F-7 is overdue",
            ["It was due on 2 January 2030.", "Amount: €0.01"],
        ),
    ],
)
async def test_the_alerts_of_billing_read_well(
    desk: Desk, person: Person, postman: Postman, alert: Alert
) -> None:
    person.execute("update public.profiles set language = 'en'")
    message = await postman.sent(one(desk.tell(person, alert.template, alert.facts)))
    assert message["Subject"] == alert.subject
    assert all(sentence in text_of(message) for sentence in alert.sentences)
    assert "{" not in text_of(message)


async def test_who_may_switch_it_off_is_told_how(
    desk: Desk, person: Person, postman: Postman
) -> None:
    warning = await postman.sent(one(desk.tell(person, "low_balance", {"balance": 3.5})))
    assert warning["Subject"] == "Il vous reste 3,50 crédits"
    assert "vous pouvez les désactiver" in text_of(warning)
    assert "vous pouvez les désactiver" not in text_of(await postman.sent(one(desk.tell(person))))


async def test_the_message_is_one_a_mail_server_wants(
    desk: Desk, person: Person, postman: Postman
) -> None:
    task = one(desk.tell(person, facts=RECEIPT))
    message = await postman.sent(task)
    assert message["Message-ID"] == f"<{task['payload']['delivery_id']}@quernel.test>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime.tzinfo is not None
    assert message.get_content_type() == "multipart/alternative"
    assert postman.mailbox.received[0].content.isascii()
    assert max(map(len, postman.mailbox.received[0].content.split(b"\r\n"))) <= 998
    assert postman.mailbox.said[0] == "EHLO quernel"


# How it is handed over --------------------------------------------------------------------------


async def test_what_was_sent_is_not_sent_again(
    desk: Desk, person: Person, postman: Postman
) -> None:
    task = one(desk.tell(person))
    await postman.sent(task)
    assert await postman.send(task) == {"status": "sent"}
    assert len(postman.mailbox.received) == 1
    row = desk.email(task)
    assert (row["status"], row["attempts"], row["reason"]) == ("sent", 1, None)
    assert row["sent_at"] is not None
    assert row["provider_reply"].startswith("2.0.0 queued as ")


async def test_a_mail_server_that_is_down_is_tried_again(
    desk: Desk, person: Person, postman: Postman
) -> None:
    task = one(desk.tell(person))
    with pytest.raises(TaskRetryError) as caught:
        await postman.send(task, smtp_url=f"smtp://127.0.0.1:{free_port()}?starttls=off")
    assert 5 <= caught.value.seconds <= 6
    row = desk.email(task)
    assert (row["status"], row["reason"], row["attempts"]) == ("queued", "unreachable", 1)
    await postman.sent(task)
    row = desk.email(task)
    assert (row["status"], row["reason"], row["attempts"]) == ("sent", None, 2)


@pytest.mark.parametrize(("number", "pause"), list(enumerate(PAUSES_SECONDS, 1)))
async def test_the_pauses_grow(
    desk: Desk, person: Person, postman: Postman, number: int, pause: int
) -> None:
    task = one(desk.tell(person))
    postman.mailbox.refusals["EHLO"] = ["421 4.3.2 later"]
    postman.mailbox.refusals["HELO"] = ["421 4.3.2 later"]
    with pytest.raises(TaskRetryError) as caught:
        await postman.send(task, number=number)
    assert pause <= caught.value.seconds <= 1.2 * pause + 1


async def test_after_the_last_attempt_it_has_failed(
    desk: Desk, person: Person, postman: Postman
) -> None:
    task = one(desk.tell(person))
    desk.exhaust(task)
    postman.mailbox.refusals["END"] = ["451 4.3.0 later"]
    with pytest.raises(TaskRetryError):  # for the operator, who sees that the task has died
        await postman.send(task, number=8)
    row = desk.email(task)
    assert (row["status"], row["reason"]) == ("failed", "deferred")


async def test_an_operator_may_have_it_tried_anew(
    desk: Desk, person: Person, postman: Postman
) -> None:
    task = one(desk.tell(person))
    desk.rows(
        "update private.email_deliveries set status = 'failed', reason = 'timeout' where id = %s",
        task["payload"]["delivery_id"],
    )
    await postman.sent(task)
    assert desk.email(task)["status"] == "sent"


@pytest.mark.parametrize(
    ("verb", "reply"),
    [("RCPT", "550 5.1.1 <{address}> is unknown"), ("END", "554 5.7.1 {address} looks like spam")],
)
async def test_a_refusal_is_final_and_holds_no_address(
    desk: Desk, person: Person, postman: Postman, verb: str, reply: str
) -> None:
    task = one(desk.tell(person))
    postman.mailbox.refusals[verb] = [reply.format(address=person.email)]
    assert await postman.send(task) == {"status": "failed"}
    row = desk.email(task)
    assert (row["status"], row["reason"], row["provider_reply"]) == ("failed", "refused", None)


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        ({"RCPT": ["450 4.2.0 greylisted"]}, "deferred"),
        ({"END": ["451 4.3.0 later"]}, "deferred"),
        ({"MAIL": ["550 5.7.1 not your domain"]}, "sender_refused"),
    ],
)
async def test_other_troubles_pass(
    desk: Desk, person: Person, postman: Postman, refusal: dict[str, list[str]], reason: str
) -> None:
    task = one(desk.tell(person))
    postman.mailbox.refusals |= refusal
    with pytest.raises(TaskRetryError):
        await postman.send(task)
    assert (desk.email(task)["status"], desk.email(task)["reason"]) == ("queued", reason)
    await postman.sent(task)


async def test_a_server_without_starttls_gets_neither_the_password_nor_the_message(
    desk: Desk, person: Person, postman: Postman
) -> None:
    task = one(desk.tell(person))
    url = f"smtp://user:s3cr3t-of-the-mail-server@127.0.0.1:{postman.port}"
    with pytest.raises(TaskRetryError):
        await postman.send(task, smtp_url=url)
    assert postman.mailbox.received == []
    assert not any(command.startswith(("AUTH", "MAIL")) for command in postman.mailbox.said)


async def test_an_answer_that_repeats_the_address_is_stored_without_it(
    desk: Desk, person: Person, postman: Postman
) -> None:
    task = one(desk.tell(person))
    postman.mailbox.refusals["END"] = [f"250 2.0.0 <{person.email}> Ok: queued as 4XyZ"]
    assert await postman.send(task) == {"status": "sent"}
    assert desk.email(task)["provider_reply"] == "2.0.0 … Ok: queued as 4XyZ"


async def test_no_log_names_the_recipient(
    desk: Desk,
    person: Person,
    postman: Postman,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "functions")
    task = one(desk.tell(person))
    postman.mailbox.refusals["RCPT"] = [f"450 4.2.0 <{person.email}> later"]
    with pytest.raises(TaskRetryError) as caught:
        await postman.send(task)
    await postman.sent(task)
    told = [str(vars(record)) for record in caplog.records if record.name.startswith("functions")]
    assert any("email delivery" in line for line in told)
    assert person.email is not None
    assert not any(person.email in line for line in [*told, str(caught.value)])
