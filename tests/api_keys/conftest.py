"""Owners of API keys, and the programs that use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from functions.core.api_keys import checksum
from local.stack import Stack
from tests.chat.conftest import body
from tests.conftest import NewUser, User

PLAN = "enterprise"  # without limits of its own, and with API access


@dataclass
class Keys:
    """Makes owners and keys, and looks into the books."""

    functions_url: str
    connection: psycopg.Connection[dict[str, Any]]
    new_user: NewUser
    programs: list[httpx.Client] = field(default_factory=list)

    # Owners -----------------------------------------------------------------------------------

    def person(self, plan: str = PLAN) -> User:
        """Somebody with the welcome credits (100) and a plan."""
        user = self.new_user()
        self.rows(
            "update public.profiles set plan_id = p.id from public.plans as p"
            " where p.slug = %s and profiles.id = %s",
            plan,
            user.id,
        )
        return user

    def organization(self, owner: User, *members: User) -> str:
        """An organization on the largest plan with credits; its id."""
        made = owner.client.rpc(
            "create_organization", {"p_name": "Acme", "p_slug": f"acme-{uuid4().hex[:12]}"}
        ).execute()
        organization_id = str(made.data["id"])
        self.rows(
            "update public.organizations set plan_id = p.id from public.plans as p"
            " where p.slug = %s and organizations.id = %s",
            PLAN,
            organization_id,
        )
        for member in members:
            self.rows(
                "insert into public.organization_members (organization_id, user_id, role)"
                " values (%s, %s, 'member')",
                organization_id,
                member.id,
            )
        self.rows(
            "select backend.credit_grant(null, %s, 100, 'promotional', 'r', 'a', null, 100, %s)",
            organization_id,
            uuid4().hex,
        )
        return organization_id

    def make(
        self, user: User, organization_id: str | None = None, /, **values: Any
    ) -> dict[str, Any]:
        """public.create_api_key; the answer, secret included."""
        arguments = {
            "p_name": values.pop("name", "a program"),
            "p_values": values,
            "p_organization_id": organization_id,
        }
        return dict(user.client.rpc("create_api_key", arguments).execute().data)

    # Programs ---------------------------------------------------------------------------------

    def program(self, key: str, **headers: str) -> httpx.Client:
        """An HTTP client that shows a key."""
        client = httpx.Client(
            base_url=f"{self.functions_url}/v1",
            headers={"Authorization": f"Bearer {key}"} | headers,
            trust_env=False,
            timeout=30,
        )
        self.programs.append(client)
        return client

    def ask(self, key: str, text: str = "hello", **options: Any) -> httpx.Response:
        """One completion by key."""
        headers = options.pop("headers", {})
        return self.program(key, **headers).post("/chat/completions", json=body(text, **options))

    # The books --------------------------------------------------------------------------------

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        cursor = self.connection.execute(query, values)
        return cursor.fetchall() if cursor.description else []

    def state(self, key: dict[str, Any]) -> dict[str, Any]:
        """The row of private.api_key_states."""
        (row,) = self.rows(
            "select active_holds, held, period_credits, total_requests, total_tokens,"
            " total_credits, next_request_minute_at::text, next_token_at::text"
            " from private.api_key_states where api_key_id = %s",
            key["id"],
        )
        return row

    def usage(self, key: dict[str, Any]) -> list[dict[str, Any]]:
        """Usage rows of a key, oldest first."""
        return self.rows(
            "select * from public.usage_logs where api_key_id = %s order by created_at", key["id"]
        )


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code."""
    return answer.status_code, answer.json()["error"]["code"]


def well_formed(mode: str = "live") -> str:
    """A key with a right checksum that nobody has."""
    start = f"qk_{mode}_{(uuid4().hex + uuid4().hex)[:43]}"
    return start + checksum(start)


@pytest.fixture
def keys(stack: Stack, functions_url: str, new_user: Callable[..., Any]) -> Iterator[Keys]:
    with psycopg.connect(stack.admin_dsn, autocommit=True, row_factory=dict_row) as connection:
        keys = Keys(functions_url, connection, new_user)
        yield keys
        for program in keys.programs:
            program.close()
