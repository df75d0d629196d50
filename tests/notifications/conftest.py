"""A desk that tells owners something, a postman, and webhook servers whose certificates count."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from functions.core.addresses import Address
from functions.core.database import Database
from functions.core.http import Policy, SafeClient
from functions.core.settings import Settings
from functions.notifications.tasks import send_email, send_event
from functions.tasks.context import TaskContext
from local.mailbox import Mailbox
from local.stack import Stack
from tests.core.tls import Authority, serve
from tests.support.people import NewPerson, Person, Team, new_person, new_team

__all__ = ["new_person", "new_team"]

HOST = "hooks.quernel.app"
MASTER_KEY = bytes(range(32))
SENDER = "Quernel <hello@quernel.test>"

Connect = Callable[[], psycopg.Connection]


@dataclass
class Desk:
    """Tells owners something; what becomes of it is for the test to do, not for the worker."""

    connection: psycopg.Connection

    def tell(
        self,
        owner: Person | Team,
        template: str = "receipt",
        facts: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> list[dict[str, Any]]:
        """private.notify(), committed; the tasks that came of it."""
        with self.connection.transaction():
            self.connection.execute(
                "select private.notify(%s, %s, %s, %s, %s)",
                [
                    owner.id if isinstance(owner, Person) else None,
                    owner.id if isinstance(owner, Team) else None,
                    template,
                    Jsonb(facts or {}),
                    key or uuid.uuid4().hex,
                ],
            )
            return self._take_tasks()

    def invite(self, team: Team, email: str | None, role: str = "member") -> dict[str, Any]:
        """public.invite_member() by the owner; its answer, and the `tasks` that came of it."""
        with self.connection.transaction():
            self.connection.execute(
                "select set_config('request.jwt.claims', %s, true)",
                [json.dumps({"role": "authenticated", "sub": team.owner.id})],
            )
            row = self.connection.execute(
                "select public.invite_member(%s, %s, %s)", [team.id, email, role]
            ).fetchone()
            assert row is not None
            return row[0] | {"tasks": self._take_tasks()}

    def _take_tasks(self) -> list[dict[str, Any]]:
        """Lease what this transaction has queued, before anybody else sees it."""
        return self.rows(
            "update private.tasks set status = 'running', attempts = 1, started_at = now(),"
            " lease_token = gen_random_uuid(), leased_by = 'tests',"
            " leased_until = now() + interval '1 hour'"
            " where xmin = pg_current_xact_id()::xid and kind in ('email', 'webhook') returning *"
        )

    def exhaust(self, task: dict[str, Any]) -> None:
        """Let the attempt that runs be the last."""
        self.rows("update private.tasks set attempts = max_attempts where id = %s", task["id"])

    def email(self, task: dict[str, Any]) -> dict[str, Any]:
        """The email of a task, as it is now."""
        (row,) = self.rows(
            "select * from private.email_deliveries where id = %s", task["payload"]["delivery_id"]
        )
        return row

    def event(self, task: dict[str, Any]) -> dict[str, Any]:
        """The delivery of a task, as it is now."""
        (row,) = self.rows(
            "select * from public.webhook_deliveries where id = %s", task["payload"]["delivery_id"]
        )
        return row

    def endpoint(self, owner: Person | Team, url: str, **columns: Any) -> dict[str, Any]:
        """An endpoint, past the vetting of its URL."""
        owner_column = "user_id" if isinstance(owner, Person) else "organization_id"
        values = {owner_column: owner.id, "url": url} | columns
        names, places = ", ".join(values), ", ".join(["%s"] * len(values))
        (row,) = self.rows(
            f"insert into public.webhook_endpoints ({names}) values ({places}) returning *",  # noqa: S608
            *values.values(),
        )
        return row

    def reread(self, endpoint: dict[str, Any]) -> dict[str, Any]:
        """An endpoint as it is now."""
        (row,) = self.rows("select * from public.webhook_endpoints where id = %s", endpoint["id"])
        return row

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def desk(db: Connect) -> Desk:
    return Desk(db())


@pytest.fixture
def person(new_person: NewPerson) -> Person:
    """Somebody with a verified address."""
    return new_person()


@pytest.fixture
def team(new_team: Callable[[], Team]) -> Team:
    return new_team()


# The worker's side ------------------------------------------------------------------------------


@pytest.fixture
def settings(stack: Stack) -> Settings:
    """Of a worker that sends no email."""
    return Settings(
        environment="test",
        supabase_url=stack.supabase_url,
        supabase_secret_key=stack.keys.secret_key,
        app_url="https://quernel.test",
        smtp_timeout_seconds=2,
        webhook_signing_key=base64.b64encode(MASTER_KEY).decode(),  # type: ignore[arg-type]
    )


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    opened = await Database.open(settings)
    yield opened
    await opened.aclose()


@dataclass
class Postman:
    """The worker that sends emails, to a mail server of this test."""

    mailbox: Mailbox
    port: int
    settings: Settings
    database: Database

    async def send(self, task: dict[str, Any], *, number: int = 1, **changes: Any) -> Any:
        """What the handler answers, given the task for the numbered attempt."""
        context = self.context(task, number=number, **changes)
        return await send_email(task["payload"], context)

    async def sent(self, task: dict[str, Any]) -> EmailMessage:
        """Sends an email; the message that arrived."""
        assert await self.send(task) == {"status": "sent"}
        return self.mailbox.received[-1].message

    def context(self, task: dict[str, Any], *, number: int = 1, **changes: Any) -> TaskContext:
        """Attempt `number` of a task, in a worker with these settings."""
        values = self.settings.model_dump() | {
            "smtp_url": f"smtp://127.0.0.1:{self.port}?starttls=off",
            "email_from": SENDER,
        }
        return TaskContext(Settings(**(values | changes)), self.database, task["id"], number)


@pytest.fixture
async def postman(tmp_path: Path, settings: Settings, database: Database) -> AsyncIterator[Postman]:
    mailbox = Mailbox(tmp_path / "mail")
    async with mailbox.serve() as port:
        yield Postman(mailbox, port, settings, database)


# Webhook servers --------------------------------------------------------------------------------


@dataclass
class Hook:
    """A webhook server: what it got, and what it answers next (200 when nothing is left)."""

    answers: list[int] = field(default_factory=list)
    requests: list[tuple[bytes, dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}/in?token=of-the-owner"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")[:-2]
        headers = {name.lower(): value for name, value in (li.split(": ", 1) for li in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.requests.append((first.encode(), headers, body))
        status = self.answers.pop(0) if self.answers else 200
        content = b"what nobody reads " * 1000
        location = b"Location: https://127.0.0.1/\r\n" if 300 <= status < 400 else b""
        writer.write(
            b"HTTP/1.1 %d Said\r\n%bContent-Length: %d\r\n\r\n%b"
            % (status, location, len(content), content)
        )
        await writer.drain()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def hook(authority: Authority) -> AsyncIterator[Hook]:
    async with running_hook(authority) as made:
        yield made


@asynccontextmanager
async def running_hook(authority: Authority) -> AsyncIterator[Hook]:
    """A webhook server on loopback that is HOST."""
    made = Hook()
    async with serve(made.handle, authority.server_context(HOST)) as made.port:
        yield made


@dataclass
class Courier:
    """The worker that sends events, for which every name is this machine."""

    settings: Settings
    database: Database

    async def send(self, task: dict[str, Any], *, number: int = 1, **changes: Any) -> Any:
        """What the handler answers, given the task for the numbered attempt."""
        values = self.settings.model_dump() | changes
        context = TaskContext(Settings(**values), self.database, task["id"], number)
        return await send_event(task["payload"], context)


@pytest.fixture
def courier(
    settings: Settings,
    database: Database,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> Courier:
    async def here(host: str, port: int) -> list[Address]:  # noqa: ARG001
        return [ip_address("127.0.0.1")]

    def client(**_: Any) -> SafeClient:
        return SafeClient(
            policy=Policy(ports=None, is_allowed_address=lambda a: a == ip_address("127.0.0.1")),
            resolver=here,
            ssl_context=authority.client_context(),
        )

    monkeypatch.setattr("functions.notifications.tasks.SafeClient", client)
    return Courier(settings, database)
