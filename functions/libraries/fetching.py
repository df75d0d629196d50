"""What a library's source has now: by its kind, within bounds, or why there is nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from functions.core.errors import QuernelError, UnavailableError
from functions.core.http import SafeClient
from functions.core.settings import SettingsError
from functions.core.storage import NoObjectError, StorageError, open_storage
from functions.libraries.errors import SourceError
from functions.libraries.indexing import unique
from functions.libraries.sources.archive_reader import documentation_of
from functions.libraries.sources.archives import MAX_ARCHIVE_BYTES
from functions.libraries.sources.files import Skipped, SourceFile
from functions.libraries.sources.git import Repository
from functions.libraries.sources.packages import archive_of, npm_package, python_package
from functions.libraries.sources.site import SECONDS as SITE_SECONDS
from functions.libraries.sources.site import Site
from functions.libraries.sources.snapshots import Snapshot
from functions.tasks.context import TaskContext, TaskRejectedError, TaskRetryError

BUCKET = "libraries"
RETRY_SECONDS = 300.0
MAX_ATTEMPTS = 5
"""As private.crawl_library() queues the task."""

PRIVATE_SITE_SECONDS = 600.0

ONLY_VERSION = "latest"
"""Of a source that names no version."""


@dataclass(frozen=True)
class Fetched:
    """What a source has now. `files` is None where it is what was crawled the last time."""

    version: str
    files: list[SourceFile] | None = field(repr=False)
    revision: str | None = None
    """What the source calls this state: a commit, a version, a digest of its pages."""

    etags: dict[str, str] = field(default_factory=dict, repr=False)
    """What a site's server calls the state of its pages, by their address."""


async def fetch(context: TaskContext, source: dict[str, Any], skipped: Skipped) -> Fetched:
    """Fetch a source, as backend.library_source() describes it.

    Raises ParseError for what will be no better another time, TaskRetryError where it may be.
    """
    http = SafeClient()
    try:
        return await _fetched(context, http, source, skipped)
    except (StorageError, UnavailableError) as error:
        raise TaskRetryError(type(error).__name__, seconds=RETRY_SECONDS) from None
    except QuernelError as error:  # an address that nobody calls, or no answer from it
        if error.status < 500:
            raise SourceError("source_refused", error.message) from None
        if context.attempt < MAX_ATTEMPTS:
            raise TaskRetryError(error.code, seconds=RETRY_SECONDS) from None
        raise SourceError("source_unavailable", "The source does not answer.") from None
    finally:
        await http.aclose()


async def _fetched(
    context: TaskContext, http: SafeClient, source: dict[str, Any], skipped: Skipped
) -> Fetched:
    kind, address = source["source_kind"], source["source_url"] or ""
    known = source["source_revision"]
    if kind in ("archive", "folder"):
        content = await _object(context, address)
        return Fetched(ONLY_VERSION, await asyncio.to_thread(_documentation, content, skipped))
    if kind == "git":
        return await _repository(http, address, known, skipped)
    if kind == "site":
        return await _site(context, http, source, skipped)
    return await _package(context, http, source, skipped)


async def _repository(
    http: SafeClient, address: str, known: str | None, skipped: Skipped
) -> Fetched:
    repository = Repository(address, http)
    reference = await repository.reference()
    if reference.commit == known:
        return Fetched(reference.version, None, reference.commit)
    files = _some(await repository.files(reference, skipped))
    return Fetched(reference.version, files, reference.commit)


async def _site(
    context: TaskContext, http: SafeClient, source: dict[str, Any], skipped: Skipped
) -> Fetched:
    before = await _snapshot(context, source["snapshot_path"])
    site = Site(source["source_url"] or "", http, before, seconds=_site_seconds(source))
    pages = await site.pages(skipped)
    if pages.revision == source["source_revision"]:
        return Fetched(ONLY_VERSION, None, pages.revision)
    return Fetched(ONLY_VERSION, _some(pages.files), pages.revision, pages.etags)


def _site_seconds(source: dict[str, Any]) -> float:
    """Others wait while one is read: a site of one organization less long than one of everybody."""
    return SITE_SECONDS if source["is_public"] else PRIVATE_SITE_SECONDS


async def _package(
    context: TaskContext, http: SafeClient, source: dict[str, Any], skipped: Skipped
) -> Fetched:
    kind, name, settings = source["source_kind"], source["source_url"] or "", context.settings
    url = settings.python_registry_url if kind == "pypi" else settings.npm_registry_url
    if url is None:
        raise SourceError("source_not_configured", "The operator has named no registry for it.")
    find = python_package if kind == "pypi" else npm_package
    package = await find(http, url, name)
    if package.version == source["source_revision"]:  # of a registry a version is never another
        return Fetched(package.version, None, package.version)
    content = await archive_of(http, package)
    files = [
        SourceFile(file.path, file.content, package.docs_url or "")
        for file in await asyncio.to_thread(_documentation, content, skipped)
    ]
    return Fetched(package.version, files, package.version)


async def _object(context: TaskContext, path: str) -> bytes:
    try:
        async with open_storage(context.settings, BUCKET) as storage:
            return await storage.get(path, max_bytes=MAX_ARCHIVE_BYTES)
    except NoObjectError:
        raise SourceError("source_gone", "The archive is not there, or is too large.") from None
    except SettingsError as error:
        raise TaskRejectedError(str(error)) from None


async def _snapshot(context: TaskContext, path: str | None) -> Snapshot:
    """What was crawled the last time; nothing where it is not there any more."""
    if path is None:
        return Snapshot()
    try:
        return await asyncio.to_thread(Snapshot.read, await _object(context, path))
    except SourceError:
        return Snapshot()


def _documentation(content: bytes, skipped: Skipped) -> list[SourceFile]:
    return _some(unique(documentation_of(content, skipped)))


def _some(files: list[SourceFile]) -> list[SourceFile]:
    if not files:
        raise SourceError("no_documentation", "There is no documentation in it.")
    return files
