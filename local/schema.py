"""What the migrations build, on one page: `python -m local.schema` writes sql/schema.sql.

Tables with their columns, constraints, indexes, policies, triggers and grants; then views, types
and functions. Of a function there is its signature and a digest of its body, which is read where it
was written. Months of partitioned tables are left out: which there are depends on the date.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from local.errors import StackError
from local.paths import ROOT, state_dir
from local.stack import Stack

SCHEMA = ROOT / "sql" / "schema.sql"
HEAD = """\
-- What the migrations build. Made by `make schema`; a test compares it with a new database. It is
-- to be read, and to show in a review what a migration changes: what runs is in
-- supabase/migrations/.
"""

Row = dict[str, Any]
Connection = psycopg.Connection[Row]

TABLES: LiteralString = """
select c.oid, n.nspname || '.' || c.relname as name, c.relkind as kind,
  obj_description(c.oid, 'pg_class') as comment,
  c.relpersistence = 'u' as is_unlogged, c.relrowsecurity as has_security,
  c.relforcerowsecurity as is_forced,
  c.reloptions as options,
  case when c.relkind = 'p' then pg_get_partkeydef(c.oid) end as partition_key,
  case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid, true) end as query
from pg_class as c
inner join pg_namespace as n on n.oid = c.relnamespace
where n.nspname in ('public', 'backend', 'private') and c.relkind in ('r', 'p', 'v', 'm')
  and not c.relispartition
order by c.relkind in ('v', 'm'), n.nspname = 'private', n.nspname, c.relname
"""

COLUMNS: LiteralString = """
select a.attname as name, format_type(a.atttypid, a.atttypmod) as type,
  a.attnotnull as is_required,
  pg_get_expr(d.adbin, d.adrelid, true) as value, a.attgenerated <> '' as is_generated,
  a.attidentity <> '' as is_identity,
  col_description(a.attrelid, a.attnum) as comment,
  case when a.attstorage <> t.typstorage then a.attstorage end as storage
from pg_attribute as a
inner join pg_type as t on t.oid = a.atttypid
left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""

# Of a table, each as one line of SQL.
PARTS: dict[str, LiteralString] = {
    "constraint": """
select format('constraint %%I %%s', conname, pg_get_constraintdef(oid, true)) as line
from pg_constraint where conrelid = %s and contype not in ('n', 't')
order by contype <> 'p', contype, conname
""",
    "index": """
select pg_get_indexdef(i.indexrelid, 0, true) as line
from pg_index as i
where i.indrelid = %s and not exists (
  select from pg_constraint as k where k.conindid = i.indexrelid and k.contype <> 'f'
)
order by 1
""",
    "trigger": """
select pg_get_triggerdef(oid, true)
  || case tgenabled when 'O' then '' else ' -- enabled: ' || tgenabled::text end as line
from pg_trigger where tgrelid = %s and not tgisinternal and tgparentid = 0
order by tgname
""",
    "policy": """
select format(
  'CREATE POLICY %%I%%s FOR %%s TO %%s%%s%%s', polname,
  case when polpermissive then '' else ' AS RESTRICTIVE' end,
  case polcmd
    when 'r' then 'SELECT' when 'a' then 'INSERT' when 'w' then 'UPDATE' when 'd' then 'DELETE'
    else 'ALL'
  end,
  array_to_string(array(
    select case r when 0 then 'public' else r::regrole::text end from unnest(polroles) as r
  ), ', '),
  ' USING ' || regexp_replace(pg_get_expr(polqual, polrelid, true), '\\s+', ' ', 'g'),
  ' WITH CHECK ' || regexp_replace(pg_get_expr(polwithcheck, polrelid, true), '\\s+', ' ', 'g')
) as line
from pg_policy where polrelid = %s
order by polname
""",
    "grant": """
select format(
  'GRANT %%s%%s TO %%s', string_agg(distinct g.privilege_type, ', ' order by g.privilege_type),
  case when g.name is not null
    then format(' (%%s)', string_agg(distinct g.name, ', ' order by g.name))
  end, g.grantee
) as line
from (
  select x.privilege_type, null::text as name, x.grantee::regrole::text as grantee, 0 as place
  from pg_class as c
  cross join lateral aclexplode(c.relacl) as x
  where c.oid = %(oid)s and x.grantee <> c.relowner
  union all
  select x.privilege_type, a.attname, x.grantee::regrole::text, 1
  from pg_attribute as a
  inner join pg_class as c on c.oid = a.attrelid
  cross join lateral aclexplode(a.attacl) as x
  where a.attrelid = %(oid)s and x.grantee <> c.relowner
) as g
group by g.grantee, g.place, g.name is not null, case when g.place = 1 then g.privilege_type end
order by g.grantee, g.place, 1
""",
}

