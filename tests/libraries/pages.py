"""Files as people publish them, small; and files that nobody should publish."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import pytest

from functions.libraries.document import Block, Code, Document, Hidden
from functions.libraries.errors import ParseError
from functions.libraries.parsing import parse


def code_of(*arguments: Any, **named: Any) -> str:
    """The code of the ParseError that reading a file raises."""
    with pytest.raises(ParseError) as caught:
        parse(*arguments, **named)
    assert caught.value.message
    return caught.value.code


def shown(document: Document) -> str:
    """All that a reader of the page sees."""
    return "\n".join(block.text for block in document.blocks if block.text)


def hidden(document: Document) -> list[tuple[str, str]]:
    return [(b.reason, b.content) for b in document.blocks if isinstance(b, Hidden)]


def only(document: Document, kind: type[Block]) -> list[Any]:
    return [block for block in document.blocks if isinstance(block, kind)]


def codes(document: Document) -> list[tuple[str | None, str]]:
    return [(block.language, block.code) for block in only(document, Code)]


W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
STYLES = f"""<?xml version="1.0"?><w:styles xmlns:w="{W}">
<w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>
<w:style w:styleId="Mein2"><w:name w:val="Mein Abschnitt"/>
<w:pPr><w:outlineLvl w:val="1"/></w:pPr></w:style>
<w:style w:styleId="SourceCode"><w:name w:val="Source Code"/></w:style>
</w:styles>"""


def paragraph(text: str, style: str = "", properties: str = "", run: str = "") -> str:
    """A paragraph of a DOCX file with one run."""
    named = f'<w:pStyle w:val="{style}"/>' if style else ""
    return (
        f"<w:p><w:pPr>{named}{properties}</w:pPr>"
        f"<w:r><w:rPr>{run}</w:rPr><w:t>{text}</w:t></w:r></w:p>"
    )


def docx(body: str | bytes, *, before: str = "", **parts: str) -> bytes:
    """A DOCX file with this body; `before` stands before its root element."""
    inside = body if isinstance(body, bytes) else body.encode()
    document = (
        f'<?xml version="1.0"?>{before}<w:document xmlns:w="{W}"><w:body>'.encode()
        + inside
        + b"</w:body></w:document>"
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", document)
        archive.writestr("word/styles.xml", STYLES)
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


def pdf(pages: list[list[str]], *, title: str = "", outline: list[tuple[str, int]] = ()) -> bytes:  # type: ignore[assignment]
    """A PDF with these lines on its pages."""
    objects: list[bytes] = []

    def add(content: str | bytes) -> int:
        objects.append(content.encode("latin-1") if isinstance(content, str) else content)
        return len(objects)

    font = add("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    kids = []
    tree = len(pages) * 2 + 2  # the number that the page tree will have
    for lines in pages:
        text = " ".join(f"({line}) Tj 0 -20 Td" for line in lines)
        stream = f"BT /F1 12 Tf 72 760 Td {text} ET"
        content = add(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        kids.append(
            add(
                f"<< /Type /Page /Parent {tree} 0 R /MediaBox [0 0 612 792] "
                f"/Resources << /Font << /F1 {font} 0 R >> >> /Contents {content} 0 R >>"
            )
        )
    assert len(objects) + 1 == tree
    add(f"<< /Type /Pages /Kids [{' '.join(f'{k} 0 R' for k in kids)}] /Count {len(kids)} >>")
    catalog = f"<< /Type /Catalog /Pages {tree} 0 R"
    if outline:
        root = len(objects) + 1
        first, last = root + 1, root + len(outline)
        add(f"<< /Type /Outlines /First {first} 0 R /Last {last} 0 R /Count {len(outline)} >>")
        for at, (name, page) in enumerate(outline):
            following = f"/Next {first + at + 1} 0 R" if at + 1 < len(outline) else ""
            add(
                f"<< /Title ({name}) /Parent {root} 0 R {following} "
                f"/Dest [{kids[page]} 0 R /Fit] >>"
            )
        catalog += f" /Outlines {root} 0 R"
    top = add(catalog + " >>")
    info = add(f"<< /Title ({title}) >>")
    out, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n".encode() + content + b"\nendobj\n"
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{offset:010} 00000 n \n".encode() for offset in offsets)
    out += f"trailer\n<< /Size {len(objects) + 1} /Root {top} 0 R /Info {info} 0 R >>\n".encode()
    return out + f"startxref\n{start}\n%%EOF\n".encode()
