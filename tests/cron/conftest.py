"""Jobs with names of one test, which no other scheduler runs; a database over both transports."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from functions.core.database import Database
from functions.core.settings import Settings
from local.stack import Stack

Connect = Callable[[], psycopg.Connection]


class Jobs:
    """Rows of private.cron_jobs that belong to one test."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.prefix = f"test_{uuid.uuid4().hex[:12]}"
        self.connection = connection

    def name(self, suffix: str = "a") -> str:
        return f"{self.prefix}_{suffix}"

    def row(self, suffix: str = "a") -> dict[str, Any]:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute(
                "select * from private.cron_jobs where name = %s", [self.name(suffix)]
            ).fetchone()
        assert found
        return found

    def change(self, assignments: str, suffix: str = "a") -> None:
        """Move a job through time, as the superuser."""
        self.connection.execute(
            f"update private.cron_jobs set {assignments} where name = %s",  # noqa: S608
            [self.name(suffix)],
        )


@pytest.fixture
def jobs(db: Connect) -> Iterator[Jobs]:
    made = Jobs(db())
    yield made
    made.connection.execute(
        "delete from private.cron_jobs where starts_with(name, %s)", [made.prefix]
    )


@pytest.fixture(params=["rest", "direct"])
async def database(stack: Stack, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    opened = await Database.open(
        Settings(
            environment="test",
            supabase_url=stack.supabase_url,
            supabase_secret_key=stack.keys.secret_key,
            database_url=stack.functions_dsn if request.param == "direct" else None,
        )
    )
    yield opened
    await opened.aclose()
