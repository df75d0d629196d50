"""Tasks of a kind that one test alone uses, so that no other test and no worker meets them."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from functions.core.database import Database
from functions.core.settings import Settings
from local.stack import Stack, Transport
from tests.support.service import Service

Connect = Callable[[], psycopg.Connection]


@dataclass
class Queue:
    """The tasks of one kind."""

    kind: str
    connection: psycopg.Connection
    service: Service

    def enqueue(self, payload: dict[str, Any] | None = None, **arguments: Any) -> str:
        """private.task_enqueue(), committed."""
        names = ", ".join(f"p_{name} => %({name})s" for name in arguments)
        row = self.connection.execute(
            f"select private.task_enqueue(%(kind)s, %(payload)s{', ' if names else ''}{names})",
            {"kind": self.kind, "payload": json.dumps(payload or {}), **arguments},
        ).fetchone()
        assert row
        return str(row[0])

    def claim(self, limit: int = 1, *, lease: int = 60, worker: str = "w1") -> list[dict[str, Any]]:
        """backend.task_claim() over the gateway."""
        return self.service.rpc(
            "task_claim",
            p_kinds=[self.kind],
            p_worker=worker,
            p_limit=limit,
            p_lease_seconds=lease,
        )

    def claim_one(self, *, lease: int = 60, worker: str = "w1") -> dict[str, Any]:
        (task,) = self.claim(lease=lease, worker=worker)
        return task

    def row(self, id_: str) -> dict[str, Any]:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute("select * from private.tasks where id = %s", [id_]).fetchone()
        assert found, "the task is gone"
        return found

    def change(self, id_: str, assignments: str) -> None:
        """Move a task through time, as the superuser."""
        self.connection.execute(
            f"update private.tasks set {assignments} where id = %s",  # noqa: S608
            [id_],
        )

    def lapse(self, id_: str) -> None:
        """Let the task's lease have ended."""
        self.change(id_, "leased_until = now() - interval '1 second'")

    def make_due(self, id_: str) -> None:
        self.change(id_, "run_after = now()")

    def sweep(self) -> None:
        """The stack's worker may have been quicker, so what it says is not looked at."""
        self.service.rpc("task_sweep")


@pytest.fixture
def queue(db: Connect, service: Service) -> Queue:
    return Queue(f"test_{uuid.uuid4().hex[:12]}", db(), service)


@pytest.fixture(params=["rest", "direct"])
def settings(stack: Stack, request: pytest.FixtureRequest) -> Settings:
    """Settings of a functions process, for each of the two ways to the database."""
    return settings_for(stack, request.param)


def settings_for(stack: Stack, transport: Transport) -> Settings:
    return Settings(
        environment="test",
        supabase_url=stack.supabase_url,
        supabase_secret_key=stack.keys.secret_key,
        database_url=stack.functions_dsn if transport == "direct" else None,
    )


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    opened = await Database.open(settings)
    yield opened
    await opened.aclose()
