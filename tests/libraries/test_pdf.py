"""PDF files: text by page, and files that are broken, locked or made to unfold."""

from __future__ import annotations

import contextlib
import io
import zlib

import pypdf

from functions.libraries.chunking import chunk
from functions.libraries.document import Heading, Position
from functions.libraries.errors import ParseError
from functions.libraries.parsing import parse
from functions.libraries.parsing.limits import Limits
from tests.libraries.pages import code_of, only, pdf, shown

MANUAL = pdf(
    [
        [
            "Introduction",
            "This manual says how the ma-",
            "chine is used, at length.",
            "Short end.",
            "Next one",
        ],
        ["Safety", "Keep your hands away."],
    ],
    title="The Manual",
    outline=[("Introduction", 0), ("Safety", 1)],
)


def test_text_is_read_by_page_with_headings_of_the_outline() -> None:
    document = parse(MANUAL, name="manual.pdf")
    assert document.title == "The Manual"
    assert document.encoding is None
    assert [(h.title, h.level, h.position) for h in only(document, Heading)] == [
        ("Introduction", 1, Position(page=1)),
        ("Safety", 1, Position(page=2)),
    ]
    assert "how the machine is used" in shown(document)
    assert document.blocks[-1].position == Position(page=2)


def test_chunks_of_a_pdf_say_their_page() -> None:
    chunks = chunk(parse(MANUAL), source_url="https://x.test/m.pdf")
    assert [c.position.page for c in chunks] == [1]
    assert chunks[0].source_url == "https://x.test/m.pdf#page=1"


def locked(password: str) -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(MANUAL))
    writer.encrypt(password, "owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_a_file_with_a_password_is_refused() -> None:
    assert code_of(locked("open sesame"), name="a.pdf") == "encrypted"


def test_a_file_that_is_only_locked_against_changes_is_read() -> None:
    assert "Keep your hands away." in shown(parse(locked(""), name="a.pdf"))


def test_a_broken_file_is_refused() -> None:
    assert code_of(b"%PDF-1.4\n%%EOF", name="a.pdf") == "broken_file"
    assert code_of(b"%PDF-1.7\n" + bytes(range(256)) * 40, name="a.pdf") == "broken_file"


def test_a_cut_off_file_is_refused_or_read_as_far_as_it_goes() -> None:
    for length in range(100, len(MANUAL), 97):
        with contextlib.suppress(ParseError):  # and nothing else
            assert parse(MANUAL[:length], name="a.pdf").blocks != ()


def with_stream(data: bytes) -> bytes:
    """The manual, whose first page is this compressed stream."""
    start = MANUAL.index(b"<< /Length")
    end = MANUAL.index(b"endstream") + len(b"endstream")
    stream = b"<< /Filter /FlateDecode /Length %d >>\nstream\n%b\nendstream" % (len(data), data)
    return MANUAL[:start] + stream + MANUAL[end:]


def test_a_stream_that_unpacks_to_gigabytes_is_refused() -> None:
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(b" " * 10_000_000) for _ in range(30)) + packer.flush()
    assert len(bomb) < 1_000_000
    assert code_of(with_stream(bomb), name="a.pdf") == "unpacks_to_too_much"


def test_a_scan_without_text_is_refused() -> None:
    assert code_of(pdf([[""]]), name="a.pdf") == "no_text"


def test_pages_over_the_limit_are_left_out() -> None:
    document = parse(pdf([[f"Page {n}."] for n in range(5)]), limits=Limits(pages=2))
    assert document.warnings == ("pages_left_out",)
    assert {block.position.page for block in document.blocks} == {1, 2}
