"""Answers of services that we call with httpx, read whole and within bounds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx


class AnswerTooLargeError(Exception):
    """An answer outgrew what it may have."""


async def asked(
    http: httpx.AsyncClient, method: str, url: str, *, max_bytes: int, **request: Any
) -> httpx.Response:
    """Send a request and read the answer; `request` as httpx takes it.

    `max_bytes` counts what is there after decoding, and reading ends when it is passed. Raises
    AnswerTooLargeError, httpx.HTTPError.
    """
    async with http.stream(method, url, **request) as response:
        raw = bytearray()
        async for data in response.aiter_bytes():
            raw += data
            if len(raw) > max_bytes:
                raise AnswerTooLargeError
        return httpx.Response(
            response.status_code,
            headers=without_encoding(response.headers.items()),
            content=bytes(raw),
        )


def without_encoding(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Without what described a body that is decoded now."""
    dropped = ("content-encoding", "content-length", "transfer-encoding")
    return {name: value for name, value in headers if name.lower() not in dropped}
