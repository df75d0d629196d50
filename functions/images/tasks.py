"""What the worker does for images: make them, and delete the files of those that are gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

from functions.chat.credentials import Credential
from functions.chat.own_keys import KeyUses, SealedKey
from functions.chat.routing import not_configured, outcome_of
from functions.chat.upstream_errors import OwnKeyError, UpstreamError
from functions.core.errors import OperatorError, QuernelError, UnavailableError, internal_error
from functions.core.http import SafeClient
from functions.core.json import Json
from functions.core.logging import log_event
from functions.core.settings import SettingsError
from functions.core.storage import NoObjectError, Storage, open_storage
from functions.images.adapters.base import MAX_IMAGE_BYTES, no_image
from functions.images.headers import NotAnImageError, looked_at
from functions.images.pictures import UndecodableError, thumbnail_of
from functions.images.providers import ImageProviders, open_image_providers
from functions.images.request import GeneratedImage, ImageRequest
from functions.tasks.context import TaskContext, TaskRejectedError, TaskRetryError

BUCKET = "images"
MAX_ATTEMPTS = 3
"""As private.admit_generation() queues the task."""

RETRY_SECONDS = 5.0
TELL_SECONDS = 1.0
"""Between two reports of how far a job is."""

_EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
_THUMBNAIL = "image/webp"

logger = logging.getLogger(__name__)


class NotWantedError(Exception):
    """The generation was called off, or given up, meanwhile."""


@dataclass(frozen=True)
class _Stored:
    """An image as backend.image_finish takes it."""

    path: str
    thumbnail_path: str
    width: int
    height: int
    format: str
    size_bytes: int
    seed: int | None
    revised_prompt: str | None
    nsfw_score: float | None


async def generate_image(payload: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Make the images of a generation, keep and charge them.

    Raises TaskRejectedError where no generation is named, TaskRetryError where the same may go well
    later. What cannot go well ends the generation, and the task with it.
    """
    generation_id = payload.get("generation_id")
    if not isinstance(generation_id, str):
        raise TaskRejectedError("the payload names no generation")
    job = await context.database.rpc(
        "image_begin", p_id=generation_id, p_functions_url=str(context.settings.public_url)
    )
    if job is None:
        return {"result": "over"}
    try:
        async with AsyncExitStack() as stack:
            storage = await stack.enter_async_context(open_storage(context.settings, BUCKET))
            safe_client = SafeClient()
            stack.push_async_callback(safe_client.aclose)
            providers = await stack.enter_async_context(
                open_image_providers(context.settings, safe_client)
            )
            return await _Generation(context, job, storage, providers).run()
    except SettingsError as error:
        raise TaskRejectedError(str(error)) from None


