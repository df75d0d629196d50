"""The mailbox: takes messages of ordinary clients, keeps each as a file, delivers none."""

from __future__ import annotations

import asyncio
import smtplib
from collections.abc import AsyncIterator
from contextlib import suppress
from email.message import EmailMessage
from pathlib import Path

import pytest

from local.mailbox import MAX_MESSAGE_BYTES, Mailbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def mailbox(tmp_path: Path) -> AsyncIterator[tuple[Mailbox, int]]:
    made = Mailbox(tmp_path / "mail")
    async with made.serve() as port:
        yield made, port


def message(body: str = "Hello") -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "a@quernel.test", "b@quernel.test", "Grüße"
    made.set_content(body)
    return made


def send(port: int, *messages: EmailMessage) -> None:
    """With the client of the standard library."""
    with smtplib.SMTP("127.0.0.1", port, timeout=5) as client:
        for each in messages:
            client.send_message(each)


async def test_it_is_no_relay_for_what_comes_out_of_order(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for command in (b"RCPT TO:<b@quernel.test>", b"DATA", b"MAIL FROM:nonsense", b"WHAT"):
        writer.write(command + b"\r\n")
    writer.write(b"QUIT\r\n")
    replies = (await reader.read()).decode().splitlines()
    assert [reply[:3] for reply in replies] == ["220", *["503"] * 4, "221"]
    writer.close()
    await writer.wait_closed()
    assert box.received == []


async def test_a_message_without_end_is_refused(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    with pytest.raises((smtplib.SMTPException, ConnectionError)):
        await asyncio.to_thread(send, port, message(f"{'x' * 900}\n" * (MAX_MESSAGE_BYTES // 900)))
    assert box.received == []
    assert list(box.folder.iterdir()) == []


async def test_a_client_that_leaves_is_no_trouble(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    for said in (
        b"",
        b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhalf a mess",
        b"\xff" * 100_000,
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    await asyncio.to_thread(send, port, message())
    assert len(box.received) == 1


async def test_each_message_is_a_file_as_it_was_sent(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    await asyncio.to_thread(send, port, message(".\n..dots\n"), message("second"))
    files = sorted(box.folder.glob("*.eml"))
    assert [path.read_bytes() for path in files] == [each.content for each in box.received]
    assert box.received[0].message["Subject"] == "Grüße"
    assert box.received[0].message.get_content().split() == [".", "..dots"]
    assert box.received[0].recipients == ("b@quernel.test",)
    assert box.folder.stat().st_mode & 0o777 == 0o700


async def test_a_refusal_is_given_once(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    box.refusals["RCPT"] = ["550 5.1.1 nobody"]
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        await asyncio.to_thread(send, port, message())
    await asyncio.to_thread(send, port, message())
    assert len(box.received) == 1
