"""A bounded HTTP load: keep-alive connections that post the same body, so many times in all."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

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
    parts = urlsplit(url)
    assert parts.hostname == "127.0.0.1", "a load goes to this machine only"
    lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    message = ("\r\n".join(lines) + "\r\n\r\n").encode() + body
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
