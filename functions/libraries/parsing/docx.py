"""DOCX files: a zip archive, of which two parts are read, by expat, with nothing declared in them.

The archive is never unpacked to disk, and every part is read against a bound, whatever size it says
that it has.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from xml.parsers import expat

from functions.libraries.errors import ParseError
from functions.libraries.parsing.builder import Builder
from functions.libraries.parsing.docx_body import Body
from functions.libraries.parsing.docx_styles import Styles
from functions.libraries.parsing.limits import Limits

_ENTRIES = 10_000
_CHUNK = 65_536
_ENCRYPTED = 0x1  # of a zip entry's flags


def read(content: bytes, builder: Builder) -> None:
    """Add a file. Raises ParseError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check(archive, len(content), builder.limits)
            styles = Styles()
            if "word/styles.xml" in archive.namelist():
                _parse(archive, "word/styles.xml", styles.start, styles.end, limits=builder.limits)
            if "docProps/core.xml" in archive.namelist():
                _properties(archive, builder)
            body = Body(builder, styles)
            _parse(
                archive,
                "word/document.xml",
                body.start,
                body.end,
                text=body.text,
                limits=builder.limits,
            )
            body.close()
    except (zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, OSError, EOFError):
        raise ParseError("broken_file", "The DOCX file is broken.") from None
    except (expat.ExpatError, ValueError):
        raise ParseError("broken_file", "The DOCX file does not parse.") from None
    except RuntimeError:  # what zipfile says of a password
        raise ParseError("encrypted", "The DOCX file is encrypted.") from None


def _check(archive: zipfile.ZipFile, size: int, limits: Limits) -> None:
    entries = archive.infolist()
    if any(entry.flag_bits & _ENCRYPTED for entry in entries):
        raise ParseError("encrypted", "The DOCX file is encrypted.")
    unpacked = sum(entry.file_size for entry in entries)
    bound = min(limits.unpacked_bytes, max(limits.unpacked_ratio * size, 1_000_000))
    if len(entries) > _ENTRIES or unpacked > bound:
        raise _unpacks()


def _unpacks() -> ParseError:
    return ParseError("unpacks_to_too_much", "The DOCX file unpacks to too much.")


def _parse(
    archive: zipfile.ZipFile,
    name: str,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    *,
    text: Callable[[str], None] | None = None,
    limits: Limits,
) -> None:
    depth = 0

    def started(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > 2 * limits.depth:
            raise ParseError("too_deep", "Elements are nested too deeply.")
        start(tag, attributes)

    def ended(tag: str) -> None:
        nonlocal depth
        depth -= 1
        end(tag)

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = started
    parser.EndElementHandler = ended
    if text is not None:
        parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = _refused
    parser.EntityDeclHandler = _refused
    read = 0
    with archive.open(name) as part:
        while piece := part.read(_CHUNK):
            read += len(piece)
            if read > limits.unpacked_bytes:
                raise _unpacks()
            parser.Parse(piece, False)
    parser.Parse(b"", True)


def _refused(*_: object) -> None:
    # No word processor writes one; what entities unfold to has no bound.
    raise ParseError("xml_declarations", "The DOCX file declares a document type or entities.")


def _properties(archive: zipfile.ZipFile, builder: Builder) -> None:
    names = {"dc:title": "title", "dc:creator": "author", "dc:subject": "subject"}
    inside: list[str] = []
    found: dict[str, str] = {}

    def text(piece: str) -> None:
        name = names.get(inside[-1]) if inside else None
        if name:
            found[name] = (found.get(name, "") + piece)[:1_000]

    _parse(
        archive,
        "docProps/core.xml",
        lambda tag, _: inside.append(tag),
        lambda _: inside.clear() if len(inside) < 2 else inside.__delitem__(-1),
        text=text,
        limits=builder.limits,
    )
    builder.meta(found)
