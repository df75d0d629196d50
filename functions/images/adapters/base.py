"""What an adapter is, and what several of them do alike."""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

import httpx

from functions.chat.credentials import Credential
from functions.chat.transports import too_slow, unreachable
from functions.chat.upstream import clean, refusal_error
from functions.chat.upstream_errors import broken
from functions.core.errors import QuernelError
from functions.core.http import SafeClient
from functions.core.http_answers import AnswerTooLargeError, asked
from functions.core.logging import log_event
from functions.images.adapters.libraries import Libraries
from functions.images.request import GeneratedImage, ImageRequest
from functions.providers.refusals import Meaning, Refusal, understand

MAX_ANSWER_BYTES = 96 * 1024 * 1024
"""Four images of 4K in base64 are about 60 MB."""

MAX_IMAGE_BYTES = 32 * 1024 * 1024
CALL_SECONDS = 300.0
"""Of all that an adapter does for a request; the slowest models take two to three minutes."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Means:
    """What adapters work with: shared by all of them."""

    http: httpx.AsyncClient
    """To providers; no redirects."""
    safe_client: SafeClient
    """To addresses that a provider names."""
    libraries: Libraries
    """Providers' own; they share a client, too."""
    oauth_url: str


class Adapter(Protocol):
    """Asks one provider for images."""

    async def generate(
        self, means: Means, base_url: str, request: ImageRequest, credential: Credential
    ) -> list[GeneratedImage]:
        """The images, not looked at yet; fewer than were asked for where some were refused.

        Raises OwnKeyError, UpstreamError, or a plain QuernelError for what the request is refused
        for (content_refused, upstream_rejected). Nothing raised or logged holds the key.
        """
        ...


async def post(
    means: Means,
    url: str,
    credential: Credential,
    headers: Mapping[str, str],
    **body: Any,
) -> httpx.Response:
    """An answer with a 2xx status, read within bounds. Raises as `Adapter.generate`."""
    return await call(means, "POST", url, credential, headers, **body)


async def call(
    means: Means,
    method: str,
    url: str,
    credential: Credential,
    headers: Mapping[str, str],
    **body: Any,
) -> httpx.Response:
    """See `post`."""
    try:
        answer = await asked(
            means.http, method, url, max_bytes=MAX_ANSWER_BYTES, headers=dict(headers), **body
        )
    except AnswerTooLargeError:
        raise too_large() from None
    except httpx.TimeoutException:
        raise too_slow() from None
    except httpx.HTTPError:
        raise unreachable() from None
    if not answer.is_success:
        raise refused(answer.status_code, json_of(answer), answer.headers, credential)
    return answer


def refused(
    status: int, body: object, headers: Mapping[str, str], credential: Credential
) -> QuernelError:
    """Our error for a status that is no success."""
    refusal = understand(status, body, headers)
    return refusal_error(refusal, clean(refusal.message, credential), credential, "prompt")


def content_refused(said: str, credential: Credential) -> QuernelError:
    """The error where a success says that nothing was made, for what would have been on it."""
    return refusal_error(
        Refusal(Meaning.SAFETY, said), clean(said, credential), credential, "prompt"
    )


def key_rejected(credential: Credential) -> QuernelError:
    """The error where a provider says in words of its own that it does not know the key."""
    return refusal_error(Refusal(Meaning.KEY, ""), "", credential)


def json_of(answer: httpx.Response) -> Any:  # noqa: ANN401 - whatever was sent
    """Its JSON; None where it is none."""
    try:
        return json.loads(answer.content)
    except (ValueError, RecursionError):
        return None


def decoded(text: object) -> bytes:
    """An image out of base64. Raises UpstreamError."""
    if not isinstance(text, str):
        raise no_image()
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise no_image() from None


async def fetched(means: Means, url: object) -> bytes:
    """An image from where a provider says it is, by the client that calls nobody inside."""
    if not isinstance(url, str):
        raise no_image()
    try:
        answer = await means.safe_client.fetch(
            url, max_bytes=MAX_IMAGE_BYTES, timeout_seconds=CALL_SECONDS
        )
    except QuernelError:
        raise broken("The provider's image cannot be fetched.") from None
    if answer.status != HTTPStatus.OK:
        raise broken("The provider's image cannot be fetched.")
    return answer.body


def no_image() -> QuernelError:
    """The error for a success without an image."""
    return broken("The provider answered without an image.")


def too_large() -> QuernelError:
    """The error for an answer that outgrew MAX_ANSWER_BYTES."""
    return broken("The provider's answer is too large.")


def those_made(results: Sequence[GeneratedImage | BaseException]) -> list[GeneratedImage]:
    """The images of several calls. Raises the first refusal where there is none.

    Whatever else was raised is raised: only what a provider answers may be missing.
    """
    images, refusals = [], []
    for one in results:
        if isinstance(one, GeneratedImage):
            images.append(one)
        elif isinstance(one, QuernelError):
            refusals.append(one)
        else:
            raise one
    if not images:
        raise refusals[0] if refusals else no_image()
    for refusal in refusals:
        log_event(logger, logging.WARNING, "image not made", code=refusal.code)
    return images


def given(**members: Any) -> dict[str, Any]:
    """Those that have a value."""
    return {name: value for name, value in members.items() if value is not None}
