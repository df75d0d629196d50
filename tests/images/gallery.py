"""People and images that nobody drew, put straight into the database, to be looked at together."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg

Row = dict[str, Any]


def people(connection: psycopg.Connection[Row], count: int) -> list[str]:
    ids = [str(uuid.uuid4()) for _ in range(count)]
    for user_id in ids:
        connection.execute(
            "insert into auth.users (id, email, email_confirmed_at) values (%s, %s, now())",
            [user_id, f"{user_id}@example.com"],
        )
    return ids


def hang(connection: psycopg.Connection[Row], user: str, **columns: Any) -> str:
    """An image that was looked at; its id."""
    values = {
        "user_id": user,
        "storage_path": f"{user}/{uuid.uuid4()}",
        "width": 8,
        "height": 8,
        "format": "png",
        "size_bytes": 9,
    } | columns
    if "vision_embedding" in values:
        values.setdefault("vision_embedding_model", "vectors-1")
    names = psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, values))
    marks = psycopg.sql.SQL(", ").join(map(psycopg.sql.Placeholder, values))
    row = connection.execute(
        psycopg.sql.SQL("insert into public.generated_images ({}) values ({}) returning id").format(
            names, marks
        ),
        values,
    ).fetchone()
    assert row is not None
    return str(row["id"])


def refresh(connection: psycopg.Connection[Row]) -> int:
    row = connection.execute("select backend.insights_refresh() ->> 'count' as count").fetchone()
    assert row is not None
    return int(row["count"])
