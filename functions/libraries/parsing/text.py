"""Plain text: paragraphs between blank lines."""

from __future__ import annotations

import re

from functions.libraries.document import Position
from functions.libraries.parsing.builder import Builder

_BULLET = re.compile(r"[ \t]{0,20}(?:[-*•]|\d{1,3}[.)])[ \t]+\S")


def read(text: str, builder: Builder) -> None:
    """Add a file. Lines of a paragraph stay lines where they are the items of a list."""
    paragraph: list[str] = []
    begin = 1
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip():
            if not paragraph:
                begin = number
            paragraph.append(line.rstrip())
        elif paragraph:
            _add(paragraph, Position(line=begin), builder)
            paragraph = []


def _add(lines: list[str], position: Position, builder: Builder) -> None:
    if all(line.startswith(("    ", "\t")) for line in lines):
        cut = min(len(line) - len(line.lstrip()) for line in lines)
        builder.code("\n".join(line[cut:] for line in lines), position)
    elif any(_BULLET.match(line) for line in lines):
        builder.paragraph("\n".join(lines), position)
    else:
        builder.paragraph(" ".join(line.strip() for line in lines), position)
