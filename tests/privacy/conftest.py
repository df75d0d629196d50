"""Fixtures of this folder: a shop with a double of Stripe, and people who leave traces."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from local.stack import Stack
from tests.billing.conftest import app_url, shop, stripe_double, worker
from tests.billing.shop import Shop
from tests.billing.subscribers import Subscriber, Subscribers, subscribers
from tests.conftest import NewUser, User
from tests.support.people import new_person, new_team

__all__ = ["app_url", "new_person", "new_team", "shop", "stripe_double", "subscribers", "worker"]


@dataclass
class Leaver:
    """Somebody whose name, address and `mark` are in everything that they ever made."""

    user: User
    mark: str
    shop: Shop
    stack: Stack
    account_id: str
    subscriber: Subscriber | None = None

    @property
    def words(self) -> list[str]:
        """By which they would be known."""
        return [self.user.id, self.user.email, self.mark]

    @property
    def customer_id(self) -> str:
        """Of the customer at Stripe."""
        row = self.shop.row(
            "select customer_id from private.stripe_customers where account_id = %s",
            self.account_id,
        )
        return str(row["customer_id"])

    # What they do ----------------------------------------------------------------------------

    def ask(self, method: str, path: str = "/me/erasure", **arguments: Any) -> httpx.Response:
        """A request to the functions app."""
        return self.shop.http.request(method, path, headers=self.user.headers, **arguments)

    def storage(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """A request to Storage."""
        headers = {"apikey": self.user.publishable_key} | self.user.headers
        return httpx.request(
            method,
            f"{self.user.url}/storage/v1{path}",
            headers=headers | arguments.pop("headers", {}),
            trust_env=False,
            timeout=30,
            **arguments,
        )

    def talk(self) -> None:
        """A conversation with an answer, which an agent gives."""
        agent = self.ask(
            "POST", "/agents", json={"name": self.mark, "system_prompt": f"Be {self.mark}."}
        )
        assert agent.status_code == 201, agent.text
        rpc = self.shop.service.rpc
        conversation = rpc(
            "conversation_create",
            p_values={"agent_id": agent.json()["id"], "title": f"On {self.mark}"},
            p_user_id=self.user.id,
        )
        message = {"content": f"I am {self.mark}", "stream": False}
        answer = self.ask("POST", f"/conversations/{conversation['id']}/messages", json=message)
        assert answer.status_code in (200, 201), answer.text

    def put_in(self) -> None:
        """A document with its file, and an image to begin from."""
        content = f"# {self.mark}\n\nA berth costs nine coins.\n".encode()
        added = self.ask(
            "POST",
            "/documents",
            json={
                "original_filename": f"{self.mark}.md",
                "mime_type": "text/markdown",
                "file_size": len(content),
            },
        )
        assert added.status_code == 201, added.text
        upload = added.json()["upload"]
        put = httpx.request(
            upload["method"],
            upload["url"],
            headers=upload["headers"],
            content=content,
            trust_env=False,
            timeout=30,
        )
        assert put.is_success, put.text
        assert self.ask("POST", f"/documents/{added.json()['id']}/uploaded").is_success
        image = self.storage(
            "POST",
            f"/object/images/{self.user.id}/inputs/{self.mark}.png",
            headers={"content-type": "image/png"},
            content=b"\x89PNG",
        )
        assert image.is_success, image.text

    def key(self) -> str:
        """An API key of theirs."""
        with self.user.rest() as rest:
            made = rest.post("/rpc/create_api_key", json={"p_name": self.mark})
        assert made.is_success, made.text
        return str(made.json()["key"])

    # Their erasure ---------------------------------------------------------------------------

    def request(self) -> str:
        """Ask for it; its id."""
        answer = self.ask("POST")
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def fall_due(self, erasure_id: str) -> dict[str, str]:
        """End the grace period; what the task is told. The worker of the stack has another Stripe,
        so nothing is left for it to do.
        """
        self.shop.rows(
            "insert into private.tasks (kind, key, status, attempts, started_at, lease_token,"
            " leased_until, leased_by) values ('person_erase', %s, 'running', 1, now(),"
            " gen_random_uuid(), now() + interval '1 hour', 'a test')",
            erasure_id,
        )
        self.shop.rows(
            "update private.erasures set due_at = now() where id = %s",
            erasure_id,
        )
        return {"erasure_id": erasure_id}

    def state(self, erasure_id: str) -> str:
        """Of an erasure."""
        row = self.shop.row("select state from private.erasures where id = %s", erasure_id)
        return str(row["state"])


NewLeaver = Callable[[], Leaver]


@pytest.fixture
def new_leaver(
    shop: Shop,
    subscribers: Subscribers,
    stack: Stack,
    new_user: NewUser,
) -> NewLeaver:
    """`new_leaver()` returns somebody with chats, files, keys, a subscription and a pack."""

    def make() -> Leaver:
        mark = f"zq{uuid.uuid4().hex}"
        user = new_user(f"{mark}@example.com", full_name=f"{mark} Doe")
        account = shop.account(user)["id"]
        leaver = Leaver(user, mark, shop, stack, str(account))
        leaver.subscriber = subscribers.new(user, plan="business")
        shop.paid(user)
        leaver.talk()
        leaver.put_in()
        return leaver

    return make