async def delete_files(payload: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Delete objects of a bucket. Raises TaskRejectedError, TaskRetryError."""
    paths, bucket = payload.get("paths"), payload.get("bucket", BUCKET)
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise TaskRejectedError("the payload names no paths")
    if not isinstance(bucket, str):
        raise TaskRejectedError("the payload names no bucket")
    try:
        async with open_storage(context.settings, bucket) as storage:
            await storage.delete([str(path) for path in paths])
    except SettingsError as error:
        raise TaskRejectedError(str(error)) from None
    return {"count": len(paths)}


class _Generation:
    """One attempt at one generation."""

    def __init__(
        self,
        context: TaskContext,
        job: dict[str, Any],
        storage: Storage,
        providers: ImageProviders,
    ) -> None:
        self._context = context
        self._job = job
        self._storage = storage
        self._providers = providers
        self._uses = KeyUses()
        self._since = monotonic()
        self._told_at = self._since

    async def run(self) -> dict[str, Json]:
        try:
            async with asyncio.timeout(float(self._job["seconds_left"])):
                credential, images = await self._made()
                stored = await self._kept(images)
        except NotWantedError:
            return {"result": "called off"}
        except TimeoutError:
            return await self._failed(
                QuernelError("deadline_exceeded", 504, "It was not made in time.")
            )
        except QuernelError as error:
            if self._may_go_well(error):
                await self._note_uses(error)
                raise TaskRetryError(
                    error.code, seconds=error.retry_after or RETRY_SECONDS
                ) from None
            return await self._failed(error)
        return await self._finished(credential, stored)

    async def _made(self) -> tuple[Credential, list[GeneratedImage]]:
        """The images, and whose key paid. Raises QuernelError: what the last try came to."""
        request = await self._request()
        error: QuernelError = not_configured()
        for kind in self._job["credentials"]:
            if kind == "platform":
                credential = self._providers.platform_credential(self._job["provider"])
                if credential is not None:
                    return credential, await self._drawn(request, credential)
                continue
            for row in self._job["own_keys"]:
                key = SealedKey.read(row)
                try:
                    credential = await key.open(self._context.vault)
                except OperatorError as unopened:
                    _log_unopened(key, unopened)
                    error = unopened
                    continue
                self._uses.begin(key, self._job["model"])
                try:
                    return credential, await self._drawn(request, credential)
                except OwnKeyError as refused:
                    # Another key, or credits where they were asked for, may well do better.
                    self._uses.end(outcome_of(refused), refused.code)
                    error = refused
        raise error

    async def _request(self) -> ImageRequest:
        job, parameters = self._job, self._job["parameters"]
        size = None if job["width"] is None else f"{job['width']}x{job['height']}"
        able = job["capabilities"]
        return ImageRequest(
            job["upstream_model"],
            job["prompt"],
            outputs=job["outputs"],
            size=size if "sizes" in able else None,
            aspect_ratio=job["aspect_ratio"] if "aspect_ratios" in able else None,
            resolution=parameters.get("resolution"),
            quality=parameters.get("quality"),
            format=job["format"],
            background=parameters.get("background"),
            negative_prompt=job["negative_prompt"],
            style=parameters.get("style"),
            seed=job["seed"],
            guidance=_float(job["guidance"]),
            steps=job["steps"],
            options=parameters.get("options") or {},
            width=job["width"],
            height=job["height"],
            output_quality=job["quality"],
            loras=tuple(zip(job["loras"], map(float, job["lora_scales"]), strict=True)),
            input_image=await self._input(),
            prompt_strength=_float(job["prompt_strength"]),
            safety=job["safety"],
        )

    async def _input(self) -> bytes | None:
        """The image to begin from, looked at before anybody is sent it."""
        path = self._job["input_path"]
        if path is None:
            return None
        try:
            content = await self._storage.get(path, max_bytes=MAX_IMAGE_BYTES)
            looked_at(GeneratedImage(content))
            await thumbnail_of(content)  # a header can say anything
        except (NoObjectError, NotAnImageError, UndecodableError):
            raise QuernelError(
                "invalid_argument",
                400,
                "The input image is not there, or is none.",
                {"param": "input_path"},
            ) from None
        return content

    async def _drawn(self, request: ImageRequest, credential: Credential) -> list[GeneratedImage]:
        return await self._providers.generate(
            self._job["provider"],
            request,
            self._job["capabilities"],
            credential,
            job_id=self._job["id"],
            tell=self._tell,
        )

    async def _tell(self, percent: int) -> None:
        """Note how far it is, not too often. Raises NotWantedError where nobody waits any more."""
        if monotonic() - self._told_at < TELL_SECONDS:
            return
        self._told_at = monotonic()
        answer = await self._context.database.rpc(
            "image_progress", p_id=self._job["id"], p_progress=percent
        )
        if not answer["is_wanted"]:
            raise NotWantedError

    async def _kept(self, images: Sequence[GeneratedImage]) -> list[_Stored]:
        """Those that decode, in Storage. Raises UpstreamError where none does, StorageError."""
        kept = [
            stored
            for number, image in enumerate(images)
            if (stored := await self._kept_one(number, image)) is not None
        ]
        if not kept:
            raise no_image()
        return kept

    async def _kept_one(self, number: int, image: GeneratedImage) -> _Stored | None:
        try:
            thumbnail = await thumbnail_of(image.content)
        except UndecodableError:
            log_event(
                logger, logging.WARNING, "image not decodable", provider=self._job["provider"]
            )
            return None
        extension = _EXTENSIONS[image.media_type]
        path = f"{self._job['folder']}/{number}.{extension}"
        thumbnail_path = f"{self._job['folder']}/{number}.thumb.webp"
        await self._storage.put(path, image.content, image.media_type)
        await self._storage.put(thumbnail_path, thumbnail, _THUMBNAIL)
        return _Stored(
            path,
            thumbnail_path,
            image.width,
            image.height,
            extension,
            len(image.content),
            image.seed,
            image.revised_prompt,
            image.nsfw_score,
        )

    async def _finished(self, credential: Credential, stored: Sequence[_Stored]) -> dict[str, Json]:
        answer = await self._context.database.rpc(
            "image_finish",
            p_id=self._job["id"],
            p_images=[asdict(one) for one in stored],
            p_credential=credential.kind,
            p_provider_key_id=credential.key_id,
            p_key_uses=self._uses.closed("completed"),
            p_latency_ms=self._milliseconds(),
        )
        if answer["state"] != "completed":
            # Called off in the last moment: nobody will ever ask for these.
            await self._storage.delete(
                [path for one in stored for path in (one.path, one.thumbnail_path)]
            )
        return {"result": answer["state"], "count": len(stored)}

    async def _failed(self, error: QuernelError) -> dict[str, Json]:
        shown = internal_error() if isinstance(error, OperatorError) else error
        await self._context.database.rpc(
            "image_fail",
            p_id=self._job["id"],
            p_error_code=shown.code,
            p_error_message=shown.message,
            p_key_uses=self._uses.closed(outcome_of(error), error.code),
            p_latency_ms=self._milliseconds(),
        )
        return {"result": "failed", "code": shown.code}

    def _may_go_well(self, error: QuernelError) -> bool:
        """Whether another attempt is worth it, and there is one."""
        is_passing = isinstance(error, UnavailableError) or (
            isinstance(error, UpstreamError) and error.code != "upstream_not_configured"
        )
        return is_passing and self._job["attempt"] < MAX_ATTEMPTS

    async def _note_uses(self, error: QuernelError) -> None:
        uses = self._uses.closed(outcome_of(error), error.code)
        if uses is not None:
            await self._context.database.rpc(
                "image_note_key_uses", p_id=self._job["id"], p_key_uses=uses
            )

    def _milliseconds(self) -> int:
        return round((monotonic() - self._since) * 1000)


def _float(number: Any) -> float | None:  # noqa: ANN401 - JSON, whose fractions are Decimals here
    return None if number is None else float(number)


def _log_unopened(key: SealedKey, error: OperatorError) -> None:
    log_event(
        logger,
        logging.ERROR,
        "provider key not opened",
        provider_key_id=key.id,
        code=error.operator_code,
        said=error.operator_message,
    )
