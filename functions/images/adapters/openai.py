"""OpenAI's images, by its own library.

https://platform.openai.com/docs/api-reference/images
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from functions.chat.credentials import Credential
from functions.chat.transports import too_slow, unreachable
from functions.core.http_answers import AnswerTooLargeError
from functions.images.adapters.base import (
    CALL_SECONDS,
    Means,
    decoded,
    given,
    no_image,
    refused,
    too_large,
)
from functions.images.request import GeneratedImage, ImageRequest

if TYPE_CHECKING:
    import openai

_FROM_ENVIRONMENT = ("OpenAI-Organization", "OpenAI-Project")


class OpenAIImages:
    """See Adapter."""

    async def generate(
        self,
        means: Means,
        base_url: str,
        request: ImageRequest,
        credential: Credential,
    ) -> list[GeneratedImage]:
        library = means.libraries.openai()
        asked: dict[str, Any] = given(
            model=request.model,
            prompt=request.prompt,
            n=request.outputs,
            size=request.size,
            quality=request.quality,
            output_format=request.format,
            background=request.background,
            extra_body=dict(request.options) or None,
        )
        secret = "" if credential.secret is None else credential.secret.get_secret_value()
        client = library.AsyncOpenAI(
            api_key=secret,
            base_url=base_url,
            max_retries=0,
            timeout=CALL_SECONDS,
            # Whose organization pays is the key's to say, and not the environment's.
            default_headers=dict.fromkeys(_FROM_ENVIRONMENT, library.Omit()),
            http_client=means.libraries.http,
        )
        try:
            answer = await client.images.generate(**asked)
        except library.APITimeoutError:
            raise too_slow() from None
        except library.APIStatusError as error:
            raise refused(
                error.status_code, _body(error), error.response.headers, credential
            ) from None
        except AnswerTooLargeError:
            raise too_large() from None
        except library.OpenAIError:
            raise unreachable() from None
        if not answer.data:
            raise no_image()
        return [
            GeneratedImage(decoded(image.b64_json), revised_prompt=image.revised_prompt)
            for image in answer.data
        ]


def _body(error: openai.APIStatusError) -> object:
    """The library takes the `error` out of the body; what is left reads the same."""
    return {"error": error.body} if isinstance(error.body, dict) else error.body
