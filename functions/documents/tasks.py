"""What the worker does for documents: read a file, cut it, and make it searchable."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from functions.chat.model_server import NoAnswerError
from functions.core.errors import QuernelError
from functions.core.json import Json
from functions.core.logging import log_event
from functions.core.settings import SettingsError
from functions.core.storage import NoObjectError, StorageError, open_storage
from functions.documents.inspection import inspect
from functions.documents.scanning import ScanError, scan
from functions.libraries.chunking import Chunk
from functions.libraries.embedding import lexical
from functions.libraries.embedding.documents import DIMENSIONS, embed_documents
from functions.libraries.errors import ParseError
from functions.libraries.indexing import PUT_SECONDS, embedded_text, flags_of
from functions.libraries.reading import Page, PageReader
from functions.tasks.context import TaskContext, TaskRejectedError, TaskRetryError

BUCKET = "documents"
MAX_FILE_BYTES = 50 * 1024 * 1024
"""As functions/libraries/parsing reads; what a plan allows is the database's to say."""

MOST_CHUNKS = 100  # of one call to the database, with their vectors: about 3 MB
RETRY_SECONDS = 60.0
_FAILS = frozenset({"document_too_large", "invalid_argument"})
_DELETED = frozenset({"document_refused", "infected"})
"""Codes with which a document loses its file: nobody should have it."""

_AS_TEXT = frozenset({"text/csv", "application/json", "application/yaml"})
"""Data of somebody's own: of documentation only what describes an interface is read of these."""

logger = logging.getLogger(__name__)


async def index_document(payload: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Make a document searchable; what keeps it from being read becomes its state.

    Raises TaskRejectedError where no document is named, TaskRetryError where Storage or a model
    does not answer.
    """
    document_id = payload.get("document_id")
    if not isinstance(document_id, str):
        raise TaskRejectedError("the payload names no document")
    model = context.settings.documentation_embedding_model
    dimensions = lexical.DIMENSIONS if model == lexical.NAME else DIMENSIONS
    document = await context.database.rpc(
        "document_begin",
        p_id=document_id,
        p_embedding_model=model,
        p_dimensions=None if model is None else dimensions,
    )
    if document is None:
        return {"result": "over"}
    try:
        content = await _content(context, document)
        inspect(content, document["mime_type"])
        await _scan(context, content)
        page = await _page(content, document)
        await _put(context, document, page, model)
        finished = await context.database.rpc(
            "document_finish",
            p_id=document_id,
            p_page_count=_pages(page),
            p_attempt=document["attempt"],
        )
    except ParseError as error:
        return await _failed(context, document, error.code, error.message)
    except NoAnswerError as error:
        raise TaskRetryError(error.reason, seconds=RETRY_SECONDS) from None
    except QuernelError as error:
        if error.code in _FAILS:
            return await _failed(context, document, error.code, error.message)
        if error.code in ("document_not_found", "document_not_indexing"):
            return {"result": "over"}
        raise
    return {"result": "ready", "chunks": finished["chunk_count"]}


async def _content(context: TaskContext, document: dict[str, Any]) -> bytes:
    """Raises ParseError, TaskRetryError, TaskRejectedError."""
    try:
        async with open_storage(context.settings, BUCKET) as storage:
            return await storage.get(document["storage_path"], max_bytes=MAX_FILE_BYTES)
    except NoObjectError:
        raise ParseError("empty", "The file is not there, or is too large.") from None
    except StorageError:
        raise TaskRetryError("StorageError", seconds=RETRY_SECONDS) from None
    except SettingsError as error:
        raise TaskRejectedError(str(error)) from None


async def _scan(context: TaskContext, content: bytes) -> None:
    """Raises ParseError (`infected`); TaskRetryError where nobody knows."""
    if context.settings.clamd is None:
        return
    try:
        found = await scan(*context.settings.clamd, content)
    except ScanError as error:
        log_event(logger, logging.WARNING, "document was not scanned", reason=str(error))
        raise TaskRetryError("ScanError", seconds=RETRY_SECONDS) from None
    if found is not None:
        log_event(logger, logging.WARNING, "document is infected", signature=found)
        raise ParseError("infected", "A virus scanner found something in the file.")


async def _page(content: bytes, document: dict[str, Any]) -> Page:
    """Raises ParseError."""
    reader = PageReader()
    name, media_type = document["original_filename"], document["mime_type"]
    try:
        try:
            page = await asyncio.to_thread(reader.read, content, name=name, media_type=media_type)
        except ParseError as error:
            if error.code != "unsupported_format" or media_type not in _AS_TEXT:
                raise
            page = await asyncio.to_thread(
                reader.read, content, name=f"{name}.txt", media_type="text/plain"
            )
    finally:
        await asyncio.to_thread(reader.close)
    if not page.chunks:
        raise ParseError("no_text", "There is no text in it.")
    return page


async def _put(
    context: TaskContext, document: dict[str, Any], page: Page, model: str | None
) -> None:
    for start in range(0, len(page.chunks), MOST_CHUNKS):
        part = page.chunks[start : start + MOST_CHUNKS]
        rows = [_row(chunk) for chunk in part]
        if model is not None:
            texts = [
                embedded_text({"title": document["name"], **row, "content": chunk.content})
                for row, chunk in zip(rows, part, strict=True)
            ]
            vectors = await embed_documents(context.settings, model, texts)
            for row, vector in zip(rows, vectors, strict=True):
                row["embedding"] = list(vector)
        await context.database.long_rpc(
            "document_chunks_put",
            PUT_SECONDS,
            p_id=document["id"],
            p_chunks=rows,
            p_attempt=document["attempt"],
            p_progress=100 * (start + len(part)) // len(page.chunks),
        )


def _row(chunk: Chunk) -> dict[str, Any]:
    """A chunk as backend.document_chunks_put() takes it."""
    return {
        "chunk_index": chunk.index,
        "page": chunk.position.page,
        "headings": [heading[:500] for heading in chunk.headings[:10]],
        "content": chunk.content[:100_000],
        "token_count": max(1, chunk.token_count),
        "flags": flags_of(chunk),
    }


def _pages(page: Page) -> int | None:
    """Of a file that has pages; the last one on which there is something."""
    numbers = [chunk.position.page for chunk in page.chunks if chunk.position.page is not None]
    return max(numbers, default=None)


async def _failed(
    context: TaskContext, document: dict[str, Any], code: str, message: str
) -> dict[str, Json]:
    await context.database.rpc(
        "document_fail",
        p_id=document["id"],
        p_attempt=document["attempt"],
        p_error_code=code,
        p_error_message=message,
        p_is_file_deleted=code in _DELETED,
    )
    return {"result": "failed", "code": code}
