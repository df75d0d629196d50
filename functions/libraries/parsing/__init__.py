"""Files of many formats, read into one model. See docs/libraries.md."""

from __future__ import annotations

import importlib
from pathlib import PurePosixPath
from typing import Any

from functions.core.errors import OperatorError
from functions.libraries.document import Document
from functions.libraries.errors import ParseError
from functions.libraries.parsing.builder import Builder
from functions.libraries.parsing.decoding import decode
from functions.libraries.parsing.formats import IS_BINARY, Format, detect
from functions.libraries.parsing.limits import DEFAULT, Limits

__all__ = ["parse"]


def parse(
    content: bytes,
    *,
    name: str = "",
    media_type: str | None = None,
    charset: str | None = None,
    limits: Limits = DEFAULT,
) -> Document:
    """Read a file. `name` is its path; `media_type` and `charset` are what was said of it.

    It may take long over a hostile file: `isolation.ParserProcess` gives it seconds and memory.
    Raises ParseError, and OperatorError where the extra `libraries` is not installed.
    """
    if not content.strip():
        raise ParseError("empty", "The file is empty.")
    if len(content) > limits.file_bytes:
        raise _too_large()
    kind = detect(content, name, media_type)
    builder = Builder(limits)
    encoding: str | None = None
    module = _module(kind)
    if kind in IS_BINARY:
        module.read(content, builder)
    else:
        if len(content) > limits.text_bytes:
            raise _too_large()
        text, encoding = decode(content, charset)
        if kind is Format.MARKDOWN:
            module.read(text, builder, name=name)
        else:
            module.read(text, builder)
    return builder.document(kind, name=PurePosixPath(name).stem, encoding=encoding)


def _too_large() -> ParseError:
    return ParseError("too_large", "The file is too large.")


def _module(kind: Format) -> Any:  # noqa: ANN401 - a module
    # Only where something is read: the web app does without these libraries.
    try:
        return importlib.import_module(f"functions.libraries.parsing.{kind.value}")
    except ImportError:
        raise OperatorError(
            "parsers_missing", "Documentation needs its parsers: pip install 'quernel[libraries]'."
        ) from None
