"""The one model that every format is read into: a title, and blocks in the order of the source.

    Block
    ├── Heading      a section begins
    ├── Paragraph    prose
    ├── ListBlock    items, with how deep each is
    ├── Table        rows of cells, the first of them headers or empty
    ├── Code         kept to the letter
    └── Hidden       what readers of the page do not see; part of no text

Text is Markdown as far as it is marked at all: inline code keeps its backquotes, links lose their
targets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Position:
    """Where in its source a block begins: whichever of these the format has. All count from 1."""

    line: int | None = None
    page: int | None = None
    cell: int | None = None
    """Of a notebook."""

    element: int | None = None
    """Of an HTML page or a DOCX file, in the order of the document."""

    pointer: str | None = None
    """RFC 6901, into an OpenAPI description."""


@dataclass(frozen=True, slots=True)
class Flag:
    """Something odd about a text: why, how sure (0 to 1), and a little of it."""

    reason: str
    score: float
    excerpt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block(ABC):
    """A part of a document."""

    position: Position = Position()
    flags: tuple[Flag, ...] = ()
    """What was odd about its characters."""

    @property
    @abstractmethod
    def text(self) -> str:
        """As Markdown; empty where there is nothing to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading(Block):
    """The begin of a section. `is_api`: it names an operation, a class, a function or the like."""

    level: int
    title: str
    anchor: str
    is_api: bool = False

    @property
    def text(self) -> str:
        return f"{'#' * min(self.level, 6)} {self.title}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph(Block):
    """Prose."""

    content: str

    @property
    def text(self) -> str:
        return self.content


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a list; `depth` counts from 0, `marker` is `-` or a number with its dot."""

    content: str
    depth: int = 0
    marker: str = "-"

    @property
    def text(self) -> str:
        """As a line of Markdown, or several."""
        lead = "  " * self.depth + self.marker + " "
        return lead + self.content.replace("\n", "\n" + " " * len(lead))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListBlock(Block):
    """A list, or the part of one between two blocks of code."""

    items: tuple[Item, ...]

    @property
    def text(self) -> str:
        return "\n".join(item.text for item in self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Block):
    """A table. Its first row are the headers."""

    rows: tuple[tuple[str, ...], ...]

    @property
    def text(self) -> str:
        if not self.rows:
            return ""
        head, *body = self.rows
        return "\n".join([row_text(head), row_text(["---"] * len(head)), *map(row_text, body)])


def row_text(cells: tuple[str, ...] | list[str]) -> str:
    """A row as a line of Markdown."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


@dataclass(frozen=True, slots=True, kw_only=True)
class Code(Block):
    """Code, or what is to be shown to the letter. `part` is (which, of how many) of one cut up."""

    code: str
    language: str | None = None
    part: tuple[int, int] | None = None

    @property
    def text(self) -> str:
        fence = "```"
        while fence in self.code:
            fence += "`"
        return f"{fence}{self.language or ''}\n{self.code}\n{fence}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden(Block):
    """What the page does not show: text that is styled away, or a comment."""

    content: str
    reason: str

    @property
    def text(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Document:
    """A page as it was read. `kind` says how; `warnings` what was left out, as stable words."""

    title: str
    blocks: tuple[Block, ...]
    kind: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    encoding: str | None = None
    warnings: tuple[str, ...] = ()
    removed: Mapping[str, int] = field(default_factory=dict)
    """How many invisible characters were taken out, by class."""
