"""Looks for words in every column of every table, as text, and says where they are."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import sql

PASSED_OVER = frozenset({"pg_catalog", "information_schema", "pg_toast"})


def tables(connection: psycopg.Connection) -> list[tuple[str, str]]:
    """Schema and name of everything that has rows of its own."""
    rows = connection.execute(
        "select n.nspname, c.relname from pg_class as c"
        " inner join pg_namespace as n on c.relnamespace = n.oid"
        " where c.relkind in ('r', 'm') and n.nspname <> all(%s) order by 1, 2",
        [list(PASSED_OVER)],
    )
    return rows.fetchall()


def mentions(connection: psycopg.Connection, words: Iterable[str]) -> dict[str, list[str]]:
    """Table → what its rows that have one of the words say, whichever column has it."""
    wanted = [word.lower() for word in words]
    found = {}
    for schema, table in tables(connection):
        rows = connection.execute(
            sql.SQL(
                "select t::text from {} as t where exists"
                " (select from unnest(%s::text[]) as w (word)"
                "  where strpos(lower(t::text), w.word) > 0)"
            ).format(sql.Identifier(schema, table)),
            [wanted],
        ).fetchall()
        if rows:
            found[f"{schema}.{table}"] = [row[0][:2000] for row in rows]
    return found
