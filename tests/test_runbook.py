"""The runbook names everything that can alarm somebody: checks, errors, cron jobs, findings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from functions.cron.jobs import CRON_JOBS
from local.paths import CHECKS, ROOT

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
ROWS = re.findall(r"^\| `([^`]+)` \|(.*)\|$", RUNBOOK, re.MULTILINE)
NAMED = {name: [cell.strip() for cell in rest.split(" | ")] for name, rest in ROWS}


def errors() -> Iterator[tuple[str, str]]:
    """Every line of level error that this code can write: its message, and where."""
    for path in [*(ROOT / "functions").rglob("*.py"), *(ROOT / "gpu").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and (message := _message(node)) is not None:
                yield re.sub(r"%[a-z]", "…", ast.literal_eval(message)), path.name


def _message(call: ast.Call) -> ast.expr | None:
    """What it logs, where that is an error."""
    match call:
        case ast.Call(
            func=ast.Attribute(value=ast.Name("logger"), attr="error" | "exception" | "critical")
        ):
            return call.args[0]
        case ast.Call(func=ast.Name("log_event"), args=[_, level, message]):
            is_error = re.search(r"\b(ERROR|CRITICAL)\b", ast.unparse(level))
            return message if is_error else None
    return None


def findings() -> set[str]:
    """Every finding that `quernel doctor` can make whose name is not put together."""
    found = set()
    for path in (ROOT / "functions" / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="wrong" | "warning"),
                    args=[ast.Constant(str(name)), *_],
                ):
                    found.add(name)
    return found


def test_every_check_is_named_and_no_other() -> None:
    checks = {path.stem for path in CHECKS.glob("*.sql")}
    assert len(checks) > 70
    assert {name for name in NAMED if re.fullmatch(r"\d{3}_\w+", name)} == checks


def test_every_error_of_the_log_is_named_and_no_other() -> None:
    section = RUNBOOK[RUNBOOK.index("## Errors in the log") : RUNBOOK.index("## Dead tasks")]
    named = set(re.findall(r"^\| `([^`]+)`", section, re.MULTILINE))
    logged = dict(errors())
    assert len(logged) > 15
    assert named == set(logged)


def test_every_cron_job_is_named_with_its_interval() -> None:
    for name, job in CRON_JOBS.items():
        every, does, fails = NAMED[name]
        assert every == f"{job.interval_seconds} s"
        assert does == f"{job.description}."
        assert fails, name


@pytest.mark.parametrize("name", sorted(findings()))
def test_every_finding_of_the_doctor_is_named(name: str) -> None:
    section = RUNBOOK[RUNBOOK.index("## What the doctor finds") : RUNBOOK.index("## Checks")]
    assert f"`{name}`" in section


def test_whatever_is_named_says_what_to_do() -> None:
    for name, cells in NAMED.items():
        assert all(cells), name
