"""A mail server that delivers nothing: each message it is handed becomes a file.

    python -m local.mailbox --port 54360 --folder .quernel/mail

It speaks as much SMTP (RFC 5321) as a client needs that sends without TLS. A file is named by the
order of arrival and ends in .eml; mail programs open it, and `email.message_from_bytes` reads it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from local.processes import LOOPBACK

MAX_LINE_BYTES = 64 * 1024
MAX_MESSAGE_BYTES = 10 * 1024 * 1024
_PATH = re.compile(r"(?:FROM|TO):\s*<([^<>]*)>", re.IGNORECASE)


@dataclass(frozen=True)
class Received:
    """A message and whom the client said that it was for."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes

    @property
    def message(self) -> EmailMessage:
        """The message, parsed."""
        return message_from_bytes(self.content, policy=policy.default)


@dataclass
class Mailbox:
    """The server. What it refuses is for tests to say."""

    folder: Path
    refusals: dict[str, list[str]] = field(default_factory=dict)
    """Replies to give instead of accepting, one for each time, by verb: MAIL, RCPT, DATA or END."""

    received: list[Received] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """Every command, as the clients sent it."""

    _talks: set[asyncio.Task[None]] = field(default_factory=set)
    _numbers: Iterable[int] = field(default_factory=itertools.count)

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[int]:
        """Listen on loopback for the length of a block; gives the port."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        server = await asyncio.start_server(self._talk, LOOPBACK, port, limit=MAX_LINE_BYTES)
        async with server:
            try:
                yield server.sockets[0].getsockname()[1]
            finally:
                # Closing a server leaves its conversations to themselves, or waits for them.
                server.close()
                talks = list(self._talks)
                for talk in talks:
                    talk.cancel()
                await asyncio.gather(*talks, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None  # noqa: S101 - a server calls this in a task
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)
        # A client that leaves in the middle has said all there is to hear.
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            try:
                await _Conversation(self, reader, writer).hold()
            finally:
                writer.close()
                await writer.wait_closed()

    def refusal(self, verb: str) -> str | None:
        """What to answer instead of accepting, if a test asked for it."""
        waiting = self.refusals.get(verb)
        return waiting.pop(0) if waiting else None

    def keep(self, received: Received) -> str:
        """Write the message down; returns its name."""
        self.received.append(received)
        name = f"{time.time_ns()}-{next(iter(self._numbers))}"
        partial = self.folder / f"{name}.partial"
        partial.write_bytes(received.content)
        partial.rename(self.folder / f"{name}.eml")
        return name


@dataclass
class _Conversation:
    mailbox: Mailbox
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    sender: str | None = None
    recipients: list[str] = field(default_factory=list)

    async def hold(self) -> None:
        await self._say("220 the mailbox of the local stack, which delivers nothing")
        while True:
            line = await self.reader.readuntil(b"\n")
            command = line.decode(errors="replace").strip()
            self.mailbox.said.append(command)
            verb, _, rest = command.partition(" ")
            verb = verb.upper()
            refusal = self.mailbox.refusal(verb)
            await self._say(refusal or await self._answer(verb, rest))
            if verb == "QUIT":
                return

    async def _answer(self, verb: str, rest: str) -> str:
        path = _PATH.match(rest)
        reply = "503 5.5.1 not now"
        if verb == "EHLO":
            reply = f"250-localhost\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE {MAX_MESSAGE_BYTES}"
        elif verb in ("HELO", "NOOP"):
            reply = "250 localhost"
        elif verb == "RSET":
            self.sender, self.recipients = None, []
            reply = "250 2.0.0 forgotten"
        elif verb == "QUIT":
            reply = "221 2.0.0 goodbye"
        elif verb == "MAIL" and path is not None:
            self.sender, self.recipients = path[1], []
            reply = "250 2.1.0 go on"
        elif verb == "RCPT" and path is not None and self.sender is not None:
            self.recipients.append(path[1])
            reply = "250 2.1.5 go on"
        elif verb == "DATA" and self.recipients:
            reply = await self._data()
        return reply

    async def _data(self) -> str:
        await self._say("354 end with a line of one dot")
        content = bytearray()
        while (line := await self.reader.readuntil(b"\n")) != b".\r\n":
            content += line.removeprefix(b".")
            if len(content) > MAX_MESSAGE_BYTES:
                await self._say("552 5.3.4 too large")
                raise ConnectionError
        refusal = self.mailbox.refusal("END")
        if refusal is not None:
            return refusal
        received = Received(self.sender or "", tuple(self.recipients), bytes(content))
        self.sender, self.recipients = None, []
        return f"250 2.0.0 queued as {self.mailbox.keep(received)}"

    async def _say(self, line: str) -> None:
        self.writer.write(f"{line}\r\n".encode())
        await self.writer.drain()


async def _serve(port: int, folder: Path) -> None:
    async with Mailbox(folder).serve(port):
        await asyncio.Event().wait()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=54360)
    parser.add_argument("--folder", type=Path, default=Path(".quernel/mail"))
    options = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(options.port, options.folder))


if __name__ == "__main__":
    main()
