"""People who talk to models in conversations, over HTTP and through the Supabase SDK's door."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest

from local.stack import Stack
from tests.chat.conftest import (
    MODEL,
    Memory,
    NewPayer,
    Payer,
    mark,
    new_payer,
    upstream,
    wait_for,
)

__all__ = ["MODEL", "Memory", "NewPayer", "Payer", "mark", "new_payer", "upstream", "wait_for"]


@dataclass
class Event:
    """One server-sent event; `name` is "message" for those of OpenAI's protocol."""

    name: str
    data: Any


def read_events(lines: Iterator[str]) -> Iterator[Event]:
    """Events of a stream, [DONE] included as its text."""
    name = "message"
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            text = line[6:]
            yield Event(name, text if text == "[DONE]" else json.loads(text))
            name = "message"


def text_of(events: list[Event]) -> str:
    """What the chunks of a stream said together."""
    return "".join(
        choice["delta"].get("content") or ""
        for event in events
        if event.name == "message" and event.data != "[DONE]"
        for choice in event.data["choices"]
    )


@dataclass
class Talker:
    """Somebody with credits who has conversations."""

    payer: Payer
    http: httpx.Client
    rest: httpx.Client
    made: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.payer.id

    def begin(self, **values: Any) -> str:
        """A new conversation's id."""
        answer = self.http.post("/conversations", json=values)
        assert answer.status_code == 201, answer.text
        self.made.append(answer.json()["id"])
        return self.made[-1]

    def post(self, conversation: str, **body: Any) -> httpx.Response:
        """A message whose answer comes in one piece."""
        return self.http.post(
            f"/conversations/{conversation}/messages", json={"stream": False} | body
        )

    def say(self, conversation: str, content: str, **body: Any) -> dict[str, Any]:
        """The answer, which has to come."""
        answer = self.post(conversation, content=content, **body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def stream(self, conversation: str, **body: Any) -> list[Event]:
        """The events of an answer."""
        path = f"/conversations/{conversation}/messages"
        with self.http.stream("POST", path, json=body) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            return list(read_events(answer.iter_lines()))

    def leave_after(self, conversation: str, count: int, **body: Any) -> list[Event]:
        """Read so many events, then hang up."""
        path = f"/conversations/{conversation}/messages"
        with self.http.stream("POST", path, json=body) as answer:
            return [e for _, e in zip(range(count), read_events(answer.iter_lines()), strict=False)]

    def thread(self, conversation: str, **query: Any) -> dict[str, Any]:
        answer = self.http.get(f"/conversations/{conversation}/messages", params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def get(self, conversation: str) -> dict[str, Any]:
        answer = self.http.get(f"/conversations/{conversation}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def rpc(self, name: str, **arguments: Any) -> httpx.Response:
        """A client's function, as the Supabase SDK calls it."""
        return self.rest.post(f"/rpc/{name}", json=arguments)

    def rows(self, table: str, **filters: str) -> list[dict[str, Any]]:
        """Rows as the Supabase SDK reads them."""
        answer = self.rest.get(f"/{table}", params=filters)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()
        return found

    def messages(self, conversation: str) -> list[dict[str, Any]]:
        """Every message, of all branches, as it is stored."""
        return self.payer.connection.execute(
            "select * from public.messages where conversation_id = %s order by created_at, id",
            [conversation],
        ).fetchall()

    def finished(self, conversation: str) -> list[dict[str, Any]]:
        """The messages, once nothing is worked on."""

        def done() -> list[dict[str, Any]] | None:
            rows = self.messages(conversation)
            busy = any(row["status"] in ("pending", "streaming") for row in rows)
            return None if busy or not rows else rows

        found: list[dict[str, Any]] = wait_for(done)
        return found

    def require_nothing_happened(self, conversation: str, count: int = 0) -> None:
        """No message was stored, nothing was asked of a model, held or charged."""
        assert len(self.messages(conversation)) == count
        self.payer.require_free(count=0)


NewTalker = Callable[..., Talker]


@pytest.fixture
def new_talker(stack: Stack, functions_url: str, new_payer: NewPayer) -> Iterator[NewTalker]:
    """`new_talker(plan="free")`: a new person with 100 credits."""
    opened: list[Talker] = []

    def make(plan: str = "enterprise", base_url: str = functions_url) -> Talker:
        payer = new_payer(plan)
        headers = {"Authorization": f"Bearer {payer.token}"}
        http = httpx.Client(base_url=base_url, headers=headers, trust_env=False, timeout=30)
        rest = httpx.Client(
            base_url=f"{stack.supabase_url}/rest/v1",
            headers=headers | {"apikey": stack.keys.publishable_key},
            trust_env=False,
            timeout=30,
        )
        opened.append(Talker(payer, http, rest))
        return opened[-1]

    yield make
    for talker in opened:
        talker.http.close()
        talker.rest.close()


@pytest.fixture
def talker(new_talker: NewTalker) -> Talker:
    return new_talker()


@dataclass
class Team:
    """An organization with credits: a founder, an admin and a member."""

    id: str
    founder: Talker
    admin: Talker
    member: Talker
    connection: psycopg.Connection[dict[str, Any]]

    @property
    def balance(self) -> Any:
        row = self.connection.execute(
            "select balance from public.credit_accounts where organization_id = %s", [self.id]
        ).fetchone()
        assert row is not None
        return row["balance"]


@pytest.fixture
def team(new_talker: NewTalker, service: Any) -> Team:
    founder, admin, member = new_talker(), new_talker(), new_talker()
    slug = f"team-{uuid.uuid4().hex[:12]}"
    made = founder.rpc("create_organization", p_name="A team", p_slug=slug).json()
    connection = founder.payer.connection
    connection.execute(
        "update public.organizations set plan_id ="
        " (select id from public.plans where slug = 'enterprise') where id = %s",
        [made["id"]],
    )
    for person, role in ((admin, "admin"), (member, "member")):
        connection.execute(
            "insert into public.organization_members (organization_id, user_id, role)"
            " values (%s, %s, %s)",
            [made["id"], person.id, role],
        )
    service.rpc(
        "credit_grant",
        p_organization_id=made["id"],
        p_amount=100,
        p_source="promotional",
        p_idempotency_key=slug,
        p_actor="tests",
    )
    return Team(made["id"], founder, admin, member, connection)


def with_key(talker: Talker, functions_url: str, **values: Any) -> httpx.Client:
    """The functions app by a new API key of somebody's, or of an organization's; to be closed."""
    organization = values.pop("organization", None)
    made = talker.rpc(
        "create_api_key",
        p_name="tests",
        p_values={"scopes": ["chat", "agents"]} | values,
        p_organization_id=organization,
    )
    assert made.status_code == 200, made.text
    return httpx.Client(
        base_url=functions_url,
        headers={"Authorization": f"Bearer {made.json()['key']}"},
        trust_env=False,
        timeout=30,
    )
