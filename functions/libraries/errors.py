"""What keeps a file from being read.

It is kept with the page that it concerns, and nobody is answered with it; docs/libraries.md lists
the codes.
"""

from __future__ import annotations


class ParseError(Exception):
    """A file that is not read. `code` is stable snake_case; `message` holds nothing of the file."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class SourceError(ParseError):
    """A source that is not crawled: the state of its library."""
