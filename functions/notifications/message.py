"""Makes an email of a template, facts and a recipient: plain text, and HTML that says the same."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import localtime
from html import escape
from uuid import UUID

from functions.core.json import Json
from functions.notifications.texts import FRAMES, TEXTS, Language, Text
from functions.notifications.values import plain, values, web_address

PRODUCT = "Quernel"
"""What the product is called where the sender has no name."""

_HTML = string.Template("""\
<!doctype html>
<html lang="$language">
<head><meta charset="utf-8"><title>$subject</title></head>
<body style="font-family: sans-serif; line-height: 1.5; max-width: 36em; margin: 2em auto">
$paragraphs
<p><a href="$link">$action</a></p>
<p style="color: #666; font-size: 85%">$footer</p>
</body>
</html>
""")


class UnwritableError(Exception):
    """No email can be made for this recipient: what is stored as the address is none."""


@dataclass(frozen=True)
class Email:
    """What backend.email_prepare answered. Has no repr with the address or the token in it."""

    address: str
    name: str | None
    language: Language
    template: str
    is_transactional: bool
    facts: Mapping[str, Json]

    def __repr__(self) -> str:
        return f"Email(template={self.template!r}, language={self.language!r})"

    @classmethod
    def from_row(cls, row: Mapping[str, Json]) -> Email:
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})


def compose(email: Email, *, delivery_id: UUID, sender: Address, app_url: str) -> EmailMessage:
    """The message, ready to be handed over. Raises UnwritableError."""
    words = values(email.facts, email.language) | {"product": sender.display_name or PRODUCT}
    if (name := plain(email.name)) is not None:
        words["name"] = name
    text, frame = TEXTS[email.template][email.language], FRAMES[email.language]
    paragraphs = _filled((frame.greetings, *text.paragraphs), words)
    if email.template != "invitation":
        paragraphs += _filled((frame.for_organization,), words)
    (footer,) = _filled(
        (frame.why_transactional if email.is_transactional else frame.why_wanted,), words
    )
    (subject,) = _filled((text.subjects,), words)
    action, link = _action(email, text, app_url)
    if action is None:
        (action,) = _filled((frame.open_app,), words)

    message = EmailMessage(policy=SMTP)
    message["Subject"] = subject
    message["From"] = sender
    message["To"] = _recipient(email.address, name)
    message["Date"] = localtime()
    # The same at every attempt: a mailbox that gets it twice can tell.
    message["Message-ID"] = f"<{delivery_id}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answers from machines, please
    body = "\n\n".join([*paragraphs, f"{action}\n{link}", "-- \n" + footer])
    message.set_content(body + "\n", cte="quoted-printable")
    message.add_alternative(
        _HTML.substitute(
            language=email.language,
            subject=escape(subject),
            paragraphs="\n".join(f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs),
            link=escape(link),
            action=escape(action),
            footer=escape(footer),
        ),
        subtype="html",
        cte="quoted-printable",
    )
    return message


def _recipient(address: str, name: str | None) -> Address:
    try:
        # Parsed, not pasted: an address that is two, or has a line end in it, is none.
        recipient = Address(display_name=name or "", addr_spec=address)
    except (ValueError, IndexError, MessageError):
        raise UnwritableError from None
    if not recipient.username or not recipient.domain or not address.isprintable():
        raise UnwritableError
    return recipient


def _action(email: Email, text: Text, app_url: str) -> tuple[str | None, str]:
    """The label of the link, None where it only opens the app; and the link."""
    if text.link == "invitation":
        # Behind the #, which no server and no log gets to see.
        return text.action, f"{app_url}/invitation#token={email.facts['token']}"
    if text.link == "invoice":
        invoice = web_address(email.facts.get("invoice_url"))
        return (text.action, invoice) if invoice is not None else (None, app_url)
    return text.action, app_url


def _filled(sentences: Iterable[str | tuple[str, ...]], words: Mapping[str, str]) -> list[str]:
    """The sentences of which every word is known, filled in; of alternatives the first."""
    filled = []
    for sentence in sentences:
        alternatives = (sentence,) if isinstance(sentence, str) else sentence
        known = (one for one in alternatives if words_of(one) <= words.keys())
        filled += [one.format_map(words) for one in itertools.islice(known, 1)]
    return filled


def words_of(sentence: str) -> set[str]:
    """Which values a sentence needs."""
    return {word for _, word, _, _ in string.Formatter().parse(sentence) if word is not None}
