"""QUERNEL_SMTP_URL: what it may say, and that a mistake is named without repeating the password."""

from __future__ import annotations

import pytest

from functions.core.mail_server import MailServer, parse_mail_server

PASSWORD = "s3cr3t-of-the-mail-server"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.quernel.app",
        "https://mail.quernel.app",
        "smtp://",
        "smtp://mail.quernel.app:99999",
        f"smtp://user:{PASSWORD}@mail.quernel.app/path",
        f"smtp://user:{PASSWORD}@mail.quernel.app?starttls=maybe",
        f"smtp://user:{PASSWORD}@mail.quernel.app#fragment",
        f"smtp://user:{PASSWORD}@mail.quernel.app?starttls=off",
        "smtps://mail.quernel.app?starttls=off",
        "smtp://user@mail.quernel.app",
        f"smtp://user:{PASSWORD}@[mail",
    ],
)
def test_what_makes_no_sense_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|has|needs|is) ") as caught:
        parse_mail_server(url)
    assert PASSWORD not in str(caught.value)
    assert "mail.quernel.app" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.quernel.app", MailServer("mail.quernel.app", 587, "starttls")),
        ("smtps://mail.quernel.app", MailServer("mail.quernel.app", 465, "tls")),
        ("smtp://127.0.0.1:54360?starttls=off", MailServer("127.0.0.1", 54360, "none")),
        (
            "smtp://us%40er:p%2Fw%3A@mail.quernel.app:2525/",
            MailServer("mail.quernel.app", 2525, "starttls", "us@er", "p/w:"),
        ),
    ],
)
def test_a_url_names_a_server(url: str, server: MailServer) -> None:
    assert parse_mail_server(url) == server


def test_the_password_is_not_shown() -> None:
    assert PASSWORD not in repr(parse_mail_server(f"smtp://user:{PASSWORD}@mail.quernel.app"))
