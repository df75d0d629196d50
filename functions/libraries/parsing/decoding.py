"""Bytes to text: by a byte-order mark, by what is declared, as UTF-8, as what Windows writes.

What fits none of them is refused: a guess would be indexed as gibberish.
"""

from __future__ import annotations

import codecs
import re

from functions.libraries.errors import ParseError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# Python has codecs that are no charsets (zip, idna, unicode_escape), and utf-7 hides text.
_CHARSET = re.compile(
    r"(?:utf-?(?:8|16|32)(?:-?[lb]e)?|us-ascii|ascii|iso-?8859-?\d\d?|latin-?\d\d?|"
    r"(?:windows|cp)-?\d{3,4}|koi8-?[rut]|shift[_-]?jis|sjis|euc-?(?:jp|kr|cn)|iso-?2022-?jp|"
    r"big5(?:-?hkscs)?|gb2312|gbk|gb18030|mac-?roman|tis-?620)\Z"
)
_META = re.compile(
    rb"""<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}["']?([A-Za-z0-9_:.-]{1,40})""", re.IGNORECASE
)
_XML = re.compile(
    rb"""<\?xml[^>]{0,100}?encoding\s{0,9}=\s{0,9}["']([A-Za-z0-9_.-]{1,40})""", re.IGNORECASE
)

# Controls that no text has. A form feed separates pages; ESC starts the colours of terminals.
_BINARY = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_SAMPLE = 65_536  # characters


def decode(content: bytes, declared: str | None = None) -> tuple[str, str]:
    """The text, with line ends as LF, and its encoding. Raises ParseError."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _text(_decoded(content[len(mark) :], encoding)), encoding
    inside, guessed = _declared_inside(content), _without_mark(content)
    candidates = (declared, inside, "utf-8", guessed, "cp1252")
    for candidate in candidates:
        charset = _charset(candidate)
        if charset is None:
            continue
        try:
            text = content.decode(charset)
        except UnicodeError:
            continue
        if _looks_like_text(text):
            return _text(text), charset
    raise (
        _binary()
        if b"\x00" in content
        else ParseError("undecodable", "The text is in no encoding that is declared or known here.")
    )


def _decoded(content: bytes, encoding: str) -> str:
    try:
        text = content.decode(encoding)
    except UnicodeError:
        raise ParseError(
            "undecodable", f"The text begins as {encoding} and does not go on so."
        ) from None
    if not _looks_like_text(text):
        raise _binary()
    return text


def _binary() -> ParseError:
    return ParseError("binary", "The file holds no text.")


def _charset(name: str | None) -> str | None:
    """Python's name of a charset; None where there is none."""
    if name is None or not _CHARSET.match(name.strip().lower()):
        return None
    try:
        found = codecs.lookup(name.strip()).name
    except LookupError:
        return None
    # Browsers read what says Latin-1 or ASCII as what Windows writes.
    return "cp1252" if found in {"iso8859-1", "ascii"} else found


def _declared_inside(content: bytes) -> str | None:
    head = content[:2_048]
    found = _XML.search(head) or _META.search(head)
    return found.group(1).decode("ascii") if found else None


def _without_mark(content: bytes) -> str | None:
    """UTF-16 of mostly Latin text has a zero in every second byte."""
    sample = content[:2_048]
    if len(sample) < 4 or len(content) % 2:
        return None
    pairs = len(sample) // 2
    if sample[1::2].count(0) > pairs * 0.7:
        return "utf-16-le"
    if sample[0::2].count(0) > pairs * 0.7:
        return "utf-16-be"
    return None


def _looks_like_text(text: str) -> bool:
    """A stray control is taken out later; many of them are a file of another kind."""
    sample = text[:_SAMPLE]
    return len(_BINARY.findall(sample)) * 50 <= len(sample)


def _text(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
