"""DOCX files: what Word shows, and archives that are made to harm."""

from __future__ import annotations

import io
import zipfile

import pytest

from functions.libraries.document import Heading, ListBlock, Position, Table
from functions.libraries.parsing import parse
from tests.libraries.pages import W, code_of, codes, docx, hidden, only, paragraph, shown

LIST = '<w:numPr><w:ilvl w:val="{}"/><w:numId w:val="1"/></w:numPr>'
TABLE = (
    "<w:tbl><w:tr><w:tc>{}</w:tc><w:tc>{}</w:tc></w:tr><w:tr><w:tc>{}</w:tc><w:tc>{}</w:tc></w:tr></w:tbl>"
).format(*(paragraph(text) for text in ("Name", "Value", "a", "1")))
CORE = (
    '<cp:coreProperties xmlns:cp="c" xmlns:dc="d"><dc:title>Report</dc:title>'
    "<dc:creator>Ada</dc:creator></cp:coreProperties>"
)
BODY = "".join(
    [
        paragraph("Übersicht", "berschrift1"),
        paragraph("Some &lt;text&gt;."),
        paragraph("Ein Abschnitt", "Mein2"),
        paragraph("one", properties=LIST.format(0)),
        paragraph("deeper", properties=LIST.format(1)),
        paragraph("x = 1", "SourceCode"),
        paragraph("y = 2", "SourceCode"),
        TABLE,
        paragraph("Anhang", "Heading3"),
        "<w:p><w:r><w:t>kept</w:t></w:r><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del></w:p>",
    ]
)


def test_a_document_is_read_by_its_styles() -> None:
    document = parse(docx(BODY, **{"docProps/core.xml": CORE}), name="a.docx")
    assert document.title == "Report"
    assert document.metadata["author"] == "Ada"
    assert [(h.level, h.title, h.position) for h in only(document, Heading)] == [
        (1, "Übersicht", Position(element=1)),
        (2, "Ein Abschnitt", Position(element=3)),
        (3, "Anhang", Position(element=12)),
    ]
    assert "Some <text>." in shown(document)
    assert codes(document) == [(None, "x = 1\ny = 2")]
    assert [b.text for b in only(document, ListBlock)] == ["- one\n  - deeper"]
    assert [b.rows for b in only(document, Table)] == [(("Name", "Value"), ("a", "1"))]
    assert "deleted" not in shown(document)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param("<w:vanish/>", id="vanish"),
        pytest.param('<w:color w:val="FFFFFF"/>', id="white"),
        pytest.param('<w:sz w:val="2"/>', id="tiny"),
    ],
)
def test_hidden_text_is_kept_apart(run: str) -> None:
    document = parse(docx(paragraph("seen") + paragraph("unseen", run=run)), name="a.docx")
    assert shown(document) == "seen"
    assert hidden(document) == [("hidden_text", "unseen")]


def test_a_run_that_is_not_hidden_after_all_is_text() -> None:
    run = '<w:vanish w:val="0"/><w:color w:val="112233"/><w:sz w:val="24"/>'
    assert shown(parse(docx(paragraph("seen", run=run)), name="a.docx")) == "seen"


def test_entities_are_refused_before_they_unfold() -> None:
    lines = ['<!ENTITY a "lol">'] + [
        f'<!ENTITY {c} "{f"&{p};" * 10}">' for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    bomb = docx(paragraph("&i;"), before=f"<!DOCTYPE x [{''.join(lines)}]>")
    assert code_of(bomb, name="a.docx") == "xml_declarations"


def test_no_entity_reads_a_file() -> None:
    before = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>'
    assert code_of(docx(paragraph("&f;"), before=before), name="a.docx") == "xml_declarations"


def test_a_zip_bomb_is_refused_by_what_it_says() -> None:
    bomb = docx(BODY, **{"word/media/a.bin": "\0" * 150_000_000})
    assert len(bomb) < 1_000_000
    assert code_of(bomb, name="a.docx") == "unpacks_to_too_much"


def test_a_zip_bomb_that_lies_about_its_size_is_refused() -> None:
    honest = docx(f"<!--{' ' * 120_000_000}-->")
    with zipfile.ZipFile(io.BytesIO(honest)) as archive:
        size = archive.getinfo("word/document.xml").file_size.to_bytes(4, "little")
    assert honest.count(size) >= 1
    lying = honest.replace(size, (5_000).to_bytes(4, "little"))
    assert code_of(lying, name="a.docx") == "broken_file"


def test_elements_without_end_are_refused() -> None:
    deep = "<w:sdt>" * 5_000 + "</w:sdt>" * 5_000
    assert code_of(docx(deep), name="a.docx") == "too_deep"


def test_an_archive_that_is_no_document_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("word/other.xml", "<x/>")
    assert code_of(out.getvalue(), name="a.docx") == "broken_file"


def test_a_broken_archive_is_refused() -> None:
    whole = docx(BODY)
    for length in range(40, len(whole), 61):
        assert code_of(whole[:length], name="a.docx") == "broken_file"


def test_broken_xml_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("word/document.xml", f'<w:document xmlns:w="{W}"><w:p>')
    assert code_of(out.getvalue(), name="a.docx") == "broken_file"


def test_an_encrypted_file_is_refused() -> None:
    assert code_of(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, name="a.docx") == "encrypted"
