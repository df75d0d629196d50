"""Two questions of whoever runs this: is the process alive, and can it serve."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.openapi import example

CHECK_SECONDS = 1.0
"""Readiness is asked of the database this often at most, however many ask us: anybody may."""

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The process runs."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """The process can serve requests."""

    status: Literal["ready"] = "ready"


class Readiness:
    """Remembers for a moment whether the database answers; asks once for all who wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = asyncio.Lock()
        self._checked_at = float("-inf")
        self._problem: QuernelError | None = None

    async def require(self) -> None:
        """Raise QuernelError (503 `database_unavailable` or `database_timeout`) if it does not."""
        async with self._lock:
            if time.monotonic() - self._checked_at >= CHECK_SECONDS:
                self._problem = await self._ask()
                self._checked_at = time.monotonic()
            problem = self._problem
        if problem is not None:
            raise QuernelError(problem.code, problem.status, problem.message, problem.facts)

    async def _ask(self) -> QuernelError | None:
        try:
            await self._database.rpc("ready")
        except QuernelError as error:
            return error
        return None


@router.get(
    "/health",
    summary="Whether the process is alive",
    responses=example("It is.", {"status": "ok"}),
)
async def health() -> Health:
    """Answers without asking anything else."""
    return Health()


@router.get(
    "/ready",
    summary="Whether the process can serve requests",
    responses=example("It can.", {"status": "ready"}),
)
async def ready(request: Request) -> Ready:
    """Asks the database, once a second at most."""
    readiness: Readiness = request.app.state.readiness
    await readiness.require()
    return Ready()
