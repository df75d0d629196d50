"""`make restore-drill`: a backup is worth what can be restored from it.

Dumps a database that the demo has filled, restores it into an empty cluster with the roles, and
compares the two: the schema, every row of every table, every sequence, and the invariants.
"""

from __future__ import annotations

import argparse
import difflib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

from local.checks import violated_invariants
from local.demo import Demo
from local.errors import StackError
from local.paths import CHECKS, state_dir
from local.postgres import SUPERUSER, Postgres
from local.processes import free_ports
from local.schema import schema_of
from local.stack import Stack, own_settings

JOBS = 2
"""Tables and indexes that are restored at the same time."""

TABLES: LiteralString = """
select n.nspname, c.relname
from pg_class as c
inner join pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and not c.relispartition
  and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg_toast%'
order by 1, 2
"""

Contents = dict[str, tuple[int, str]]


@dataclass
class Drill:
    """A source, what was restored from it, and how long each part took."""

    folder: Path
    source: Postgres
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> list[str]:
        """Every difference; none where the backup is good. Raises StackError."""
        dump, roles = self.folder / "database.dump", self.folder / "roles.sql"
        with self._timed("dump"):
            self._program("pg_dumpall", "--roles-only", f"--file={roles}", url=self.source)
            self._program("pg_dump", "--format=custom", f"--file={dump}", url=self.source)
        [port] = free_ports(1)
        password = self.source.password
        log = self.folder / "restored.log"
        target = Postgres(
            self.folder / "restored", port=port, password=password, log=log, durable=False
        )
        try:
            target.initialize()
            target.start()
            with self._timed("restore"):
                self._restore(target, dump, roles)
            with self._timed("compare"):
                return list(self._differences(target))
        finally:
            target.stop()
            target.destroy()
            for path in (dump, roles):
                path.unlink(missing_ok=True)

    def _restore(self, target: Postgres, dump: Path, roles: Path) -> None:
        # The superuser is there already; everybody else comes from the dump.
        known = f"CREATE ROLE {SUPERUSER};"
        text = "\n".join(line for line in roles.read_text().splitlines() if line != known)
        with psycopg.connect(target.dsn(SUPERUSER, target.password, "template1")) as connection:
            connection.autocommit = True
            connection.execute("drop database postgres")
        self._program("psql", "--quiet", "-v", "ON_ERROR_STOP=1", "-f", "-", text=text, url=target)
        self._program(
            "pg_restore",
            "--create",
            "--exit-on-error",
            f"--jobs={JOBS}",
            str(dump),
            url=target,
        )

    def _differences(self, target: Postgres) -> Iterator[str]:
        wanted, found = schema_of(self.source.admin_dsn), schema_of(target.admin_dsn)
        if wanted != found:
            lines = difflib.unified_diff(wanted.splitlines(), found.splitlines(), lineterm="", n=0)
            yield "the schema: " + "\n  ".join(list(lines)[2:12])
        before, after = contents_of(self.source.admin_dsn), contents_of(target.admin_dsn)
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                yield f"{name}: {before.get(name)} became {after.get(name)}"
        yield from violated_invariants(target.admin_dsn, CHECKS)

    def _program(self, name: str, *arguments: str, url: Postgres, text: str | None = None) -> None:
        """One of Postgres's own. Raises StackError with what it says."""
        database = "postgres" if url is self.source else "template1"
        done = subprocess.run(
            [
                str(url.place.binaries / name),
                f"--dbname={url.dsn(SUPERUSER, '', database)}",
                *arguments,
            ],
            check=False,
            capture_output=True,
            text=True,
            input=text,
            env={"PGPASSWORD": url.password, "LC_ALL": "C"},
        )
        if done.returncode != 0:
            raise StackError(f"{name} failed: {done.stderr.strip()[:2000]}")

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[what] = time.monotonic() - began


def contents_of(dsn: str) -> Contents:
    """Rows of every table with a digest of them, and where every sequence is."""
    found: Contents = {}
    with psycopg.connect(dsn) as connection:
        for schema, table in connection.execute(TABLES).fetchall():
            row = connection.execute(
                sql.SQL(
                    "select count(*), coalesce(md5(string_agg(h, '' order by h)), '')"
                    " from (select md5(t::text) as h from {} as t) as x"
                ).format(sql.Identifier(schema, table))
            ).fetchone()
            if row is not None:
                found[f"{schema}.{table}"] = row
        for name, value in connection.execute(
            "select schemaname || '.' || sequencename, coalesce(last_value, 0) from pg_sequences"
        ).fetchall():
            found[name] = (value, "sequence")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill a database, and lose it on paper."""
    argparse.ArgumentParser(prog="python -m local.restore_drill", description=__doc__).parse_args(
        arguments
    )
    state = state_dir() / "drill"
    stack = Stack(
        state=state, rebuild=True, durable=False, environment=own_settings(), say=lambda _: None
    )
    shutil.rmtree(state, ignore_errors=True)
    stack.postgres.destroy()
    try:
        print("Restore drill: the demo fills a database ...", flush=True)
        with stack:
            Demo(stack).run()
        # Without anybody who writes: what is compared stands still.
        stack = Stack(state=state, services=False, durable=False)
        stack.start_database()
        print("\n  It is dumped, and restored into an empty cluster ...", flush=True)
        drill = Drill(state, stack.postgres)
        differences = drill.run()
        contents = contents_of(stack.admin_dsn)
    except StackError as error:
        print(f"\nThe drill failed. {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        stack.stop()
        stack.postgres.destroy()
        shutil.rmtree(state, ignore_errors=True)
    for difference in differences:
        print(f"  {difference}", file=sys.stderr)
    if differences:
        print(f"\nThe copy is another one: {len(differences)} differences.", file=sys.stderr)
        return 1
    rows = sum(count for count, kind in contents.values() if kind != "sequence")
    took = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in drill.seconds.items())
    print(f"  {len(contents)} tables and sequences, {rows} rows: all the same, and every invariant")
    print(f"  holds in the copy ({took}).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
