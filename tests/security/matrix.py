"""What each role really may do with every table and function, compared with matrix.toml.

`python -m tests.security.matrix --write` writes matrix.toml from a fresh database. Read its diff:
it is the list of what a change lets somebody do.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.security.world import MISSING, ROWS, World, build
from tests.support.fresh_database import fresh_database

FILE = Path(__file__).with_name("matrix.toml")
SCHEMAS = ["backend", "private", "public"]
ROLES = ["anon", "authenticated", "service_role"]
ACTORS = ["anon", "stranger", "owner", "member", "admin", "service_role"]

HEADER = """\
# Who may do what. Written by `python -m tests.security.matrix --write`, read by people, and
# compared with the database by tests/security/test_matrix.py.
#
# [tables] For each kind of row (belonging to a person, the owner; to an organization; to nobody):
# one word for each of
#     anon  stranger  owner  member  admin  service_role
# where member and admin are of the organization, the owner belongs to none, and the stranger to
# nothing. A word has a letter for each of
#     S select  I insert  U update  D delete
# in the place of which may stand
#     -  no privilege: the statement is refused
#     .  privilege, but row level security hides the row or refuses it
#     x  privilege, but a trigger or constraint refuses the change
#
# [select_columns] Where a role reads some columns of a table and not the rest: which ones.
"""

# Partitions are one line: their names change with the calendar.
_MONTH = re.compile(r"_\d{4}_\d{2}$")

_RELATIONS = """
select n.nspname, c.relname, c.relispartition
from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = any(%s) and c.relkind in ('r', 'p', 'v', 'm', 'f')
order by n.nspname, c.relname
"""

_FUNCTIONS = """
select
  n.nspname || '.' || p.proname || '(' || (
    select coalesce(string_agg(format_type(t.type, null), ', ' order by t.place), '')
    from unnest(p.proargtypes) with ordinality as t (type, place)
  ) || ')',
  p.prosecdef,
  array(
    select r.role from unnest(%s::text[]) with ordinality as r (role, place)
    where has_schema_privilege(r.role, n.oid, 'usage')
      and has_function_privilege(r.role, p.oid, 'execute')
    order by r.place
  )
from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
where n.nspname = any(%s)
  and not exists (
    select from pg_depend as d
    where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
  )
order by 1
"""

_COLUMNS = """
select a.attname
from pg_attribute as a
where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
  and has_column_privilege(%s, a.attrelid, a.attnum, %s)
order by a.attname
"""

_READS_ALL = "select has_table_privilege(%s, %s, 'select')"

Matrix = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """A table or view; `name` is how the matrix calls it."""

    schema: str
    relation: str
    name: str

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.relation)

    @property
    def regclass(self) -> str:
        return f'"{self.schema}"."{self.relation}"'


def observe(connection: psycopg.Connection) -> Matrix:
    """Try everything, as the superuser's connection allows; rolls the transaction back."""
    try:
        # So that every name in a signature is qualified.
        connection.execute("set local search_path = ''")
        world = build(connection)
        tables = list(_tables(connection))
        return {
            "tables": {t.name: _Probe(connection, world, t).outcome() for t in tables},
            "select_columns": _columns(connection, tables, "select"),
            "insert_columns": _columns(connection, tables, "insert"),
            "update_columns": _columns(connection, tables, "update"),
            "functions": _functions(connection),
        }
    finally:
        connection.rollback()


def expected() -> Matrix:
    """What matrix.toml says."""
    return tomllib.loads(FILE.read_text())


def render(matrix: Matrix) -> str:
    """The text of matrix.toml."""
    return HEADER + "".join(
        f"\n[{section}]\n" + "".join(f"{line}\n" for line in lines(matrix, section).values())
        for section in matrix
    )


def lines(matrix: Matrix, section: str) -> dict[str, str]:
    """The lines of a section, by the object each is about."""
    return {name: f'"{name}" = {_value(v)}' for name, v in sorted(matrix[section].items())}


def differences(actual: Matrix, wanted: Matrix) -> list[str]:
    """What to do to matrix.toml so that it says what is: one sentence and one line each."""
    found = []
    for section in actual:
        here, there = (
            lines(actual, section),
            lines(wanted | {section: wanted.get(section, {})}, section),
        )
        for name in sorted(here | there):
            match here.get(name), there.get(name):
                case new, None:
                    found.append(f"new, so add to [{section}]:\n  {new}")
                case None, old:
                    found.append(f"gone, so take out of [{section}]:\n  {old}")
                case new, old if new != old:
                    found.append(f"changed in [{section}]:\n  was {old}\n  is  {new}")
    return found


def _value(value: str | Mapping[str, str]) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return "{ " + ", ".join(f'{key} = "{text}"' for key, text in value.items()) + " }"


def _tables(connection: psycopg.Connection) -> Iterator[Table]:
    months: dict[str, list[str]] = {}
    for schema, relation, is_partition in connection.execute(_RELATIONS, [SCHEMAS]).fetchall():
        if is_partition and _MONTH.search(relation):
            months.setdefault(f"{schema}.{_MONTH.sub('_YYYY_MM', relation)}", []).append(relation)
        else:
            yield Table(schema, relation, f"{schema}.{relation}")
    row = connection.execute("select to_char(now() at time zone 'utc', 'YYYY_MM')").fetchone()
    assert row is not None
    for name, relations in months.items():
        # This month's; sql/checks 006 sees that no other is open.
        (current,) = (relation for relation in relations if relation.endswith(row[0]))
        yield Table(name.split(".")[0], current, name)


