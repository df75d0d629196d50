"""Answers that never come to an end, for tests of limits of time and of size."""

from __future__ import annotations

import asyncio

from aiohttp import web

TRICKLE_SECONDS = 0.05


async def trickle(request: web.BaseRequest) -> web.StreamResponse:
    """A byte at a time: each comes in time, the whole (ten seconds) does not."""
    response = web.StreamResponse(headers={"content-type": "application/json"})
    await response.prepare(request)
    for _ in range(200):
        await response.write(b" ")
        await asyncio.sleep(TRICKLE_SECONDS)
    return response


async def pour(request: web.BaseRequest) -> web.StreamResponse:
    """Twenty megabytes, as fast as they are taken."""
    response = web.StreamResponse(headers={"content-type": "application/json"})
    await response.prepare(request)
    for _ in range(2000):
        await response.write(b" " * 10_000)
    return response
