"""Cuts what is too large for a chunk: between sentences, items or rows, and code between lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from functions.chat.counting import measure, probable_tokens
from functions.libraries.document import (
    Block,
    Code,
    Item,
    ListBlock,
    Paragraph,
    Table,
    row_text,
)

T = TypeVar("T")

_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n")  # noqa: RUF001 - of Chinese and Japanese
_CHARACTERS_PER_TOKEN = 3  # to begin with; a cut is measured


def tokens(text: str) -> int:
    """Probable tokens of a text, as the rest of Quernel estimates them."""
    return probable_tokens(*measure(text))


def split(block: Block, most: int, code_most: int) -> list[Block]:
    """The block, or as many of its kind as it takes for none to have more tokens than it may."""
    if isinstance(block, Code):
        return _code(block, code_most) if tokens(block.text) > code_most else [block]
    if tokens(block.text) <= most:
        return [block]
    if isinstance(block, Paragraph):
        return [replace(block, content=text) for text in _prose(block.content, most)]
    if isinstance(block, ListBlock):
        return _list(block, most)
    return _table(block, most) if isinstance(block, Table) else [block]


def _code(block: Code, most: int) -> list[Block]:
    """Between lines; a line that is too long alone is cut where it is."""
    inner = most - tokens(replace(block, code="").text) - 4  # the fence
    lines = [
        piece for line in block.code.split("\n") for piece in _hard(line, inner, keep_spaces=True)
    ]
    groups = list(_grouped(lines, inner, lambda line: tokens(line + "\n")))
    if len(groups) == 1:
        return [block]
    return [
        replace(block, code="\n".join(group), part=(number, len(groups)))
        for number, group in enumerate(groups, 1)
    ]


def _prose(text: str, most: int) -> list[str]:
    sentences = [
        piece
        for sentence in _SENTENCE.split(text)
        for piece in _hard(sentence, most, keep_spaces=False)
    ]
    groups = _grouped(sentences, most, lambda sentence: tokens(sentence + " "))
    return [" ".join(group) for group in groups]


def _list(block: ListBlock, most: int) -> list[Block]:
    items: list[Item] = []
    for item in block.items:
        # The marker and the indentation of every line take room, too.
        room = max(most - 2 * item.depth - 16, most // 2)
        too_large = tokens(item.text) > room
        pieces = _prose(item.content, room) if too_large else [item.content]
        items += [replace(item, content=piece) for piece in pieces]
    groups = _grouped(items, most, lambda item: tokens(item.text + "\n"))
    return [replace(block, items=tuple(group)) for group in groups]


def _table(block: Table, most: int) -> list[Block]:
    """Rows, each part under the headers; a row that is too large alone becomes prose."""
    head, *rows = block.rows
    room = most - tokens(row_text(head)) - tokens(row_text(["---"] * len(head))) - 2
    if room < most // 2:  # headers that are most of it are no headers
        return [
            Paragraph(position=block.position, flags=block.flags, content=text)
            for row in block.rows
            for text in _prose(" ".join(cell for cell in row if cell), most)
        ]
    blocks: list[Block] = []
    for group in _grouped(rows, room, lambda row: tokens(row_text(row) + "\n")):
        if len(group) == 1 and tokens(row_text(group[0])) > room:
            text = " ".join(cell for cell in group[0] if cell)
            blocks += [
                Paragraph(position=block.position, flags=block.flags, content=piece)
                for piece in _prose(text, most)
            ]
        else:
            blocks.append(replace(block, rows=(head, *group)))
    return blocks


def _grouped(parts: list[T], most: int, weigh: Callable[[T], int]) -> Iterator[list[T]]:
    """Neighbours together, as many as fit; at least one."""
    group: list[T] = []
    weight = 0
    for part in parts:
        more = weigh(part)
        if group and weight + more > most:
            yield group
            group, weight = [], 0
        group.append(part)
        weight += more
    if group:
        yield group


def _hard(text: str, most: int, *, keep_spaces: bool) -> Iterator[str]:
    """Pieces of a text without sentences or lines: between words, or anywhere."""
    while tokens(text) > most:
        at = max(1, min(len(text), most * _CHARACTERS_PER_TOKEN))
        while at > 1 and tokens(text[:at]) > most:
            at = max(1, at * 3 // 4)
        if not keep_spaces:
            space = text.rfind(" ", at // 2, at)
            at = space if space > 0 else at
        yield text[:at]
        text = text[at:] if keep_spaces else text[at:].lstrip()
    if text or keep_spaces:
        yield text
