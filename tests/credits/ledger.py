"""Doors into the ledger for its tests: payers, and what may be done to their accounts."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb, set_json_loads

from tests.checks.queries import findings

CHAT_MODEL = "Qwen2.5-32B-Instruct-AWQ"  # 60, cached 30, completion 180 credits per million tokens
ANSWER_SECONDS = 30  # how long a test waits for anything


class Refused(Exception):  # noqa: N818  (an answer, not a defect)
    """The database refused: status, stable code, and facts from DETAIL."""

    def __init__(self, error: psycopg.Error) -> None:
        self.status = int((error.sqlstate or "PT0")[2:])
        self.facts: dict[str, Any] = json.loads(
            error.diag.message_detail or "{}", parse_float=Decimal
        )
        self.code: str = self.facts.pop("code")
        super().__init__(f"{self.status} {self.code}: {error.diag.message_primary} {self.facts}")


@dataclass(frozen=True)
class Payer:
    """An account, and who may spend from it."""

    account_id: str
    users: tuple[str, ...]
    organization_id: str | None = None

    @property
    def user(self) -> str:
        return self.users[0]

    def owner(self, member: int = 0) -> dict[str, str | None]:
        """Arguments that name the payer, asked by one of its members."""
        return {"p_user_id": self.users[member], "p_organization_id": self.organization_id}


def connect(dsn: str) -> psycopg.Connection:
    """An autocommit connection that reads numbers in JSON as Decimal."""
    connection = psycopg.connect(dsn, autocommit=True)
    set_json_loads(lambda data: json.loads(data, parse_float=Decimal), connection)
    return connection


def call(connection: psycopg.Connection, function: str, /, **arguments: Any) -> Any:
    """`select schema.function(p_x => …)`. Raises Refused for a business error."""
    statement = sql.SQL("select {}({})").format(
        sql.Identifier(*function.split(".")),
        sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name))
            for name in arguments
        ),
    )
    values = {k: Jsonb(v) if isinstance(v, dict) else v for k, v in arguments.items()}
    try:
        row = connection.execute(statement, values).fetchone()
    except psycopg.Error as error:
        if (error.sqlstate or "").startswith("PT"):
            raise Refused(error) from None
        raise
    assert row is not None
    return row[0]


def one(connection: psycopg.Connection, query: str, *parameters: Any, **named: Any) -> Any:
    """The only column of the only row; parameters in order or by name."""
    row = connection.execute(query.encode(), named or parameters).fetchone()
    assert row is not None, query
    return row[0]


class Ledger:
    """The ledger as functions/ sees it (`door`), and as a superuser does (`admin`)."""

    def __init__(self, admin_dsn: str, functions_dsn: str) -> None:
        self.admin_dsn = admin_dsn
        self.functions_dsn = functions_dsn
        self.admin = connect(admin_dsn)
        self.door = connect(functions_dsn)
        self._more: list[psycopg.Connection] = []

    def close(self) -> None:
        for connection in (self.admin, self.door, *self._more):
            connection.close()

    def another_door(self) -> psycopg.Connection:
        """One more connection as the backend; closed with the ledger."""
        self._more.append(connect(self.functions_dsn))
        return self._more[-1]

    def another_admin(self) -> psycopg.Connection:
        """One more connection as the superuser; closed with the ledger."""
        self._more.append(connect(self.admin_dsn))
        return self._more[-1]

    # Payers --------------------------------------------------------------------------------------

    def new_user(self, *, verified: bool = False) -> str:
        """A person; unverified, so without the welcome credits, unless said otherwise."""
        return str(
            one(
                self.admin,
                "insert into auth.users (id, email, email_confirmed_at)"
                " values (gen_random_uuid(), %s, case when %s then now() end) returning id",
                f"payer-{uuid.uuid4().hex[:12]}@example.com",
                verified,
            )
        )

    def new_payer(self, balance: Decimal | int = 0, *, plan: str = "enterprise") -> Payer:
        """A person's account."""
        user_id = self.new_user()
        self.admin.execute(
            "update public.profiles set plan_id = (select id from public.plans where slug = %s)"
            " where id = %s",
            [plan, user_id],
        )
        payer = Payer(self._account("user_id", user_id), (user_id,))
        return self._fund(payer, balance)

    def new_organization(
        self, balance: Decimal | int = 0, *, members: int = 2, plan: str = "enterprise"
    ) -> Payer:
        """An organization's account; its first member owns it."""
        users = tuple(self.new_user() for _ in range(members))
        organization_id = str(
            one(
                self.admin,
                "insert into public.organizations (name, slug, created_by, plan_id) values"
                " ('Payers', %s, %s, (select id from public.plans where slug = 'enterprise'))"
                " returning id",
                f"payers-{uuid.uuid4().hex[:12]}",
                users[0],
            )
        )
        for index, user_id in enumerate(users):
            self.admin.execute(
                "insert into public.organization_members (organization_id, user_id, role)"
                " values (%s, %s, %s)",
                [organization_id, user_id, "member" if index else "owner"],
            )
        self.admin.execute(
            "update public.organizations set plan_id ="
            " (select id from public.plans where slug = %s) where id = %s",
            [plan, organization_id],
        )
        payer = Payer(self._account("organization_id", organization_id), users, organization_id)
        return self._fund(payer, balance)

    def new_plan(self, **limits: int) -> str:
        """A plan that is not on offer, unlimited but for what is named; its slug."""
        columns = {
            "requests_per_minute": -1,
            "requests_per_month": -1,
            "concurrent_requests": -1,
            "monthly_tokens": -1,
        } | limits
        slug = f"test-{uuid.uuid4().hex[:12]}"
        self.admin.execute(
            "insert into public.plans (slug, name, is_active, max_agents, max_documents,"
            " max_team_members, requests_per_minute, requests_per_month, concurrent_requests,"
            " monthly_tokens) values (%s, 'Test', false, -1, -1, -1, %s, %s, %s, %s)",
            [slug, *columns.values()],
        )
        return slug

    def _account(self, column: str, owner_id: str) -> str:
        query = f"select id::text from public.credit_accounts where {column} = %s"  # noqa: S608
        return str(one(self.admin, query, owner_id))

    def _fund(self, payer: Payer, balance: Decimal | int) -> Payer:
        if balance:
            self.grant(payer, balance)
        return payer

    # Operations, as the backend ------------------------------------------------------------------

    def rpc(self, name: str, /, **arguments: Any) -> Any:
        """`backend.name`. Raises Refused."""
        return call(self.door, f"backend.{name}", **arguments)

    def grant(self, payer: Payer, amount: Any, key: str | None = None, **more: Any) -> Any:
        return self.rpc(
            "credit_grant",
            p_user_id=None if payer.organization_id else payer.user,
            p_organization_id=payer.organization_id,
            p_amount=amount,
            p_source=more.pop("p_source", "bonus"),
            p_idempotency_key=key or new_key(),
            p_actor="tests",
            **more,
        )

    def hold(
        self, payer: Payer, amount: Any, key: str | None = None, *, member: int = 0, **more: Any
    ) -> Any:
        return self.rpc("credit_hold", **hold_arguments(payer, amount, key, member=member, **more))

    def settle(self, hold_id: str, amount: Any) -> Any:
        return self.rpc("credit_settle", p_hold_id=hold_id, p_amount=amount)

    def release(self, hold_id: str) -> Any:
        return self.rpc("credit_release", p_hold_id=hold_id, p_reason="test")

    def refund(self, hold_id: str, amount: Any, key: str | None = None) -> Any:
        return self.rpc(
            "credit_refund",
            p_hold_id=hold_id,
            p_amount=amount,
            p_idempotency_key=key or new_key(),
            p_reason="test",
        )

    def spend(self, payer: Payer, amount: Any) -> str:
        """Holds and settles; the hold's id."""
        hold_id = str(self.hold(payer, amount)["hold_id"])
        self.settle(hold_id, amount)
        return hold_id

    def claw_back(self, lot_id: str, target: Any) -> Any:
        """Not open to the backend: billing's functions call it."""
        return call(
            self.admin,
            "private.credit_claw_back",
            p_lot_id=lot_id,
            p_target=target,
            p_reason="test",
            p_reference="pi_test",
        )

    def chat_start(self, payer: Payer, *, member: int = 0, **arguments: Any) -> Any:
        return self.rpc("chat_start", **chat_arguments(payer, member=member, **arguments))

    # Time, which passes by superuser's hand ------------------------------------------------------
    #
    # A worker may reap and sweep this database at any moment, so time passes in the transaction
    # that depends on it.

    def reap(self, *hold_ids: str) -> None:
        """The deadline of these holds passes, and the reaper comes."""
        with self.admin.transaction():
            pass_deadline(self.admin, *hold_ids)
            call(self.admin, "backend.credit_reap", p_limit=5000)

    def expire(self, *lot_ids: str) -> None:
        """The date of these lots passes, and the sweep comes."""
        with self.admin.transaction():
            pass_expiry(self.admin, *lot_ids)
            call(self.admin, "backend.credit_expire", p_limit=5000)

    def new_month(self, *payers: Payer) -> None:
        """Everything these accounts have counted so far was last month."""
        for payer in payers:
            self.admin.execute(
                "update public.credit_accounts set period_start = period_start - interval '40 days'"
                " where id = %s",
                [payer.account_id],
            )
            self.admin.execute(
                "update private.member_spending"
                " set period_start = period_start - interval '40 days' where organization_id = %s",
                [payer.organization_id],
            )

    # What is there -------------------------------------------------------------------------------

    def account(self, payer: Payer) -> dict[str, Any]:
        """The row, without sweeping."""
        row: dict[str, Any] = one(
            self.admin,
            "select to_jsonb(a) from public.credit_accounts as a where id = %s",
            payer.account_id,
        )
        return row

    def balance(self, payer: Payer) -> Decimal:
        return Decimal(self.account(payer)["balance"])

    def lot(self, lot_id: str) -> dict[str, Any]:
        row: dict[str, Any] = one(
            self.admin, "select to_jsonb(l) from public.credit_lots as l where id = %s", lot_id
        )
        return row

    def held(self, hold_id: str) -> dict[str, Any]:
        """The hold's row."""
        row: dict[str, Any] = one(
            self.admin, "select to_jsonb(h) from private.credit_holds as h where id = %s", hold_id
        )
        return row

    def usage(self, hold_id: str) -> dict[str, Any]:
        """The usage row of a hold."""
        row: dict[str, Any] = one(
            self.admin, "select to_jsonb(u) from public.usage_logs as u where id = %s", hold_id
        )
        return row

    def transactions(self, payer: Payer) -> list[dict[str, Any]]:
        """Oldest first."""
        rows: list[dict[str, Any]] = one(
            self.admin,
            "select coalesce(jsonb_agg(to_jsonb(t) order by version), '[]')"
            " from public.credit_transactions as t where account_id = %s",
            payer.account_id,
        )
        return rows

    def verify(self, *payers: Payer) -> None:
        """Every check of the ledger finds these accounts in order."""
        assert findings(self.admin, [payer.account_id for payer in payers]) == []


