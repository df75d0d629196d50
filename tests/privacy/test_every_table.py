"""A person with rows in every table of the catalogue is erased, and no table knows them any more.

In one transaction, over the rows that the matrix of access rights is made with
(tests/security/world.py): what the worker does between the calls of the database is done here by
SQL. The worker, Stripe, Storage and Auth are in test_erasure.py.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg import sql

from local.stack import Stack
from tests.checks.queries import data_checks
from tests.privacy.scan import mentions
from tests.security.world import World, build, shelve

MARK = f"zq{uuid.uuid4().hex}"
ADDRESS = "203.0.113.77"


def one(connection: psycopg.Connection, query: str, *values: Any) -> Any:
    row = connection.execute(query.encode(), values).fetchone()
    assert row is not None
    return row[0]


def fill(connection: psycopg.Connection, world: World) -> None:
    """What the world has nobody of, and the mark in every column of the owner's that takes it."""
    owner, email = world.ids["owner"], f"{world.ids['owner']}@example.com"
    connection.execute(
        "update auth.users set raw_user_meta_data = jsonb_build_object('full_name', %s::text)"
        " where id = %s",
        [f"{MARK} Doe", owner],
    )
    connection.execute("update public.plans set max_team_members = -1, max_libraries = -1")
    own_firm(connection, owner)
    for statement in (
        "insert into auth.identities (id, provider, provider_id, user_id, identity_data)"
        " values (gen_random_uuid(), 'email', %(id)s, %(id)s,"
        " jsonb_build_object('email', %(email)s::text))",
        "insert into auth.sessions (id, user_id, ip, user_agent)"
        " values (gen_random_uuid(), %(id)s, %(ip)s, %(mark)s)",
        "insert into auth.refresh_tokens (id, token, user_id, session_id)"
        " select gen_random_uuid()::text, %(mark)s, user_id, id from auth.sessions"
        " where user_id = %(id)s",
        "insert into auth.flow_state (id, user_id, provider_type, authentication_method,"
        " email_optional) values (gen_random_uuid(), %(id)s, 'email', 'email', false)",
        "insert into auth.audit_log_entries (id, payload, ip_address) values (gen_random_uuid(),"
        " json_build_object('actor_id', %(id)s::text, 'actor_username', %(email)s::text), %(ip)s)",
        "insert into auth.audit_log_entries (id, payload, ip_address) values (gen_random_uuid(),"
        " json_build_object('actor_id', 'admin', 'traits',"
        " json_build_object('user_email', %(email)s::text)), %(ip)s)",
        "insert into storage.objects (bucket_id, name, owner_id)"
        " values ('images', concat(%(id)s, '/inputs/', %(mark)s, '.png'), %(id)s)",
        "insert into storage.objects (bucket_id, name, owner_id)"
        " values ('documents', concat(%(organization)s, '/document/file.txt'), %(id)s)",
        "insert into public.organization_invitations (organization_id, email, role, expires_at)"
        " values (%(organization)s, %(email)s, 'member', now() + interval '1 day')",
        "insert into public.organization_members (organization_id, user_id, role)"
        " values (%(organization)s, %(id)s, 'member')",
        "update public.usage_logs set query = %(mark)s, ip_address = %(ip)s, user_agent = %(mark)s"
        " where user_id = %(id)s",
        "select backend.user_set_active(%(id)s, true, 'operator', 'why not')",
        # The world takes ids for keys of the ledger; our own code takes those of requests.
        "update private.credit_holds set idempotency_key = 'probe' where idempotency_key = %(id)s",
        "delete from private.insight_refreshes",
        "insert into private.tasks (kind, payload, status, finished_at)"
        " values ('email', jsonb_build_object('to', %(email)s::text), 'done', now())",
    ):
        filled = {
            "id": owner, "email": email, "ip": ADDRESS, "mark": MARK,
            "organization": world.ids["organization"],
        }  # fmt: skip
        # Values are filled in by the client: one can be an id here and text there.
        psycopg.ClientCursor(connection).execute(statement.encode(), filled)
    connection.execute("select backend.insights_refresh()")
    mark_columns(connection, owner)


