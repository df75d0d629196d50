"""Files that are not what they are said to be, and files that nobody should have."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any

import pytest

from functions.core.settings import SettingsError, load_settings
from functions.documents.inspection import DOCX, EICAR, PDF, inspect
from functions.documents.scanning import PIECE_BYTES, ScanError, scan
from functions.libraries.errors import ParseError
from functions.tasks.context import TaskRetryError
from local.paths import ROOT
from tests.chat.conftest import wait_for
from tests.documents.clamd import MARK, clamd
from tests.documents.conftest import Author, NewAuthor
from tests.documents.test_indexing import TEXT, Worker, put, row, worker
from tests.libraries.pages import pdf
from tests.libraries.test_docs import strings_of

__all__ = ["worker"]
pytestmark = pytest.mark.anyio

TEXTS = [
    "text/plain",
    "text/markdown",
    "text/html",
    "text/csv",
    "text/x-rst",
    "text/asciidoc",
    "application/json",
    "application/yaml",
    "application/x-ipynb+json",
]
EXE = b"MZ\x90\x00" + b"\x00" * 60 + b"PE\x00\x00" + b"\x00" * 100


def zipped(name: str = "word/document.xml") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, "<w:document/>")
    return out.getvalue()


PROGRAMS = {
    "windows": EXE,
    "linux": b"\x7fELF\x02\x01\x01" + b"\x00" * 60,
    "macos": b"\xcf\xfa\xed\xfe" + b"\x00" * 60,
    "macos-of-two-machines": b"\xca\xfe\xba\xbe\x00\x00\x00\x02",
    "java": b"\xca\xfe\xba\xbe\x00\x00\x00\x34",
    "android": b"dex\n035\x00",
    "webassembly": b"\x00asm\x01\x00\x00\x00",
    "shortcut": b"L\x00\x00\x00\x01\x14\x02\x00\x00",
    "eicar": EICAR,
    "eicar-in-a-text": b"\xef\xbb\xbf \r\n" + EICAR + b"\r\n",
}
OTHERS = {
    "zip": zipped(),
    "empty-zip": b"PK\x05\x06" + b"\x00" * 18,
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "bzip2": b"BZh91AY&SY\x00\x00",
    "xz": b"\xfd7zXZ\x00\x00",
    "seven-zip": b"7z\xbc\xaf\x27\x1c\x00\x04",
    "rar": b"Rar!\x1a\x07\x01\x00",
    "office": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "rtf": b"{\\rtf1\\ansi hello}",
    "png": b"\x89PNG\r\n\x1a\n\x00\x00",
    "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "gif": b"GIF89a\x01\x00",
    "sqlite": b"SQLite format 3\x00\x10\x00",
}


def code_of(content: bytes, mime_type: str) -> str | None:
    try:
        inspect(content, mime_type)
    except ParseError as error:
        return error.code
    return None


@pytest.mark.parametrize("content", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_what_is_there_to_be_run_is_refused(content: bytes) -> None:
    assert {code_of(content, name) for name in (*TEXTS, PDF, DOCX)} == {"document_refused"}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS.keys())
def test_another_file_under_the_name_of_a_text_is_refused(content: bytes) -> None:
    assert {code_of(content, name) for name in TEXTS} == {"type_mismatch"}
    assert code_of(content, PDF) == "type_mismatch"


def test_a_pdf_is_none_but_a_pdf_and_a_docx_none_but_a_zip() -> None:
    assert code_of(pdf([["hello"]]), PDF) is None
    assert code_of(b"\r\n%PDF-1.7\n", PDF) is None
    assert code_of(b" " * 1024 + b"%PDF-1.7\n", PDF) == "type_mismatch"
    assert code_of(b"hello", PDF) == "type_mismatch"
    assert code_of(zipped(), DOCX) is None
    assert code_of(pdf([["hello"]]), DOCX) == "type_mismatch"
    assert code_of(OTHERS["office"], DOCX) == "type_mismatch"
    assert code_of(b"hello", DOCX) == "type_mismatch"
    assert {code_of(pdf([["hello"]]), name) for name in TEXTS} == {"type_mismatch"}


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        b"",
        b"MZ is how programs of DOS begin, after Mark Zbikowski. This is a text about them.",
        b"PK is short for Phil Katz.",
        b"BZh is how bzip2 begins.",
        b"#!/bin/sh\necho hello\n",
        b"The test file of scanners is " + EICAR,
        "Größe".encode("utf-16"),
        "Größe".encode("latin-1"),
    ],
    ids=["text", "nothing", "mz", "pk", "bzh", "script", "about-eicar", "utf-16", "latin-1"],
)
def test_texts_are_texts(content: bytes) -> None:
    assert {code_of(content, name) for name in TEXTS} == {None}


LIES = {
    "program": ((EXE, "invoice.pdf", PDF), "document_refused"),
    "eicar": ((EICAR, "notes.txt", "text/plain"), "document_refused"),
    "zip": ((zipped("a.txt"), "notes.txt", "text/plain"), "type_mismatch"),
    "text": ((TEXT, "notes.pdf", PDF), "type_mismatch"),
}


@pytest.mark.parametrize(("file", "code"), LIES.values(), ids=LIES.keys())
async def test_a_file_that_lies_ends_failed(
    new_author: NewAuthor, worker: Worker, file: tuple[bytes, str, str], code: str
) -> None:
    author = new_author()
    document_id = put(author, *file)
    assert await worker.index(document_id) == {"result": "failed", "code": code}
    found = row(author, document_id)
    assert (found["state"], found["error_code"], found["chunk_count"]) == ("failed", code, 0)
    if code == "type_mismatch":
        assert stored(author, found["storage_path"])
        assert author.uploaded(document_id).is_success
    else:
        wait_for(lambda: not stored(author, found["storage_path"]), 30)
        assert "document_not_uploaded" in author.uploaded(document_id).text


def stored(author: Author, path: str) -> bool:
    here = "select from storage.objects where bucket_id = 'documents' and name = %s"
    return bool(author.shelf.rows(here, path))


# Virus scans -------------------------------------------------------------------------------------


async def test_a_scanner_is_sent_the_whole_file() -> None:
    async with clamd() as double:
        for size in (0, 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES):
            content = bytes(size)
            assert await scan(*double.place, content) is None
            assert double.seen.pop() == content
        assert await scan(*double.place, bytes(PIECE_BYTES) + MARK) == "Test.Malware-1"


@pytest.mark.parametrize("mode", ["hangs-up", "limits", "errs", "cuts", "mumbles", "two", "talks"])
async def test_what_is_no_result_is_none(mode: str) -> None:
    async with clamd(mode) as double:
        with pytest.raises(ScanError):
            await scan(*double.place, bytes(2_000_000))


async def test_nobody_waits_for_a_scanner_for_ever() -> None:
    async with clamd("sleeps") as double:
        with pytest.raises(ScanError):
            await scan(*double.place, b"hello", seconds=0.2)
        assert double.seen == [b"hello"]
    with pytest.raises(ScanError):
        await scan("127.0.0.1", 9, b"hello")


async def test_an_infected_file_is_deleted_and_a_clean_one_indexed(
    new_author: NewAuthor, worker: Worker
) -> None:
    author = new_author()
    async with clamd() as double:
        bad = put(author, b"# Rules\n\n" + MARK, "bad.md", "text/markdown")
        done = await worker.index(bad, clamd_address=double.address)
        assert done == {"result": "failed", "code": "infected"}
        good = put(author, TEXT, "good.md", "text/markdown")
        assert (await worker.index(good, clamd_address=double.address))["result"] == "ready"
        assert double.seen[-1] == TEXT
    found = row(author, bad)
    assert (found["state"], found["error_code"]) == ("failed", "infected")
    assert "Test.Malware" not in found["error_message"]
    wait_for(lambda: not stored(author, found["storage_path"]), 30)
    assert stored(author, row(author, good)["storage_path"])
    assert "malware" not in str(author.search("this is malware"))


@pytest.mark.parametrize("mode", ["errs", "hangs-up", "limits"])
async def test_a_scan_that_fails_is_tried_again(
    new_author: NewAuthor, worker: Worker, mode: str
) -> None:
    author = new_author()
    document_id = put(author, TEXT, "rules.md", "text/markdown")
    async with clamd(mode) as double:
        with pytest.raises(TaskRetryError):
            await worker.index(document_id, clamd_address=double.address)
    found = row(author, document_id)
    assert (found["state"], found["chunk_count"]) == ("indexing", 0)
    async with clamd() as double:
        done = await worker.index(document_id, clamd_address=double.address)
    assert done["result"] == "ready"


async def test_without_a_scanner_nothing_is_scanned(new_author: NewAuthor, worker: Worker) -> None:
    author = new_author()
    document_id = put(author, b"# Rules\n\n" + MARK, "rules.md", "text/markdown")
    assert (await worker.index(document_id))["result"] == "ready"
    assert (await worker.index(document_id))["result"] == "over"


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("clamd.internal:3310", ("clamd.internal", 3310)),
        ("127.0.0.1:3310", ("127.0.0.1", 3310)),
        ("[::1]:3310", ("::1", 3310)),
        ("  ", None),
    ],
    ids=["name", "ipv4", "ipv6", "blank"],
)
def test_an_address_is_a_host_and_a_port(
    monkeypatch: pytest.MonkeyPatch, address: str, place: Any
) -> None:
    monkeypatch.setenv("QUERNEL_CLAMD_ADDRESS", address)
    assert load_settings().clamd == place


@pytest.mark.parametrize(
    "address",
    ["clamd", "clamd:", ":3310", "tcp://clamd:3310", "a b:1", "clamd:99999", "clamd:0"],
    ids=["no-port", "empty-port", "no-host", "scheme", "space", "high", "zero"],
)
def test_what_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("QUERNEL_CLAMD_ADDRESS", address)
    with pytest.raises(SettingsError, match="QUERNEL_CLAMD_ADDRESS"):
        load_settings()


def test_every_code_is_listed_and_no_other() -> None:
    page = (ROOT / "docs" / "search.md").read_text()
    section = page.split("\n### Files that are refused\n")[1].split("\n#")[0]
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE))
    sources = sorted((ROOT / "functions" / "documents").glob("*.py"))
    raised = set().union(*(strings_of(path, "ParseError") for path in sources))
    assert {"infected", "type_mismatch"} <= raised
    assert listed == raised - {"empty", "no_text"}
