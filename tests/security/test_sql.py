"""With SQL itself in hand, the roles of the API and of the direct transport get no further.

Clients never have SQL. Somebody who finds an injection, or the password of the direct transport,
does; these tests are what then stands between them and the ledger.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import psycopg
import pytest
from psycopg import errors, sql

from local.stack import Stack
from tests.security import matrix
from tests.security.conftest import Cast

pytestmark = pytest.mark.usefixtures("nothing_changes")

ROLES = ["anon", "authenticated", "service_role"]
FUNCTIONS = matrix.expected()["functions"]

Session = Callable[..., AbstractContextManager[psycopg.Connection]]


@pytest.fixture
def session(stack: Stack) -> Session:
    """Transactions of a role, with claims, logged in as the gateway is."""
    dsn = stack.postgres.dsn("authenticator", stack.keys.authenticator_password)

    @contextmanager
    def opened(role: str, claims: str | None = None) -> Iterator[psycopg.Connection]:
        with psycopg.connect(dsn) as connection:
            connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
            if claims is not None:
                connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
            yield connection
            connection.rollback()

    return opened


@pytest.fixture
def direct(stack: Stack) -> Iterator[psycopg.Connection]:
    """Logged in as the direct transport."""
    with psycopg.connect(stack.functions_dsn, autocommit=True) as connection:
        yield connection


def user(identity: str, **changes: object) -> str:
    return json.dumps({"role": "authenticated", "sub": identity} | changes)


# Making objects ----------------------------------------------------------------------------------

MAKING = [
    "create temporary table profiles (id uuid)",
    "create domain pg_temp.text as pg_catalog.text",
    "create function pg_temp.evil() returns integer language sql as 'select 1'",
    "create temporary view credit_accounts as select 1",
    "create schema mine",
    "create table public.mine (id integer)",
    "create table private.mine (id integer)",
    "create table backend.mine (id integer)",
    "create table extensions.mine (id integer)",
    "create function public.fail(integer) returns integer language sql as 'select 1'",
    "create function extensions.now() returns timestamptz language sql as 'select null'",
    "create operator public.= (leftarg = uuid, rightarg = uuid, function = pg_catalog.uuid_ne)",
    "create type public.uuid as enum ('mine')",
    "create cast (text as uuid) without function",
    "create extension pg_stat_statements",
    "create role mine",
    "create publication mine for all tables",
    "create event trigger mine on ddl_command_end execute function private.touch_updated_at()",
]


@pytest.mark.parametrize("statement", MAKING)
def test_no_role_makes_objects_to_shadow_ours(session: Session, statement: str) -> None:
    for role in ROLES:
        with session(role) as connection, pytest.raises(psycopg.DatabaseError) as refusal:
            connection.execute(statement.encode())
        assert not isinstance(refusal.value, errors.InternalError), refusal.value


@pytest.mark.parametrize("statement", MAKING)
def test_the_direct_transport_makes_none_either(direct: psycopg.Connection, statement: str) -> None:
    # A temporary domain called "text" would run its check with the definer's rights in every
    # function that casts to text: the temporary schema is searched first, whatever is pinned.
    with pytest.raises(psycopg.DatabaseError):
        direct.execute(statement.encode())


# Becoming somebody else --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "role", ["postgres", "supabase_admin", "pg_read_all_data", "pg_write_all_data"]
)
def test_no_role_becomes_a_superior(
    session: Session, direct: psycopg.Connection, role: str
) -> None:
    statement = sql.SQL("set role {}").format(sql.Identifier(role))
    for each in ROLES:
        with session(each) as connection, pytest.raises(errors.InsufficientPrivilege):
            connection.execute(statement)
    with pytest.raises(errors.InsufficientPrivilege):
        direct.execute(statement)
    with pytest.raises(errors.InsufficientPrivilege):
        direct.execute(sql.SQL("set session authorization {}").format(sql.Identifier(role)))


@pytest.mark.parametrize(
    "statement",
    [
        "grant service_role to authenticated",
        "grant select on private.settings to authenticated",
        "alter role authenticated bypassrls",
        "alter role quernel_functions superuser",
        "alter table public.credit_lots disable row level security",
        "alter table public.credit_transactions disable trigger all",
        "alter table public.credit_transactions owner to authenticated",
        'drop policy "Users read their own profile" on public.profiles',
        "create policy mine on public.profiles to authenticated using (true)",
        "alter function backend.credit_grant owner to authenticated",
        "alter default privileges for role postgres grant execute on functions to public",
        "set session_replication_role = replica",
        "truncate public.credit_transactions",
        "lock table public.credit_accounts in exclusive mode",
        "copy public.profiles to program 'id'",
        "copy public.profiles from '/etc/passwd'",
        "select pg_read_file('/etc/passwd')",
        "select pg_catalog.lo_import('/etc/passwd')",
        "select pg_reload_conf()",
        "select * from pg_catalog.pg_authid",
        "select * from auth.users",
        "do $$ begin perform set_config('role', 'postgres', true); end $$",
        "comment on table public.profiles is 'mine'",
    ],
)
def test_no_role_raises_its_own_rights(
    session: Session, direct: psycopg.Connection, statement: str
) -> None:
    for role in ROLES:
        with session(role) as connection:
            refused_or_empty(connection, statement)
    with direct.transaction(force_rollback=True):
        refused_or_empty(direct, statement)


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_a_grant_by_somebody_who_may_not_grant_grants_nothing(session: Session, role: str) -> None:
    with session(role) as connection:
        # To somebody with another privilege on the table Postgres warns, and goes on.
        with suppress(errors.InsufficientPrivilege), connection.transaction():
            connection.execute("grant update on public.credit_accounts to authenticated")
        assert connection.execute(
            "select has_table_privilege('authenticated', 'public.credit_accounts', 'update')"
        ).fetchone() == (False,)


def refused_or_empty(connection: psycopg.Connection, statement: str) -> None:
    """Refused; or, as of a table that row level security empties, nothing is shown."""
    try:
        cursor = connection.execute(statement.encode())
    except errors.InsufficientPrivilege:
        return
    assert cursor.description is not None, f"{statement} was done"
    assert cursor.fetchall() == []


def test_nobody_reads_past_row_level_security(session: Session, cast: Cast) -> None:
    with session("authenticated", user(cast.stranger.id)) as connection:
        connection.execute("set local row_security = off")
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("select * from public.profiles")


def test_no_statistics_of_protected_columns_are_shown(
    session: Session, direct: psycopg.Connection, admin_connection: psycopg.Connection
) -> None:
    query = "select tablename from pg_stats where schemaname in ('public', 'private')"
    with session("authenticated") as connection:
        shown = {name for (name,) in connection.execute(query)}
    shown |= {name for (name,) in direct.execute(query)}
    protected = admin_connection.execute(
        "select c.relname from pg_class as c where c.relrowsecurity and c.relkind in ('r', 'p')"
    )
    assert not shown & {name for (name,) in protected}


def test_nobody_reads_the_statements_of_others(
    session: Session, direct: psycopg.Connection, admin_connection: psycopg.Connection
) -> None:
    mark = uuid.uuid4().hex
    admin_connection.execute(f"select '{mark}'".encode())
    query = "select query from pg_stat_activity where pid <> pg_backend_pid()"
    with session("authenticated") as connection:
        seen = [text for (text,) in connection.execute(query)]
    seen += [text for (text,) in direct.execute(query)]
    assert not [text for text in seen if text and mark in text]


def test_nobody_ends_the_sessions_of_others(
    session: Session, direct: psycopg.Connection, admin_connection: psycopg.Connection
) -> None:
    pid = admin_connection.info.backend_pid
    with session("authenticated") as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("select pg_terminate_backend(%s)", [pid])
    with pytest.raises(errors.InsufficientPrivilege):
        direct.execute("select pg_terminate_backend(%s)", [pid])


# Claims ------------------------------------------------------------------------------------------

ODD_CLAIMS = [
    None,
    "",
    "{}",
    "null",
    "[]",
    '"text"',
    "not json",
    '{"sub": null}',
    '{"sub": ""}',
    '{"sub": "not-a-uuid"}',
    '{"sub": ["{owner}"]}',
    '{"sub": {"id": "{owner}"}}',
    '{"sub": "{owner} "}',
    '{"sub": "00000000-0000-0000-0000-000000000000"}',
    '{"user_id": "{owner}", "role": "service_role"}',
    '{"SUB": "{owner}"}',
]
PROTECTED = [
    "public.profiles",
    "public.credit_accounts",
    "public.credit_lots",
    "public.credit_transactions",
    "public.organizations",
    "public.organization_members",
    "public.usage_logs",
    "public.api_usage",
    "public.user_preferences",
]


@pytest.mark.parametrize("claims", ODD_CLAIMS)
def test_absent_and_malformed_claims_show_nothing(
    session: Session, cast: Cast, claims: str | None
) -> None:
    filled = claims and claims.replace("{owner}", cast.owner.id)
    for table in PROTECTED:
        with session("authenticated", filled) as connection:
            try:
                rows = connection.execute(f"select * from {table}".encode()).fetchall()  # noqa: S608
            except (errors.InvalidTextRepresentation, errors.InsufficientPrivilege):
                continue
            assert rows == []


@pytest.mark.parametrize("claims", ODD_CLAIMS)
def test_absent_and_malformed_claims_act_for_nobody(
    session: Session, cast: Cast, claims: str | None
) -> None:
    filled = claims and claims.replace("{owner}", cast.owner.id)
    for call in (
        "public.create_organization('Mine', 'mine-and-mine')",
        "public.credit_balance()",
        "public.set_monthly_budget(0)",
        "private.set_my_monthly_budget(0, null)",
    ):
        with session("authenticated", filled) as connection, pytest.raises(psycopg.DatabaseError):
            connection.execute(f"select {call}".encode())


def test_the_claims_of_a_user_give_a_visitor_nothing(session: Session, cast: Cast) -> None:
    with session("anon", user(cast.owner.id)) as connection:
        for table in PROTECTED:
            with (
                pytest.raises(errors.InsufficientPrivilege),
                connection.transaction(force_rollback=True),
            ):
                connection.execute(f"select * from {table}".encode())  # noqa: S608


def test_a_role_in_the_claims_changes_no_role(session: Session, cast: Cast) -> None:
    with session("authenticated", user(cast.stranger.id, role="service_role")) as connection:
        assert connection.execute("select count(*) from public.profiles").fetchone() == (1,)
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("select backend.credit_balance(%s)", [cast.owner.id])


# The kernel, called directly ---------------------------------------------------------------------

KERNEL = sorted(
    name
    for name, who in FUNCTIONS.items()
    if name.startswith(("private.", "backend.")) and not who.endswith("for authenticated")
)


def test_no_client_executes_the_kernel(session: Session, cast: Cast) -> None:
    for role in ("anon", "authenticated"):
        with session(role, user(cast.owner.id)) as connection:
            for name in KERNEL:
                schema_and_name, types = name.rstrip(")").split("(", 1)
                arguments = ", ".join(f"null::{kind}" for kind in types.split(", ") if kind)
                with (
                    pytest.raises(errors.InsufficientPrivilege),
                    connection.transaction(force_rollback=True),
                ):
                    connection.execute(f"select {schema_and_name}({arguments})".encode())


@pytest.mark.parametrize(
    "call",
    [
        "private.my_credit_balance(%(organization)s)",
        "private.my_credit_statement(%(organization)s, 10, null)",
        "private.set_my_monthly_budget(0, %(organization)s)",
        "private.organization_people(%(organization)s)",
        "private.update_organization(%(organization)s, 'Mine', null)",
        "private.invite_member(%(organization)s, 'me@example.com', 'admin')",
        "private.leave_organization(%(organization)s)",
        "private.remove_member(%(organization)s, %(member)s)",
        "private.change_member_role(%(organization)s, %(stranger)s, 'owner')",
        "private.set_member_budget(%(organization)s, %(member)s, 0)",
        "private.revoke_invitation(%(invitation)s)",
        "private.accept_invitation(%(token)s)",
    ],
)
def test_a_private_function_trusts_no_argument_to_say_who_asks(
    session: Session, cast: Cast, call: str
) -> None:
    values = {
        "organization": cast.organization_id,
        "member": cast.member.id,
        "stranger": cast.stranger.id,
        "invitation": cast.invitation_id,
        "token": cast.invitation_token,
    }
    with (
        session("authenticated", user(cast.stranger.id)) as connection,
        pytest.raises(psycopg.DatabaseError) as refusal,
    ):
        connection.execute(f"select {call}".encode(), values)
    assert refusal.value.sqlstate in {"PT403", "PT404"}


def test_private_functions_that_policies_ask_tell_only_ones_own(
    session: Session, cast: Cast
) -> None:
    with session("authenticated", user(cast.stranger.id)) as connection:
        for call, expected in (
            ("private.active_user_id()", [uuid.UUID(cast.stranger.id)]),
            ("private.my_organization_ids()", []),
            ("private.my_admin_organization_ids()", []),
            ("private.my_statement_account_ids()", [uuid.UUID(cast.accounts[cast.stranger.id])]),
        ):
            rows = connection.execute(f"select {call}".encode()).fetchall()
            assert [value for (value,) in rows] == expected


def test_the_direct_transport_reaches_no_private_table_and_writes_none(
    direct: psycopg.Connection,
) -> None:
    for name in matrix.expected()["tables"]:
        if name.endswith("_YYYY_MM"):
            continue
        if name.startswith("private."):
            with pytest.raises(errors.InsufficientPrivilege):
                direct.execute(f"select from {name}".encode())
        for statement in ("insert into {} default values", "delete from {}", "truncate {}"):
            with pytest.raises(errors.InsufficientPrivilege):
                direct.execute(statement.format(name).encode())


def test_the_direct_transport_sees_no_row_without_becoming_the_service(
    direct: psycopg.Connection,
) -> None:
    # It inherits service_role's privileges and not its BYPASSRLS.
    for table in PROTECTED:
        assert direct.execute(f"select * from {table}".encode()).fetchall() == []  # noqa: S608


# What comes later --------------------------------------------------------------------------------


def test_what_a_later_migration_makes_starts_closed(stack: Stack) -> None:
    with psycopg.connect(stack.postgres_dsn) as connection:
        for schema in ("public", "backend", "private"):
            connection.execute(f"create table {schema}.later (id integer)".encode())
            connection.execute(f"create view {schema}.later_view as select 1 as one".encode())
            connection.execute(f"create sequence {schema}.later_sequence".encode())
            body = "returns integer language sql as 'select 1'"
            connection.execute(f"create function {schema}.later() {body}".encode())
            for role in (*ROLES, "quernel_functions", "public"):
                for check, thing, privileges in (
                    ("table", "later", "select, insert, update, delete, truncate, references"),
                    ("table", "later_view", "select, insert, update, delete"),
                    ("sequence", "later_sequence", "usage, select, update"),
                    ("function", "later()", "execute"),
                ):
                    row = connection.execute(
                        f"select has_{check}_privilege(%s, %s, %s)".encode(),
                        [role, f"{schema}.{thing}", privileges],
                    ).fetchone()
                    assert row == (False,), (role, schema, thing)
        connection.rollback()
