"""Providers of images that are doubled, and what asks them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from functions.chat.credentials import Credential
from functions.core.http import Policy, SafeClient
from functions.core.settings import Settings
from functions.images.providers import ImageProviders, open_image_providers
from functions.images.request import GeneratedImage, ImageRequest
from local.providers.double import OAUTH_PATH, Double
from tests.provider_keys.test_checker import EMAIL, service_account
from tests.support.providers import provider_double

LOOPBACK_ONLY = Policy(
    schemes=frozenset({"http"}),
    ports=None,
    is_allowed_address=lambda address: address.is_loopback,
    is_allowed_name=lambda _: True,
)
MODELS = {
    "openai": "gpt-image-2",
    "google": "gemini-3.1-flash-image",
    "google-vertex": "imagen-4.0-generate-001",
    "xai": "grok-imagine-image",
    "replicate": "black-forest-labs/flux-dev",
    "stability": "core",
}
SLUGS = tuple(MODELS)


@dataclass
class Studio:
    """Providers, a double of them, and what their models can do."""

    double: Double
    providers: ImageProviders
    capabilities: dict[str, dict[str, Any]]

    def key(self, slug: str, treatment: str = "good") -> str:
        """A key that is treated so; a service account for Vertex, whose tokens are."""
        if slug != "google-vertex":
            return self.double.new_key(treatment)
        self.double.keys[EMAIL] = treatment
        return service_account(EMAIL)

    async def draw(
        self, slug: str, prompt: str = "a lighthouse", key: str | None = None, **options: Any
    ) -> list[GeneratedImage]:
        model = options.pop("model", MODELS[slug])
        return await self.providers.generate(
            slug,
            ImageRequest(model, prompt, **options),
            self.capabilities[f"{slug}/{model}"],
            Credential("own", SecretStr(key or self.key(slug)), key_id="1"),
        )


@asynccontextmanager
async def studio(capabilities: dict[str, dict[str, Any]]) -> AsyncIterator[Studio]:
    safe_client = SafeClient(policy=LOOPBACK_ONLY)
    async with provider_double() as double:
        settings = Settings(
            providers=double.settings,  # type: ignore[arg-type]
            google_oauth_url=f"{double.address}{OAUTH_PATH}",
        )
        async with open_image_providers(settings, safe_client) as providers:
            yield Studio(double, providers, capabilities)
    await safe_client.aclose()


async def draw_at(url: str, slug: str, able: dict[str, Any]) -> list[GeneratedImage]:
    """Ask a server of one's own in a provider's place."""
    safe_client = SafeClient(policy=LOOPBACK_ONLY)
    settings = Settings(
        providers={slug: {"url": f"{url}/v1"}},  # type: ignore[dict-item]
        google_oauth_url=f"{url}/token",
    )
    secret = service_account(EMAIL) if slug == "google-vertex" else "sk-1"
    try:
        async with open_image_providers(settings, safe_client) as providers:
            request = ImageRequest(MODELS[slug], "a lighthouse")
            return await providers.generate(
                slug, request, able, Credential("own", SecretStr(secret))
            )
    finally:
        await safe_client.aclose()
