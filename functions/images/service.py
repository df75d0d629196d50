"""The use cases of images: each is one function of the database; bytes are Storage's."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any
from uuid import UUID

from functions.core.auth import Principal
from functions.core.database import Database
from functions.core.errors import QuernelError, UnavailableError
from functions.core.storage import Storage, StorageNotConfiguredError
from functions.images.schemas import GenerationRequest

POLL_SECONDS = 0.4
"""Between two looks at a generation that somebody waits for."""

WAIT_SECONDS = 600.0
"""The longest that somebody waits in one request."""

URL_SECONDS = 600
"""How long a signed address shows an image."""

ENDED = frozenset({"completed", "failed", "cancelled"})

# Where a generation's error would have been an answer of its own; others are 502.
_STATUSES = {
    "content_refused": 400,
    "invalid_argument": 400,
    "unsupported_parameter": 400,
    "upstream_rejected": 400,
    "context_length_exceeded": 400,
    "provider_key_rejected": 401,
    "provider_quota_exceeded": 402,
    "provider_access_denied": 403,
    "provider_rate_limited": 429,
    "upstream_not_configured": 503,
    "upstream_unavailable": 503,
    "upstream_rate_limited": 503,
    "storage_unavailable": 503,
    "upstream_timeout": 504,
    "deadline_exceeded": 504,
}


class ImageService:
    """Generations and images, for people and for API keys with the scope `images`.

    Every method raises QuernelError: account_suspended, insufficient_scope; generation_not_found
    where a generation is named, image_not_found where an image is.
    """

    def __init__(self, database: Database, storage: Storage | None) -> None:
        """Without `storage` nothing can be shown or begun."""
        self._database = database
        self._storage = storage

    async def start(
        self, caller: Principal, request: GenerationRequest, idempotency_key: str | None
    ) -> dict[str, Any]:
        """Ask for images: {state: started | replay, generation}.

        Raises what the limits, the payer and the model refuse too (docs/errors.md).
        """
        return await self._start(caller, request.values, request.organization, idempotency_key)

    async def list(
        self, caller: Principal, organization: str | None, limit: int, before: UUID | None
    ) -> dict[str, Any]:
        """A page of generations, newest first: {generations, next}."""
        page: dict[str, Any] = await self._database.rpc(
            "image_list",
            **caller.arguments,
            p_organization=organization,
            p_limit=limit,
            p_before=before,
        )
        return page

    async def read(self, caller: Principal, generation_id: UUID) -> dict[str, Any]:
        """A generation with its images."""
        generation: dict[str, Any] = await self._database.rpc(
            "image_read", **caller.arguments, p_id=generation_id
        )
        return generation

    async def cancel(self, caller: Principal, generation_id: UUID) -> dict[str, Any]:
        """Call a generation off. Raises generation_ended too."""
        generation: dict[str, Any] = await self._database.rpc(
            "image_cancel", **caller.arguments, p_id=generation_id
        )
        return generation

    async def delete(self, caller: Principal, image_id: UUID) -> dict[str, Any]:
        """Delete an image."""
        deleted: dict[str, Any] = await self._database.rpc(
            "image_delete", **caller.arguments, p_image_id=image_id
        )
        return deleted

    async def url(self, caller: Principal | None, image_id: UUID, *, is_thumbnail: bool) -> str:
        """A signed address of its bytes: for its owner, and for everybody while it is public."""
        opened = await self._open(caller, image_id, is_thumbnail=is_thumbnail)
        return await self._files.signed_url(opened["path"], seconds=URL_SECONDS)

    async def watch(
        self, caller: Principal, generation_id: UUID
    ) -> AsyncIterator[dict[str, Any] | None]:
        """The generation whenever it has changed, until it has ended; None while it has not."""
        seen: tuple[Any, ...] = ()
        until = monotonic() + WAIT_SECONDS
        while True:
            generation = await self.read(caller, generation_id)
            now = (generation["status"], generation["progress"])
            yield generation if now != seen else None
            if generation["status"] in ENDED or monotonic() > until:
                return
            seen = now
            await asyncio.sleep(POLL_SECONDS)

    async def draw(
        self,
        caller: Principal,
        values: dict[str, Any],
        organization: str | None,
        idempotency_key: str | None,
    ) -> dict[str, Any]:
        """Ask for images and wait for them. Raises what became of them instead."""
        started = await self._start(caller, values, organization, idempotency_key)
        generation_id = UUID(started["generation"]["id"])
        try:
            async for generation in self.watch(caller, generation_id):
                ended = generation
                if ended is not None and ended["status"] in ENDED:
                    return _made(ended)
        except asyncio.CancelledError:
            if started["state"] == "started":
                # Whoever left is not charged for what nobody will see.
                await asyncio.shield(self._call_off(caller, generation_id))
            raise
        raise UnavailableError("still_generating", "It takes longer than one may wait here.", 10)

    async def content(self, caller: Principal, image_id: str) -> str:
        """An image in base64."""
        opened = await self._open(caller, UUID(image_id), is_thumbnail=False)
        return base64.b64encode(await self._files.get(opened["path"])).decode()

    async def _start(
        self,
        caller: Principal,
        values: dict[str, Any],
        organization: str | None,
        idempotency_key: str | None,
    ) -> dict[str, Any]:
        _ = self._files  # what could not be kept is not begun
        started: dict[str, Any] = await self._database.rpc(
            "image_start",
            **caller.arguments,
            p_values=values,
            p_organization=organization,
            p_idempotency_key=idempotency_key,
        )
        return started

    async def _open(
        self, caller: Principal | None, image_id: UUID, *, is_thumbnail: bool
    ) -> dict[str, Any]:
        opened: dict[str, Any] = await self._database.rpc(
            "image_open",
            **({} if caller is None else caller.arguments),
            p_image_id=image_id,
            p_is_thumbnail=is_thumbnail,
        )
        return opened

    async def _call_off(self, caller: Principal, generation_id: UUID) -> None:
        try:
            await self.cancel(caller, generation_id)
        except QuernelError:
            return  # it has ended meanwhile

    @property
    def _files(self) -> Storage:
        if self._storage is None:
            raise StorageNotConfiguredError
        return self._storage


def _made(generation: dict[str, Any]) -> dict[str, Any]:
    """A generation that ended well. Raises QuernelError for one that did not."""
    if generation["status"] == "cancelled":
        raise QuernelError("generation_cancelled", 409, "The generation was called off.")
    if generation["status"] == "failed":
        code = generation["error_code"]
        if code == "generation_failed":
            raise QuernelError("generation_failed", 502, "The images could not be made.")
        raise QuernelError(code, _STATUSES.get(code, 502), generation["error_message"])
    return generation
