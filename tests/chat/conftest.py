"""People who pay, the upstream's memory, and the chat service without HTTP around it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx
import openai
import psycopg
import pytest
from psycopg.rows import dict_row

from functions.chat.providers import open_providers
from functions.chat.routing import Router
from functions.chat.schemas import parse
from functions.chat.service import Ask, ChatService
from functions.core.auth import Caller
from functions.core.database import Database
from functions.core.settings import Settings
from local.stack import Stack
from tests.support.provider_keys import vault_of

MODEL = "Qwen2.5-32B-Instruct-AWQ"
WAIT_SECONDS = 10.0


def wait_for(condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """The first true value of `condition`; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


@dataclass
class Payer:
    """Somebody with credits, seen from both sides: as a client, and in the books."""

    id: str
    token: str
    base_url: str
    connection: psycopg.Connection[dict[str, Any]]
    http: httpx.Client
    clients: list[openai.OpenAI] = field(default_factory=list)

    def client(self, base_url: str | None = None, **options: Any) -> openai.OpenAI:
        """The official client, which does not try again on its own; closed for you."""
        client = openai.OpenAI(
            base_url=base_url or self.base_url, api_key=self.token, max_retries=0, **options
        )
        self.clients.append(client)
        return client

    def ask(self, text: str, **options: Any) -> httpx.Response:
        """One completion over plain HTTP. `headers` are added to the credential."""
        headers = options.pop("headers", {})
        return self.http.post("/chat/completions", json=body(text, **options), headers=headers)

    def account(self) -> dict[str, Any]:
        return self._one(
            "select id, balance, debt, held, active_holds, tokens_held, period_tokens"
            " from public.credit_accounts where user_id = %s"
        )

    @property
    def balance(self) -> Decimal:
        """By the account's row; the ledger has to agree, to the digit."""
        account = self.account()
        ledger = self._one(
            "select coalesce(sum(t.amount), 0) as sum from public.credit_transactions as t"
            " join public.credit_accounts as a on a.id = t.account_id where a.user_id = %s"
        )
        assert account["balance"] == ledger["sum"]
        return Decimal(account["balance"])

    def charges(self) -> list[Decimal]:
        """What each charged request cost, oldest first."""
        rows = self._all(
            "select -t.amount as credits from public.credit_transactions as t"
            " join public.credit_accounts as a on a.id = t.account_id"
            " where a.user_id = %s and t.type = 'usage' order by t.version"
        )
        return [row["credits"] for row in rows]

    def usage(self) -> list[dict[str, Any]]:
        """Rows of usage_logs, oldest first."""
        return self._all("select * from public.usage_logs where user_id = %s order by created_at")

    def holds(self) -> list[dict[str, Any]]:
        return self._all(
            "select * from private.credit_holds where user_id = %s order by created_at, id"
        )

    def settled_usage(self, count: int = 1) -> list[dict[str, Any]]:
        """The usage rows, once there are `count` and all of them are final."""

        def final() -> list[dict[str, Any]] | None:
            rows = self.usage()
            is_final = len(rows) == count and all(row["status"] != "started" for row in rows)
            return rows if is_final else None

        rows: list[dict[str, Any]] = wait_for(final)
        return rows

    def require_free(self, *, count: int, code: str | None = None) -> None:
        """`count` requests were made, none was charged, nothing is held."""
        for row in self.settled_usage(count) if count else self.usage():
            assert row["status"] == "failed"
            assert row["credits"] == 0
            assert code is None or row["error_code"] == code
        assert self.charges() == []
        account = self.account()
        assert (account["held"], account["active_holds"], account["tokens_held"]) == (0, 0, 0)
        assert self.balance == 100

    def _one(self, query: str) -> dict[str, Any]:
        row = self.connection.execute(query, [self.id]).fetchone()
        assert row is not None
        return row

    def _all(self, query: str) -> list[dict[str, Any]]:
        return self.connection.execute(query, [self.id]).fetchall()


