"""The matrix of privileges: complete, as expected, and not to be fooled."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from local.stack import Stack
from tests.security import matrix

# Everything at once, because looking takes a second or two.
CHANGES = """
create table public.diary (id integer, user_id uuid);
create function private.peek(p_id uuid) returns integer
language sql set search_path = '' as 'select 1';
grant execute on function private.peek(uuid) to authenticated;
drop function public.lifetime_credits(public.profiles);
grant update (balance) on public.credit_accounts to authenticated;
grant delete on public.organizations to anon;
grant select on private.settings to service_role;
grant select (email) on public.profiles to anon;
"""


@pytest.fixture(scope="module")
def connection(stack: Stack) -> Iterator[psycopg.Connection]:
    with psycopg.connect(stack.admin_dsn) as admin:
        yield admin
        admin.rollback()


@pytest.fixture(scope="module")
def observed(connection: psycopg.Connection) -> matrix.Matrix:
    return matrix.observe(connection)


@pytest.fixture(scope="module")
def reports(connection: psycopg.Connection, observed: matrix.Matrix) -> list[str]:
    """What the comparison says after CHANGES."""
    connection.execute(CHANGES.encode())
    return matrix.differences(matrix.observe(connection), observed)


def about(reports: list[str], name: str) -> str:
    return "\n".join(report for report in reports if f'"{name}"' in report)


def test_everybody_may_do_what_the_matrix_says_and_nothing_else(observed: matrix.Matrix) -> None:
    found = matrix.differences(observed, matrix.expected())
    if found:
        pytest.fail(
            "tests/security/matrix.toml does not say what the database does.\n"
            + "\n".join(found)
            + "\nIf that is meant, `python -m tests.security.matrix --write`, and review the diff.",
            pytrace=False,
        )


def test_every_table_has_a_row_to_look_at(observed: matrix.Matrix) -> None:
    assert [
        text for rows in observed["tables"].values() for text in rows.values() if "world.py" in text
    ] == []


def test_the_file_is_as_the_program_writes_it() -> None:
    assert matrix.FILE.read_text() == matrix.render(matrix.expected())


def test_visitors_write_nothing_and_read_the_price_list_alone(observed: matrix.Matrix) -> None:
    words = {
        name: {row.split()[0] for row in rows.values()} for name, rows in observed["tables"].items()
    }
    readable = {name for name, seen in words.items() if "S---" in seen}
    assert readable == {
        "public.credit_packs",
        "public.model_providers",
        "public.models",
        "public.plans",
    }
    assert set().union(*words.values()) == {"S---", "----"}


# Nobody says whose a row is: it is of whoever inserts it, and whose copy it is does not matter.
THEIR_INSERTS_ARE_THEIR_OWN = {"public.documents", "public.image_generations"}


def test_strangers_see_and_change_nothing_of_anybodys(observed: matrix.Matrix) -> None:
    for table, rows in observed["tables"].items():
        for kind in ("owner", "organization"):
            if kind in rows:
                word = rows[kind].split()[1]
                if table in THEIR_INSERTS_ARE_THEIR_OWN:
                    word = word.replace("I", ".").replace("x", ".")
                assert not set(word) & set("SIUDx"), table


def test_the_service_role_writes_no_table(observed: matrix.Matrix) -> None:
    for rows in observed["tables"].values():
        for row in rows.values():
            assert row.split()[5] in {"S---", "----"}


def test_a_new_table_is_not_accepted_before_it_is_declared(reports: list[str]) -> None:
    report = about(reports, "public.diary")
    assert "new, so add to [tables]" in report
    assert "tests/security/world.py" in report


def test_a_new_function_is_reported_with_the_line_to_add(reports: list[str]) -> None:
    assert about(reports, "private.peek(uuid)") == (
        'new, so add to [functions]:\n  "private.peek(uuid)" = "invoker, for authenticated"'
    )


def test_a_function_that_is_gone_is_reported_with_the_line_to_remove(reports: list[str]) -> None:
    assert about(reports, "public.lifetime_credits(public.profiles)") == (
        "gone, so take out of [functions]:\n"
        '  "public.lifetime_credits(public.profiles)" = "invoker, for authenticated"'
    )


def test_a_column_grant_is_reported(reports: list[str]) -> None:
    report = about(reports, "public.credit_accounts")
    line = '"public.credit_accounts" = { authenticated = "balance" }'
    assert f"new, so add to [update_columns]:\n  {line}" in report
    assert "changed in [tables]" in report


def test_a_column_that_may_be_read_is_reported(reports: list[str]) -> None:
    # [tables] alone does not see it: the row is found by another column, which is refused.
    assert about(reports, "public.profiles") == (
        'new, so add to [select_columns]:\n  "public.profiles" = { anon = "email" }'
    )


def test_a_privilege_that_cannot_be_used_yet_is_reported_as_well(reports: list[str]) -> None:
    # Row level security lets a visitor delete no organization; the privilege is one policy away.
    report = about(reports, "public.organizations")
    assert 'is  "public.organizations" = { organization = "---. ' in report


def test_a_grant_behind_a_closed_schema_is_left_to_check_006(reports: list[str]) -> None:
    # Without USAGE on the schema it opens nothing, and the matrix says what really happens.
    assert about(reports, "private.settings") == ""


def test_nothing_else_is_reported(reports: list[str]) -> None:
    assert len(reports) == 7