TYPES: LiteralString = """
select n.nspname || '.' || t.typname as name, obj_description(t.oid, 'pg_type') as comment,
  string_agg(
  a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' order by a.attnum
) as columns
from pg_type as t
inner join pg_namespace as n on n.oid = t.typnamespace
inner join pg_class as c on c.oid = t.typrelid and c.relkind = 'c'
inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where n.nspname in ('public', 'backend', 'private')
group by n.nspname, t.typname, t.oid
order by 1
"""

FUNCTIONS: LiteralString = """
select format('%s.%s(%s)', n.nspname, p.proname, pg_get_function_arguments(p.oid)) as name,
  pg_get_function_result(p.oid) as result, l.lanname as language,
  case p.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end
    as volatility,
  p.prosecdef as is_definer, p.proisstrict as is_strict, p.proleakproof as is_leakproof,
  p.proconfig as settings, p.proacl is null as is_for_everybody,
  obj_description(p.oid, 'pg_proc') as comment,
  left(encode(sha256(convert_to(
    coalesce(p.prosrc, '') || coalesce(pg_get_function_sqlbody(p.oid), ''), 'UTF8'
  )), 'hex'), 16) as digest,
  array(
    select case x.grantee when 0 then 'public' else x.grantee::regrole::text end
    from aclexplode(p.proacl) as x where x.grantee <> p.proowner order by 1
  ) as roles
from pg_proc as p
inner join pg_namespace as n on n.oid = p.pronamespace
inner join pg_language as l on l.oid = p.prolang
where n.nspname in ('public', 'backend', 'private')
  and not exists (
    select from pg_depend as d
    where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
  )
order by n.nspname = 'private', n.nspname, p.proname,
  pg_get_function_identity_arguments(p.oid)
"""

ELSEWHERE: LiteralString = """
select c.oid, n.nspname || '.' || c.relname as name
from pg_class as c
inner join pg_namespace as n on n.oid = c.relnamespace
where n.nspname in ('auth', 'storage') and c.relkind in ('r', 'p')
order by 2
"""

PUBLISHED: LiteralString = """
select format('ALTER PUBLICATION %I ADD TABLE %I.%I', pubname, schemaname, tablename) as line
from pg_publication_tables
where schemaname in ('public', 'backend', 'private')
order by 1
"""


def schema_of(dsn: str) -> str:
    """The page, of a database that the migrations have built."""
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        connection.execute("set search_path = ''")
        sections = [*_tables(connection), *_elsewhere(connection), *_rest(connection)]
    return HEAD + "".join(f"\n{section}\n" for section in sections)


def _tables(connection: Connection) -> Iterator[str]:
    for table in connection.execute(TABLES).fetchall():
        kind = "unlogged table" if table["is_unlogged"] else "table"
        lines = [f"-- {table['comment']}"]
        if table["kind"] in ("v", "m"):
            kind = "materialized view" if table["kind"] == "m" else "view"
            lines += [f"create {kind} {table['name']}{_options(table)} as", table["query"] or ""]
        else:
            columns = [_column(one) for one in _rows(connection, COLUMNS, table["oid"])]
            constraints = [(one, "") for one in _lines(connection, "constraint", table["oid"])]
            lines += [
                f"create {kind} {table['name']} (",
                *_listed(columns + constraints),
                _end(table),
            ]
        lines += [
            f"{line};"
            for part in ("index", "trigger", "policy", "grant")
            for line in _lines(connection, part, table["oid"])
        ]
        yield "\n".join(lines)


