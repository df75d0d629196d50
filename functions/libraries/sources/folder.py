"""A folder of this machine: what of it is documentation. Only the command line reads one."""

from __future__ import annotations

import os
from pathlib import Path

from functions.libraries.errors import SourceError
from functions.libraries.sources.archives import MAX_FILE_BYTES, MAX_FILES, MAX_KEPT_BYTES
from functions.libraries.sources.files import Skipped, SourceFile, is_documentation, safe_path


def files_of_folder(folder: Path, skipped: Skipped) -> list[SourceFile]:
    """Documentation under a folder, by path; no link is followed. Raises SourceError for none."""
    if not folder.is_dir():
        raise SourceError("no_documentation", "There is no such folder.")
    found: list[SourceFile] = []
    room = MAX_KEPT_BYTES
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(place, name)
            path = safe_path(file.relative_to(folder).as_posix())
            if path is None:
                skipped.add("unsafe_name")
                continue
            if not is_documentation(path):
                continue
            if file.is_symlink() or not file.is_file():
                skipped.add("link")
                continue
            size = file.stat().st_size
            if size > MAX_FILE_BYTES:
                skipped.add("too_large")
            elif size > room or len(found) >= MAX_FILES:
                skipped.add("bound_reached")
            else:
                room -= size
                found.append(SourceFile(path, file.read_bytes()))
    if not found:
        raise SourceError("no_documentation", "There is no documentation in it.")
    return found
