"""Who may not touch tasks: everybody but the functions of schema backend."""

from __future__ import annotations

import psycopg
import pytest

from tests.conftest import AsRole
from tests.tasks.conftest import Connect, Queue

TABLES = ("private.tasks", "private.cron_jobs")
ROLES = ("anon", "authenticated", "service_role")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "statement",
    [
        "select * from {}",
        "insert into {} default values",
        "update {} set updated_at = now()",
        "delete from {}",
    ],
)
def test_no_role_of_the_api_reaches_a_table(
    role: str, table: str, statement: str, as_role: AsRole
) -> None:
    with as_role(role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.format(table))


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_clients_cannot_call_the_functions_for_workers(role: str, as_role: AsRole) -> None:
    with as_role(role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("select backend.task_status()")


@pytest.mark.parametrize("role", ROLES)
def test_nobody_enqueues_through_the_api(role: str, as_role: AsRole, queue: Queue) -> None:
    with as_role(role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("select private.task_enqueue(%s, '{}')", [queue.kind])


def test_only_the_service_role_may_execute_what_this_chapter_made(db: Connect) -> None:
    rows = (
        db()
        .execute(
            """
            select p.oid::regprocedure::text, r.rolname
            from pg_proc as p
            cross join unnest(array['anon', 'authenticated', 'service_role']) as r (rolname)
            where p.pronamespace in ('private'::regnamespace, 'backend'::regnamespace)
              and p.proname ~ '(^|_)(task|cron|runner)'
              and has_function_privilege(r.rolname, p.oid, 'execute')
            """
        )
        .fetchall()
    )
    assert rows
    strangers = [
        row for row in rows if row[1] != "service_role" or not row[0].startswith("backend.")
    ]
    assert strangers == []
