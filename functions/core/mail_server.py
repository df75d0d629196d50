"""The mail server that QUERNEL_SMTP_URL names.

smtp://user:password@mail.example.net:587     STARTTLS, required
smtps://user:password@mail.example.net:465    TLS from the first byte
smtp://127.0.0.1:54360?starttls=off           neither; refused in a deployment
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit

_DEFAULT_PORTS = {"smtp": 587, "smtps": 465}


@dataclass(frozen=True)
class MailServer:
    """Where and how to hand over email."""

    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    username: str | None = None
    password: str | None = field(default=None, repr=False)


def parse_mail_server(url: str) -> MailServer:
    """Read the URL. Raises ValueError, whose message does not repeat it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("must be smtp://host or smtps://host")
    if parts.path not in ("", "/") or parts.fragment or parts.query not in ("", "starttls=off"):
        raise ValueError("has parts that mean nothing")
    if (parts.username is None) != (parts.password is None):
        raise ValueError("needs both a user and a password, or neither")
    security: Literal["starttls", "tls", "none"] = "starttls"
    if parts.scheme == "smtps":
        security = "tls"
    if parts.query:
        if security == "tls" or parts.username is not None:
            raise ValueError("must not send a password without TLS, nor ask for both")
        security = "none"
    return MailServer(
        parts.hostname,
        port or _DEFAULT_PORTS[parts.scheme],
        security,
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
    )
