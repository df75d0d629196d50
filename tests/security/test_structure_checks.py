"""Each structural check finds what it is about: the test makes it, sees it found, rolls back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from local.stack import Stack

CHECKS = Path(__file__).parents[2] / "sql" / "checks"
NUMBERS = sorted(path.name[:3] for path in CHECKS.glob("0*.sql"))

BARE = "create table public.bare (id integer)"
FUNCTION = "create function {} returns integer language sql set search_path = '' as 'select 1'"
GRANTED = FUNCTION.format("{}.leaky()") + "; grant execute on function {}.leaky() to {}"

NOBODYS = (
    "create table private.bare (id integer); insert into private.personal_tables"
    " (table_schema, table_name, erasure, is_exported) values ('private', 'bare', 'none', false)"
)
PARTITION = f"private.usage_logs_{datetime.now(UTC):%Y_%m}"

# number of the check → what is wrong, and the subject it must name
SINS: dict[str, list[tuple[str, str]]] = {
    "001": [(BARE, "bare"), ("create table private.bare (id integer)", "private.bare")],
    "002": [
        ("create function public.loose() returns integer language sql as 'select 1'", "loose()"),
        (
            "create function private.loose() returns integer language sql"
            " set search_path = public as 'select 1'",
            "private.loose()",
        ),
        (
            "create function backend.loose() returns integer language sql"
            " set statement_timeout = '1s' as 'select 1'",
            "backend.loose()",
        ),
    ],
    "003": [
        (
            "create function public.strong() returns integer language sql security definer"
            " set search_path = '' as 'select 1'",
            "strong()",
        )
    ],
    "004": [
        (GRANTED.format("public", "public", "anon"), "leaky()"),
        (GRANTED.format("private", "private", "public"), "private.leaky()"),
    ],
    "005": [
        (GRANTED.format("backend", "backend", "authenticated"), "backend.leaky()"),
        ("create table backend.shelf (id integer)", "backend.shelf"),
    ],
    "006": [
        (
            "create table private.drawer (id integer); grant select on private.drawer to"
            " authenticated",
            "private.drawer",
        ),
        (
            "create table private.drawer (id integer); grant update (id) on private.drawer to"
            " service_role",
            "private.drawer.id",
        ),
        (
            "create table private.half (at date) partition by range (at);"
            " create table private.half_2026_01 partition of private.half for values"
            " from ('2026-01-01') to ('2026-02-01');"
            " grant select on private.half_2026_01 to anon",
            "private.half_2026_01",
        ),
        (GRANTED.format("private", "private", "service_role"), "private.leaky()"),
    ],
    "007": [(GRANTED.format("private", "private", "authenticated"), "private.leaky()")],
    "008": [
        ("grant update on public.credit_lots to service_role", "credit_lots"),
        (
            "grant insert (amount) on public.credit_transactions to authenticated",
            "credit_transactions",
        ),
        ("grant delete on public.plans to public", "plans"),
        ("grant truncate on public.usage_logs to service_role", "usage_logs"),
    ],
    "009": [
        ("grant update on public.user_preferences to authenticated", "user_preferences"),
        ("grant update (theme) on public.profiles to service_role", "profiles"),
        ("grant trigger on public.profiles to authenticated", "profiles"),
        ("grant delete on public.user_preferences to anon", "user_preferences"),
    ],
    "010": [
        (
            "grant select on public.plans to authenticated with grant option",
            "plans",
        ),
        (
            FUNCTION.format("private.leaky()") + "; grant execute on function private.leaky()"
            " to authenticated with grant option",
            "private.leaky()",
        ),
    ],
    "011": [
        ("create view public.window as select 1 as one", '"window"'),
        ("create materialized view public.mirror as select 1 as one", "mirror"),
    ],
    "012": [
        (
            f'{BARE}; create policy "Everybody" on public.bare using (true)',
            "bare: Everybody",
        )
    ],
    "013": [
        (
            'create table public.bare (id uuid); create policy "Slowly" on public.bare'
            " to authenticated using (id = auth.uid())",
            "bare: Slowly",
        ),
        (
            'create table public.bare (id uuid); create policy "Slowly" on public.bare'
            " to authenticated using ((select auth.uid()) is not null"
            " and id = private.active_user_id())",
            "bare: Slowly",
        ),
    ],
    "014": [
        (
            f"{BARE}; create trigger refuse before delete on public.bare"
            " for each row execute function private.refuse_change()",
            "bare: refuse",
        ),
        (
            "alter table private.operator_actions disable trigger operator_actions_are_append_only",
            "private.operator_actions",
        ),
    ],
    "015": [
        (BARE, "bare"),
        ("create table public.bare (id integer)", "bare.id"),
    ],
    "016": [(FUNCTION.format("backend.quiet()"), "backend.quiet()")],
    "017": [
        (
            "create table public.bare (plan_id uuid, constraint has_a_plan"
            " foreign key (plan_id) references public.plans (id))",
            "bare: has_a_plan",
        ),
        (
            "create table public.bare (id uuid, plan_id uuid, constraint has_a_plan"
            " foreign key (plan_id) references public.plans (id));"
            " create index on public.bare (id, plan_id)",
            "bare: has_a_plan",
        ),
        (
            "create table public.bare (id uuid, plan_id uuid, constraint has_a_plan"
            " foreign key (plan_id) references public.plans (id));"
            " create index on public.bare (plan_id) where id is not null",
            "bare: has_a_plan",
        ),
    ],
    "018": [
        (
            f"{BARE}; alter table public.bare add constraint is_positive check (id > 0) not valid",
            "bare: is_positive",
        )
    ],
    "019": [
        ("grant create on schema public to authenticated", "schema public"),
        ("grant usage on schema backend to authenticated", "schema backend"),
        ("grant usage on schema private to service_role", "schema private"),
        ("grant temporary on database postgres to public", "database postgres"),
    ],
    "020": [
        (
            "alter default privileges for role postgres grant execute on functions to public",
            "functions of postgres",
        ),
        (
            "alter default privileges for role postgres in schema public"
            " grant insert on tables to authenticated",
            "default privileges of postgres",
        ),
    ],
    "021": [
        ("grant service_role to authenticated", "authenticated"),
        ("grant pg_read_all_data to quernel_functions", "quernel_functions"),
        (
            "create function private.mighty() returns integer language sql security definer"
            " set search_path = '' as 'select 1'",
            "private.mighty()",
        ),
    ],
    "022": [
        (
            "create table public.bare (id integer); grant select (id) on public.bare to anon",
            "bare",
        ),
        ("alter publication supabase_realtime drop table public.invoices", "invoices"),
        (
            "create table private.drawer (id integer);"
            " alter publication supabase_realtime add table private.drawer",
            "private.drawer",
        ),
        ("alter publication supabase_realtime add table public.usage_logs", PARTITION),
    ],
    "023": [
        (BARE, "bare"),
        ("create materialized view private.bare as select 1 as one", "private.bare"),
        (f"{NOBODYS}; drop table private.bare", "private.bare"),
    ],
    "024": [
        *[
            (f"alter table public.agents add column whatever {kind}", "agents.whatever")
            for kind in (
                "text",
                "varchar(3)",
                "text[]",
                "jsonb",
                "inet",
                "bytea",
                "tsvector",
                "extensions.halfvec(3)",
                "uuid references public.profiles (id) on delete cascade",
            )
        ],
        ("alter table public.agents rename column name to title", "public.agents.name"),
    ],
    "025": [
        (f"{NOBODYS}; alter table private.bare add column author uuid", "private.bare"),
        (
            f"{NOBODYS}; alter table private.bare add column hold uuid references"
            " private.credit_holds (id)",
            "private.bare",
        ),
        (
            f"{NOBODYS}; insert into private.personal_data values"  # noqa: S608
            " ('private', 'bare', 'id', 'contact', 'row', true)",
            "private.bare",
        ),
    ],
    "026": [
        ("create table private.bare (id uuid references public.profiles (id))", "private.bare"),
        (
            "update private.personal_tables set erasure = 'forget', reason = 'why'"
            " where table_name = 'agents'",
            "public.agents.name",
        ),
        (
            "update private.personal_tables set erased_by = 'cascade'"
            " where table_name = 'user_generation_stats'",
            "private.user_generation_stats",
        ),
    ],
}

CASES = [
    pytest.param(number, statement, subject, id=f"{number}-{place}")
    for number, sins in SINS.items()
    for place, (statement, subject) in enumerate(sins, 1)
]


@pytest.fixture(scope="module")
def connection(stack: Stack) -> Iterator[psycopg.Connection]:
    with psycopg.connect(stack.admin_dsn) as admin:
        yield admin
        admin.rollback()


def found(connection: psycopg.Connection, number: str) -> list[str]:
    (path,) = CHECKS.glob(f"{number}_*.sql")
    return [subject for subject, _detail in connection.execute(path.read_bytes()).fetchall()]


@pytest.mark.parametrize("number", NUMBERS)
def test_the_database_as_migrated_is_healthy(connection: psycopg.Connection, number: str) -> None:
    assert found(connection, number) == []
    connection.rollback()


@pytest.mark.parametrize(("number", "statement", "subject"), CASES)
def test_what_is_wrong_is_found(
    connection: psycopg.Connection, number: str, statement: str, subject: str
) -> None:
    try:
        # Bounded, because other tests use the same tables.
        connection.execute("set local lock_timeout = '20s'")
        connection.execute(statement.encode())
        assert subject in found(connection, number)
    finally:
        connection.rollback()


def test_without_a_publication_nothing_is_missing(connection: psycopg.Connection) -> None:
    connection.execute("drop publication supabase_realtime")
    assert found(connection, "022") == []
    connection.rollback()


def test_every_check_is_tested() -> None:
    assert sorted(SINS) == NUMBERS


@pytest.mark.parametrize("path", sorted(CHECKS.glob("0*.sql")), ids=lambda path: path.stem)
def test_a_check_says_what_holds_and_how_to_mend_it(path: Path) -> None:
    text = path.read_text()
    comment = [line for line in text.splitlines() if line.startswith("--")]
    assert comment[0].startswith("-- ")
    assert any(line.startswith("-- Mend: ") for line in comment)
    assert " as subject" in text
    assert " as detail" in text


def test_an_index_on_the_key_satisfies_the_check_of_foreign_keys(
    connection: psycopg.Connection, make: Callable[[str], None]
) -> None:
    make("create index on public.bare (plan_id) where plan_id is not null")
    assert found(connection, "017") == []


def test_a_wider_index_satisfies_the_check_of_foreign_keys(
    connection: psycopg.Connection, make: Callable[[str], None]
) -> None:
    make("create unique index on public.bare (plan_id, id)")
    assert found(connection, "017") == []


def test_a_view_with_its_readers_rights_is_healthy(connection: psycopg.Connection) -> None:
    connection.execute(
        "create view public.window with (security_invoker = true) as select 1 as one"
    )
    assert found(connection, "011") == []
    connection.rollback()


@pytest.fixture
def make(connection: psycopg.Connection) -> Iterator[Callable[[str], None]]:
    """Makes a table with a foreign key, then the index given."""

    def table(index: str) -> None:
        connection.execute(
            "create table public.bare (id uuid, plan_id uuid references public.plans (id))"
        )
        connection.execute(index.encode())

    yield table
    connection.rollback()
