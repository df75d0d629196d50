"""Virus scans by ClamAV's daemon, over TCP.

INSTREAM of clamd(8), https://docs.clamav.net/manual/Usage/Scanning.html: pieces of the file, each
after its length as four bytes, and a length of nothing at the end. The daemon answers `stream: OK`
or `stream: <name> FOUND`, ended by the NUL that the `z` before the command asks for. It has no
password and no TLS: it belongs into a private network.
"""

from __future__ import annotations

import asyncio
import struct

SCAN_SECONDS = 120.0
"""For all of one scan: a daemon that loads its signatures anew takes half a minute."""

PIECE_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 4096
_CLEAN = b"stream: OK\x00"
_FOUND = b" FOUND\x00"


class ScanError(Exception):
    """Nobody knows whether the file is clean: the daemon does not answer, or not with a result."""


async def scan(
    host: str, port: int, content: bytes, *, seconds: float = SCAN_SECONDS
) -> str | None:
    """The name of what was found in it; None for nothing. Raises ScanError."""
    try:
        async with asyncio.timeout(seconds):
            answer = await _asked(host, port, content)
    except (OSError, EOFError, ValueError):  # TimeoutError among them; a limit overrun
        raise ScanError("no answer") from None
    if answer == _CLEAN:
        return None
    if answer.startswith(b"stream: ") and answer.endswith(_FOUND):
        name = answer.removeprefix(b"stream: ").removesuffix(_FOUND)
        return name.decode("ascii", "replace")[:200]
    # Among them a file over the daemon's StreamMaxLength, which is an operator's to raise.
    raise ScanError("no result")


async def _asked(host: str, port: int, content: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(host, port, limit=MAX_ANSWER_BYTES)
    try:
        writer.write(b"zINSTREAM\x00")
        for start in range(0, len(content), PIECE_BYTES):
            piece = content[start : start + PIECE_BYTES]
            writer.write(struct.pack(">I", len(piece)) + piece)
            await writer.drain()
        writer.write(struct.pack(">I", 0))
        await writer.drain()
        return await reader.readuntil(b"\x00")
    except asyncio.LimitOverrunError:
        raise ValueError("a long answer") from None
    finally:
        writer.close()
