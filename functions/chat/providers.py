"""The providers of chat: those that are known, those of the settings, and customers' own servers.

A client names models, never an address: a base URL of a client's would be sent the platform's key
(CVE-2024-6587). Only a key that somebody brought for a server of their own comes with an address,
which is called through SafeClient and sent that key alone.

Each provider has its own connections and bounds, so that a slow one takes no connection of another,
and its own breaker. Connections are opened at the first request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from functions.chat.breaker import Breaker
from functions.chat.credentials import Credential
from functions.chat.dialects.anthropic import AnthropicDialect
from functions.chat.dialects.base import Dialect
from functions.chat.dialects.openai import (
    GEMINI_FINISH_REASONS,
    MISTRAL_FINISH_REASONS,
    OpenAIDialect,
)
from functions.chat.transports import SafeTransport, SessionTransport
from functions.chat.upstream import Upstream, bearer
from functions.core.http import SafeClient
from functions.core.settings import ProviderSettings, Settings
from functions.providers.definitions import DEFINITIONS, OWN_SERVER

OWN_SERVER_SILENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Provider:
    """One of them; `slug` is that of model_providers."""

    slug: str
    upstream: Upstream
    platform: Credential | None
    """The operator's key; None where the operator has none for a provider that asks for one."""
    breaker: Breaker


@dataclass(frozen=True)
class _Spoken:
    """How a known provider is asked for chat."""

    dialect: Dialect
    embeddings_path: str = "/embeddings"


# Sources: the API references of each, as of November 2026. OpenAI's newer models take no
# `max_tokens`. Gemini speaks OpenAI's protocol under a path of its own. Mistral sends figures at
# the end of every stream and refuses members that it does not know. OpenRouter refuses in answers
# of status 200 where it has begun to ask a model.
SPOKEN: Mapping[str, _Spoken] = {
    "openai": _Spoken(OpenAIDialect(limit="max_completion_tokens")),
    "google": _Spoken(
        OpenAIDialect("/openai/chat/completions", finish_reasons=GEMINI_FINISH_REASONS),
        "/openai/embeddings",
    ),
    "xai": _Spoken(OpenAIDialect()),
    "anthropic": _Spoken(AnthropicDialect()),
    "mistral": _Spoken(
        OpenAIDialect(
            stream_usage=False,
            renamed={"seed": "random_seed"},
            finish_reasons=MISTRAL_FINISH_REASONS,
        )
    ),
    "openrouter": _Spoken(OpenAIDialect(finish_reasons={}, refuses_inside=True)),
}


@asynccontextmanager
async def open_providers(
    settings: Settings, safe_client: SafeClient | None = None
) -> AsyncIterator[dict[str, Provider]]:
    """Providers by slug. Needs a running event loop.

    `safe_client` calls customers' own servers; without one, none is.
    """
    places = settings.model_servers
    async with AsyncExitStack() as stack:
        providers = {}
        for slug in dict.fromkeys((*places, *SPOKEN)):
            place = places.get(slug) or ProviderSettings(url=DEFINITIONS[slug].base_url)
            transport = SessionTransport(place)
            stack.push_async_callback(transport.aclose)
            providers[slug] = Provider(
                slug,
                _upstream(slug, place, transport),
                _platform(slug, place),
                Breaker(slug, settings.breaker_failures, settings.breaker_seconds),
            )
        if safe_client is not None:
            own = SafeTransport(safe_client, OWN_SERVER_SILENCE_SECONDS)
            providers[OWN_SERVER] = Provider(
                OWN_SERVER,
                Upstream(own, "", OpenAIDialect()),
                None,
                # What one customer's server does says nothing of another's.
                Breaker(OWN_SERVER, 0, settings.breaker_seconds),
            )
        yield providers


def platform_credential(place: ProviderSettings) -> Credential:
    """The operator's key for it."""
    return Credential("platform", place.api_key)


def _platform(slug: str, place: ProviderSettings) -> Credential | None:
    """A server of the operator's may ask for no key; a known provider never does."""
    if place.api_key is None and slug in SPOKEN:
        return None
    return platform_credential(place)


def _upstream(slug: str, place: ProviderSettings, transport: SessionTransport) -> Upstream:
    spoken = SPOKEN.get(slug)
    if spoken is None:
        dialect = OpenAIDialect(
            limit=place.limit_parameter,
            continuous_usage=place.continuous_usage,
            refuses_inside=True,  # as gpu/gateway.py does once a stream has begun to wait
        )
        return Upstream(transport, place.url, dialect, auth=bearer)
    auth = bearer if slug == "google" else DEFINITIONS[slug].auth  # its OpenAI paths take a Bearer
    return Upstream(
        transport, place.url, spoken.dialect, embeddings_path=spoken.embeddings_path, auth=auth
    )
