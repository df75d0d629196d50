"""Migrations after 1.0: what would lock or rewrite a table in use is found before it is merged."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.upgrades import problems_of

TIMEOUTS = "set lock_timeout = '2s';\nset statement_timeout = '1min';\n"
LATER = "20270301000000_more.sql"

BAD = {
    "require-lock-timeout": "set statement_timeout = '1min';\n"
    "alter table public.messages add column note text;",
    "require-statement-timeout": "set lock_timeout = '2s';\n"
    "alter table public.messages add column note text;",
    "adding-not-nullable-field": "alter table public.messages alter column note set not null;",
    "adding-required-field": "alter table public.messages add column note text not null;",
    "adding-field-with-default": "alter table public.messages"
    " add column at timestamptz default clock_timestamp();",
    "changing-column-type": "alter table public.messages alter column note type integer;",
    "renaming-column": "alter table public.messages rename column note to memo;",
    "renaming-table": "alter table public.messages rename to notes;",
    "ban-drop-column": "alter table public.messages drop column note;",
    "ban-drop-table": "drop table public.messages;",
    "constraint-missing-not-valid": "alter table public.messages"
    " add constraint note_is_short check (length(note) < 9);",
    "adding-foreign-key-constraint": "alter table public.messages add constraint whose"
    " foreign key (user_id) references public.profiles (id);",
    "disallowed-unique-constraint": "alter table public.messages"
    " add constraint once unique (note);",
    "require-concurrent-index-creation": "create index messages_by_note on public.messages (note);",
    "require-concurrent-index-deletion": "drop index public.messages_by_note;",
    "backfill-in-batches": "update public.messages set note = '' where note is null;",
    "validate-elsewhere": "alter table public.messages"
    " add constraint note_is_there check (note is not null) not valid;\n"
    "alter table public.messages validate constraint note_is_there;",
    "concurrently-alone": "create index concurrently messages_by_note on public.messages (note);\n"
    "select 1;",
}
GOOD = {
    "column": TIMEOUTS + "alter table public.messages add column note text;",
    "constraint": TIMEOUTS + "alter table public.messages"
    " add constraint note_is_there check (note is not null) not valid;",
    "validation": TIMEOUTS + "alter table public.messages validate constraint note_is_there;",
    "required": TIMEOUTS + "alter table public.messages validate constraint note_is_there;",
    "index": "create index concurrently messages_by_note on public.messages (note);",
    "function": TIMEOUTS  # noqa: S608
    + "create or replace function private.backfill_notes(p_limit integer) returns jsonb\n"
    "language plpgsql volatile security definer set search_path = ''\nas $$\nbegin\n"
    "  update public.messages as m set note = '' where m.note is null;\n"
    "  return '{}';\nend\n$$;",
    "table": TIMEOUTS + "create table public.notes (id uuid primary key, text text not null);",
    "setting": "update private.settings set value = '1' where name = 'x';",
    "trigger": TIMEOUTS + "create or replace trigger a before update on public.messages"
    " for each row execute function private.touch_updated_at();",
    "comment": "-- update public.messages set note = '';\nselect 1;",
}


def rules(folder: Path, text: str, name: str = LATER) -> list[str]:
    (folder / name).write_text(text + "\n")
    return [problem.split(": ")[1] for problem in problems_of(folder)]


@pytest.mark.parametrize("rule", BAD)
def test_what_would_hurt_is_found(tmp_path: Path, rule: str) -> None:
    text = BAD[rule]
    if not rule.startswith(("require-lock", "require-statement", "concurrently")):
        text = TIMEOUTS + text
    assert rule in rules(tmp_path, text)


@pytest.mark.parametrize("name", GOOD)
def test_what_does_not_is_left_alone(tmp_path: Path, name: str) -> None:
    assert rules(tmp_path, GOOD[name]) == []


def test_a_problem_says_where_it_is_and_what_to_write_instead(tmp_path: Path) -> None:
    (tmp_path / LATER).write_text(f"{TIMEOUTS}\nupdate public.messages set note = '';\n")
    [problem] = problems_of(tmp_path)
    assert problem.startswith(f"{LATER}:4: backfill-in-batches: Rows of public.messages are locked")
    assert "by a step of a cron job" in problem


def test_chapters_are_edited_in_place_and_not_looked_at(tmp_path: Path) -> None:
    assert rules(tmp_path, BAD["ban-drop-table"], "20260101000500_usage.sql") == []


@pytest.mark.parametrize(
    "text",
    [
        "do $$\nbegin\n  update public.messages set note = '';\nend\n$$;",
        "with old as (select 1) update public.messages set note = '';",
        "with gone as (delete from only public.messages returning id) select 1;",
    ],
    ids=["block", "with", "returning"],
)
def test_rows_are_changed_in_many_ways(tmp_path: Path, text: str) -> None:
    assert rules(tmp_path, TIMEOUTS + text) == ["backfill-in-batches"]
    assert rules(tmp_path, f"{TIMEOUTS}-- upgrade-ignore backfill-in-batches: ten\n{text}") == []


def test_a_rule_can_be_set_aside_in_the_file_with_a_reason(tmp_path: Path) -> None:
    text = TIMEOUTS + "-- squawk-ignore ban-drop-column\n" + BAD["ban-drop-column"]
    assert rules(tmp_path, text) == []
