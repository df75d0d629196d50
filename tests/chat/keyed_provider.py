"""A provider that knows its customers by their keys, and treats each as its key says."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from aiohttp import web

from tests.chat.second_provider import add_model
from tests.support.http_server import serve

REFUSALS: dict[str, tuple[int, dict[str, str], dict[str, str]]] = {
    "rejected": (
        401,
        {},
        {"message": "Incorrect API key provided: {key}.", "code": "invalid_api_key"},
    ),
    "out of quota": (
        429,
        {},
        {
            "message": "You exceeded your current quota.",
            "type": "insufficient_quota",
            "code": "insufficient_quota",
        },
    ),
    "limited": (
        429,
        {"retry-after": "7"},
        {"message": "Rate limit reached.", "code": "rate_limit_exceeded"},
    ),
    "no access": (
        403,
        {},
        {"message": "Project `p` does not have access to model `m`", "code": "model_not_found"},
    ),
    "outage": (500, {}, {"message": "The server had an error."}),
}
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
VECTOR = [0.5, -0.25, 0.125]


@dataclass
class KeyedProvider:
    """Where it is, two models of it, its keys, and which of them it was shown."""

    slug: str
    url: str
    model: str
    """Cheap: any balance suffices for it."""
    dear: str
    """Nobody's credits suffice for it."""
    platform_key: str
    keys: dict[str, str] = field(default_factory=dict)
    """Key → how it is treated: `good`, `filtered` or one of REFUSALS."""
    shown: list[str] = field(default_factory=list)
    """Keys in the order in which they came."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    answered: list[Callable[[], None]] = field(default_factory=list)
    """Called before each answer: what happens elsewhere meanwhile."""

    @property
    def providers(self) -> dict[str, Any]:
        """QUERNEL_PROVIDERS."""
        return {self.slug: {"url": f"{self.url}/v1", "api_key": self.platform_key}}

    def new_key(self, treatment: str) -> str:
        """A key that is treated so."""
        key = f"sk-{uuid.uuid4().hex}"
        self.keys[key] = treatment
        return key

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.json()
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.shown.append(key)
        self.bodies.append(body)
        for happen in self.answered:
            happen()
        treatment = self.keys.get(key, "rejected")
        if treatment in REFUSALS:
            status, headers, error = REFUSALS[treatment]
            told = {name: text.replace("{key}", key) for name, text in error.items()}
            return web.json_response({"error": told}, status=status, headers=headers)
        if request.path.endswith("/embeddings"):
            data = [{"object": "embedding", "index": 0, "embedding": VECTOR}]
            return web.json_response({"object": "list", "data": data, "usage": USAGE})
        text, reason, usage = "It is.", "stop", USAGE
        if treatment == "filtered":  # as Gemini does with a prompt that it does not allow
            text, reason, usage = "", "content_filter", USAGE | {"completion_tokens": 0}
        if not body.get("stream"):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": reason}
            return web.json_response(
                {"object": "chat.completion", "choices": [choice], "usage": usage}
            )
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        chunks: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
            {"choices": [], "usage": usage},
        ]
        for chunk in chunks:
            chunk["object"] = "chat.completion.chunk"
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


@asynccontextmanager
async def keyed_provider(connection: psycopg.Connection[Any]) -> AsyncIterator[KeyedProvider]:
    """Runs it, with its models in the catalog; afterwards they are on offer to nobody."""
    slug = f"keyed-{uuid.uuid4().hex[:8]}"
    provider = KeyedProvider(slug, "", f"{slug}/cheap", f"{slug}/dear", "")
    provider.platform_key = provider.new_key("good")
    connection.execute(
        "insert into public.model_providers (slug, name) values (%s, 'Keyed')", [slug]
    )
    add_model(connection, provider.model, slug, byok_allowed=True)
    add_model(
        connection, provider.dear, slug, byok_allowed=True, prompt_price=9e8, completion_price=9e8
    )
    try:
        async with serve(provider.answer) as provider.url:
            yield provider
    finally:
        connection.execute(
            "update public.models set is_active = false where id like %s", [f"{slug}/%"]
        )