def _columns(
    connection: psycopg.Connection, tables: Iterable[Table], privilege: str
) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for table, role in itertools.product(tables, ROLES):
        if privilege == "select" and connection.execute(
            _READS_ALL, [role, table.regclass]
        ).fetchone() == (True,):
            continue
        columns = connection.execute(_COLUMNS, [table.regclass, role, privilege]).fetchall()
        if columns:
            found.setdefault(table.name, {})[role] = " ".join(name for (name,) in columns)
    return found


def _functions(connection: psycopg.Connection) -> dict[str, str]:
    return {
        name: f"{'definer' if is_definer else 'invoker'}, for {', '.join(roles) or 'nobody'}"
        for name, is_definer, roles in connection.execute(_FUNCTIONS, [ROLES, SCHEMAS])
    }


class _Probe:
    """Tries the four statements on the rows of one table."""

    def __init__(self, connection: psycopg.Connection, world: World, table: Table) -> None:
        self.connection = connection
        self.world = world
        self.table = table

    def outcome(self) -> dict[str, str]:
        if self.table.name not in ROWS:
            return {"unknown": MISSING.format(table=self.table.name)}
        return {
            kind: " ".join(self._word(actor, sql.SQL(predicate)) for actor in ACTORS)
            for kind, predicate in ROWS[self.table.name].items()
        }

    def _word(self, actor: str, predicate: sql.Composable) -> str:
        role = actor if actor in ROLES else "authenticated"
        row = self.connection.execute(
            sql.SQL("select to_jsonb(t) from {} as t where {}").format(
                self.table.identifier, predicate
            ),
            self.world.ids,
        ).fetchone()
        if row is None:
            return MISSING.format(table=self.table.name)
        return "".join(
            (
                self._select(actor, role, predicate),
                self._insert(actor, role, predicate, row[0]),
                self._update(actor, role, predicate),
                self._delete(actor, role, predicate),
            )
        )

    def _select(self, actor: str, role: str, predicate: sql.Composable) -> str:
        statement = sql.SQL("select from {} where {}").format(self.table.identifier, predicate)
        return self._try(actor, role, statement, "S")

    def _insert(self, actor: str, role: str, predicate: sql.Composable, row: Any) -> str:
        columns = [name for name in self._allowed(role, "insert") if row.get(name) is not None]
        if not columns:
            statement = sql.SQL("insert into {} default values").format(self.table.identifier)
            return self._try(actor, role, statement, "I")
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        statement = sql.SQL(
            "insert into {table} ({names})"
            " select {names} from jsonb_populate_record(null::{table}, {row}::jsonb)"
        ).format(table=self.table.identifier, names=names, row=sql.Literal(json.dumps(row)))
        with self._undone():
            # Room for the copy, past every trigger and foreign key.
            self.connection.execute("set local session_replication_role = replica")
            self.connection.execute(
                sql.SQL("delete from {} where {}").format(self.table.identifier, predicate),
                self.world.ids,
            )
            self.connection.execute("set local session_replication_role = origin")
            return self._try(actor, role, statement, "I")

    def _update(self, actor: str, role: str, predicate: sql.Composable) -> str:
        columns = self._allowed(role, "update") or self._allowed("supabase_admin", "update")[:1]
        outcomes = set()
        for name in columns:
            head = sql.SQL("update {} set {column} = {column}").format(
                self.table.identifier, column=sql.Identifier(name)
            )
            outcomes.add(self._change(actor, role, head, predicate, "U"))
        return next(outcome for outcome in "Ux.-" if outcome in outcomes)

    def _delete(self, actor: str, role: str, predicate: sql.Composable) -> str:
        head = sql.SQL("delete from {}").format(self.table.identifier)
        return self._change(actor, role, head, predicate, "D")

    def _change(
        self, actor: str, role: str, head: sql.Composed, predicate: sql.Composable, letter: str
    ) -> str:
        outcome = self._try(actor, role, head + sql.SQL(" where ") + predicate, letter)
        # A role that may write what it cannot read is refused for the reading, so ask without.
        if outcome == "-":
            outcome = self._try(actor, role, head, letter)
        return outcome

    def _try(self, actor: str, role: str, statement: sql.Composed, letter: str) -> str:
        claims = {"role": role} if actor in ROLES else self.world.claims(actor)
        with self._undone():
            self.connection.execute(
                "select set_config('request.jwt.claims', %s, true), set_config('role', %s, true)",
                [json.dumps(claims), role],
            )
            try:
                count = self.connection.execute(statement, self.world.ids).rowcount
            except psycopg.errors.InsufficientPrivilege as error:
                return "." if "row-level security" in str(error) else "-"
            except psycopg.errors.ObjectNotInPrerequisiteState:
                return "-"  # a view that cannot be written
            except (psycopg.errors.IntegrityError, psycopg.errors.RaiseException):
                return "x"
            except psycopg.Error as error:
                if (error.sqlstate or "").startswith("PT4"):  # private.fail, in a trigger
                    return "x"
                raise
            return letter if count > 0 else "."

    def _allowed(self, role: str, privilege: str) -> list[str]:
        rows = self.connection.execute(_COLUMNS, [self.table.regclass, role, privilege])
        return [name for (name,) in rows]

    @contextmanager
    def _undone(self) -> Iterator[None]:
        with self.connection.transaction(force_rollback=True):
            yield


def main() -> None:
    """Write matrix.toml, or print how it differs from a fresh database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write matrix.toml")
    options = parser.parse_args()
    with fresh_database() as connection:
        actual = observe(connection)
    if options.write:
        FILE.write_text(render(actual))
        return
    found = differences(actual, expected())
    print("\n".join(found) or "matrix.toml says what the database does.")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
