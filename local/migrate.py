"""Applies migrations with the real Supabase CLI, as the non-superuser `postgres`."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg

from local import node
from local.errors import StackError
from local.paths import CONFIG

CREATE_LEDGER = """
create schema if not exists quernel_local;
create table if not exists quernel_local.applied_migrations (
    name text primary key,
    digest text not null,
    applied_at timestamptz not null default now()
)
"""


@dataclass(frozen=True)
class Pending:
    """How the files on disk differ from what the database has."""

    new: tuple[str, ...]
    changed: tuple[str, ...]
    """Applied, and since then edited or deleted: only a rebuilt database can follow."""


def file_digests(migrations: Path) -> dict[str, str]:
    """File name → SHA-256 of its content, in the order the CLI applies them."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(migrations.glob("*.sql"))
    }


def pending(admin_dsn: str, migrations: Path) -> Pending:
    """Compare names and contents with the last successful push."""
    wanted = file_digests(migrations)
    with psycopg.connect(admin_dsn) as connection:
        connection.execute(CREATE_LEDGER)
        applied = dict(
            connection.execute(
                "select name, digest from quernel_local.applied_migrations"
            ).fetchall()
        )
    changed = [name for name, digest in applied.items() if wanted.get(name) != digest]
    return Pending(
        new=tuple(name for name in wanted if name not in applied), changed=tuple(sorted(changed))
    )


def query_one(admin_dsn: str, query: LiteralString) -> bool:
    """The truth of a one-row, one-column query."""
    with psycopg.connect(admin_dsn) as connection:
        row = connection.execute(query).fetchone()
    return bool(row and row[0])


def push(admin_dsn: str, postgres_dsn: str, migrations: Path, workdir: Path) -> None:
    """`supabase db push` of what is new. Raises StackError with the CLI's words if it fails."""
    prepare_workdir(workdir, migrations)
    digests = file_digests(migrations)
    try:
        run_cli(
            ["db", "push", "--remote", postgres_dsn, "--include-all", "--yes"],
            workdir=workdir,
            what="supabase db push",
        )
    finally:
        _record(admin_dsn, digests)


def _record(admin_dsn: str, digests: dict[str, str]) -> None:
    """Remember the contents of what the CLI says it has applied, also when a later file failed."""
    with psycopg.connect(admin_dsn) as connection:
        connection.execute(CREATE_LEDGER)
        if connection.execute(
            "select to_regclass('supabase_migrations.schema_migrations') is null"
        ).fetchone() == (True,):
            return
        versions = {
            version
            for (version,) in connection.execute(
                "select version from supabase_migrations.schema_migrations"
            )
        }
        connection.cursor().executemany(
            "insert into quernel_local.applied_migrations (name, digest) values (%s, %s)"
            " on conflict (name) do nothing",
            [(name, digest) for name, digest in digests.items() if name.split("_")[0] in versions],
        )


def prepare_workdir(workdir: Path, migrations: Path) -> None:
    """A project folder for the CLI outside the clone, so its scratch files stay there."""
    project = workdir / "supabase"
    project.mkdir(parents=True, exist_ok=True)
    for name, target in (("config.toml", CONFIG), ("migrations", migrations)):
        link = project / name
        if link.is_symlink() and link.readlink() != target:
            link.unlink()
        if not link.is_symlink():
            link.symlink_to(target)


def run_cli(arguments: list[str], *, workdir: Path, what: str) -> str:
    """Run the Supabase CLI and return its standard output."""
    try:
        result = subprocess.run(
            [node.supabase_cli(), *arguments, "--workdir", workdir],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=node.environment(workdir),
            timeout=300,
        )
    except subprocess.TimeoutExpired:
        raise StackError(f"{what} took longer than five minutes.") from None
    if result.returncode != 0:
        raise StackError(f"{what} failed:\n{(result.stderr + result.stdout).strip()}")
    return result.stdout
