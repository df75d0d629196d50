"""How much of a file is read. What is over a bound is refused or left out, and said to be."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one file."""

    text_bytes: int = 10 * MEBIBYTE
    """A page of text; more is refused."""

    file_bytes: int = 50 * MEBIBYTE
    """A PDF or DOCX file; more is refused."""

    unpacked_bytes: int = 100 * MEBIBYTE
    """What a DOCX file may unpack to, and what a stream of a PDF may; more is refused."""

    unpacked_ratio: int = 200
    """Times its packed size. What a person writes packs to a twentieth."""

    blocks: int = 20_000
    """The rest is left out: `blocks_left_out`."""

    block_characters: int = 400_000
    """Of one block; the rest is left out: `text_left_out`."""

    depth: int = 100
    """Elements, lists or mappings inside each other."""

    table_rows: int = 2_000
    """The rest is left out: `table_cut`."""

    table_columns: int = 50
    """The rest is left out: `table_cut`."""

    pages: int = 2_000
    """Of a PDF; the rest is left out: `pages_left_out`."""

    nodes: int = 500_000
    """Of JSON or YAML, with every alias written out; more is refused."""


DEFAULT = Limits()
