"""All examinations, each on its own: what fails of one is a finding, and the others go on."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from functions.core.database import Database
from functions.core.errors import OperatorError, QuernelError
from functions.core.json import Json
from functions.core.settings import Settings
from functions.doctor.api import examine_api
from functions.doctor.configuration import examine_settings
from functions.doctor.database import DATABASE, examine_database
from functions.doctor.findings import Finding
from functions.doctor.invariants import examine_invariants, examine_proofs
from functions.doctor.payments import examine_payments
from functions.doctor.work import examine_work


async def examine(settings: Settings, database: Database) -> list[Finding]:
    """Everything that can be seen from here. Raises nothing that a deployment can cause."""
    found: list[Finding] = []
    report: dict[str, Json] | None = None
    kids: dict[str, int] | None = None
    asked_at = datetime.now(UTC)
    try:
        report = await database.rpc("deployment_report")
        asked_at += (datetime.now(UTC) - asked_at) / 2
        kids = await database.rpc("provider_key_kids")
        jobs, tasks, proofs = await asyncio.gather(
            database.rpc("cron_status"),
            database.rpc("task_status"),
            database.rpc("invariants_status"),
        )
    except QuernelError as error:
        found.append(_unreached(error))
    else:
        found += examine_database(report, settings, asked_at)
        found += examine_work(jobs, tasks, report)
        found += examine_proofs(proofs, datetime.now(UTC))
    found += examine_settings(settings, kids)
    wanted = None if report is None else report["stripe_events"]
    for more in await asyncio.gather(
        examine_api(settings), examine_payments(settings, wanted), examine_invariants(settings)
    ):
        found += more
    return found


def _unreached(error: QuernelError) -> Finding:
    if error.code == "internal_error":
        said = error.operator_message if isinstance(error, OperatorError) else "it refuses the call"
        return DATABASE.wrong(
            "reached",
            f"the database refuses: {said}",
            "apply the migrations, expose backend, set the project's secret key",
        )
    return DATABASE.wrong(
        "reached", f"{error.message} ({error.code})", "docs/runbook.md, database_unavailable"
    )
