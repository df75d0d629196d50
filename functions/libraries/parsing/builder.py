"""Puts a document together, whatever it is read from, inside its limits."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from functions.libraries.characters import cleaned
from functions.libraries.document import (
    Block,
    Code,
    Document,
    Flag,
    Heading,
    Hidden,
    Item,
    ListBlock,
    Paragraph,
    Position,
    Table,
)
from functions.libraries.languages import guessed, known
from functions.libraries.parsing.limits import Limits

TITLE_CHARACTERS = 300
_SPACES = re.compile(r"[^\S\n]+")
_NOT_SLUG = re.compile(r"[^\w\- ]+")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


@dataclass(slots=True)
class _OpenItem:
    """An item of a list that is being read; fresh until it has a text."""

    marker: str
    is_fresh: bool = True


class Builder:
    """Takes blocks in order; every text is cleaned on its way in, and empty ones are dropped.

    Prose between `begin_item` and `end_item` becomes an item of a list. What cannot stand in one,
    such as code, ends the list, and the next item begins another.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.blocks: list[Block] = []
        self.metadata: dict[str, str] = {}
        self.level = 0
        """Of the last heading."""

        self._warnings: dict[str, None] = {}
        self._removed: Counter[str] = Counter()
        self._anchors: Counter[str] = Counter()
        self._flags: tuple[Flag, ...] = ()
        self._open: list[_OpenItem] = []
        self._items: list[Item] = []
        self._items_at = Position()

    def heading(
        self,
        level: int,
        title: str,
        position: Position,
        anchor: str | None = None,
        *,
        is_api: bool = False,
    ) -> None:
        self._end_list()
        title = " ".join(self._clean(title).split())[:TITLE_CHARACTERS].strip()
        if title:
            self.level = max(1, level)
            anchor = self._clean(anchor)[:TITLE_CHARACTERS] if anchor else self._slug(title)
            self._add(
                Heading(
                    position=position,
                    flags=self._flags,
                    level=self.level,
                    title=title,
                    anchor=anchor,
                    is_api=is_api,
                )
            )

    def paragraph(self, text: str, position: Position) -> None:
        if self._open:
            self._item(text, position)
        else:
            self._end_list()
            if text := self._prose(text):
                self._add(Paragraph(position=position, flags=self._flags, content=text))

    def begin_item(self, marker: str = "-") -> None:
        self._open.append(_OpenItem(marker[:12]))

    def end_item(self) -> None:
        self._open.pop()

    def _item(self, text: str, position: Position) -> None:
        if not text.strip():
            return
        opened = self._open[-1]
        if opened.is_fresh:
            opened.is_fresh = False
            if not self._items:
                self._items_at = position
            self._items.append(Item(text, min(len(self._open) - 1, 20), opened.marker))
        elif self._items:
            last = self._items[-1]
            self._items[-1] = replace(last, content=f"{last.content}\n{text}")
        elif text := self._prose(text):  # after code inside the item
            self._add(Paragraph(position=position, flags=self._flags, content=text))

    def _end_list(self) -> None:
        items, self._items = self._items, []
        kept: list[Item] = []
        flags: list[Flag] = []
        for item in items:
            text = self._prose(item.content)
            flags += self._flags
            if text:
                kept.append(replace(item, content=text))
        if kept:
            self._add(ListBlock(position=self._items_at, flags=_once(flags), items=tuple(kept)))

    def table(self, rows: Sequence[Sequence[str]], position: Position) -> None:
        """The first row are the headers. Short rows are filled up."""
        self._end_list()
        limits = self.limits
        width = min(max((len(row) for row in rows), default=0), limits.table_columns)
        if len(rows) > limits.table_rows or any(len(row) > width for row in rows):
            self.warn("table_cut")
        kept: list[tuple[str, ...]] = []
        flags: list[Flag] = []
        for row in rows[: limits.table_rows]:
            cells = []
            for cell in row[:width]:
                cells.append(self._prose(cell))
                flags += self._flags
            kept.append((*cells, *[""] * (width - len(cells))))
        if any(any(row) for row in kept):
            self._add(Table(position=position, flags=_once(flags), rows=tuple(kept)))

    def code(self, code: str, position: Position, language: str | None = None) -> None:
        self._end_list()
        code = self._clean(code).strip("\n").rstrip()
        if code.strip():
            language = known(language) or guessed(code)
            self._add(Code(position=position, flags=self._flags, code=code, language=language))

    def hidden(self, text: str, reason: str, position: Position) -> None:
        if text := self._prose(text):
            self._add(Hidden(position=position, flags=self._flags, content=text, reason=reason))

    def warn(self, word: str) -> None:
        """Say that something was left out."""
        self._warnings[word] = None

    def meta(self, values: Mapping[str, object]) -> None:
        """Keep what is text of a page's own metadata, the first that says it."""
        for name, value in list(values.items())[:100]:
            if isinstance(value, str | int | float) and str(value).strip():
                self.metadata.setdefault(
                    self._clean(str(name))[:100], self._clean(str(value))[:1_000]
                )

    def document(self, kind: str, *, name: str = "", encoding: str | None = None) -> Document:
        """What was put together. `name` is what is left where nothing has a title."""
        self._end_list()
        headings = [block for block in self.blocks if isinstance(block, Heading)]
        tops = [block.title for block in headings if block.level == 1]
        title = self.metadata.get("title") or next(
            iter([*tops[:1], *[block.title for block in headings[:1]]]), name
        )
        return Document(
            title=" ".join(self._clean(title).split())[:TITLE_CHARACTERS],
            blocks=tuple(self.blocks),
            kind=kind,
            metadata=dict(self.metadata),
            encoding=encoding,
            warnings=tuple(self._warnings),
            removed=dict(self._removed),
        )

    def _add(self, block: Block) -> None:
        if len(self.blocks) >= self.limits.blocks:
            self.warn("blocks_left_out")
        else:
            self.blocks.append(block)

    def _prose(self, text: str) -> str:
        """Spaces once, no blank lines inside."""
        text = _SPACES.sub(" ", self._clean(text))
        return _BLANK_LINES.sub("\n", text).replace("\n ", "\n").replace(" \n", "\n").strip()

    def _clean(self, text: str) -> str:
        if len(text) > self.limits.block_characters:
            text = text[: self.limits.block_characters]
            self.warn("text_left_out")
        found = cleaned(text)
        self._removed.update(found.removed)
        self._flags = found.flags
        return found.text

    def _slug(self, title: str) -> str:
        """The anchor that GitHub makes of a heading."""
        text = unicodedata.normalize("NFC", title).lower()
        slug = _NOT_SLUG.sub("", text).strip().replace(" ", "-")
        count = self._anchors[slug]
        self._anchors[slug] += 1
        return f"{slug}-{count}" if count else slug


def _once(flags: Sequence[Flag]) -> tuple[Flag, ...]:
    return tuple(dict.fromkeys(flags))
