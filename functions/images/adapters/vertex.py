"""Images by Vertex AI, for a service account: Imagen (`:predict`) and Gemini (`:generateContent`).

https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/imagen-api. Imagen's models
were shut down in August 2026; their rows stay in the catalog, inactive, and the adapter with them.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

import httpx

from functions.chat.credentials import Credential
from functions.chat.transports import unreachable
from functions.core.http_answers import AnswerTooLargeError
from functions.images.adapters.base import (
    Means,
    content_refused,
    decoded,
    given,
    json_of,
    key_rejected,
    no_image,
    post,
    refused,
    those_made,
    too_large,
)
from functions.images.request import GeneratedImage, ImageRequest
from functions.providers.google_tokens import ServiceAccount, ask_for_token

LOCATION = "global"
_MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg"}


class VertexImages:
    """See Adapter."""

    async def generate(
        self, means: Means, base_url: str, request: ImageRequest, credential: Credential
    ) -> list[GeneratedImage]:
        if credential.secret is None:
            raise no_image()
        account = ServiceAccount.read(credential.secret)
        headers = {"Authorization": f"Bearer {await _token(means, account, credential)}"}
        place = f"{base_url}/projects/{account.project}/locations/{LOCATION}"
        model = f"{place}/publishers/google/models/{request.model}"
        if request.model.startswith("imagen"):
            body = await post(
                means, f"{model}:predict", credential, headers, json=_imagen_body(request)
            )
            return _imagen_images(json_of(body), credential)

        async def one() -> GeneratedImage:
            url = f"{model}:generateContent"
            answer = await post(means, url, credential, headers, json=_body(request))
            return _gemini_image(json_of(answer), credential)

        return those_made(
            await asyncio.gather(*(one() for _ in range(request.outputs)), return_exceptions=True)
        )


async def _token(means: Means, account: ServiceAccount, credential: Credential) -> str:
    try:
        answer = await ask_for_token(means.http, account, means.oauth_url)
    except AnswerTooLargeError:
        raise too_large() from None
    except httpx.HTTPError:
        raise unreachable() from None
    body = json_of(answer)
    if answer.status_code == HTTPStatus.OK and isinstance(body, dict):
        token = body.get("access_token")
        if isinstance(token, str):
            return token
    if isinstance(body, dict) and body.get("error") == "invalid_grant":
        raise key_rejected(credential)
    raise refused(answer.status_code, body, answer.headers, credential)


def _imagen_body(request: ImageRequest) -> dict[str, Any]:
    instance = given(prompt=request.prompt)
    parameters = given(
        sampleCount=request.outputs,
        aspectRatio=request.aspect_ratio,
        sampleImageSize=request.resolution,
        negativePrompt=request.negative_prompt,
        seed=request.seed,
        # A seed and a watermark exclude each other.
        addWatermark=False if request.seed is not None else None,
        includeRaiReason=True,
        outputOptions=None
        if request.format is None
        else {"mimeType": _MEDIA_TYPES[request.format]},
    )
    return {"instances": [instance], "parameters": parameters | dict(request.options)}


def _imagen_images(body: Any, credential: Credential) -> list[GeneratedImage]:  # noqa: ANN401
    predictions = body.get("predictions") if isinstance(body, dict) else None
    rows = [row for row in predictions or () if isinstance(row, dict)]
    images = [
        GeneratedImage(decoded(row["bytesBase64Encoded"]), revised_prompt=row.get("prompt"))
        for row in rows
        if "bytesBase64Encoded" in row
    ]
    if not images:
        reasons = [row["raiFilteredReason"] for row in rows if row.get("raiFilteredReason")]
        if reasons or predictions == []:
            raise content_refused(" ".join(reasons) or "Every image was filtered.", credential)
        raise no_image()
    return images


def _body(request: ImageRequest) -> dict[str, Any]:
    image = given(aspectRatio=request.aspect_ratio, imageSize=request.resolution)
    config = given(responseModalities=["IMAGE"], seed=request.seed, imageConfig=image or None)
    return {
        "contents": [{"role": "user", "parts": [{"text": request.prompt}]}],
        "generationConfig": config,
    }


def _gemini_image(body: Any, credential: Credential) -> GeneratedImage:  # noqa: ANN401 - JSON
    if not isinstance(body, dict):
        raise no_image()
    blocked = (body.get("promptFeedback") or {}).get("blockReason")
    if blocked:
        raise content_refused(f"The prompt was blocked: {blocked}.", credential)
    for candidate in body.get("candidates") or ():
        for part in (candidate.get("content") or {}).get("parts") or ():
            if "inlineData" in part:
                return GeneratedImage(decoded(part["inlineData"].get("data")))
        if "SAFETY" in json.dumps(candidate.get("finishReason")):
            raise content_refused("The image was blocked.", credential)
    raise no_image()
