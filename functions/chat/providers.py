"""The providers of this deployment: where they are, by the operator's settings alone.

A client names models, never an address: a base URL of a client's would be sent the platform's key
(CVE-2024-6587). Each provider has its own connections and bounds, so that a slow one takes no
connection of another, and its own breaker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from functions.chat.breaker import Breaker
from functions.chat.credentials import Credential
from functions.chat.upstream import Upstream
from functions.core.http_session import open_session
from functions.core.settings import ProviderSettings, Settings


@dataclass(frozen=True)
class Provider:
    """One of them; `slug` is that of model_providers."""

    slug: str
    upstream: Upstream
    platform: Credential
    breaker: Breaker


@asynccontextmanager
async def open_providers(settings: Settings) -> AsyncIterator[dict[str, Provider]]:
    """The configured providers by slug, with open connections. Needs a running event loop."""
    async with AsyncExitStack() as stack:
        providers = {}
        for slug, place in settings.model_servers.items():
            client = open_session(
                headers={"Content-Type": "application/json"},
                max_connections=place.max_connections,
                connect_seconds=place.connect_timeout_seconds,
                silence_seconds=place.timeout_seconds,
            )
            stack.push_async_callback(client.close)
            providers[slug] = Provider(
                slug,
                Upstream(client, place),
                platform_credential(place),
                Breaker(slug, settings.breaker_failures, settings.breaker_seconds),
            )
        yield providers


def platform_credential(place: ProviderSettings) -> Credential:
    """The operator's key for it."""
    return Credential("platform", place.api_key)
