"""The catalogue of personal data knows every table, and what it says can be asked.

That no table of ours and no column is missing is said by sql/checks/023 to 026, whose tests are in
tests/security/test_structure_checks.py.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg

Db = Callable[[], psycopg.Connection]


def test_tables_of_sign_in_and_storage_are_in_it(db: Db) -> None:
    """What hosted Supabase has besides goes with auth.users (docs/privacy.md)."""
    rows = db().execute(
        "select n.nspname || '.' || c.relname from pg_class as c"
        " inner join pg_namespace as n on c.relnamespace = n.oid"
        " where n.nspname in ('auth', 'storage') and c.relkind = 'r' and not exists ("
        "   select from private.personal_tables as p"
        "   where (p.table_schema, p.table_name) = (n.nspname, c.relname))"
    )
    assert rows.fetchall() == []


def test_retention_names_settings_that_exist(db: Db) -> None:
    rows = db().execute(
        "select distinct w.word from private.personal_tables as p"
        " cross join lateral string_to_table(p.retention, ' ') as w (word)"
        " where w.word like '%\\_%'"
        " and w.word not in (select s.name from private.settings as s)"
    )
    assert rows.fetchall() == []


def test_every_predicate_can_be_asked_and_finds_nothing_of_nobody(db: Db) -> None:
    connection = db()
    counted = connection.execute(
        "select count(*), sum(c.row_count) from private.count_person_rows("
        " private.person_scope(gen_random_uuid())) as c"
    ).fetchone()
    tables = connection.execute(
        "select count(*), 0 from private.personal_tables where rows_of is not null"
    ).fetchone()
    assert counted == tables


def test_secrets_are_in_no_export(db: Db) -> None:
    rows = db().execute("select from private.personal_data where kind = 'secret' and is_exported")
    assert rows.rowcount == 0
