"""The double's state and its web application."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from local.providers import errors

PREFIXES: Mapping[str, str] = {
    "openai": "/openai/v1",
    "google": "/google/v1beta",
    "google-vertex": "/google-vertex/v1",
    "xai": "/xai/v1",
    "anthropic": "/anthropic/v1",
    "mistral": "/mistral/v1",
    "openrouter": "/openrouter/api/v1",
    "replicate": "/replicate/v1",
    "stability": "/stability",
}
"""Where each provider is, below the server's address."""

OAUTH_PATH = "/oauth/token"
FILES_PATH = "/files"


@dataclass(frozen=True)
class Record:
    """A request that arrived. Header names are lower-case."""

    provider: str
    method: str
    path: str
    """Below the provider's prefix, with the query."""
    headers: Mapping[str, str]
    body: Any
    """JSON, or the fields of a form."""


@dataclass
class Double:
    """What it knows and remembers."""

    keys: dict[str, str] = field(default_factory=dict)
    """Key → how it is treated: `good`, or one of errors.TREATMENTS."""
    records: list[Record] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    """Images that were made, by name."""
    address: str = ""
    """Where the server is."""

    def new_key(self, treatment: str = "good") -> str:
        """A key that is treated so."""
        key = f"sk-{secrets.token_hex(16)}"
        self.keys[key] = treatment
        return key

    def base_url(self, provider: str) -> str:
        """What the settings name a provider by."""
        return self.address + PREFIXES[provider]

    @property
    def settings(self) -> dict[str, dict[str, str]]:
        """QUERNEL_PROVIDERS without keys of the operator's."""
        return {slug: {"url": self.base_url(slug)} for slug in PREFIXES}

    def last(self, provider: str) -> Record:
        """The newest request to a provider."""
        return [record for record in self.records if record.provider == provider][-1]


Handle = Callable[[Double, Record], Awaitable[web.StreamResponse]]
ROUTES: dict[tuple[str, str, str], Handle] = {}
"""(provider, method, path below the prefix) → what answers; a path may end in `*`."""


def route(provider: str, method: str, path: str) -> Callable[[Handle], Handle]:
    """Register what answers."""

    def register(handle: Handle) -> Handle:
        ROUTES[provider, method, path] = handle
        return handle

    return register


def make_handler(double: Double) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """What answers every request of a server."""
    # Registered when they are imported; they import this module.
    from local.providers import chat, checks, images  # noqa: F401, PLC0415

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == OAUTH_PATH:
            return await images.token(double, request)
        if request.path.startswith(f"{FILES_PATH}/"):
            content = double.files.get(request.path.rpartition("/")[2])
            return web.Response(status=404) if content is None else web.Response(body=content)
        for slug, prefix in PREFIXES.items():
            if request.path.startswith(f"{prefix}/"):
                return await _answer(double, slug, request, request.path_qs[len(prefix) :])
        return web.json_response({"error": "nobody lives here"}, status=404)

    return handle


async def _answer(
    double: Double, slug: str, request: web.BaseRequest, path: str
) -> web.StreamResponse:
    headers = {name.lower(): value for name, value in request.headers.items()}
    record = Record(slug, request.method, path, headers, await _body(request))
    double.records.append(record)
    treatment = double.keys.get(key_of(record), "rejected")
    if treatment != "good":
        return errors.refusal(slug, treatment, key_of(record))
    bare = path.partition("?")[0]
    handle = next(
        (
            handle
            for (provider, method, pattern), handle in ROUTES.items()
            if provider == slug and method == record.method and _matches(pattern, bare)
        ),
        None,
    )
    if handle is None:
        return web.json_response({"error": {"message": "Not found."}}, status=404)
    return await handle(double, record)


def key_of(record: Record) -> str:
    """The key that a request shows."""
    if "x-goog-api-key" in record.headers:
        return record.headers["x-goog-api-key"]
    return record.headers.get("authorization", "").removeprefix("Bearer ")


async def _body(request: web.BaseRequest) -> object:
    if request.content_type.startswith("multipart/"):
        return {name: str(value) for name, value in (await request.post()).items()}
    raw = await request.read()
    return json.loads(raw) if raw else None


def _matches(pattern: str, path: str) -> bool:
    if pattern.startswith("*"):
        return path.endswith(pattern[1:])
    before, star, after = pattern.partition("*")
    if not star:
        return path == pattern
    return path.startswith(before) and path.endswith(after)
