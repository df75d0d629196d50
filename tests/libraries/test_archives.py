"""Archives: what is read of good ones, and how bad ones are bounded."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.libraries.errors import ParseError
from functions.libraries.sources import archives
from functions.libraries.sources.archives import files_of_archive
from functions.libraries.sources.files import Skipped, is_documentation, safe_path

FILES = {"docs/index.md": b"# Hello", "README.rst": b"Hello\n=====", "src/main.py": b"print()"}


def zipped(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(files: Mapping[str, bytes], kind: str = "gz", links: Mapping[str, str] = {}) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{kind}") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type = tarfile.SYMTYPE
            info.linkname = target
            archive.addfile(info)
    return out.getvalue()


def read(content: bytes, skipped: Skipped | None = None) -> dict[str, bytes]:
    counted = Skipped() if skipped is None else skipped
    return {
        file.path: file.content for file in files_of_archive(content, is_documentation, counted)
    }


def code_of(content: bytes) -> str | None:
    try:
        read(content)
    except ParseError as error:
        return error.code
    return None


@pytest.mark.parametrize("kind", ["zip", "tar", "gz", "bz2", "xz"])
@pytest.mark.parametrize("root", ["", "project-1.0/"])
def test_documentation_is_read_without_the_folder_that_all_lies_in(kind: str, root: str) -> None:
    files = {root + name: content for name, content in FILES.items()}
    content = zipped(files) if kind == "zip" else tarred(files, "" if kind == "tar" else kind)
    assert read(content) == {"docs/index.md": b"# Hello", "README.rst": b"Hello\n====="}


@pytest.mark.parametrize(
    "name",
    [
        "../up.md",
        "/etc/abs.md",
        "a/../../b.md",
        "C:/x.md",
        "a\\..\\b.md",
        "nul\x01.md",
        "",
        "a/" * 30,
    ],
    ids=["up", "absolute", "through", "drive", "backslashes", "control", "empty", "deep"],
)
def test_names_that_lead_elsewhere_are_passed_over(name: str) -> None:
    assert safe_path(name) is None
    skipped = Skipped()
    content = tarred({name: b"x", "docs/good.md": b"# Good"})
    assert list(read(content, skipped).values()) == [b"# Good"]
    assert skipped.counts.get("unsafe_name", 0) <= 1


def test_links_are_not_followed() -> None:
    skipped = Skipped()
    links = {"docs/passwd.md": "/etc/passwd", "docs/loop.md": "docs/loop.md"}
    assert read(tarred({"docs/a.md": b"# A"}, links=links), skipped) == {"a.md": b"# A"}
    assert skipped.counts == {"link": 2}


def test_a_small_file_that_unpacks_to_much_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 100_000)
    skipped = Skipped()
    content = zipped({"docs/bomb.md": b"\0" * 50_000_000, "docs/good.md": b"# Good"})
    assert len(content) < 100_000
    assert read(content, skipped) == {"good.md": b"# Good"}
    assert skipped.counts == {"too_large": 1}


@pytest.mark.parametrize("kind", ["zip", "gz"])
def test_all_together_are_bounded(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    files = {f"docs/{number:03}.md": b"word " * 20_000 for number in range(50)}
    content = zipped(files) if kind == "zip" else tarred(files)
    monkeypatch.setattr(archives._Room, "__init__", room_of(unpacked=1_000_000))
    skipped = Skipped()
    found = read(content, skipped)
    assert 5 <= len(found) <= 10
    assert sum(skipped.counts.values()) >= 1
    monkeypatch.setattr(archives._Room, "__init__", room_of(files=3))
    assert len(read(content, Skipped())) == 3
    monkeypatch.setattr(archives._Room, "__init__", room_of(kept=250_000))
    assert len(read(content, Skipped())) == 2


def room_of(unpacked: int = 10**9, kept: int = 10**9, files: int = 10**6):
    def init(self, *given: int) -> None:
        self.unpacked, self.kept, self.files = given or (unpacked, kept, files)

    return init


def test_an_archive_that_breaks_off_gives_what_came_before() -> None:
    files = {f"docs/{number}.md": bytes([65 + number]) * 40_000 for number in range(20)}
    whole = tarred(files, "")
    skipped = Skipped()
    found = read(whole[: len(whole) // 2], skipped)
    assert 5 < len(found) < 20
    assert skipped.counts == {"archive_broken": 1}


@pytest.mark.parametrize(
    "content",
    [b"", b"not an archive", b"PK\x03\x04 and no more", b"\x1f\x8b\x08broken", b"BZh9broken"],
    ids=["empty", "text", "zip", "gzip", "bzip"],
)
def test_what_is_none_is_refused_or_empty(content: bytes) -> None:
    assert code_of(content) in (None, "unreadable")


def test_one_that_is_too_large_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", 10)
    with pytest.raises(ParseError) as refused:
        read(zipped(FILES))
    assert refused.value.code == "too_large"


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(["zip", "tar", "gz"]))
def test_damage_raises_nothing_else(data: st.DataObject, kind: str) -> None:
    content = bytearray(
        zipped(FILES) if kind == "zip" else tarred(FILES, "" if kind == "tar" else kind)
    )
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    assert code_of(bytes(content)) in (None, "unreadable")


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("README.md", True),
        ("docs/guide/start.mdx", True),
        ("docs/api.txt", True),
        ("doc/source/index.rst", True),
        ("openapi.json", True),
        ("api/openapi.v1.yaml", True),
        ("notebooks/tour.ipynb", True),
        ("requirements.txt", False),
        ("package.json", False),
        ("LICENSE", False),
        ("CODE_OF_CONDUCT.md", False),
        ("tests/fixtures/page.md", False),
        ("node_modules/x/README.md", False),
        ("src/main.py", False),
        ("docs/logo.png", False),
        (".github/ISSUE_TEMPLATE.md", False),
    ],
)
def test_what_is_documentation_is_told_by_its_path(path: str, wanted: bool) -> None:
    assert is_documentation(path) is wanted
