"""People made straight in auth.users, who then act under row level security as PostgREST lets them.

`new_user` of the top conftest signs up through the gateway, which hashes a password and verifies
every address. Here an account is one insert, and its address may be unverified.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

AsRole = Callable[..., AbstractContextManager[psycopg.Connection]]

LOCK_WAIT_SECONDS = 10


@dataclass(frozen=True)
class Refusal:
    """What PostgREST would tell the client about a failure."""

    code: str
    status: int
    facts: dict[str, Any]


@contextmanager
def refused(code: str, status: int) -> Iterator[list[Refusal]]:
    """Expects private.fail(status, code); the list holds the refusal afterwards."""
    caught: list[Refusal] = []
    with pytest.raises(psycopg.DatabaseError) as info:
        yield caught
    error = info.value
    assert (error.sqlstate or "").startswith("PT"), error
    facts = json.loads(error.diag.message_detail or "{}")
    caught.append(Refusal(facts.pop("code"), int((error.sqlstate or "PT0")[2:]), facts))
    assert (caught[0].code, caught[0].status) == (code, status)


def call(connection: psycopg.Connection, function: str, **arguments: Any) -> Any:
    """`select schema.function(p_x => …)`; objects travel as jsonb."""
    statement = sql.SQL("select {}({})").format(
        sql.Identifier(*function.split(".")),
        sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name))
            for name in arguments
        ),
    )
    values = {k: Jsonb(v) if isinstance(v, dict | list) else v for k, v in arguments.items()}
    row = connection.execute(statement, values).fetchone()
    assert row is not None
    return row[0]


@dataclass(frozen=True)
class Person:
    """Somebody with an account."""

    id: str
    email: str | None
    as_role: AsRole

    def transaction(self, *, commit: bool = False) -> AbstractContextManager[psycopg.Connection]:
        """A transaction as this person."""
        return self.as_role("authenticated", {"sub": self.id}, commit=commit)

    def call(self, function: str, /, **arguments: Any) -> Any:
        """Calls public.function as this person, and commits."""
        with self.transaction(commit=True) as connection:
            return call(connection, f"public.{function}", **arguments)

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """What this person sees."""
        with self.transaction() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            return cursor.execute(query.encode(), parameters).fetchall()

    def execute(self, query: str, *parameters: Any) -> int:
        """Runs and commits a statement as this person; the number of rows it touched."""
        with self.transaction(commit=True) as connection:
            return connection.execute(query.encode(), parameters).rowcount


NewPerson = Callable[..., Person]


@pytest.fixture
def new_person(db: Callable[[], psycopg.Connection], as_role: AsRole) -> NewPerson:
    """`new_person()` makes an account with a verified address; metadata and so on by name."""
    connection = db()

    def make(
        email: str | None = "",
        *,
        verified: bool = True,
        user_metadata: Any = None,
        app_metadata: Any = None,
    ) -> Person:
        if email == "":
            email = f"person-{uuid.uuid4().hex[:12]}@example.com"
        row = connection.execute(
            "insert into auth.users"
            " (id, email, email_confirmed_at, raw_user_meta_data, raw_app_meta_data)"
            " values (gen_random_uuid(), %s, case when %s then now() end, %s, %s) returning id",
            [
                email,
                verified and email is not None,
                Jsonb({} if user_metadata is None else user_metadata),
                Jsonb({"provider": "email"} if app_metadata is None else app_metadata),
            ],
        ).fetchone()
        assert row is not None
        return Person(str(row[0]), email, as_role)

    return make


@dataclass(frozen=True)
class Team:
    """An organization on the business plan, with one of each role."""

    id: str
    slug: str
    owner: Person
    admin: Person
    member: Person


def new_slug() -> str:
    """A slug nobody has."""
    return f"team-{uuid.uuid4().hex[:12]}"


def join(owner: Person, organization_id: str, person: Person, role: str = "member") -> None:
    """Invites somebody and has them accept."""
    invited_as = "member" if role == "member" else "admin"
    invitation = owner.call(
        "invite_member", p_organization_id=organization_id, p_email=person.email, p_role=invited_as
    )
    person.call("accept_invitation", p_token=invitation["token"])
    if role == "owner":
        owner.call(
            "change_member_role",
            p_organization_id=organization_id,
            p_user_id=person.id,
            p_role="owner",
        )


def put_on_plan(connection: psycopg.Connection, organization_id: str, slug: str) -> None:
    """What a paid subscription does to an organization."""
    connection.execute(
        "update public.organizations set plan_id ="
        " (select id from public.plans where slug = %s) where id = %s",
        [slug, organization_id],
    )


@pytest.fixture
def new_team(db: Callable[[], psycopg.Connection], new_person: NewPerson) -> Callable[[], Team]:
    """`new_team()` makes an organization with an owner, an admin and a member."""
    connection = db()

    def make() -> Team:
        owner, admin, member = new_person(), new_person(), new_person()
        made = owner.call("create_organization", p_name="A team", p_slug=new_slug())
        put_on_plan(connection, made["id"], "business")
        join(owner, made["id"], admin, "admin")
        join(owner, made["id"], member)
        return Team(made["id"], made["slug"], owner, admin, member)

    return make


def wait_until_blocked(connection: psycopg.Connection, pid: int) -> None:
    """Returns once the backend `pid` waits for a lock."""
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while time.monotonic() < deadline:
        row = connection.execute("select cardinality(pg_blocking_pids(%s))", [pid]).fetchone()
        if row is not None and row[0] > 0:
            return
        time.sleep(0.01)
    raise AssertionError(f"backend {pid} never waited for a lock")