def own_firm(connection: psycopg.Connection, owner: str) -> str:
    """An organization without other members, with a library and an invitation; its id."""
    slug = f"firm-{owner[:8]}"
    connection.execute(
        "select set_config('request.jwt.claims', json_build_object('sub', %s::text)::text, true)",
        [owner],
    )
    firm = one(connection, "select public.create_organization('A firm', %s)", slug)["id"]
    one(connection, "select public.invite_member(%s, 'guest@example.com', 'member')", firm)
    connection.execute("select set_config('request.jwt.claims', '', true)")
    library, _ = shelve(connection, f"/{slug}/docs", owner, slug)
    connection.execute(
        "insert into private.member_spending (organization_id, user_id, period_start)"
        " values (%s, %s, now())",
        [firm, owner],
    )
    connection.execute(
        "insert into private.library_answers (key, tool, library_id, answer, expires_at)"
        " values (repeat('a', 64), 'query-docs', %s, '{}', now() + interval '1 hour')",
        [library],
    )
    return str(firm)


def mark_columns(connection: psycopg.Connection, owner: str) -> None:
    columns = connection.execute(
        "select d.table_schema, d.table_name, d.column_name, p.rows_of, a.atttypid::regtype::text"
        " from private.personal_data as d"
        " inner join private.personal_tables as p using (table_schema, table_name)"
        " inner join pg_attribute as a on a.attname = d.column_name"
        "  and a.attrelid = to_regclass(format('%I.%I', d.table_schema, d.table_name))"
        " where d.kind in ('contact', 'content', 'behaviour', 'technical', 'identifier')"
        " and d.erasure <> 'keep' and p.erasure <> 'keep'"
        " and p.table_name not in ('user_generation_stats', 'objects', 'erasures', 'tasks')"
    ).fetchall()
    for schema, table, column, rows_of, type_ in columns:
        value = {
            "text": sql.SQL("concat({}, {})").format(sql.Identifier(column), sql.Literal(MARK)),
            "text[]": sql.Literal([MARK]),
            "jsonb": sql.SQL("jsonb_build_object('note', {})").format(sql.Literal(MARK)),
        }.get(type_)
        if column.endswith("_path"):
            value = sql.SQL("{} || {}").format(sql.Identifier(column), sql.Literal(MARK))
        if value is None:
            continue
        predicate = rows_of.replace("$1", "(s).user_id").replace("$2", "(s).organization_ids")
        predicate = predicate.replace("$3", "(s).account_ids").replace("$4", "(s).emails")
        try:
            with connection.transaction():
                connection.execute(
                    sql.SQL(
                        "with scope as materialized (select private.person_scope({}) as s)"
                        " update {} as t set {} = {} from scope where "
                    ).format(
                        sql.Literal(owner),
                        sql.Identifier(schema, table),
                        sql.Identifier(column),
                        value,
                    )
                    + sql.SQL(predicate)
                )
        except psycopg.Error:
            continue  # a column with rules of its own, or the key by which rows are found


def erase(connection: psycopg.Connection, person: str) -> dict[str, Any]:
    """As functions/privacy/tasks.py does it, with SQL instead of Storage and Auth."""
    erasure = one(
        connection,
        "select id from private.erasures where user_id = %s and state = 'requested'",
        person,
    )
    assert one(connection, "select backend.erasure_begin(%s)", erasure) is not None
    position = 0
    while position is not None:
        step = one(connection, "select backend.erasure_step(%s, %s, 3)", erasure, position)
        position = step["position"]
    objects = one(connection, "select backend.erasure_objects(%s)", erasure)["objects"]
    connection.execute("set local storage.allow_delete_query = 'true'")
    for folder in objects:
        connection.execute(
            "delete from storage.objects where bucket_id = %s and name = any(%s)",
            [folder["bucket"], folder["paths"]],
        )
    assert one(connection, "select backend.erasure_objects(%s)", erasure)["objects"] == []
    connection.execute("delete from auth.users where id = %s", [person])
    # What the worker does with the files, and with the work that was called off.
    connection.execute(
        "select private.task_cancel(t.id, 'done elsewhere') from private.tasks as t"
        " inner join private.erasures as e on e.id = %s"
        " where t.status = 'queued'"
        " and (strpos(t::text, e.user_id::text) > 0 or t.tenant = any(e.organization_ids))",
        [erasure],
    )
    finished: dict[str, Any] = one(connection, "select backend.erasure_finish(%s)", erasure)
    return finished


