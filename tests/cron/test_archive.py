"""What nobody has looked at for long is put aside, and its owner takes it back."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from functions.core.database import Database
from functions.cron.jobs import CRON_JOBS
from tests.conftest import AsRole, NewUser
from tests.cron.conftest import Connect

pytestmark = pytest.mark.anyio


def conversation(connection: psycopg.Connection, user_id: str, **values: Any) -> str:
    return insert(connection, "public.conversations", {"user_id": user_id} | values)


def image(connection: psycopg.Connection, user_id: str, days: int, **values: Any) -> str:
    """One that was made so many days ago."""
    row = connection.execute(
        "select (left(private.uuid7_floor(t)::text, 23)"
        " || right(gen_random_uuid()::text, 13))::uuid, t"
        " from (select now() - make_interval(days => %s)) as a (t)",
        [days],
    ).fetchone()
    assert row
    made = {"id": row[0], "created_at": row[1], "user_id": user_id, "format": "png"}
    made |= {"storage_path": f"{row[0]}.png", "width": 1, "height": 1, "size_bytes": 1}
    return insert(connection, "public.generated_images", made | values)


def insert(connection: psycopg.Connection, table: str, values: dict[str, Any]) -> str:
    names = sql.SQL(", ").join(map(sql.Identifier, values))
    marks = sql.SQL(", ").join(sql.Placeholder() * len(values))
    query = sql.SQL("insert into {} ({}) values ({}) returning id")
    row = connection.execute(
        query.format(sql.Identifier(*table.split(".")), names, marks), list(values.values())
    ).fetchone()
    assert row
    return str(row[0])


async def test_conversations_without_a_message_for_a_year(
    database: Database, db: Connect, new_user: NewUser
) -> None:
    connection, user_id = db(), new_user().id
    year = "2024-01-01T00:00:00Z"
    idle = conversation(connection, user_id, created_at=year)
    silent = conversation(connection, user_id, created_at=year, last_message_at=year)
    busy = conversation(connection, user_id, created_at=year, last_message_at="now()")
    gone = conversation(connection, user_id, created_at=year, status="deleted", deleted_at="now()")
    for _ in range(2):
        await CRON_JOBS["archive"].run(database)
    rows = connection.execute(
        "select id::text, status, archived_at is not null from public.conversations"
        " where user_id = %s",
        [user_id],
    ).fetchall()
    assert {row[0]: row[1:] for row in rows} == {
        idle: ("archived", True),
        silent: ("archived", True),
        busy: ("active", False),
        gone: ("deleted", False),
    }


async def test_images_that_nobody_fetched_for_a_year(
    database: Database, db: Connect, new_user: NewUser, as_role: AsRole
) -> None:
    connection, user_id = db(), new_user().id
    old = image(connection, user_id, 400)
    kept = {
        "new": image(connection, user_id, 300),
        "favorite": image(connection, user_id, 400, is_favorite=True),
        "public": image(connection, user_id, 400, is_public=True),
        "fetched": image(connection, user_id, 400, last_accessed_at="now()"),
    }
    for _ in range(2):
        await CRON_JOBS["archive"].run(database)

    def archived() -> set[str]:
        rows = connection.execute(
            "select id::text from public.generated_images"
            " where user_id = %s and archived_at is not null",
            [user_id],
        )
        return {row[0] for row in rows}

    assert archived() == {old}
    with as_role("authenticated", {"sub": user_id}) as mine:
        mine.execute("update public.generated_images set archived_at = null where id = %s", [old])
        mine.execute("commit")
    assert archived() == set()
    assert len(kept) == 4


async def test_nothing_is_archived_where_the_operator_says_never(db: Connect) -> None:
    connection = db()
    with connection.transaction(force_rollback=True):
        connection.execute(
            "update private.settings set value = '0'"
            " where name in ('conversation_archive_days', 'image_archive_days')"
        )
        for function in ("conversations_archive", "images_archive"):
            row = connection.execute(f"select backend.{function}()".encode()).fetchone()
            assert row == ({"count": 0},)
