"""The process in which archives are read: `python -m functions.libraries.children.archives`."""

from __future__ import annotations

from functions.libraries.children.serve import serve
from functions.libraries.errors import ParseError
from functions.libraries.sources.archive_reader import LISTINGS, Listing
from functions.libraries.sources.archives import files_of_archive
from functions.libraries.sources.files import Skipped, is_documentation


def answered(_: bytes, content: bytes) -> list[bytes]:
    """Two frames: what there is or why there is nothing, and the files one after the other."""
    skipped = Skipped()
    try:
        files = list(files_of_archive(content, is_documentation, skipped))
        whole = b"".join(file.content for file in files)
    except ParseError as error:
        return _refusal(error.code, error.message)
    except MemoryError:
        return _refusal("too_large", "The archive takes too much memory to read.")
    listing = Listing([(file.path, len(file.content)) for file in files], dict(skipped.counts))
    return [LISTINGS.dump_json(listing), whole]


def _refusal(code: str, message: str) -> list[bytes]:
    return [LISTINGS.dump_json(Listing(code=code, message=message)), b""]


if __name__ == "__main__":
    serve(answered)
