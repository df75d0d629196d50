"""The body of a request, as far as it is bounded: a server of ours holds it in memory whole."""

from __future__ import annotations

from starlette.requests import Request


async def read_body(request: Request, most_bytes: int) -> bytes | None:
    """All of it; None where it is longer, and then no more of it is read."""
    body = bytearray()
    async for data in request.stream():
        body += data
        if len(body) > most_bytes:
            return None
    return bytes(body)