def _column(column: Row) -> tuple[str, str]:
    words = [column["name"], column["type"]]
    if column["is_required"]:
        words.append("not null")
    if column["is_identity"]:
        words.append("generated always as identity")
    elif column["is_generated"]:
        words.append(f"generated always as ({column['value']}) stored")
    elif column["value"] is not None:
        words.append(f"default {column['value']}")
    if column["storage"]:
        words.append(f"storage {column['storage']}")
    return " ".join(words), column["comment"] or ""


def _listed(items: list[tuple[str, str]]) -> Iterator[str]:
    for place, (item, comment) in enumerate(items, 1):
        comma = "," if place < len(items) else ""
        yield f"  {item}{comma}" + (f"  -- {comment}" if comment else "")


def _end(table: Row) -> str:
    partitioned = f" partition by {table['partition_key']}" if table["partition_key"] else ""
    security = "" if table["has_security"] else "  -- without row level security"
    if table["is_forced"]:
        security = "  -- row level security for its owner too"
    return f"){partitioned}{_options(table)};{security}"


def _options(table: Row) -> str:
    return f" with ({', '.join(table['options'])})" if table["options"] else ""


def _elsewhere(connection: Connection) -> Iterator[str]:
    """Policies and triggers on tables that are the platform's."""
    for table in connection.execute(ELSEWHERE).fetchall():
        lines = [
            f"{line};"
            for part in ("trigger", "policy")
            for line in _lines(connection, part, table["oid"])
            if part == "policy" or " private." in line
        ]
        if lines:
            yield "\n".join([f"-- On {table['name']}, which is the platform's.", *lines])


def _rest(connection: Connection) -> Iterator[str]:
    published = [f"{row['line']};" for row in connection.execute(PUBLISHED).fetchall()]
    yield "\n".join(["-- What Realtime tells of.", *published])
    for row in connection.execute(TYPES).fetchall():
        yield f"-- {row['comment']}\ncreate type {row['name']} as ({row['columns']});"
    for row in connection.execute(FUNCTIONS).fetchall():
        how = [
            row["language"],
            row["volatility"],
            *(["security definer"] if row["is_definer"] else []),
        ]
        how += [word for word in ("strict", "leakproof") if row[f"is_{word}"]]
        how += [f"set {one}" for one in row["settings"] or []]
        lines = [
            f"-- {row['comment']}",
            f"create function {row['name']} returns {row['result']}",
            f"  {', '.join(how)};  -- {row['digest']}",
        ]
        if row["is_for_everybody"]:
            lines.append("  grant execute to public;")
        elif row["roles"]:
            lines.append(f"  grant execute to {', '.join(row['roles'])};")
        yield "\n".join(lines)


def _rows(connection: Connection, query: LiteralString, oid: int) -> list[Row]:
    return connection.execute(query, [oid]).fetchall()


def _lines(connection: Connection, part: str, oid: int) -> list[str]:
    query = PARTS[part]
    values: Any = {"oid": oid} if "%(oid)s" in query else [oid]
    return [row["line"] for row in connection.execute(query, values).fetchall()]


def built(state: Path) -> str:
    """The page of a new database. Raises StackError."""
    stack = Stack(state=state, services=False, durable=False)
    try:
        stack.start_database()
        return schema_of(stack.admin_dsn)
    finally:
        stack.stop()
        stack.postgres.destroy()
        shutil.rmtree(state, ignore_errors=True)


def main() -> int:
    """Write it."""
    try:
        SCHEMA.write_text(built(state_dir() / "schema"))
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
