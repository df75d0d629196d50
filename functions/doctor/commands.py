"""`quernel doctor`, for operators."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable

from functions.core.database import Database
from functions.core.json import Json
from functions.core.settings import Settings
from functions.doctor.examination import examine

SIGNS = {"ok": "ok", "warning": "WARNING", "wrong": "WRONG", "unseen": "not seen"}


async def run_doctor(
    options: argparse.Namespace, settings: Settings, database: Database
) -> dict[str, Json]:
    """Every finding, and how many of each state there are."""
    found = await examine(settings, database)
    counts = Counter(one.state for one in found)
    shown = [one.as_json() for one in found if not options.quiet or one.state != "ok"]
    return {"environment": settings.environment, "findings": shown} | {
        state: counts[state] for state in ("ok", "warning", "wrong", "unseen")
    }


def format_findings(result: dict[str, Json]) -> str:
    """A line per finding, what to mend under it, and the sum."""
    lines: list[str] = []
    for one in result["findings"]:
        lines.append(f"{SIGNS[one['state']]:<8}  {one['area']}.{one['name']}: {one['message']}")
        if one["mend"] is not None:
            lines.append(f"{'':<8}  -> {one['mend']}")
    counts = ", ".join(
        f"{result[state]} {said}"
        for state, said in (
            ("ok", "ok"),
            ("warning", "to look at"),
            ("wrong", "wrong"),
            ("unseen", "not seen from here"),
        )
    )
    return "\n".join([*lines, "", f"{result['environment']}: {counts}"])


def add_doctor_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add it to the parser of `quernel`."""
    doctor = add(
        "doctor",
        "Examine a deployment and say what to mend; status 1 when something is wrong.",
        run_doctor,
        format_findings,
    )
    doctor.add_argument("--quiet", action="store_true", help="only what is not ok")
    doctor.set_defaults(judge=lambda result: 1 if result["wrong"] else 0)
