"""sql/schema.sql is what the migrations build."""

from __future__ import annotations

import difflib

from local.schema import SCHEMA, schema_of
from local.stack import Stack


def test_the_page_is_what_the_migrations_build(stack: Stack) -> None:
    written, built = SCHEMA.read_text(), schema_of(stack.admin_dsn)
    changed = difflib.unified_diff(written.splitlines(), built.splitlines(), lineterm="", n=0)
    first = list(changed)[:20]
    assert not first, "run `make schema`:\n" + "\n".join(first)


def test_it_says_of_a_table_what_a_reader_asks() -> None:
    page = SCHEMA.read_text()
    start = page.index("create table public.conversations (")
    block = page[start : page.index("\n\n", start)]
    for line in (
        "  id uuid not null default private.uuid7(),  -- Identifies the conversation.",
        "CREATE INDEX conversations_by_agent ON public.conversations",
        'CREATE POLICY "',
        "GRANT SELECT TO authenticated;",
    ):
        assert line in block
    assert "create function private.uuid7() returns uuid\n  plpgsql" in page
    assert "  grant execute to service_role;" in page
