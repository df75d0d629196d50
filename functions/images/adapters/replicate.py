"""Open models on Replicate: a prediction is begun, waited for, and its files are fetched.

https://replicate.com/docs/reference/http. Its library had no release this year
(docs/decisions/0030).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import httpx

from functions.chat.credentials import Credential
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

POLL_SECONDS = 0.5
CANCEL_SECONDS = 10.0
"""How long whoever left waits for the prediction to be called off."""

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
        beginning = asyncio.create_task(
            post(
                means,
                f"{base_url}/models/{request.model}/predictions",
                credential,
                # Should nobody be left to call it off, it ends by itself.
                headers | {"Cancel-After": f"{CALL_SECONDS:.0f}s"},
                json={"input": _input(request)},
            )
        )
        try:
            prediction = json_of(await asyncio.shield(beginning))
            ended = await _ended(means, base_url, prediction, credential, headers)
        except asyncio.CancelledError:
            # Whoever left pays nobody for what is not wanted any more.
            await asyncio.shield(_cancel(means, base_url, beginning, credential, headers))
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
    means: Means,
    base_url: str,
    beginning: asyncio.Task[httpx.Response],
    credential: Credential,
    headers: dict[str, str],
) -> None:
    """Call a prediction off, which may not have been answered yet."""
    with suppress(QuernelError, TimeoutError):
        async with asyncio.timeout(CANCEL_SECONDS):
            prediction = json_of(await beginning)
            url = f"{base_url}/predictions/{_id(prediction)}/cancel"
            await post(means, url, credential, headers)


def _id(prediction: object) -> str:
    """Never what could be another path."""
    found = prediction.get("id") if isinstance(prediction, dict) else None
    if not isinstance(found, str) or not found.isalnum():
        raise no_image()
    return found
