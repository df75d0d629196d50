"""Archives are read in a process of their own: one that is a bomb costs that and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from functions.libraries.children.child import Answers, Child, LostError
from functions.libraries.errors import SourceError
from functions.libraries.sources.archives import (
    MAX_ARCHIVE_BYTES,
    MAX_FILES,
    MAX_KEPT_BYTES,
)
from functions.libraries.sources.files import Skipped, SourceFile, safe_path

SECONDS = 300.0
"""For one archive. A gibibyte comes out of bzip2, the slowest of them, in a minute."""

_LISTING_BYTES = 8 * 1024 * 1024  # of 20,000 names of 400 characters; as objects twenty times that


@dataclass(frozen=True)
class Listing:
    """What was found: paths with sizes, in the order of their bytes; or why there is nothing."""

    files: list[tuple[str, int]] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    code: str | None = None
    message: str = ""


LISTINGS = TypeAdapter(Listing)


def documentation_of(
    content: bytes, skipped: Skipped, seconds: float = SECONDS
) -> list[SourceFile]:
    """The files of an archive that are documentation; what is passed over is counted.

    Blocks for as long as it takes. Raises SourceError: `unreadable`, `too_large`, and
    `too_slow_source` or `crashed` where the process did not survive.
    """
    if len(content) > MAX_ARCHIVE_BYTES:
        raise SourceError("too_large", f"The archive has more than {MAX_ARCHIVE_BYTES} bytes.")
    child = Child(
        "functions.libraries.children.archives",
        Answers((_LISTING_BYTES, MAX_KEPT_BYTES)),
        seconds,
    )
    try:
        told, whole = child.ask(b"", content)
        listing = LISTINGS.validate_json(told)
        if listing.code is not None:
            raise SourceError(listing.code, listing.message)
        for reason, count in listing.skipped.items():
            skipped.add(reason, count)
        return _cut(listing.files, whole)
    except LostError as error:
        if error.is_late:
            raise SourceError("too_slow_source", "The archive takes too long to read.") from None
        raise SourceError("crashed", "The archive ended the process that read it.") from None
    except (ValidationError, ValueError):
        raise SourceError("crashed", "The archive ended the process that read it.") from None
    finally:
        child.end()


def _cut(files: list[tuple[str, int]], whole: bytes) -> list[SourceFile]:
    """Raises ValueError for a listing that cannot be: a hostile archive may have written it."""
    if len(files) > MAX_FILES or sum(size for _, size in files) != len(whole):
        raise ValueError(len(files))
    found, start = [], 0
    for path, size in files:
        if size < 0 or safe_path(path) != path:
            raise ValueError(size)
        found.append(SourceFile(path, whole[start : start + size]))
        start += size
    return found
