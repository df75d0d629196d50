"""Fixtures of the tests of images: what models can do, and people who have images made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from local.stack import Stack
from tests.chat.conftest import NewPayer, Payer, mark, new_payer, upstream, wait_for

__all__ = ["NewPayer", "Payer", "mark", "new_payer", "upstream"]

ENDED = ("completed", "failed", "cancelled")


@pytest.fixture
def capabilities(stack: Stack) -> dict[str, dict[str, Any]]:
    """Of every image model of the catalog."""
    with psycopg.connect(stack.admin_dsn, row_factory=dict_row) as connection:
        rows = connection.execute(
            "select m.id, m.capabilities from public.models as m where m.kind = 'image'"
        ).fetchall()
    return {row["id"]: row["capabilities"] for row in rows}


@dataclass
class Painter:
    """Somebody with credits who has images made."""

    payer: Payer
    http: httpx.Client
    rest: httpx.Client
    storage: httpx.Client

    @property
    def id(self) -> str:
        return self.payer.id

    def start(self, prompt: str = "a lighthouse", **values: Any) -> httpx.Response:
        """Ask for images over HTTP. `headers` are added to the credential."""
        headers = values.pop("headers", {})
        body = {"model_id": "flux-schnell", "prompt": prompt} | values
        return self.http.post("/images/generations", json=body, headers=headers)

    def insert(self, *rows: dict[str, Any]) -> httpx.Response:
        """Ask for images as the Supabase SDK does."""
        body = [{"model_id": "flux-schnell", "prompt": "a lighthouse"} | row for row in rows]
        return self.rest.post(
            "/image_generations", json=body, headers={"Prefer": "return=representation"}
        )

    def row(self, generation_id: str) -> dict[str, Any]:
        """A generation as it is stored."""
        row = self.payer.connection.execute(
            "select * from public.image_generations where id = %s", [generation_id]
        ).fetchone()
        assert row is not None
        return row

    def ended(self, generation_id: str, seconds: float = 20) -> dict[str, Any]:
        """The same, once it has ended."""

        def end() -> dict[str, Any] | None:
            row = self.row(generation_id)
            return row if row["status"] in ENDED else None

        found: dict[str, Any] = wait_for(end, seconds)
        return found

    def made(self, prompt: str = "a lighthouse", **values: Any) -> dict[str, Any]:
        """A generation that has to go well, as HTTP answers it."""
        answer = self.start(prompt, **values)
        assert answer.status_code == 202, answer.text
        generation_id = answer.json()["id"]
        assert self.ended(generation_id)["status"] == "completed", self.row(generation_id)
        return self.read(generation_id)

    def read(self, generation_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/images/generations/{generation_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def images(self, generation_id: str) -> list[dict[str, Any]]:
        """As they are stored."""
        return self.payer.connection.execute(
            "select * from public.generated_images where generation_id = %s order by id",
            [generation_id],
        ).fetchall()

    def rpc(self, name: str, **arguments: Any) -> httpx.Response:
        """A client's function, as the Supabase SDK calls it."""
        return self.rest.post(f"/rpc/{name}", json=arguments)

    def require_nothing_held(self) -> None:
        account = self.payer.account()
        assert (account["held"], account["active_holds"]) == (0, 0)


NewPainter = Callable[..., Painter]


@pytest.fixture
def new_painter(stack: Stack, functions_url: str, new_payer: NewPayer) -> Iterator[NewPainter]:
    """`new_painter(plan="free")`: a new person with 100 credits, and no free images left."""
    opened: list[httpx.Client] = []

    def make(plan: str = "business", base_url: str = functions_url) -> Painter:
        payer = new_payer(plan)
        payer.connection.execute(
            "update public.credit_accounts set period_free_images = 1000 where user_id = %s",
            [payer.id],
        )
        bearer = {"Authorization": f"Bearer {payer.token}"}
        apikey = {"apikey": stack.keys.publishable_key}
        clients = [
            httpx.Client(base_url=url, headers=bearer | extra, trust_env=False, timeout=30)
            for url, extra in (
                (base_url, {}),
                (f"{stack.supabase_url}/rest/v1", apikey),
                (f"{stack.supabase_url}/storage/v1", apikey),
            )
        ]
        opened.extend(clients)
        return Painter(payer, *clients)

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def painter(new_painter: NewPainter) -> Painter:
    return new_painter()
