"""A dump is restored into an empty cluster, and what differs is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from local.restore_drill import Drill, contents_of
from local.stack import Stack


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(state=tmp_path / "state", services=False, durable=False)
    stack.start_database()
    with psycopg.connect(stack.admin_dsn) as connection:
        connection.execute(
            "insert into auth.users (id, email, email_confirmed_at)"
            " values (gen_random_uuid(), 'ada@quernel.test', now())"
        )
    yield stack
    stack.stop()
    stack.postgres.destroy()


def test_what_is_restored_is_what_was_there(source: Stack) -> None:
    drill = Drill(source.state, source.postgres)
    assert drill.run() == []
    assert set(drill.seconds) == {"dump", "restore", "compare"}
    contents = contents_of(source.admin_dsn)
    assert contents["public.profiles"][0] == 1
    assert contents["public.credit_accounts"][0] >= 1
    left = [path.name for path in source.state.iterdir() if path.suffix in (".dump", ".sql")]
    assert left == []


def test_what_is_not_the_same_is_told(source: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    restore = Drill._restore

    def restore_and_lose(self: Drill, target: object, dump: Path, roles: Path) -> None:
        restore(self, target, dump, roles)  # type: ignore[arg-type]
        with psycopg.connect(target.admin_dsn) as connection:  # type: ignore[attr-defined]
            connection.execute("update public.profiles set email = 'eve@quernel.test'")
            connection.execute("drop policy if exists x on public.profiles")
            connection.execute("alter table public.agents disable row level security")

    monkeypatch.setattr(Drill, "_restore", restore_and_lose)
    told = Drill(source.state, source.postgres).run()
    assert any(one.startswith("public.profiles: (1, ") for one in told)
    assert any(
        one.startswith("the schema:") and "without row level security" in one for one in told
    )
    assert any(one.startswith("001_tables_have_row_level_security") for one in told)
