"""Bounded HTTP loads: connections that post the same body so many times, and streams at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar
from urllib.parse import SplitResult, urlsplit

READ_SECONDS = 30.0


@dataclass(frozen=True)
class Load:
    """What a run of requests measured; latencies in milliseconds."""

    answered: int
    refused: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """200s per second."""
        return self.answered / self.seconds


async def post_many(
    url: str, body: bytes, headers: dict[str, str], *, requests: int, connections: int
) -> Load:
    """Send `requests` POSTs over `connections` connections, each waiting for its answer."""
    parts, message = _message(url, body, headers)
    left = requests
    statuses: list[bytes] = []
    latencies: list[float] = []

    async def worker() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            while left > 0:
                left -= 1
                began = time.perf_counter()
                writer.write(message)
                statuses.append(await asyncio.wait_for(_read_answer(reader), READ_SECONDS))
                latencies.append((time.perf_counter() - began) * 1000)
        finally:
            writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(connections)))
    seconds = time.perf_counter() - began
    answered = statuses.count(b"200")
    latencies.sort()
    return Load(
        answered=answered,
        refused=len(statuses) - answered,
        seconds=seconds,
        p50_ms=statistics.median(latencies),
        p99_ms=latencies[int(len(latencies) * 0.99)],
    )


@dataclass(frozen=True)
class StreamLoad:
    """What a run of streams measured. Gaps are between deltas, not before what is settled."""

    STALL_MS: ClassVar[float] = 100.0  # five times the pace

    answered: int
    refused: int
    stalled: int  # streams with a gap of more than STALL_MS
    gap_p99_ms: float
    longest_gap_ms: float
    first_p50_ms: float
    first_p99_ms: float


@dataclass(frozen=True)
class _Stream:
    is_answered: bool
    first_ms: float
    gaps_ms: list[float]


async def stream_many(
    url: str,
    body: bytes,
    headers: dict[str, str],
    *,
    streams: int,
    pace_ms: int,
    one_by_one: bool = False,
) -> StreamLoad:
    """Read `streams` streams, at once or one by one, each on a connection of its own.

    At once they begin spread over one pace, as those of many people do.
    """
    parts, message = _message(url, body, headers)

    async def one(number: int) -> _Stream:
        await asyncio.sleep(0 if one_by_one else number / streams * pace_ms / 1000)
        return await asyncio.wait_for(_read_stream(parts, message), READ_SECONDS)

    if one_by_one:
        read = [await one(number) for number in range(streams)]
    else:
        read = await asyncio.gather(*(one(number) for number in range(streams)))
    firsts = sorted(stream.first_ms for stream in read)
    gaps = sorted(gap for stream in read for gap in stream.gaps_ms) or [0.0]
    answered = sum(stream.is_answered for stream in read)
    return StreamLoad(
        answered=answered,
        refused=len(read) - answered,
        stalled=sum(any(gap > StreamLoad.STALL_MS for gap in stream.gaps_ms) for stream in read),
        gap_p99_ms=gaps[int(len(gaps) * 0.99)],
        longest_gap_ms=gaps[-1],
        first_p50_ms=statistics.median(firsts),
        first_p99_ms=firsts[int(len(firsts) * 0.99)],
    )


async def _read_stream(parts: SplitResult, message: bytes) -> _Stream:
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        began = time.perf_counter()
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        times: list[float] = []
        end = b""
        while b"[DONE]" not in end and (data := await reader.read(65536)):
            if b'"content"' in data:
                times.append(time.perf_counter())
            end = end[-16:] + data
    finally:
        writer.close()
    first = (times[0] - began) * 1000 if times else 0.0
    gaps = [(after - before) * 1000 for before, after in pairwise(times)]
    is_answered = head.split(b" ", 2)[1] == b"200" and b"[DONE]" in end
    return _Stream(is_answered, first, gaps)


def _message(url: str, body: bytes, headers: dict[str, str]) -> tuple[SplitResult, bytes]:
    """Where a request goes, and its bytes."""
    parts = urlsplit(url)
    assert parts.hostname == "127.0.0.1", "a load goes to this machine only"
    lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return parts, ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def _read_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    status = head.split(b" ", 2)[1]
    length = next(
        (
            int(line.split(b":", 1)[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        ),
        None,
    )
    if length is not None:
        await reader.readexactly(length)
        return status
    while size := int((await reader.readline()).strip() or b"0", 16):
        await reader.readexactly(size + 2)
    await reader.readline()
    return status
