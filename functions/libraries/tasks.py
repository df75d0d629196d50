"""What the worker does for libraries: fetch a source, index what is in it, make vectors anew."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from functions.chat.model_server import NoAnswerError
from functions.core.errors import QuernelError
from functions.core.json import Json
from functions.core.settings import SettingsError
from functions.core.storage import StorageError, open_storage
from functions.libraries.embedding import lexical
from functions.libraries.embedding.documents import DIMENSIONS
from functions.libraries.errors import ParseError
from functions.libraries.fetching import BUCKET, RETRY_SECONDS, Fetched, fetch
from functions.libraries.indexing import Indexer, Version
from functions.libraries.sources.files import Skipped, SourceFile
from functions.libraries.sources.snapshots import MEDIA_TYPE, packed
from functions.tasks.context import TaskContext, TaskRejectedError, TaskRetryError

_KEPT = frozenset({"git", "site", "pypi", "npm"})
"""Kinds of sources of which a snapshot is kept; of others the object itself is there."""


FINISH_SECONDS = 600.0
"""As long as the database takes for it at most: the words of all chunks are counted."""


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
    if payload.get("source_id", source["source_id"]) != source["source_id"]:
        return {"result": "superseded"}  # by the task of the source that it has now
    if source["embedding_model"] != context.settings.documentation_embedding_model:
        source["source_revision"] = None  # vectors are to be made of it all
    try:
        return await _crawl(context, source)
    except QuernelError as error:
        if error.code != "crawl_superseded":
            raise
        return {"result": "superseded"}


async def _crawl(context: TaskContext, source: dict[str, Any]) -> dict[str, Json]:
    """Raises TaskRetryError, QuernelError: crawl_superseded among others."""
    skipped = Skipped()
    try:
        fetched = await _changed(context, source, skipped)
    except ParseError as error:
        await context.database.rpc(
            "library_fail",
            p_library_id=source["library_id"],
            p_source_id=source["source_id"],
            p_error_code=error.code,
            p_error_message=error.message,
        )
        return {"result": "failed", "code": error.code}
    if fetched is None:
        return {"result": "unchanged"}
    begun = await _begun(context, source, fetched.version)
    indexer = Indexer(context.database, context.settings, Version.read(begun))
    indexer.result.skipped = skipped
    try:
        finished = await _index(context, indexer, begun, fetched)
    except (ParseError, QuernelError) as error:
        return await _ended(context, begun, error)
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


async def embed_library(payload: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Make the vectors that a version lacks, beside those it is searched with.

    Raises TaskRejectedError where no version is named, TaskRetryError where the model does not
    answer.
    """
    version_id = payload.get("version_id")
    if not isinstance(version_id, str):
        raise TaskRejectedError("the payload names no version")
    indexer = Indexer(context.database, context.settings, Version(version_id))
    try:
        await indexer.embed()
    except NoAnswerError as error:
        raise TaskRetryError(error.reason, seconds=RETRY_SECONDS) from None
    except QuernelError as error:
        if error.code in ("library_version_not_found", "embedding_model_changed"):
            return {"result": "over"}
        raise
    return {"result": "ready", "vectors": indexer.result.vectors}


async def _changed(
    context: TaskContext, source: dict[str, Any], skipped: Skipped
) -> Fetched | None:
    """What is to be indexed; None where all of it is. Raises ParseError, TaskRetryError."""
    fetched = await fetch(context, source, skipped)
    if fetched.files is not None:
        return fetched
    told = await context.database.rpc(
        "library_unchanged",
        p_library_id=source["library_id"],
        p_source_id=source["source_id"],
        p_version=fetched.version,
        p_source_revision=fetched.revision,
    )
    if told["is_unchanged"]:
        return None
    return await fetch(context, source | {"source_revision": None}, skipped)


async def _index(
    context: TaskContext, indexer: Indexer, begun: dict[str, Any], fetched: Fetched
) -> dict[str, Any]:
    """What backend.library_version_finish() says.

    Raises ParseError, TaskRetryError, QuernelError.
    """
    files = fetched.files or []
    values: dict[str, Json] = {"source_revision": fetched.revision}
    try:
        await indexer.put(files)
        await indexer.embed()
        if begun["source_kind"] in _KEPT and indexer.result.chunks:
            values["snapshot_path"] = await _keep(context, begun, files, fetched)
    except NoAnswerError as error:
        raise TaskRetryError(error.reason, seconds=RETRY_SECONDS) from None
    except StorageError as error:
        raise TaskRetryError(type(error).__name__, seconds=RETRY_SECONDS) from None
    finished: dict[str, Any] = await context.database.long_rpc(
        "library_version_finish",
        FINISH_SECONDS,
        p_version_id=begun["version_id"],
        p_crawl=begun["crawl"],
        p_values=values,
    )
    return finished


async def _begun(context: TaskContext, source: dict[str, Any], version: str) -> dict[str, Any]:
    model = context.settings.documentation_embedding_model
    dimensions = lexical.DIMENSIONS if model == lexical.NAME else DIMENSIONS
    begun: dict[str, Any] = await context.database.rpc(
        "library_version_begin",
        p_library_id=source["library_id"],
        p_source_id=source["source_id"],
        p_version=version,
        p_embedding_model=model,
        p_dimensions=None if model is None else dimensions,
    )
    return begun


async def _keep(
    context: TaskContext, begun: dict[str, Any], files: list[SourceFile], fetched: Fetched
) -> str:
    """Store a snapshot; where. An attempt that is repeated stores it in the same place.

    Raises StorageError, TaskRejectedError.
    """
    content = await asyncio.to_thread(packed, files, fetched.etags)
    digest = hashlib.sha256(content).hexdigest()[:32]
    path = f"snapshots{begun['library_id']}/{begun['version_id']}/{digest}.tar.gz"
    try:
        async with open_storage(context.settings, BUCKET) as storage:
            await storage.put(path, content, MEDIA_TYPE)
    except SettingsError as error:
        raise TaskRejectedError(str(error)) from None
    return path


async def _ended(
    context: TaskContext, begun: dict[str, Any], error: ParseError | QuernelError
) -> dict[str, Json]:
    """End a crawl that cannot be finished. Raises what is no reason for that."""
    if isinstance(error, QuernelError) and error.code != "library_is_empty":
        raise error
    await context.database.rpc(
        "library_version_fail",
        p_version_id=begun["version_id"],
        p_crawl=begun["crawl"],
        p_error_code=error.code,
        p_error_message=error.message,
    )
    return {"result": "failed", "code": error.code}
