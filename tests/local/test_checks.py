"""`make check` finds what it is there to find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from local.checks import advice, foreign_alterations, violated_invariants
from local.paths import CHECKS, MIGRATIONS
from local.stack import Stack


def test_advisors_are_silent_about_the_product(stack: Stack) -> None:
    assert list(advice(stack)) == []


def test_advisors_report_a_table_without_row_level_security(
    private_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    (tmp_path / "20260101000100_open.sql").write_text(
        "create table public.open_to_all (id integer primary key);"
        "grant all on public.open_to_all to anon;"
    )
    with private_stack(migrations=tmp_path) as stack:
        problems = list(advice(stack))
    assert any("rls_disabled_in_public" in problem for problem in problems)


def test_a_violated_invariant_is_reported(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "1_holds.sql").write_text("select 1 where false")
    (tmp_path / "2_broken.sql").write_text("select 'account 7', 5")
    (problem,) = violated_invariants(stack.admin_dsn, tmp_path)
    assert "2_broken.sql" in problem
    assert "account 7" in problem


def test_there_are_invariants_to_check() -> None:
    assert list(CHECKS.glob("*.sql"))


@pytest.mark.parametrize(
    "statement",
    [
        "alter table storage.objects enable row level security;",
        "ALTER TABLE ONLY storage.buckets ADD x int;",
    ],
)
def test_altering_storage_is_refused(tmp_path: Path, statement: str) -> None:
    (tmp_path / "20260101000100_storage.sql").write_text(f"-- comment\n{statement}\n")
    (problem,) = foreign_alterations(tmp_path)
    assert "20260101000100_storage.sql:2" in problem


def test_the_product_leaves_storage_tables_alone() -> None:
    assert list(foreign_alterations(MIGRATIONS)) == []
