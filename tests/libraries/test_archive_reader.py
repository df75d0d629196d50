"""Archives are read in a process of their own, which a bomb may have."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from functions.libraries.children.child import Answers, Child
from functions.libraries.errors import ParseError
from functions.libraries.sources import archive_reader, archives
from functions.libraries.sources.archive_reader import LISTINGS, Listing, documentation_of
from functions.libraries.sources.archives import files_of_archive
from functions.libraries.sources.files import Skipped
from tests.libraries.test_archives import FILES, tarred, zipped


def code_of(content: bytes, seconds: float = 60.0) -> str:
    with pytest.raises(ParseError) as caught:
        documentation_of(content, Skipped(), seconds)
    return caught.value.code


def memory(name: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    [line] = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)
    ]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("kind", ["zip", "gz", "xz"])
def test_what_is_found_is_what_would_be_found_here(kind: str) -> None:
    files = FILES | {"docs/empty.md": b"", "docs/\u00e4\u00f6.md": "\u00e4\u00f6".encode()}
    content = zipped(files) if kind == "zip" else tarred(files, kind, links={"docs/a.md": "b"})
    skipped = Skipped()
    found = documentation_of(content, skipped)
    wanted = {path: text for path, text in files.items() if not path.endswith(".py")}
    assert {file.path: file.content for file in found} == wanted
    assert skipped.counts == ({} if kind == "zip" else {"link": 1})


def test_what_is_no_archive_is_refused() -> None:
    assert code_of(b"hello") == "unreadable"
    assert code_of(b"") == "unreadable"


def test_a_header_that_claims_a_gibibyte_takes_none_of_this_process() -> None:
    """An extended header is read whole by tarfile: as much as it claims to have."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("header")
        info.type = tarfile.XHDTYPE
        info.size = 900 * 1024**2
        archive.addfile(info)
    packed = io.BytesIO()
    # A gibibyte of zeros comes out of a megabyte.
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        archive.fileobj.write(out.getvalue()[:512])  # type: ignore[union-attr]
        zeros = bytes(16 * 1024**2)
        for _ in range(57):
            archive.fileobj.write(zeros)  # type: ignore[union-attr]
    assert len(packed.getvalue()) < 8 * 1024**2
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    before = memory("VmRSS")
    assert code_of(packed.getvalue()) in ("too_large", "unreadable")
    assert memory("VmHWM") - before < 200 * 1024**2


def test_a_dictionary_of_gibibytes_takes_none_of_this_process() -> None:
    """The head of an .lzma names the memory that it takes to be unpacked."""
    head = b"\x5d" + struct.pack("<I", 0xFFFFFFFF) + struct.pack("<Q", 1 << 40)
    assert code_of(head + bytes(1024)) in ("too_large", "unreadable")


def test_a_list_of_members_that_is_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 100)
    plain, large, hidden = (bytearray(zipped(FILES)) for _ in range(3))
    size = struct.unpack_from("<I", plain, len(plain) - 10)[0]
    assert size > 100
    # What looks like another end, in the numbers of this one.
    hidden[-14:-10] = b"PK\x05\x06"
    end = large.rfind(b"PK\x05\x06")
    large[end:end] = (
        b"PK\x06\x06"
        + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 3, 3, size, end - size)
        + b"PK\x06\x07"
        + struct.pack("<IQI", 0, end, 1)
    )
    struct.pack_into("<I", large, len(large) - 10, 0xFFFFFFFF)
    for content in (plain, large, hidden):
        with monkeypatch.context() as patch:
            patch.setattr(zipfile, "ZipFile", never)
            with pytest.raises(ParseError) as caught:
                list(files_of_archive(bytes(content), lambda _: True, Skipped()))
        assert caught.value.code == "too_large"


def test_an_archive_that_takes_too_long_is_given_up() -> None:
    content = zipped({"docs/a.md": bytes(9 * 1024**2)} | FILES)
    assert code_of(content, seconds=0.01) == "too_slow_source"


@pytest.mark.parametrize(
    "files",
    [
        [("docs/a.md", 5)],
        [("docs/a.md", 3), ("../b.md", 1)],
        [("docs/a.md", -1), ("docs/b.md", 5)],
        [("/etc/passwd", 4)],
    ],
    ids=["more", "outside", "negative", "absolute"],
)
def test_what_a_process_says_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, files: list[tuple[str, int]]
) -> None:
    """An archive that has taken over the process may write what it likes."""

    def ask(self: Child, *_: bytes) -> list[bytes]:
        assert isinstance(self, Child)
        return [LISTINGS.dump_json(Listing(files)), b"four"]

    monkeypatch.setattr(Child, "ask", ask)
    assert code_of(b"PK") == "crashed"


def test_an_answer_is_no_longer_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_reader, "Answers", lambda max_bytes: Answers((max_bytes[0], 10)))
    assert code_of(zipped(FILES)) == "crashed"