def request(connection: psycopg.Connection, person: str) -> None:
    one(connection, "select backend.erasure_request(%s, p_grace_days => 0)", person)


def counts(connection: psycopg.Connection, person: str) -> dict[str, int]:
    rows = connection.execute(
        "select c.table_schema || '.' || c.table_name, c.row_count"
        " from private.count_person_rows(private.person_scope(%s)) as c",
        [person],
    )
    return dict(rows.fetchall())


def wrong(connection: psycopg.Connection) -> set[str]:
    """What the checks of data find."""
    return {
        f"{name}: {row}"
        for name, query in data_checks().items()
        for row in connection.execute(query.encode())
    }


@dataclass
class Facts:
    """What was so before an erasure, and after it."""

    rows: dict[str, int]
    """Of the person, by table, before."""

    outcome: dict[str, Any] = field(default_factory=dict)
    tombstone: Any = None
    of_founder: list[dict[str, int]] = field(default_factory=list)
    of_others: list[dict[str, int]] = field(default_factory=list)
    of_person: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[set[str]] = field(default_factory=list)


@pytest.fixture(scope="module")
def facts(stack: Stack) -> Facts:
    """One erasure, in a transaction that is rolled back before anybody asserts anything."""
    with psycopg.connect(stack.admin_dsn) as connection:
        world = build(connection)
        fill(connection, world)
        owner, founder, organization = (
            world.ids[name] for name in ("owner", "founder", "organization")
        )

        def look(found: Facts) -> None:
            found.of_founder.append(counts(connection, founder))
            others = mentions(connection, [founder, organization])
            found.of_others.append({table: len(rows) for table, rows in others.items()})
            found.of_person.append(dict(mentions(connection, [owner, MARK, ADDRESS])))
            found.wrong.append(wrong(connection))

        found = Facts({})
        look(found)
        request(connection, owner)
        found.rows = counts(connection, owner)
        pseudonym = one(connection, "select private.pseudonym(%s)", owner)
        found.outcome = erase(connection, owner)
        look(found)
        found.tombstone = connection.execute(
            "select user_id, state, emails, account_ids, erased ? 'public.conversations',"
            " (select count(*) from private.erasures where user_id = %s)"
            " from private.erasures where pseudonym = %s",
            [owner, pseudonym],
        ).fetchone()
        connection.rollback()
        return found


def test_the_person_has_rows_in_every_table(facts: Facts) -> None:
    assert [table for table, count in facts.rows.items() if count == 0] == []


def test_nothing_names_them_afterwards(facts: Facts) -> None:
    before, after = facts.of_person
    assert len(before) > 40
    assert facts.outcome == {"state": "done"}
    assert after == {}


def test_others_are_untouched(facts: Facts) -> None:
    before, after = facts.of_founder
    assert after == before | {"private.tasks": after["private.tasks"]}
    said, left = ({t: n for t, n in one.items() if t != "private.tasks"} for one in facts.of_others)
    # Of what the owner was to the organization nothing is left, and all else is.
    theirs = {"public.organization_members", "public.organization_invitations"}
    assert left == {table: count - (table in theirs) for table, count in said.items()}


def test_checks_find_nothing_new(facts: Facts) -> None:
    before, after = facts.wrong
    assert after - before == set()


def test_what_remains_is_a_pseudonym(facts: Facts) -> None:
    assert facts.tombstone == (None, "done", [], [], True, 0)
