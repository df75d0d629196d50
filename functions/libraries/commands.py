"""`quernel libraries`: public libraries, for operators."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from functions.core.console import CommandFailedError
from functions.core.database import Database
from functions.core.json import Json
from functions.core.settings import Settings
from functions.core.storage import StorageError, open_storage
from functions.libraries.embedding import lexical
from functions.libraries.embedding.documents import DIMENSIONS
from functions.libraries.errors import SourceError
from functions.libraries.fetching import BUCKET
from functions.libraries.sources.files import Skipped
from functions.libraries.sources.folder import files_of_folder
from functions.libraries.sources.snapshots import MEDIA_TYPE, packed
from functions.libraries.tasks import FINISH_SECONDS

KINDS = ("git", "site", "pypi", "npm", "folder", "archive")


async def add_library(
    options: argparse.Namespace, settings: Settings, database: Database
) -> dict[str, Json]:
    """Add a library for everybody, and have it crawled. Raises QuernelError, CommandFailedError."""
    source = options.source
    if options.kind == "folder":
        source = await _upload(options.id, Path(options.source), settings)
    values = {
        "description": options.description,
        "docs_url": options.docs_url,
        "aliases": options.alias,
        "popularity_score": options.popularity,
    }
    added: dict[str, Json] = await database.rpc(
        "library_add",
        p_id=options.id,
        p_title=options.title or options.id.rpartition("/")[2],
        p_source_kind=options.kind,
        p_source_url=source,
        p_values={name: value for name, value in values.items() if value is not None},
        p_actor=options.actor,
    )
    return {name: added[name] for name in ("library_id", "state", "task_id")}


async def update_folder(
    options: argparse.Namespace, settings: Settings, database: Database
) -> dict[str, Json]:
    """Have a library of a folder indexed anew, from what is in the folder now."""
    source = await _upload(options.id, Path(options.folder), settings)
    changed: dict[str, Json] = await database.rpc(
        "library_source_put", p_id=options.id, p_source_url=source, p_actor=options.actor
    )
    return changed


async def delete_library(
    options: argparse.Namespace, _: Settings, database: Database
) -> dict[str, Json]:
    """Delete a library with all that was indexed."""
    deleted: dict[str, Json] = await database.long_rpc(
        "library_delete", FINISH_SECONDS, p_id=options.id, p_actor=options.actor
    )
    return deleted


async def reembed_libraries(
    _: argparse.Namespace, settings: Settings, database: Database
) -> dict[str, Json]:
    """Have vectors made by the model that is configured now, beside those that serve."""
    model = settings.documentation_embedding_model
    if model is None:
        raise CommandFailedError("QUERNEL_DOCUMENTATION_EMBEDDING_MODEL names no model.")
    total, count = 0, 1
    while count:
        told = await database.long_rpc(
            "libraries_reembed",
            FINISH_SECONDS,
            p_model=model,
            p_dimensions=lexical.DIMENSIONS if model == lexical.NAME else DIMENSIONS,
        )
        count = int(told["count"])
        total += count
    return {"model": model, "versions": total}


def add_library_commands(
    group: Callable[[str, str], Any], add: Callable[..., argparse.ArgumentParser]
) -> None:
    """`quernel libraries …`."""
    libraries = group("libraries", "Public libraries, whose documentation everybody searches.")
    adding = add(libraries, "add", "Add a library, and have it crawled.", add_library)
    adding.add_argument("id", metavar="ID", help="/organization/project")
    adding.add_argument("kind", choices=KINDS, help="where its documentation comes from")
    adding.add_argument(
        "source",
        metavar="SOURCE",
        help="an address, the name of a package, a folder of this machine, or an object of Storage",
    )
    adding.add_argument("--title", help="its name; else the project's")
    adding.add_argument("--description", help="what it is, in a sentence")
    adding.add_argument("--docs-url", metavar="URL", help="where people read it")
    adding.add_argument("--alias", action="append", help="another name of it; may be repeated")
    adding.add_argument("--popularity", type=int, help="stars, downloads a month, or the like")
    updating = add(
        libraries, "update", "Index a library of a folder anew, from the folder.", update_folder
    )
    updating.add_argument("id", metavar="ID", help="/organization/project")
    updating.add_argument("folder", metavar="FOLDER", help="of this machine")
    deleting = add(libraries, "delete", "Delete a library.", delete_library)
    deleting.add_argument("id", metavar="ID", help="/organization/project")
    for command in (adding, updating, deleting):
        command.add_argument("--actor", required=True, help="who decides this: your name")
    add(
        libraries,
        "reembed",
        "Have vectors made by the model that is configured now; the old ones serve meanwhile.",
        reembed_libraries,
    )


async def _upload(library_id: str, folder: Path, settings: Settings) -> str:
    """Where the archive of a folder lies. Raises CommandFailedError."""
    try:
        files = await asyncio.to_thread(files_of_folder, folder, Skipped())
        content = await asyncio.to_thread(packed, files, {})
        path = f"folders{library_id.lower()}/{hashlib.sha256(content).hexdigest()[:32]}.tar.gz"
        async with open_storage(settings, BUCKET) as storage:
            await storage.put(path, content, MEDIA_TYPE)
    except SourceError as error:
        raise CommandFailedError(error.message) from None
    except StorageError as error:
        raise CommandFailedError(str(error)) from None
    return path
