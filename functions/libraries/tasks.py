"""What the worker does for libraries: fetch a source, and index what is in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from functions.chat.model_server import NoAnswerError
from functions.core.errors import QuernelError, UnavailableError
from functions.core.http import SafeClient
from functions.core.json import Json
from functions.core.settings import SettingsError
from functions.core.storage import NoObjectError, StorageError, open_storage
from functions.libraries.embedding import lexical
from functions.libraries.embedding.documents import DIMENSIONS
from functions.libraries.errors import ParseError, SourceError
from functions.libraries.indexing import Indexer, Version, unique
from functions.libraries.sources.archives import MAX_ARCHIVE_BYTES, files_of_archive
from functions.libraries.sources.files import Skipped, SourceFile, is_documentation
from functions.libraries.sources.packages import archive_of, npm_package, python_package
from functions.tasks.context import TaskContext, TaskRejectedError, TaskRetryError

BUCKET = "libraries"
RETRY_SECONDS = 300.0
MAX_ATTEMPTS = 5
"""As private.crawl_library() queues the task."""

ONLY_VERSION = "latest"
"""Of a source that names no version."""


@dataclass(frozen=True)
class Fetched:
    """What a source has now."""

    version: str
    files: list[SourceFile] = field(repr=False)


async def crawl_library(payload: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Fetch the documentation of a library and index it.

    Raises TaskRejectedError where no library is named, TaskRetryError where the source, the
    database or a model does not answer. What cannot go well is the state of the library.
    """
    library_id = payload.get("library_id")
    if not isinstance(library_id, str):
        raise TaskRejectedError("the payload names no library")
    source = await context.database.rpc("library_source", p_library_id=library_id)
    if source is None:
        return {"result": "gone"}
    skipped = Skipped()
    try:
        fetched = await _fetched(context, source, skipped)
    except ParseError as error:
        await context.database.rpc(
            "library_fail",
            p_library_id=library_id,
            p_error_code=error.code,
            p_error_message=error.message,
        )
        return {"result": "failed", "code": error.code}
    begun = await _begun(context, library_id, fetched.version)
    indexer = Indexer(context.database, context.settings, Version.read(begun))
    indexer.result.skipped = skipped
    try:
        await indexer.put(fetched.files)
        await indexer.embed()
        finished = await context.database.rpc(
            "library_version_finish", p_version_id=begun["version_id"], p_crawl=begun["crawl"]
        )
    except ParseError as error:
        return await _failed(context, begun, error)
    except NoAnswerError as error:
        raise TaskRetryError(error.reason, seconds=RETRY_SECONDS) from None
    except QuernelError as error:
        if error.code == "library_is_empty":
            return await _failed(context, begun, SourceError(error.code, error.message))
        if error.code == "crawl_superseded":
            return {"result": "superseded"}
        raise
    result = indexer.result
    return {
        "result": "ready",
        "version": fetched.version,
        "pages": result.pages,
        "chunks": finished["total_chunks"],
        "kept": result.kept,
        "vectors": result.vectors,
        "skipped": dict(skipped.counts),
    }


async def _fetched(context: TaskContext, source: dict[str, Any], skipped: Skipped) -> Fetched:
    """Raises ParseError for what will be no better another time, TaskRetryError."""
    kind, address = source["source_kind"], source["source_url"] or ""
    try:
        if kind == "archive":
            return Fetched(ONLY_VERSION, _documentation(await _object(context, address), skipped))
        if kind in ("pypi", "npm"):
            return await _package(context, kind, address, skipped)
    except (StorageError, UnavailableError) as error:
        raise TaskRetryError(type(error).__name__, seconds=RETRY_SECONDS) from None
    except QuernelError as error:  # an address that nobody calls, or no answer from it
        if error.status < 500:
            raise SourceError("source_refused", error.message) from None
        if context.attempt < MAX_ATTEMPTS:
            raise TaskRetryError(error.code, seconds=RETRY_SECONDS) from None
        raise SourceError("source_unavailable", "The source does not answer.") from None
    raise SourceError("source_not_supported", f"Sources of kind {kind} are not crawled yet.")


async def _package(context: TaskContext, kind: str, name: str, skipped: Skipped) -> Fetched:
    settings = context.settings
    url = settings.python_registry_url if kind == "pypi" else settings.npm_registry_url
    if url is None:
        raise SourceError("source_not_configured", "The operator has named no registry for it.")
    http = SafeClient()
    try:
        find = python_package if kind == "pypi" else npm_package
        package = await find(http, url, name)
        content = await archive_of(http, package)
    finally:
        await http.aclose()
    files = [
        SourceFile(file.path, file.content, package.docs_url or "")
        for file in _documentation(content, skipped)
    ]
    return Fetched(package.version, files)


async def _object(context: TaskContext, path: str) -> bytes:
    try:
        async with open_storage(context.settings, BUCKET) as storage:
            return await storage.get(path, max_bytes=MAX_ARCHIVE_BYTES)
    except NoObjectError:
        raise SourceError("source_gone", "The archive is not there, or is too large.") from None
    except SettingsError as error:
        raise TaskRejectedError(str(error)) from None


def _documentation(content: bytes, skipped: Skipped) -> list[SourceFile]:
    files = unique(files_of_archive(content, is_documentation, skipped))
    if not files:
        raise SourceError("no_documentation", "There is no documentation in it.")
    return files


async def _begun(context: TaskContext, library_id: str, version: str) -> dict[str, Any]:
    model = context.settings.documentation_embedding_model
    dimensions = lexical.DIMENSIONS if model == lexical.NAME else DIMENSIONS
    begun: dict[str, Any] = await context.database.rpc(
        "library_version_begin",
        p_library_id=library_id,
        p_version=version,
        p_embedding_model=model,
        p_dimensions=None if model is None else dimensions,
    )
    return begun


async def _failed(
    context: TaskContext, begun: dict[str, Any], error: ParseError
) -> dict[str, Json]:
    await context.database.rpc(
        "library_version_fail",
        p_version_id=begun["version_id"],
        p_crawl=begun["crawl"],
        p_error_code=error.code,
        p_error_message=error.message,
    )
    return {"result": "failed", "code": error.code}
