"""What was crawled, in one archive: kept in Storage, and asked before a site is asked again."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from functions.libraries.errors import SourceError
from functions.libraries.sources.archives import files_of_archive
from functions.libraries.sources.files import Skipped, SourceFile

INDEX = ".quernel/pages.json"
"""Of a snapshot: where each file is read by people, and the ETag its server gave it."""

MEDIA_TYPE = "application/gzip"


@dataclass(frozen=True)
class Snapshot:
    """Files by their address, or by their path where they have none, with the ETags they had."""

    files: Mapping[str, SourceFile] = field(default_factory=dict, repr=False)
    etags: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, content: bytes) -> Snapshot:
        """Of what `packed` made; nothing of anything else."""
        try:
            files = {
                file.path: file for file in files_of_archive(content, lambda _: True, Skipped())
            }
            index = json.loads(files[INDEX].content)
            pages = {
                str(url) or path: SourceFile(files[path].path, files[path].content, str(url))
                for path, url in index["urls"].items()
                if path in files
            }
            etags = {str(url): str(etag) for url, etag in index["etags"].items() if url in pages}
        except (SourceError, ValueError, LookupError, TypeError, AttributeError):
            return cls()
        return cls(pages, etags)


def packed(files: Sequence[SourceFile], etags: Mapping[str, str]) -> bytes:
    """A .tar.gz of the files, the same for the same files."""
    index = {"urls": {file.path: file.url for file in files}, "etags": dict(etags)}
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as raw,
        tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        about = json.dumps(index, sort_keys=True).encode()
        for path, content in ((INDEX, about), *((file.path, file.content) for file in files)):
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
