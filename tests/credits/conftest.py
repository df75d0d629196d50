"""Fixtures of the ledger's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local.stack import Stack
from tests.checks.queries import all_findings
from tests.credits.ledger import Ledger


@pytest.fixture
def ledger(stack: Stack) -> Iterator[Ledger]:
    """The ledger, with connections of its own."""
    ledger = Ledger(stack.admin_dsn, stack.functions_dsn)
    yield ledger
    ledger.close()


@pytest.fixture(scope="package", autouse=True)
def whole_ledger_is_in_order(stack: Stack) -> Iterator[None]:
    """After these tests, every check finds nothing in the whole database."""
    yield
    ledger = Ledger(stack.admin_dsn, stack.functions_dsn)
    try:
        # Time was made to pass; the sweep that cron would do within the hour.
        ledger.rpc("credit_expire", p_limit=100_000)
        assert all_findings(ledger.admin) == []
    finally:
        ledger.close()
