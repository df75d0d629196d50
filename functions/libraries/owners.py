"""What those do who own libraries: each use case is one function of the database.

An archive is put where the database says, by an address that Storage signs; no path of a caller's
ever gets there.
"""

from __future__ import annotations

from typing import Any

from functions.core.auth import Principal
from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.storage import Storage, StorageNotConfiguredError
from functions.libraries.owner_schemas import LibraryRequest
from functions.libraries.sources.archives import MAX_ARCHIVE_BYTES

MEDIA_TYPE = "application/octet-stream"

DELETE_SECONDS = 120.0
"""Chunks by the ten thousand go with it; on Modal a request ends after 150 seconds."""


class LibraryOwnerService:
    """Libraries, for people and for API keys with the scope `libraries`.

    Every method raises QuernelError: account_suspended, insufficient_scope; not_a_member where an
    organization is named; library_not_found where a library is, also for what is somebody else's
    and, where something is to be done to it, for those who are no admins.
    """

    def __init__(self, database: Database, storage: Storage | None) -> None:
        """Without `storage` no archive is taken."""
        self._database = database
        self._storage = storage

    async def add(self, caller: Principal, request: LibraryRequest) -> dict[str, Any]:
        """Add a private library; `upload` of the answer of an archive says where to put it.

        Raises not_an_admin, library_id_taken, plan_limit_reached, invalid_argument,
        storage_unavailable, storage_not_configured too.
        """
        if request.source_kind == "archive" and self._storage is None:
            raise StorageNotConfiguredError
        library: dict[str, Any] = await self._database.rpc(
            "library_add",
            **caller.arguments,
            p_id=request.library_id,
            p_title=request.title,
            p_source_kind=request.source_kind,
            p_source_url=request.source_url,
            p_values=request.values,
            p_organization=request.organization,
        )
        library.pop("task_id", None)
        path = library.pop("upload_path", None)
        if path is None:
            return library
        try:
            return library | {"upload": await self._upload(path)}
        except QuernelError:
            # It could not be filled: whoever tries again finds the id free.
            await self.delete(caller, library["library_id"])
            raise

    async def list(
        self, caller: Principal, organization: str | None, limit: int, after: str | None
    ) -> dict[str, Any]:
        """A page of what the caller reads, or of an organization's own: {libraries, next}."""
        page: dict[str, Any] = await self._database.rpc(
            "library_list",
            **caller.arguments,
            p_organization=organization,
            p_limit=limit,
            p_after=after,
        )
        return page

    async def read(self, caller: Principal, library_id: str) -> dict[str, Any]:
        """One with its versions."""
        return await self._of("library_read", caller, library_id)

    async def upload(self, caller: Principal, library_id: str) -> dict[str, Any]:
        """An address for its archive, in the place of the one that is there: {upload}.

        Raises library_takes_no_archive, storage_unavailable, storage_not_configured too.
        """
        told = await self._of("library_upload", caller, library_id)
        return {"library_id": told["library_id"], "upload": await self._upload(told["upload_path"])}

    async def uploaded(self, caller: Principal, library_id: str) -> dict[str, Any]:
        """Have an archive crawled that is there.

        Raises library_not_uploaded, library_takes_no_archive, library_too_large,
        crawl_in_progress, rate_limited too.
        """
        return await self._of("library_uploaded", caller, library_id)

    async def refresh(self, caller: Principal, library_id: str) -> dict[str, Any]:
        """Have it crawled again. Raises library_not_uploaded, rate_limited too."""
        return await self._of("library_refresh", caller, library_id)

    async def delete(self, caller: Principal, library_id: str) -> dict[str, Any]:
        """Delete it with all that was indexed."""
        answer: dict[str, Any] = await self._database.long_rpc(
            "library_delete", DELETE_SECONDS, **caller.arguments, p_id=library_id
        )
        return answer

    async def _of(self, function: str, caller: Principal, library_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = await self._database.rpc(
            function, **caller.arguments, p_id=library_id
        )
        return answer

    async def _upload(self, path: str) -> dict[str, Any]:
        if self._storage is None:
            raise StorageNotConfiguredError
        signed = await self._storage.signed_upload(path, replaces=True)
        return signed.answer(MEDIA_TYPE, MAX_ARCHIVE_BYTES)
