"""A model server of a test's own, and a worker that asks it about images."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from functions.core.database import Database
from functions.core.settings import Settings
from functions.core.storage import open_storage
from functions.images.analysis import analyze_image
from functions.images.tasks import BUCKET
from functions.tasks.context import TaskContext
from local.stack import Stack
from tests.chat.conftest import settings_of
from tests.images.conftest import Painter
from tests.support.http_server import serve

SEEN = {
    "labels": ["lighthouse", "sea"],
    "description": "A lighthouse by the sea.",
    "style_tags": ["oil painting"],
    "nsfw": 0.125,
}
VISION = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"

Reply = Callable[[dict[str, Any]], web.StreamResponse]


def said(content: object, **more: Any) -> web.Response:
    """A completion."""
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return web.json_response({"model": "vl-test", "choices": [choice]} | more)


def pointed(*vector: object) -> web.Response:
    """An answer with one vector."""
    return web.json_response({"data": [{"index": 0, "embedding": list(vector)}]})


def refuse(status: int, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    error = {"error": {"message": "sk-secret https://inside.example/ x"}}
    return lambda _: web.json_response(error, status=status, headers=named)


def like(body: dict[str, Any]) -> web.StreamResponse:
    """Vectors of which those of texts with words in common lie near each other."""
    total = [0.0] * body["dimensions"]
    for word in body["input"][0].lower().replace(",", " ").split():
        digest = hashlib.sha256(word.encode()).digest()
        total[int.from_bytes(digest[:4], "big") % len(total)] += 1.0
    length = math.hypot(*total) * 0.5  # no unit vector: that is not to be relied on
    return pointed(*(number / length for number in total))


@dataclass
class Sight:
    """The server: what it answers, and what it was asked."""

    vision: Reply = lambda _: said(json.dumps(SEEN))
    embeddings: Reply = like
    hangs: bool = False
    asked: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    on_ask: Callable[[], object] | None = None
    """Happens while somebody waits for the answer."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.asked.append((request.path, body, dict(request.headers)))
        if self.hangs:
            await self.is_over.wait()
        if self.on_ask is not None:
            await asyncio.to_thread(self.on_ask)
        return (self.vision if request.path == VISION else self.embeddings)(body)

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]

    @property
    def picture(self) -> bytes:
        """The last one that was shown."""
        [content] = [body for path, body, _ in self.asked if path == VISION][-1]["messages"]
        head, _, data = content["content"][0]["image_url"]["url"].partition(",")
        assert head == "data:image/jpeg;base64"
        return base64.b64decode(data)


@dataclass
class Viewer:
    """A worker of the test's own."""

    stack: Stack
    sight: Sight
    settings: Settings
    database: Database

    async def analyze(self, image_id: object, attempt: int = 1, **changes: Any) -> Any:
        """One attempt."""
        settings = self.settings.model_copy(update=changes)
        context = TaskContext(settings, self.database, uuid.uuid4(), attempt)
        return await analyze_image({"image_id": str(image_id)}, context)

    async def hang(self, painter: Painter, content: bytes, **columns: Any) -> str:
        """An image that the run's worker leaves alone; its id."""
        path = f"{painter.id}/{uuid.uuid4()}.png"
        async with open_storage(self.settings, BUCKET) as storage:
            await storage.put(path, content, "image/png")
        values = {
            "user_id": painter.id,
            "storage_path": path,
            "width": 8,
            "height": 8,
            "format": "png",
            "size_bytes": len(content),
        } | columns
        connection = painter.payer.connection
        with connection.transaction():
            row = connection.execute(
                f"insert into public.generated_images ({', '.join(values)})"  # noqa: S608
                f" values ({', '.join(f'%({name})s' for name in values)}) returning id".encode(),
                values,
            ).fetchone()
            assert row is not None
            connection.execute("delete from private.tasks where key = %s", [str(row["id"])])
        return str(row["id"])


@asynccontextmanager
async def viewer(stack: Stack, sight: Sight | None = None, **changes: Any) -> AsyncIterator[Viewer]:
    sight = sight or Sight()
    async with serve(sight.handle) as url:
        settings = settings_of(stack, **({"llm_url": f"{url}/v1", "llm_api_key": "key"} | changes))
        database = await Database.open(settings)
        try:
            yield Viewer(stack, sight, settings, database)
        finally:
            sight.is_over.set()
            await database.aclose()