def body(text: str, **options: Any) -> dict[str, Any]:
    """A request with one message."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}]} | options


def ask_of(payer: Payer, text: str, **options: Any) -> Ask:
    """The same request for a service without HTTP around it."""
    return Ask(
        completion=parse(json.dumps(body(text, **options)).encode()),
        caller=Caller(uuid.UUID(payer.id)),
        request_id=str(uuid.uuid4()),
        since=time.monotonic(),
    )


NewPayer = Callable[..., Payer]


@contextmanager
def payers(stack: Stack, functions_url: str, new_user: Callable[..., Any]) -> Iterator[NewPayer]:
    """Makes people, and closes what they opened."""
    opened: list[Payer] = []

    def make(plan: str = "enterprise") -> Payer:
        user = new_user()
        connection = psycopg.connect(stack.admin_dsn, autocommit=True, row_factory=dict_row)
        connection.execute(
            "update public.profiles set plan_id = p.id from public.plans as p"
            " where p.slug = %s and profiles.id = %s",
            [plan, user.id],
        )
        base_url = f"{functions_url}/v1"
        http = httpx.Client(base_url=base_url, headers=user.headers, trust_env=False, timeout=30)
        opened.append(Payer(user.id, user.token, base_url, connection, http))
        return opened[-1]

    yield make
    for payer in opened:
        payer.http.close()
        payer.connection.close()
        for client in payer.clients:
            client.close()


@pytest.fixture
def new_payer(stack: Stack, functions_url: str, new_user: Callable[..., Any]) -> Iterator[NewPayer]:
    """`new_payer(plan="free")`: a new person with the welcome credits (100) and a plan."""
    with payers(stack, functions_url, new_user) as make:
        yield make


@pytest.fixture(scope="module")
def idle_payer(stack: Stack, functions_url: str, new_user: Callable[..., Any]) -> Iterator[Payer]:
    """One person for all tests of a module that never get as far as a hold."""
    with payers(stack, functions_url, new_user) as make:
        yield make()


@pytest.fixture
def payer(new_payer: NewPayer) -> Payer:
    """Somebody with 100 credits on a plan without limits."""
    return new_payer()


@dataclass
class Memory:
    """What the simulator remembers of requests whose body contains a text."""

    http: httpx.Client

    def bodies(self, text: str) -> list[dict[str, Any]]:
        rows = self.http.get("/_requests", params={"contains": text}).json()
        return [row["body"] for row in rows]

    def headers(self, text: str) -> list[dict[str, str]]:
        rows = self.http.get("/_requests", params={"contains": text}).json()
        return [row["headers"] for row in rows]

    def counts(self, text: str) -> dict[str, int]:
        counts: dict[str, int] = self.http.get("/_stats", params={"contains": text}).json()
        return counts


@pytest.fixture
def upstream(stack: Stack) -> Iterator[Memory]:
    with httpx.Client(base_url=stack.simulator_url, trust_env=False) as http:
        yield Memory(http)


@pytest.fixture
def mark() -> str:
    """A word that nobody else's request contains."""
    return f"mark{uuid.uuid4().hex}"


def settings_of(stack: Stack, **changes: Any) -> Settings:
    """The functions app's settings, changed."""
    environment = stack.functions_environment()
    values = {
        name.removeprefix("QUERNEL_").lower(): value
        for name, value in environment.items()
        if name.startswith("QUERNEL_")
    }
    return Settings(**(values | changes))


@asynccontextmanager
async def chat_service(
    settings: Settings, wrap: Callable[[Database], Any] = lambda database: database
) -> AsyncIterator[ChatService]:
    """The service on the real database and upstreams; `wrap` stands between it and the database."""
    database = await Database.open(settings)
    async with open_providers(settings) as providers:
        router = Router(providers, settings.llm_attempts_timeout_seconds, vault_of(settings))
        service = ChatService(wrap(database), router)
        try:
            yield service
        finally:
            await service.background.drain()
            await database.aclose()
