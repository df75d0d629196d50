"""Which format a file has: by its first bytes, its name, its media type, or what it begins with."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import PurePosixPath

from functions.libraries.errors import ParseError


class Format(StrEnum):
    """What can be read; each is a module beside this one."""

    MARKDOWN = "markdown"
    RST = "rst"
    HTML = "html"
    ASCIIDOC = "asciidoc"
    NOTEBOOK = "notebook"
    OPENAPI = "openapi"
    TEXT = "text"
    PDF = "pdf"
    DOCX = "docx"


IS_BINARY = frozenset({Format.PDF, Format.DOCX})

_SUFFIXES = {
    ".md": Format.MARKDOWN,
    ".markdown": Format.MARKDOWN,
    ".mdown": Format.MARKDOWN,
    ".mkd": Format.MARKDOWN,
    ".mdx": Format.MARKDOWN,
    ".rst": Format.RST,
    ".rest": Format.RST,
    ".html": Format.HTML,
    ".htm": Format.HTML,
    ".xhtml": Format.HTML,
    ".adoc": Format.ASCIIDOC,
    ".asciidoc": Format.ASCIIDOC,
    ".asc": Format.ASCIIDOC,
    ".ipynb": Format.NOTEBOOK,
    ".txt": Format.TEXT,
    ".text": Format.TEXT,
    ".pdf": Format.PDF,
    ".docx": Format.DOCX,
}
_TYPES = {
    "text/markdown": Format.MARKDOWN,
    "text/x-markdown": Format.MARKDOWN,
    "text/mdx": Format.MARKDOWN,
    "text/x-rst": Format.RST,
    "text/prs.fallenstein.rst": Format.RST,
    "text/html": Format.HTML,
    "application/xhtml+xml": Format.HTML,
    "text/asciidoc": Format.ASCIIDOC,
    "text/x-asciidoc": Format.ASCIIDOC,
    "application/x-ipynb+json": Format.NOTEBOOK,
    "application/vnd.oai.openapi": Format.OPENAPI,
    "application/vnd.oai.openapi+json": Format.OPENAPI,
    "application/pdf": Format.PDF,
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": Format.DOCX,
}
_HTML_START = re.compile(
    r"\s{0,64}(?:<\?xml[^>]{0,200}>\s{0,64})?<(?:!doctype html|html)\b", re.IGNORECASE
)
_OPENAPI_START = re.compile(
    r"""(?:^|[\s{,])["']?(?:openapi["']?\s{0,9}:\s{0,9}["']?3\.|swagger["']?\s{0,9}:\s{0,9}["']?2\.)"""
)
_OLE = b"\xd0\xcf\x11\xe0"  # what Office wraps an encrypted file in, and .doc files are
_NOTEBOOK = re.compile(r'"nbformat"\s{0,9}:')
_RST_SIGN = re.compile(r"^\.\. [\w:-]{1,40}::|^[^\s].{0,80}\n(?:={3,}|-{3,}|~{3,})$", re.MULTILINE)
_MARKDOWN_SIGN = re.compile(r"^#{1,6} \S|^```", re.MULTILINE)


def detect(content: bytes, name: str = "", media_type: str | None = None) -> Format:
    """The format of a file.

    Raises ParseError (`unsupported_format`) for one that is not read here.
    """
    if b"%PDF-" in content[:1_024]:
        return Format.PDF
    if content.startswith(b"PK\x03\x04"):
        if b"word/" in content or name.lower().endswith(".docx"):
            return Format.DOCX
        raise ParseError("unsupported_format", "An archive is no document.")
    if content.startswith(_OLE):
        raise ParseError("encrypted", "The file is encrypted, or older than DOCX.")
    path = PurePosixPath(name.lower().replace("\\", "/"))
    if path.name in {"llms.txt", "llms-full.txt"}:
        return Format.MARKDOWN  # llmstxt.org says so
    claimed = _SUFFIXES.get(path.suffix) or _TYPES.get((media_type or "").split(";")[0].strip())
    if claimed in IS_BINARY:
        raise ParseError("broken_file", f"The file is no {claimed}.")
    return claimed or _looked_at(content, path.suffix)


def _looked_at(content: bytes, suffix: str) -> Format:
    """By the text itself: JSON and YAML are many things, and a README may have no suffix."""
    head = content[:65_536].decode("utf-8", "replace")
    if suffix in {".json", ".yaml", ".yml", ""} and _OPENAPI_START.search(head):
        return Format.OPENAPI
    if suffix in {".json", ".yaml", ".yml"}:
        if suffix == ".json" and _NOTEBOOK.search(
            head + content[-4_096:].decode("utf-8", "replace")
        ):
            return Format.NOTEBOOK
        raise ParseError(
            "unsupported_format", "JSON and YAML are read as OpenAPI, and this is none."
        )
    if suffix not in {"", ".in", ".me"}:
        raise ParseError("unsupported_format", "Files of this kind are not read.")
    if _HTML_START.match(head):
        return Format.HTML
    if _RST_SIGN.search(head) and not _MARKDOWN_SIGN.search(head):
        return Format.RST
    return Format.MARKDOWN if _MARKDOWN_SIGN.search(head) else Format.TEXT
