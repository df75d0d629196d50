"""The double of the providers, in the loop of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from local.providers.double import Double, make_handler
from tests.support.http_server import serve


@asynccontextmanager
async def provider_double() -> AsyncIterator[Double]:
    """Runs it."""
    double = Double()
    async with serve(make_handler(double)) as double.address:
        yield double