def expect_refusal(work: Callable[[], Any], status: int, code: str) -> Refused:
    """The refusal that must come."""
    with pytest.raises(Refused) as caught:
        work()
    assert (caught.value.status, caught.value.code) == (status, code)
    return caught.value


def new_key() -> str:
    """An idempotency key that was never used."""
    return uuid.uuid4().hex


def hold_arguments(
    payer: Payer, amount: Any, key: str | None = None, *, member: int = 0, **more: Any
) -> dict[str, Any]:
    """Of backend.credit_hold."""
    return {
        **payer.owner(member),
        "p_amount": amount,
        "p_idempotency_key": key or new_key(),
        "p_action": more.pop("p_action", "test"),
        **more,
    }


def chat_arguments(payer: Payer, *, member: int = 0, **more: Any) -> dict[str, Any]:
    """Of backend.chat_start."""
    return {
        "p_user_id": payer.users[member],
        "p_request_id": more.pop("p_request_id", None) or str(uuid.uuid4()),
        "p_model": more.pop("p_model", CHAT_MODEL),
        "p_prompt_tokens": more.pop("p_prompt_tokens", 1000),
        "p_organization": more.pop("p_organization", payer.organization_id),
        **more,
    }


def pass_deadline(connection: psycopg.Connection, *hold_ids: str) -> None:
    """Moves the deadline of holds into the past."""
    connection.execute(
        "update private.credit_holds set deadline = created_at + interval '1 microsecond'"
        " where id = any(%s::uuid[])",
        [list(hold_ids)],
    )


def pass_expiry(
    connection: psycopg.Connection, *lot_ids: str, expires_at: Any = "2026-01-01T00:00:00Z"
) -> None:
    """Moves the expiry of lots into the past, and the account's note of it with them."""
    connection.execute(
        "update public.credit_lots set expires_at = %s where id = any(%s::uuid[])",
        [expires_at, list(lot_ids)],
    )
    connection.execute(
        "update public.credit_accounts as a set next_expiry_at = least(next_expiry_at, %s)"
        " where id in (select account_id from public.credit_lots where id = any(%s::uuid[]))",
        [expires_at, list(lot_ids)],
    )


def wait_until_blocked(connection: psycopg.Connection, pid: int) -> None:
    """Returns once the backend `pid` waits for a lock."""
    wait_until(
        lambda: one(connection, "select cardinality(pg_blocking_pids(%s)) > 0", pid),
        f"backend {pid} never waited for a lock",
    )


def wait_until(ready: Callable[[], bool], otherwise: str) -> None:
    """Polls; fails with `otherwise` when it takes too long."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while not ready():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)
