"""Fixtures of the tests of images."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from local.stack import Stack


@pytest.fixture
def capabilities(stack: Stack) -> dict[str, dict[str, Any]]:
    """Of every image model of the catalog."""
    with psycopg.connect(stack.admin_dsn, row_factory=dict_row) as connection:
        rows = connection.execute(
            "select m.id, m.capabilities from public.models as m where m.kind = 'image'"
        ).fetchall()
    return {row["id"]: row["capabilities"] for row in rows}
