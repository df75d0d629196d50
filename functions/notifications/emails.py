"""Sends an email and reports what became of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Literal
from uuid import UUID

import aiosmtplib

from functions.core.database import Database
from functions.core.logging import log_event
from functions.core.mail_server import MailServer
from functions.core.settings import Settings
from functions.notifications.message import Email, UnwritableError, compose
from functions.notifications.tls import public_tls

logger = logging.getLogger(__name__)

HELLO = "quernel"
"""What we call ourselves to the mail server; asking the system for a name may ask the network."""

_REASONS = (
    (aiosmtplib.SMTPTimeoutError, "timeout"),
    (aiosmtplib.SMTPAuthenticationError, "not_authenticated"),
    (aiosmtplib.SMTPSenderRefused, "sender_refused"),
    (aiosmtplib.SMTPNotSupported, "not_supported"),  # an address or a login beyond this server
)

Status = Literal["sent", "queued", "failed", "suppressed"]


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. Holds no address: neither field is what an exception said."""

    status: Status
    reason: str | None = None
    reply: str | None = None


class EmailSender:
    """Delivers emails. One per attempt."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    async def send(self, delivery_id: UUID) -> Outcome:
        """Make one attempt and report it; `queued` means that another is wanted.

        Raises QuernelError when the database does not take the report, SettingsError when the
        settings name no mail server that can be understood.
        """
        server = self._settings.mail_server
        if server is None:
            outcome = Outcome("suppressed", "not_configured")
        else:
            prepared = await self._database.rpc("email_prepare", p_delivery_id=delivery_id)
            if prepared["status"] != "queued":
                return Outcome(prepared["status"], prepared["reason"])
            outcome = await self._hand_over(Email.from_row(prepared), delivery_id, server)
        report = await self._database.rpc(
            "email_report",
            p_delivery_id=delivery_id,
            p_status=outcome.status,
            p_reason=outcome.reason,
            p_reply=outcome.reply,
        )
        log_event(
            logger,
            logging.INFO,
            "email delivery",
            delivery_id=delivery_id,
            status=report["status"],
            reason=outcome.reason,
        )
        return outcome

    async def _hand_over(self, email: Email, delivery_id: UUID, server: MailServer) -> Outcome:
        sender = self._settings.email_sender
        try:
            message = compose(
                email, delivery_id=delivery_id, sender=sender, app_url=self._settings.app_url
            )
        except UnwritableError:
            return Outcome("suppressed", "no_address")
        return await hand_over(
            message,
            server,
            sender=sender.addr_spec,
            recipient=email.address,
            timeout_seconds=self._settings.smtp_timeout_seconds,
        )


async def hand_over(
    message: EmailMessage,
    server: MailServer,
    *,
    sender: str,
    recipient: str,
    timeout_seconds: float,
) -> Outcome:
    """Give a message to the mail server. `timeout_seconds` is for each answer of the server.

    A 5xx to the recipient or the message is final (RFC 5321 section 4.2.1); whatever else goes
    wrong is tried again.
    """
    try:
        _, reply = await aiosmtplib.send(
            message,
            sender=sender,
            recipients=[recipient],
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            local_hostname=HELLO,
            timeout=timeout_seconds,
            use_tls=server.security == "tls",
            start_tls=server.security == "starttls",
            tls_context=None if server.security == "none" else public_tls(),
        )
    except aiosmtplib.SMTPRecipientsRefused as error:
        return _refusal(*(refused.code for refused in error.recipients))
    except aiosmtplib.SMTPDataError as error:
        return _refusal(error.code)
    except (aiosmtplib.SMTPException, OSError) as error:
        return Outcome("queued", _reason(error))
    return Outcome("sent", reply=reply)


def _refusal(*codes: int) -> Outcome:
    if codes and min(codes) >= 500:
        return Outcome("failed", "refused")
    return Outcome("queued", "deferred")


def _reason(error: Exception) -> str:
    return next((word for kind, word in _REASONS if isinstance(error, kind)), "unreachable")
