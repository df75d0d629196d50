"""xAI's images: OpenAI's path with members of its own.

https://docs.x.ai/docs/guides/image-generations
"""

from __future__ import annotations

from functions.chat.credentials import Credential
from functions.images.adapters.base import Means, decoded, given, json_of, no_image, post
from functions.images.request import GeneratedImage, ImageRequest
from functions.providers.definitions import DEFINITIONS


class XaiImages:
    """See Adapter."""

    async def generate(
        self, means: Means, base_url: str, request: ImageRequest, credential: Credential
    ) -> list[GeneratedImage]:
        if credential.secret is None:
            raise no_image()
        answer = await post(
            means,
            f"{base_url}/images/generations",
            credential,
            DEFINITIONS["xai"].auth(credential.secret),
            json=given(
                model=request.model,
                prompt=request.prompt,
                n=request.outputs,
                aspect_ratio=request.aspect_ratio,
                resolution=request.resolution.lower() if request.resolution else None,
                response_format="b64_json",
            ),
        )
        body = json_of(answer)
        rows = body.get("data") if isinstance(body, dict) else None
        if not isinstance(rows, list) or not rows:
            raise no_image()
        return [
            GeneratedImage(
                decoded(row.get("b64_json")), revised_prompt=row.get("revised_prompt") or None
            )
            for row in rows
        ]
