"""Stability's images: a form, and the image itself as the answer.

https://platform.stability.ai/docs/api-reference. Its library speaks an API that is gone
(docs/decisions/0030).
"""

from __future__ import annotations

import asyncio

from functions.chat.credentials import Credential
from functions.images.adapters.base import Means, content_refused, given, no_image, post, those_made
from functions.images.request import GeneratedImage, ImageRequest
from functions.providers.definitions import DEFINITIONS

FILTERED = "CONTENT_FILTERED"


class StabilityImages:
    """See Adapter. One call makes one image, so several are asked for at once."""

    async def generate(
        self, means: Means, base_url: str, request: ImageRequest, credential: Credential
    ) -> list[GeneratedImage]:
        return those_made(
            await asyncio.gather(
                *(_one(means, base_url, request, credential, n) for n in range(request.outputs)),
                return_exceptions=True,
            )
        )


async def _one(
    means: Means, base_url: str, request: ImageRequest, credential: Credential, number: int
) -> GeneratedImage:
    if credential.secret is None:
        raise no_image()
    # "core", "ultra", or "sd3/<model>": the last names a model of a family.
    family, _, model = request.model.partition("/")
    seed = None if request.seed is None else request.seed + number
    form = given(
        prompt=request.prompt,
        model=model or None,
        aspect_ratio=request.aspect_ratio,
        negative_prompt=request.negative_prompt,
        seed=seed,
        output_format=request.format or "png",
        style_preset=request.style,
        cfg_scale=request.guidance,
    ) | dict(request.options)
    answer = await post(
        means,
        f"{base_url}/v2beta/stable-image/generate/{family}",
        credential,
        DEFINITIONS["stability"].auth(credential.secret) | {"accept": "image/*"},
        # A form of parts, as its API asks, and not of pairs.
        files={name: (None, str(value)) for name, value in form.items()},
    )
    if answer.headers.get("finish-reason") == FILTERED:
        raise content_refused("The image was filtered.", credential)
    used = answer.headers.get("seed", "")
    return GeneratedImage(answer.content, seed=int(used) if used.isdecimal() else seed)
