"""The use cases of documents: each is one function of the database; bytes are Storage's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from functions.core.auth import Principal
from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.settings import Settings
from functions.core.storage import Storage, StorageNotConfiguredError
from functions.documents.schemas import DocumentRequest, SearchRequest
from functions.documents.tasks import MAX_FILE_BYTES
from functions.libraries.embedding.queries import embed_query
from functions.libraries.service import client_of


class DocumentService:
    """Documents, for people and for API keys with the scope `documents`.

    Every method raises QuernelError: account_suspended, insufficient_scope; not_a_member where an
    organization is named; document_not_found where a document is, also for a stranger's and, where
    something is to be done to it, for those who may only read it.
    """

    def __init__(self, database: Database, settings: Settings, storage: Storage | None) -> None:
        """Without `storage` no file is taken."""
        self._database = database
        self._settings = settings
        self._storage = storage

    async def add(self, caller: Principal, request: DocumentRequest) -> dict[str, Any]:
        """Add a document; `upload` of the answer says where its file is put.

        Raises plan_limit_reached, document_too_large, document_type_unknown, invalid_argument,
        storage_unavailable, storage_not_configured too.
        """
        if self._storage is None:
            raise StorageNotConfiguredError
        document: dict[str, Any] = await self._database.rpc(
            "document_add",
            **caller.arguments,
            p_values=request.values,
            p_organization=request.organization,
        )
        try:
            signed = await self._storage.signed_upload(document["storage_path"])
        except QuernelError:
            # It could not be filled, and would take a place in the plan.
            await self.delete(caller, document["id"])
            raise
        return document | {"upload": signed.answer(document["mime_type"], MAX_FILE_BYTES)}

    async def uploaded(self, caller: Principal, document_id: UUID) -> dict[str, Any]:
        """Have it indexed, or indexed again. Raises document_not_uploaded too."""
        return await self._of("document_uploaded", caller, document_id)

    async def list(
        self, caller: Principal, organization: str | None, limit: int, after: UUID | None
    ) -> dict[str, Any]:
        """A page of the caller's own, or of an organization's, newest first: {documents, next}."""
        page: dict[str, Any] = await self._database.rpc(
            "document_list",
            **caller.arguments,
            p_organization=organization,
            p_limit=limit,
            p_after=after,
        )
        return page

    async def read(self, caller: Principal, document_id: UUID) -> dict[str, Any]:
        """One, with how its index goes or why it failed."""
        return await self._of("document_read", caller, document_id)

    async def delete(self, caller: Principal, document_id: UUID | str) -> dict[str, Any]:
        """Delete it with its file and what was indexed of it."""
        return await self._of("document_delete", caller, document_id)

    async def search(
        self, origin: Mapping[str, Any], request: SearchRequest
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Passages for a question, and the key's limit as RateLimit headers tell it.

        By words alone where nobody makes a vector now. Raises rate_limited too.
        """
        narrowed = {
            **origin["caller"].arguments,
            "p_document_ids": request.document_ids,
            "p_organization": request.organization or origin["organization"],
        }
        begun = await self._database.rpc("document_search_begin", **narrowed)
        model = begun["embedding_model"]
        vector = await embed_query(self._settings, model, request.query)
        found: dict[str, Any] = await self._database.rpc(
            "document_search",
            **narrowed,
            p_query=request.query,
            p_tokens=request.tokens,
            p_embedding=vector,
            p_embedding_model=None if vector is None else model,
            p_flagged=request.flagged,
            p_limit=request.limit,
            p_client=client_of(origin),
        )
        return found, begun.get("rate_limit")

    async def _of(
        self, function: str, caller: Principal, document_id: UUID | str
    ) -> dict[str, Any]:
        answer: dict[str, Any] = await self._database.rpc(
            function, **caller.arguments, p_id=document_id
        )
        return answer
