"""The invariants of sql/checks: as the database last proved them itself, and as they are now.

Only an owner of the database can ask them now, over a connection of its own.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import psycopg

from functions.core.console import Progress
from functions.core.settings import Settings
from functions.doctor.database import CHECKOUT
from functions.doctor.findings import Area, Finding, count_of

INVARIANTS = Area("invariants")
CHECKS = CHECKOUT / "sql" / "checks"
CONNECT_SECONDS = 10
CHECK_SECONDS = 120
PROOF_AGE = timedelta(days=2)
"""A proof is repeated once a day (setting `invariant_hours`)."""


def examine_proofs(status: dict[str, Any], now: datetime) -> list[Finding]:
    """What backend.invariants_status() says: of the cron job `prove_invariants`."""
    found = [
        INVARIANTS.wrong(
            one["name"],
            f"could not be proved ({one['error']})"
            if one["error"]
            else f"{count_of(one['found'], 'row')} broke it, at {one['proved_at']}",
            f"docs/runbook.md, {one['name']}; the rows are in private.invariant_findings",
        )
        for one in status["wrong"]
    ]
    oldest = status["oldest_proof_at"]
    is_late = oldest is None or now - datetime.fromisoformat(oldest) > PROOF_AGE
    if status["proved"] < status["all"] or is_late:
        found.append(
            INVARIANTS.warning(
                "proofs",
                f"{status['proved']} of {status['all']} were ever proved, the first {oldest}",
                "quernel cron prove_invariants",
            )
        )
    return found or [INVARIANTS.ok("proofs", f"all {status['all']} held when last proved")]


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
