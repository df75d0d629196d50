"""Open models on Replicate: a prediction is begun, waited for, and its files are fetched.

https://replicate.com/docs/reference/http. Its library had no release this year
(docs/decisions/0030).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from functions.chat.credentials import Credential
from functions.chat.transports import too_slow
from functions.chat.upstream_errors import broken
from functions.core.errors import QuernelError
from functions.images.adapters.base import (
    CALL_SECONDS,
    Means,
    call,
    content_refused,
    fetched,
    given,
    json_of,
    no_image,
    post,
)
from functions.images.request import GeneratedImage, ImageRequest
from functions.providers.definitions import DEFINITIONS

POLL_SECONDS = 1.0
WAIT_SECONDS = 60
"""The longest that Replicate holds the first answer back."""

_FORMATS = {"jpeg": "jpg"}
_SAFETY = ("nsfw", "safety", "flagged", "sensitive")


class ReplicateImages:
    """See Adapter."""

    async def generate(
        self, means: Means, base_url: str, request: ImageRequest, credential: Credential
    ) -> list[GeneratedImage]:
        if credential.secret is None:
            raise no_image()
        headers = DEFINITIONS["replicate"].auth(credential.secret)
        prediction = json_of(
            await post(
                means,
                f"{base_url}/models/{request.model}/predictions",
                credential,
                headers | {"Prefer": f"wait={WAIT_SECONDS}"},
                json={"input": _input(request)},
            )
        )
        try:
            async with asyncio.timeout(CALL_SECONDS):
                ended = await _ended(means, base_url, prediction, credential, headers)
        except TimeoutError:
            await _cancel(means, base_url, prediction, credential, headers)
            raise too_slow() from None
        except asyncio.CancelledError:
            # Whoever left pays nobody for what is not wanted any more.
            await asyncio.shield(_cancel(means, base_url, prediction, credential, headers))
            raise
        output = ended.get("output")
        urls = output if isinstance(output, list) else [output]
        images = await asyncio.gather(*(fetched(means, url) for url in urls))
        return [GeneratedImage(image) for image in images]


def _input(request: ImageRequest) -> dict[str, Any]:
    return given(
        prompt=request.prompt,
        num_outputs=request.outputs if request.outputs > 1 else None,
        aspect_ratio=request.aspect_ratio,
        output_format=_FORMATS.get(request.format or "", request.format),
        negative_prompt=request.negative_prompt,
        seed=request.seed,
        guidance=request.guidance,
        num_inference_steps=request.steps,
    ) | dict(request.options)


async def _ended(
    means: Means, base_url: str, prediction: object, credential: Credential, headers: dict[str, str]
) -> dict[str, Any]:
    while True:
        if not isinstance(prediction, dict) or not isinstance(prediction.get("id"), str):
            raise no_image()
        status = prediction.get("status")
        if status == "succeeded":
            return prediction
        if status in ("failed", "canceled", "aborted"):
            said = str(prediction.get("error") or "")
            if any(word in said.lower() for word in _SAFETY):
                raise content_refused(said, credential)
            raise broken("The provider failed to make the image.")
        await asyncio.sleep(POLL_SECONDS)
        prediction = json_of(
            await call(
                means,
                "GET",
                f"{base_url}/predictions/{_id(prediction)}",
                credential,
                headers,
            )
        )


async def _cancel(
    means: Means, base_url: str, prediction: object, credential: Credential, headers: dict[str, str]
) -> None:
    with suppress(QuernelError):
        url = f"{base_url}/predictions/{_id(prediction)}/cancel"
        await post(means, url, credential, headers)


def _id(prediction: object) -> str:
    """Never what could be another path."""
    found = prediction.get("id") if isinstance(prediction, dict) else None
    if not isinstance(found, str) or not found.isalnum():
        raise no_image()
    return found
