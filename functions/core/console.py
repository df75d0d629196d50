"""What commands print, and how they read their arguments."""

from __future__ import annotations

import argparse
import sys
from decimal import Decimal
from typing import TextIO, TypeAlias

from functions.core.json import Json

Rows: TypeAlias = list[dict[str, Json]]
BAR_CHARACTERS = 30


class CommandFailedError(Exception):
    """The command was carried out and the result is a failure; the message says which."""

    def __init__(self, message: str, details: dict[str, Json] | None = None) -> None:
        """`details`: what the message has no room for; shown with --json alone."""
        super().__init__(message)
        self.details = details


def fields(record: dict[str, Json]) -> str:
    """One line per member; members of members are indented."""
    width = max((len(name) for name in record), default=0)
    lines = []
    for name, value in record.items():
        if isinstance(value, dict):
            lines += [name, *(f"  {line}" for line in fields(value).splitlines())]
        else:
            lines.append(f"{name:<{width}}  {text(value)}".rstrip())
    return "\n".join(lines)


def table(rows: Rows, *columns: str) -> str:
    """Aligned columns under their names."""
    if not rows:
        return "(none)"
    lines = [list(columns), *([text(row.get(column)) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def text(value: object) -> str:
    """A value on one line."""
    if value is None:
        return "-"
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return " ".join(str(value).split())


def count(word: str) -> int:
    """A positive whole number. Raises ArgumentTypeError."""
    if not word.isdecimal() or int(word) == 0:
        raise argparse.ArgumentTypeError(f"{word!r} is not a positive whole number")
    return int(word)


class Progress:
    """How far a long command is: a bar on a terminal, a line per tenth elsewhere."""

    def __init__(self, what: str, total: int, to: TextIO | None = None) -> None:
        self._what = what
        self._total = total
        self._to = to or sys.stderr
        self._is_terminal = self._to.isatty()
        self._told = -1

    def show(self, done: int) -> None:
        """So many of the total are done."""
        share = min(done / self._total, 1.0) if self._total else 1.0
        counts = f"{done:,} of {self._total:,}"
        if self._is_terminal:
            filled = round(share * BAR_CHARACTERS)
            bar = "#" * filled + "-" * (BAR_CHARACTERS - filled)
            self._to.write(f"\r{self._what} [{bar}] {counts}")
            self._to.flush()
        elif int(share * 10) > self._told:
            self._told = int(share * 10)
            self._to.write(f"{self._what}: {counts}\n")
            self._to.flush()

    def end(self) -> None:
        """Nothing more comes; what is printed next begins on a line of its own."""
        if self._is_terminal:
            self._to.write("\n")
