"""PDF files, read with pypdf: text by page, headings where the outline names them."""

from __future__ import annotations

import io
import logging
import re
from typing import Any

from pypdf import PdfReader
from pypdf.errors import DependencyError, FileNotDecryptedError, LimitReachedError, PyPdfError

from functions.libraries.document import Position
from functions.libraries.errors import ParseError
from functions.libraries.parsing.builder import Builder

# It says of every broken file what is broken, for those who write PDF.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)

_OUTLINE = 5_000  # entries
_HYPHEN = re.compile(r"(\w)[-\u2010\u00ad]\n(?=[a-z])")
_END = re.compile(r"[.:;!?]\Z")
_FAULTS = (
    PyPdfError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,  # RecursionError among them
    TypeError,
    ValueError,
)


def read(content: bytes, builder: Builder) -> None:
    """Add a file. Raises ParseError. Pages that do not read are left out."""
    try:
        reader = PdfReader(io.BytesIO(content), strict=False)
        _open(reader)
        count = len(reader.pages)
        builder.meta(_metadata(reader))
        titles = _titles(reader)
    except LimitReachedError:
        raise _unpacks() from None
    except (FileNotDecryptedError, DependencyError):
        raise ParseError("encrypted", "The PDF is encrypted.") from None
    except _FAULTS:
        raise ParseError("broken_file", "The PDF does not parse.") from None
    if count > builder.limits.pages:
        builder.warn("pages_left_out")
    for number in range(min(count, builder.limits.pages)):
        try:
            text = reader.pages[number].extract_text()
        except LimitReachedError:
            raise _unpacks() from None
        except _FAULTS:
            builder.warn("pages_left_out")
            continue
        _page(text, number + 1, titles, builder)
    if not builder.blocks:
        raise ParseError("no_text", "The PDF holds no text; it may be a scan.")


def _open(reader: PdfReader) -> None:
    """Many files are encrypted so that nobody changes them, and open with no password."""
    if reader.is_encrypted and not reader.decrypt(""):
        raise ParseError("encrypted", "The PDF opens with a password only.")


def _unpacks() -> ParseError:
    return ParseError("unpacks_to_too_much", "A stream of the PDF unpacks to too much.")


def _metadata(reader: PdfReader) -> dict[str, object]:
    found = reader.metadata
    if found is None:
        return {}
    return {"title": found.title, "author": found.author, "subject": found.subject}


def _titles(reader: PdfReader) -> dict[str, int]:
    """Titles of the outline, as they are compared, and how deep each is."""
    titles: dict[str, int] = {}
    pending: list[tuple[Any, int]] = [(entry, 1) for entry in reversed(reader.outline)]
    while pending and len(titles) < _OUTLINE:
        entry, level = pending.pop()
        if isinstance(entry, list):
            pending += [(inner, level + 1) for inner in reversed(entry[:_OUTLINE])]
        elif isinstance(getattr(entry, "title", None), str):
            titles.setdefault(_compared(entry.title), level)
    titles.pop("", None)
    return titles


def _page(text: str, page: int, titles: dict[str, int], builder: Builder) -> None:
    position = Position(page=page)
    lines: list[str] = []
    text = _HYPHEN.sub(r"\1", text.replace("\r", "\n"))
    text_lines = [line.rstrip() for line in text.split("\n")]
    widest = max((len(line) for line in text_lines), default=0)
    for line in [*text_lines, ""]:
        level = titles.get(_compared(line)) if titles and line else None
        if level is not None or not line.strip():
            builder.paragraph(" ".join(lines), position)
            lines = []
            if level is not None:
                builder.heading(level, line, position)
            continue
        lines.append(line.strip())
        # A short line that ends a sentence ends the paragraph.
        if len(line) < widest * 0.7 and _END.search(line):
            builder.paragraph(" ".join(lines), position)
            lines = []


def _compared(title: str) -> str:
    return " ".join(title.lower().split())
