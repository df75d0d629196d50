"""Fixtures of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local.stack import Stack
from tests.credits.ledger import Ledger


@pytest.fixture
def ledger(stack: Stack) -> Iterator[Ledger]:
    """The ledger, with connections of its own."""
    ledger = Ledger(stack.admin_dsn, stack.functions_dsn)
    yield ledger
    ledger.close()
