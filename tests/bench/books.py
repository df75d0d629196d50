"""Whether the books agree after a load."""

from __future__ import annotations

import psycopg

from local.checks import violated_invariants
from local.paths import CHECKS
from local.stack import Stack


def report_books(stack: Stack, answered: int) -> int:
    """Print what the database has of `answered` answers with status 200; how much is wrong."""
    with psycopg.connect(stack.admin_dsn) as connection:
        counts = connection.execute(
            "select (select count(*) from private.credit_holds where status = 'settled'),"
            " (select count(*) from private.credit_holds where status = 'active'),"
            " (select count(*) from public.usage_logs where status = 'completed')"
        ).fetchone()
    assert counts is not None
    settled, active, completed = counts
    print(
        f"\n  {answered} answered 200 = {settled} settled holds = {completed} completed usage rows;"
        f" {active} holds left"
    )
    agree = answered == settled == completed and not active
    if not agree:
        print("  THE BOOKS DO NOT AGREE")
    return report_checks(stack) + (0 if agree else 1)


def report_checks(stack: Stack) -> int:
    """Print what sql/checks/ find; how many of them found something."""
    found = list(violated_invariants(stack.admin_dsn, CHECKS))
    for problem in found:
        print(f"  {problem}")
    if not found:
        print("  sql/checks: nothing wrong")
    return len(found)
