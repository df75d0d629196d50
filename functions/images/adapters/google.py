"""Gemini's images, by Google's own library.

https://ai.google.dev/gemini-api/docs/image-generation
"""

from __future__ import annotations

import asyncio
from typing import Any

from functions.chat.credentials import Credential
from functions.chat.transports import too_slow, unreachable
from functions.core.errors import QuernelError
from functions.core.http_answers import AnswerTooLargeError
from functions.images.adapters.base import (
    CALL_SECONDS,
    Means,
    content_refused,
    no_image,
    refused,
    those_made,
    too_large,
)
from functions.images.request import GeneratedImage, ImageRequest

_REFUSALS = frozenset({"IMAGE_SAFETY", "SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "RECITATION"})


class GeminiImages:
    """See Adapter. One call makes one image, so several are asked for at once."""

    async def generate(
        self,
        means: Means,
        base_url: str,
        request: ImageRequest,
        credential: Credential,
    ) -> list[GeneratedImage]:
        library = means.libraries.genai()
        # It reads the certificates several times over: a tenth of a second, in which the process
        # would stand still.
        client = await asyncio.to_thread(_client, library, means, base_url, credential)
        made = await asyncio.gather(
            *(_one(library, client, request, credential) for _ in range(request.outputs)),
            return_exceptions=True,
        )
        return those_made(made)


def _client(library: Any, means: Means, base_url: str, credential: Credential) -> Any:  # noqa: ANN401
    root, _, version = base_url.rpartition("/")
    return library.Client(
        api_key="" if credential.secret is None else credential.secret.get_secret_value(),
        vertexai=False,
        http_options=library.types.HttpOptions(
            base_url=root,
            api_version=version,
            timeout=int(CALL_SECONDS * 1000),
            httpx_async_client=means.libraries.http,
        ),
    )


async def _one(
    library: Any,  # noqa: ANN401 - a module
    client: Any,  # noqa: ANN401 - of the module
    request: ImageRequest,
    credential: Credential,
) -> GeneratedImage:
    types = library.types
    config = types.GenerateContentConfig(
        response_modalities=["IMAGE"],
        seed=request.seed,
        image_config=types.ImageConfig(
            aspect_ratio=request.aspect_ratio, image_size=request.resolution
        ),
    )
    try:
        answer = await client.aio.models.generate_content(
            model=request.model, contents=request.prompt, config=config
        )
    except library.errors.APIError as error:
        raise refused(error.code, error.details, _headers(error), credential) from None
    except TimeoutError:
        raise too_slow() from None
    except AnswerTooLargeError:
        raise too_large() from None
    except Exception as error:  # noqa: BLE001 - the library lets through what its HTTP client raises
        raise _translated(error) from None
    return _image(answer, credential)


def _image(answer: Any, credential: Credential) -> GeneratedImage:  # noqa: ANN401 - of the module
    feedback = answer.prompt_feedback
    if feedback is not None and feedback.block_reason is not None:
        raise content_refused(f"The prompt was blocked: {feedback.block_reason.value}.", credential)
    for candidate in answer.candidates or ():
        reason = candidate.finish_reason.value if candidate.finish_reason else ""
        for part in (candidate.content and candidate.content.parts) or ():
            if part.inline_data is not None and part.inline_data.data:
                return GeneratedImage(part.inline_data.data)
        if reason in _REFUSALS:
            raise content_refused(f"The image was blocked: {reason}.", credential)
    raise no_image()


def _headers(error: Any) -> dict[str, str]:  # noqa: ANN401 - of the module
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", None) or {}
    return {str(name).lower(): str(value) for name, value in dict(headers).items()}


def _translated(error: Exception) -> QuernelError:
    """An error of the HTTP client, which the library lets through."""
    return too_slow() if "Timeout" in type(error).__name__ else unreachable()
