"""Archives, read in memory: nothing is unpacked to a disk, and nothing they say is believed.

Sizes in an archive are claims. What is read is counted as it comes out, so a small file that
unpacks to a terabyte is stopped at its bound, and whatever was read before stays.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from functions.libraries.errors import SourceError
from functions.libraries.sources.files import Skipped, SourceFile, safe_path

MAX_ARCHIVE_BYTES = 256 * 1024 * 1024
MAX_UNPACKED_BYTES = 1024 * 1024 * 1024
"""Of all that is read, documentation or not: a tar is read from its beginning to its end."""

MAX_KEPT_BYTES = 128 * 1024 * 1024
MAX_FILE_BYTES = 10 * 1024 * 1024  # as functions/libraries/parsing takes
MAX_MEMBERS = 200_000
MAX_DIRECTORY_BYTES = 32 * 1024 * 1024
"""Of a zip's list of its members, which is read whole: for as many members, of long names."""

MAX_FILES = 20_000
_PIECE = 64 * 1024

_UNREADABLE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,  # a zip with a password
    NotImplementedError,  # or of an unknown kind
    KeyError,
    IndexError,
    OverflowError,
)

_SIZE_OF_DIRECTORY = zipfile._ECD_SIZE  # type: ignore[attr-defined]  # noqa: SLF001

IsWanted = Callable[[str], bool]


@dataclass
class _Room:
    """What may still be read."""

    unpacked: int = MAX_UNPACKED_BYTES
    kept: int = MAX_KEPT_BYTES
    files: int = MAX_FILES


def files_of_archive(content: bytes, is_wanted: IsWanted, skipped: Skipped) -> Iterator[SourceFile]:
    """The files of a zip or a tar (also .gz, .bz2, .xz) that are wanted, by path.

    One folder that everything lies in is left out of the paths. What is passed over is counted in
    `skipped`. Raises SourceError where it is no archive, or not one file of it could be read.
    """
    if len(content) > MAX_ARCHIVE_BYTES:
        raise SourceError("too_large", f"The archive has more than {MAX_ARCHIVE_BYTES} bytes.")
    room, found = _Room(), []
    members = _zipped if content.startswith(b"PK") else _tarred
    try:
        # One by one: those before a break are there.
        for file in members(content, is_wanted, skipped, room):
            found += [file]
    except _UNREADABLE:
        if not found:
            raise SourceError("unreadable", "The archive is broken, or is none.") from None
        skipped.add("archive_broken")
    yield from _without_root(found)


def _zipped(
    content: bytes, is_wanted: IsWanted, skipped: Skipped, room: _Room
) -> Iterator[SourceFile]:
    # One that claims more than there is is broken, as ZipFile says.
    if MAX_DIRECTORY_BYTES < _directory_bytes(content) <= len(content):
        raise SourceError("too_large", "The archive has too many members.")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        if len(infos) > MAX_MEMBERS:
            skipped.add("too_many_members", len(infos) - MAX_MEMBERS)
        for info in infos[:MAX_MEMBERS]:
            is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
            if info.is_dir():
                continue
            path = _named(info.filename, is_wanted, skipped, is_link=is_link)
            if path is None:
                continue
            if info.flag_bits & 0x1:
                skipped.add("encrypted")
                continue
            with archive.open(info) as member:
                file = _read(path, member, skipped, room)
            if file is not None:
                yield file
            if room.unpacked <= 0 or room.files <= 0:
                skipped.add("bound_reached")
                return


def _directory_bytes(content: bytes) -> int:
    """What the end of a zip says of the size of its list, found as ZipFile itself finds it."""
    end = zipfile._EndRecData(io.BytesIO(content))  # type: ignore[attr-defined]  # noqa: SLF001
    return 0 if end is None else int(end[_SIZE_OF_DIRECTORY])


def _tarred(
    content: bytes, is_wanted: IsWanted, skipped: Skipped, room: _Room
) -> Iterator[SourceFile]:
    # As a stream: what is not wanted is passed over, and counted all the same.
    counted = _Counted(_unpacker(content), room)
    with tarfile.open(fileobj=counted, mode="r|") as archive:
        for number, info in enumerate(archive):
            archive.members = []  # type: ignore[attr-defined]  # it would keep a note of each
            if number >= MAX_MEMBERS or room.unpacked <= 0 or room.files <= 0:
                skipped.add("bound_reached")
                return
            if info.isdir():
                continue
            path = _named(info.name, is_wanted, skipped, is_link=not info.isreg())
            if path is None:
                continue
            member = archive.extractfile(info)
            if member is None:
                continue
            file = _read(path, member, skipped, _Room(MAX_FILE_BYTES + 1, room.kept, room.files))
            if file is not None:
                room.kept -= len(file.content)
                room.files -= 1
                yield file


def _named(name: str, is_wanted: IsWanted, skipped: Skipped, *, is_link: bool) -> str | None:
    path = safe_path(name)
    if path is None:
        skipped.add("unsafe_name")
        return None
    if not is_wanted(path):
        return None
    if is_link:  # to a file that is there itself, or to none of ours
        skipped.add("link")
        return None
    return path


def _read(path: str, member: object, skipped: Skipped, room: _Room) -> SourceFile | None:
    read = member.read  # type: ignore[attr-defined]
    content = bytearray()
    while piece := read(min(_PIECE, MAX_FILE_BYTES + 1 - len(content))):
        content += piece
        room.unpacked -= len(piece)
        if len(content) > MAX_FILE_BYTES:
            skipped.add("too_large")
            return None
        if room.unpacked <= 0:
            skipped.add("bound_reached")
            return None
    if len(content) > room.kept:
        skipped.add("bound_reached")
        return None
    room.kept -= len(content)
    room.files -= 1
    return SourceFile(path, bytes(content))


def _unpacker(content: bytes) -> io.IOBase:
    raw = io.BytesIO(content)
    if content.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if content.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    if content.startswith((b"\xfd7zXZ", b"\x5d\x00\x00")):
        return lzma.LZMAFile(raw)
    return raw


class _Counted(io.RawIOBase):
    """A stream that ends where the room does."""

    def __init__(self, inner: io.IOBase, room: _Room) -> None:
        self._inner = inner
        self._room = room

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        wanted = _PIECE if size < 0 else size
        if self._room.unpacked <= 0:
            return b""
        data: bytes = self._inner.read(wanted)
        self._room.unpacked -= len(data)
        return data


def _without_root(files: list[SourceFile]) -> Iterator[SourceFile]:
    """`project-1.0/docs/index.md` is `docs/index.md` where everything lies in project-1.0."""
    roots = {file.path.partition("/")[0] for file in files if "/" in file.path}
    is_one = len(roots) == 1 and all("/" in file.path for file in files)
    for file in files:
        yield SourceFile(file.path.partition("/")[2], file.content) if is_one else file
