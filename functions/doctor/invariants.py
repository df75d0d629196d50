"""What only an owner of the database can see: sql/checks, run over a connection of its own."""

from __future__ import annotations

import psycopg

from functions.core.console import Progress
from functions.core.settings import Settings
from functions.doctor.database import CHECKOUT
from functions.doctor.findings import Area, Finding, count_of

INVARIANTS = Area("invariants")
CHECKS = CHECKOUT / "sql" / "checks"
CONNECT_SECONDS = 10
CHECK_SECONDS = 120


async def examine_invariants(settings: Settings) -> list[Finding]:
    """Each file of sql/checks, where somebody is given who may read what they read."""
    if settings.owner_database_url is None:
        return [
            INVARIANTS.unseen(
                "checks",
                "grants column by column, the ledger and every other invariant of sql/checks",
                "set QUERNEL_OWNER_DATABASE_URL, the database's owner `postgres`, for this command",
            )
        ]
    checks = {path.stem: path.read_bytes() for path in sorted(CHECKS.glob("*.sql"))}
    if not checks:
        return [
            INVARIANTS.unseen(
                "checks", "no checks lie beside this program", "run it from a checkout"
            )
        ]
    try:
        return await _run(settings.owner_database_url.get_secret_value(), checks)
    except psycopg.Error as error:
        return [
            INVARIANTS.wrong(
                "checks",
                f"the owner's connection failed ({type(error).__name__})",
                "mend QUERNEL_OWNER_DATABASE_URL: the session pooler or the direct address",
            )
        ]


async def _run(url: str, checks: dict[str, bytes]) -> list[Finding]:
    found: list[Finding] = []
    progress = Progress("checking", len(checks))
    connection = await psycopg.AsyncConnection.connect(
        url, connect_timeout=CONNECT_SECONDS, application_name="quernel-doctor"
    )
    try:
        await connection.set_read_only(True)
        for done, (name, query) in enumerate(checks.items(), 1):
            found += await _check(connection, name, query)
            progress.show(done)
    finally:
        progress.end()
        await connection.close()
    if not any(one.state != "ok" for one in found):
        return [INVARIANTS.ok("checks", f"all {len(checks)} hold")]
    return found


async def _check(
    connection: psycopg.AsyncConnection[tuple[object, ...]], name: str, query: bytes
) -> list[Finding]:
    mend = f"docs/runbook.md, {name}"
    try:
        await connection.execute(f"set local statement_timeout = '{CHECK_SECONDS}s'")
        rows = await (await connection.execute(query)).fetchall()
    except psycopg.errors.InsufficientPrivilege:
        return [INVARIANTS.unseen(name, "this login may not read that", "log in as the owner")]
    finally:
        await connection.rollback()
    if not rows:
        return []
    # Which rows is for the owner to look at: they may be about people.
    return [INVARIANTS.wrong(name, f"{count_of(len(rows), 'row')} break it", mend)]
