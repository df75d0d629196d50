"""Our own image server (gpu/): a job goes there, and lines of JSON come back as it is worked on.

The contract is that of gpu/contract.py: `loading` first, then `progress`, the images as they are
made, and `done` or `error` last.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from functions.chat.credentials import Credential
from functions.chat.transports import too_slow, unreachable
from functions.chat.upstream_errors import UpstreamError, broken
from functions.core.errors import InvalidRequestError, QuernelError
from functions.core.logging import request_id_var
from functions.images.adapters.base import (
    CALL_SECONDS,
    MAX_ANSWER_BYTES,
    content_refused,
    given,
    no_image,
    too_large,
)
from functions.images.request import GeneratedImage, ImageRequest

Tell = Callable[[int], Awaitable[None]]
"""Hears how far the work is, in per cent."""

MOST_SEEDS = 2**32
MAX_REDIRECTS = 20
"""Modal answers 303 every 150 seconds while a call is worked on; a generation has half an hour."""

# Errors of the server that are about what was asked for, and the member they are about.
_PARAMS = {
    "lora_not_found": "hf_loras",
    "lora_refused": "hf_loras",
    "image_refused": "input_path",
    "invalid_job": "prompt",
}


class GpuServer:
    """The server at one address. Not an adapter: it has members that no provider outside has."""

    def __init__(self, http: httpx.AsyncClient, url: str, headers: Mapping[str, str]) -> None:
        """`headers`: what its door asks for. They are shown to no other host."""
        self._http = http
        self._url = url
        self._headers = dict(headers)

    async def generate(
        self, job_id: str, request: ImageRequest, tell: Tell
    ) -> list[GeneratedImage]:
        """The images; fewer than were asked for where some were refused.

        Raises InvalidRequestError for what the job cannot be, UpstreamError for what went wrong
        there, `content_refused` where every image was refused.
        """
        images: list[GeneratedImage] = []
        refused = 0
        is_done = False
        async for event in self._events(_job(job_id, request)):
            if "progress" in event:
                await tell(int(event["progress"]))
            elif "image" in event:
                images.append(_image(event["image"]))
            elif "refused" in event:
                refused += 1
            elif "error" in event:
                raise _error(event["error"])
            is_done = is_done or "done" in event
        if not is_done:
            raise broken("The image server broke off.")
        if not images and refused:
            raise content_refused("Every image was refused as unsafe.", Credential("platform"))
        if not images:
            raise no_image()
        return images

    async def _events(self, job: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        method, url, body = "POST", f"{self._url}/images", json.dumps(job).encode()
        left = MAX_ANSWER_BYTES
        request_id = request_id_var.get()
        named = {} if request_id is None else {"x-request-id": request_id}
        try:
            for _ in range(MAX_REDIRECTS):
                async with self._http.stream(
                    method,
                    url,
                    content=body,
                    headers=self._headers | {"content-type": "application/json"} | named,
                    timeout=CALL_SECONDS,
                ) as answer:
                    if answer.status_code == HTTPStatus.SEE_OTHER:
                        method, url, body = "GET", self._next(answer), b""
                        continue
                    if not answer.is_success:
                        raise await _refusal(answer)
                    async for line in answer.aiter_lines():
                        left -= len(line)
                        if left < 0:
                            raise too_large()
                        if line.strip():
                            yield _object(line)
                    return
        except httpx.TimeoutException:
            raise too_slow() from None
        except httpx.HTTPError:
            raise unreachable() from None
        raise too_slow()

    def _next(self, answer: httpx.Response) -> str:
        """Where the answer is to be had; never another host, which would be shown our headers."""
        url = urljoin(self._url, str(answer.headers.get("location", "")))
        if urlsplit(url)[:2] != urlsplit(self._url)[:2]:
            raise broken("The image server sends its callers elsewhere.")
        return url


def _job(job_id: str, request: ImageRequest) -> dict[str, Any]:
    return given(
        id=job_id,
        model=request.model,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width=request.width,
        height=request.height,
        steps=request.steps,
        guidance=request.guidance,
        seed=secrets.randbelow(MOST_SEEDS) if request.seed is None else request.seed,
        outputs=request.outputs,
        loras=[{"id": name, "scale": scale} for name, scale in request.loras],
        format=request.format or "webp",
        quality=request.output_quality or 90,
        init_image=None
        if request.input_image is None
        else base64.b64encode(request.input_image).decode(),
        prompt_strength=request.prompt_strength,
        safety=request.safety,
    )


def _image(made: Any) -> GeneratedImage:  # noqa: ANN401 - JSON
    try:
        return GeneratedImage(
            base64.b64decode(made["content"], validate=True),
            seed=made.get("seed"),
            nsfw_score=made.get("nsfw_score"),
        )
    except (TypeError, KeyError, AttributeError, binascii.Error):
        raise no_image() from None


def _error(error: Any) -> QuernelError:  # noqa: ANN401 - JSON
    code = error.get("code") if isinstance(error, dict) else None
    said = str(error.get("message") or "")[:300] if isinstance(error, dict) else ""
    if code in _PARAMS:
        return InvalidRequestError("invalid_argument", said, {"param": _PARAMS[code]})
    if code == "unknown_model":
        return UpstreamError(
            "upstream_not_configured", 503, "The image server does not have this model."
        )
    if code == "out_of_memory":
        return UpstreamError("upstream_error", 502, "The GPU ran out of memory.", may_repeat=True)
    return UpstreamError("upstream_error", 502, "The image server failed.", may_repeat=True)


async def _refusal(answer: httpx.Response) -> QuernelError:
    raw = bytearray()
    async for data in answer.aiter_bytes():
        raw += data
        if len(raw) > 64 * 1024:
            break
    try:
        body = json.loads(bytes(raw))
    except ValueError:
        body = None
    if answer.status_code == HTTPStatus.BAD_REQUEST and isinstance(body, dict) and "error" in body:
        return _error(body["error"])
    if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return UpstreamError(
            "upstream_not_configured", 503, "The image server does not take our key."
        )
    return UpstreamError("upstream_error", 502, "The image server failed.", may_repeat=True)


def _object(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise broken("The image server answers with what is no JSON.")
    return event
