"""A small double of ClamAV's daemon on 127.0.0.1: INSTREAM, and ways of failing."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

MARK = b"this-is-malware"
FOUND = b"stream: Test.Malware-1 FOUND\x00"


@dataclass
class Clamd:
    """Finds MARK in what it is sent; `mode` says how it behaves instead."""

    mode: str = "scans"
    address: str = ""
    seen: list[bytes] = field(default_factory=list)

    @property
    def place(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            await self._answer(reader, writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "hangs-up":
            return
        assert await reader.readuntil(b"\x00") == b"zINSTREAM\x00"
        content = b""
        while length := struct.unpack(">I", await reader.readexactly(4))[0]:
            content += await reader.readexactly(length)
            if self.mode == "limits":
                writer.write(b"INSTREAM size limit exceeded. ERROR\x00")
                return
        self.seen.append(content)
        if self.mode == "sleeps":
            await reader.read()  # until the client leaves
            return
        writer.write(
            {
                "scans": b"stream: Test.Malware-1 FOUND\x00"
                if MARK in content
                else b"stream: OK\x00",
                "errs": b"stream: Can't allocate memory ERROR\x00",
                "cuts": b"stream: OK",
                "mumbles": b"OK\x00",
                "two": b"stream: OK stream: X FOUND ERROR\x00",
                "talks": b"x" * 100_000 + b"\x00",
            }[self.mode]
        )
        await writer.drain()


@asynccontextmanager
async def clamd(mode: str = "scans") -> AsyncIterator[Clamd]:
    double = Clamd(mode)
    server = await asyncio.start_server(double.answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    double.address = f"{host}:{port}"
    async with server:
        yield double
