"""`make check`, the database's part: migrations apply, advisors are silent, invariants hold."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg

from local import migrate
from local.errors import StackError
from local.paths import CHECKS, MIGRATIONS, state_dir
from local.stack import Stack

# On the hosted platform `postgres` may not alter Storage's tables; here it could.
FORBIDDEN = re.compile(
    r"^\s*alter\s+table\s+(?:only\s+)?(?:if\s+exists\s+)?storage\.", re.IGNORECASE | re.MULTILINE
)


def main() -> int:
    """Print every problem; 0 when there is none."""
    try:
        problems = list(_problems())
    except StackError as error:
        problems = [str(error)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        count = len(list(CHECKS.glob("*.sql")))
        print(f"Migrations apply, Supabase's advisors are silent, {count} invariants hold.")
    return 1 if problems else 0


def _problems() -> Iterator[str]:
    yield from foreign_alterations(MIGRATIONS)
    stack = Stack(state=state_dir() / f"checks-{os.getpid()}", services=False, durable=False)
    try:
        stack.start_database()
        yield from advice(stack)
        yield from violated_invariants(stack.admin_dsn, CHECKS)
    finally:
        stack.stop()
        stack.postgres.destroy()
        shutil.rmtree(stack.state, ignore_errors=True)


def foreign_alterations(migrations: Path) -> Iterator[str]:
    """Migrations that alter tables which the hosted platform owns."""
    for path in sorted(migrations.glob("*.sql")):
        for match in FORBIDDEN.finditer(path.read_text()):
            line = path.read_text()[: match.end()].count("\n") + 1
            yield f"{path.name}:{line}: alters a table of Storage, which hosted Supabase refuses."


def advice(stack: Stack) -> Iterator[str]:
    """What `supabase db advisors` (security and performance lints) reports at WARN or above."""
    output = migrate.run_cli(
        ["db", "advisors", "--remote", stack.postgres_dsn, "--level=warn", "--output-format=json"],
        workdir=stack.state / "supabase-cli",
        what="supabase db advisors",
    )
    for lint in json.loads(output)["results"]:
        yield f"advisor, {lint['level']}, {lint['name']}: {lint['detail']}"


def violated_invariants(admin_dsn: str, folder: Path) -> Iterator[str]:
    """Run every check; each is a query that returns rows only when something is wrong."""
    with psycopg.connect(admin_dsn) as connection:
        for path in sorted(folder.glob("*.sql")):
            rows = connection.execute(path.read_bytes()).fetchall()
            connection.rollback()
            if rows:
                yield f"{path.name}: {len(rows)} rows, the first: {rows[0]}"


if __name__ == "__main__":
    sys.exit(main())
