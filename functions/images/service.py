"""Images by outside providers: checked before the call, looked at after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from functions.chat.credentials import Credential
from functions.chat.routing import not_configured
from functions.chat.transports import too_slow
from functions.core.http import SafeClient
from functions.core.http_session import open_client
from functions.core.settings import Settings
from functions.images.adapters.base import (
    CALL_SECONDS,
    MAX_ANSWER_BYTES,
    MAX_IMAGE_BYTES,
    Adapter,
    Means,
    no_image,
)
from functions.images.adapters.google import GeminiImages
from functions.images.adapters.libraries import Libraries
from functions.images.adapters.openai import OpenAIImages
from functions.images.adapters.replicate import ReplicateImages
from functions.images.adapters.stability import StabilityImages
from functions.images.adapters.vertex import VertexImages
from functions.images.adapters.xai import XaiImages
from functions.images.capabilities import require_able
from functions.images.headers import NotAnImageError, looked_at
from functions.images.request import GeneratedImage, ImageRequest
from functions.providers.definitions import base_url_of
from functions.providers.google_tokens import TOKEN_URL

ADAPTERS: Mapping[str, Adapter] = {
    "openai": OpenAIImages(),
    "google": GeminiImages(),
    "google-vertex": VertexImages(),
    "xai": XaiImages(),
    "replicate": ReplicateImages(),
    "stability": StabilityImages(),
}


class ImageProviders:
    """The outside providers of images, for one process."""

    def __init__(self, settings: Settings, means: Means) -> None:
        self._settings = settings
        self._means = means

    async def generate(
        self,
        provider: str,
        request: ImageRequest,
        capabilities: Mapping[str, Any],
        credential: Credential,
    ) -> list[GeneratedImage]:
        """Images, each of them looked at; fewer than were asked for where some were refused.

        `capabilities` are the model's, of the catalog. Raises InvalidRequestError before anybody is
        asked; then OwnKeyError, UpstreamError and plain QuernelErrors as chat does, with
        content_refused for what a provider does not draw.
        """
        require_able(request, capabilities)
        adapter, base_url = ADAPTERS.get(provider), base_url_of(provider, self._settings)
        if adapter is None or base_url is None:
            raise not_configured()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                made = await adapter.generate(self._means, base_url, request, credential)
        except TimeoutError:
            raise too_slow() from None
        if not made:
            raise no_image()
        if any(len(image.content) > MAX_IMAGE_BYTES for image in made):
            raise no_image()
        try:
            return [looked_at(image) for image in made[: request.outputs]]
        except NotAnImageError:
            raise no_image() from None


@asynccontextmanager
async def open_image_providers(
    settings: Settings, safe_client: SafeClient
) -> AsyncIterator[ImageProviders]:
    """They, with connections that are closed at the end."""
    async with open_client(CALL_SECONDS) as http:
        libraries = Libraries(MAX_ANSWER_BYTES, CALL_SECONDS)
        means = Means(http, safe_client, libraries, settings.google_oauth_url or TOKEN_URL)
        try:
            yield ImageProviders(settings, means)
        finally:
            await libraries.aclose()
