"""Turns an empty Postgres into what hosted Supabase hands out before the first migration."""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import sql

from local.keys import Keys
from local.node import run_node
from local.paths import GATEWAY, PLATFORM_GRANTS_SQL, PLATFORM_SQL
from local.postgres import Postgres


def apply_platform(postgres: Postgres, home: Path) -> None:
    """Roles, schemas, extensions, the auth and storage tables: all of it or nothing.

    `home` is the gateway's folder, whose package tells the last two.
    """
    system_schemas = run_node(GATEWAY / "system.mjs", home)
    with psycopg.connect(postgres.admin_dsn) as connection:
        for script in (PLATFORM_SQL.read_text(), system_schemas, PLATFORM_GRANTS_SQL.read_text()):
            connection.execute(script.encode())


def set_passwords(postgres: Postgres, keys: Keys) -> None:
    """Give every login role its generated password.

    `quernel_functions` is made by the foundation migration without LOGIN: a deployment decides
    whether the direct transport is wanted. Locally it is.
    """
    passwords = {
        "postgres": keys.postgres_password,
        "authenticator": keys.authenticator_password,
        "quernel_functions": keys.functions_password,
    }
    with psycopg.connect(postgres.admin_dsn) as connection:
        present = connection.execute(
            "select rolname from pg_roles where rolname = any(%s)", [list(passwords)]
        ).fetchall()
        for (role,) in present:
            connection.execute(
                sql.SQL("alter role {} login password {}").format(
                    sql.Identifier(role), sql.Literal(passwords[role])
                )
            )
