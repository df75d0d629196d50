"""Images by providers, ours and those outside: checked before the call, looked at after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from functions.chat.credentials import Credential
from functions.chat.routing import not_configured
from functions.chat.transports import too_slow
from functions.core import telemetry
from functions.core.http import SafeClient
from functions.core.http_session import open_client
from functions.core.settings import OWN_PROVIDER, Settings
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
from functions.images.gpu_server import GpuServer, Tell
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


def _whole(image: GeneratedImage) -> GeneratedImage | None:
    """The image, looked at; None for bytes that are none. Others of the same answer may be good."""
    if len(image.content) > MAX_IMAGE_BYTES:
        return None
    try:
        return looked_at(image)
    except NotAnImageError:
        return None


async def _tell_nobody(_: int) -> None:
    pass


class ImageProviders:
    """The providers of images, for one process."""

    def __init__(self, settings: Settings, means: Means) -> None:
        self._settings = settings
        self._means = means
        self._own = (
            None
            if settings.images_url is None
            else GpuServer(means.http, settings.images_url, settings.images_headers)
        )

    def platform_credential(self, provider: str) -> Credential | None:
        """The operator's key for a provider; None where there is none, and credits buy nothing."""
        if provider == OWN_PROVIDER:
            return None if self._own is None else Credential("platform")
        place = self._settings.providers.get(provider)
        if place is None or place.api_key is None:
            return None
        return Credential("platform", place.api_key)

    async def generate(
        self,
        provider: str,
        request: ImageRequest,
        capabilities: Mapping[str, Any],
        credential: Credential,
        *,
        job_id: str = "",
        tell: Tell = _tell_nobody,
    ) -> list[GeneratedImage]:
        """Images, each looked at; fewer than were asked for where some were refused or are none.

        `capabilities` are the model's, of the catalog. Raises InvalidRequestError before anybody is
        asked; then OwnKeyError, UpstreamError and plain QuernelErrors as chat does, with
        content_refused for what a provider does not draw. `tell` hears how far a job of our own
        server is, which knows it as `job_id`.
        """
        with telemetry.span(
            "upstream",
            provider,
            provider=provider,
            model=request.model,
            credential=credential.kind,
        ):
            if provider == OWN_PROVIDER:
                if self._own is None:
                    raise not_configured()
                # It may be cold, and says how far it is: the generation's deadline is limit enough.
                made = await self._own.generate(job_id, request, tell)
            else:
                require_able(request, capabilities)
                made = await self._outside(provider, request, credential)
        images = [image for one in made[: request.outputs] if (image := _whole(one)) is not None]
        if not images:
            raise no_image()
        return images

    async def _outside(
        self, provider: str, request: ImageRequest, credential: Credential
    ) -> list[GeneratedImage]:
        adapter, base_url = ADAPTERS.get(provider), base_url_of(provider, self._settings)
        if adapter is None or base_url is None:
            raise not_configured()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await adapter.generate(self._means, base_url, request, credential)
        except TimeoutError:
            raise too_slow() from None


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
