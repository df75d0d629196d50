"""Cuts a document into what is searched, embedded and answered with.

A chunk is a piece of one section, or small sections beside each other. Code is whole in it, with
the prose before it, which says what it does. The same document always gives the same chunks, and a
chunk whose hash is known needs no new embedding.
"""

from __future__ import annotations

import hashlib
import operator
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

from functions.libraries.document import (
    Block,
    Code,
    Document,
    Flag,
    Heading,
    Hidden,
    ListBlock,
    Paragraph,
    Position,
)
from functions.libraries.identifiers import identifiers
from functions.libraries.screening import flags_of_hidden, flags_of_text, strongest
from functions.libraries.splitting import split, tokens

ContentType = Literal["snippet", "guide", "api_ref"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens, as `splitting.tokens` estimates them."""

    most: int = 600
    """Of a chunk, unless one block of code has more."""

    merge_below: int = 200
    """A chunk that is smaller takes in the sections beside it and below it."""

    tail: int = 80
    """What is left at the end of a section goes over the bound, if it has no more."""

    introduction: int = 200
    """Prose of at most as many stays with the code that follows it."""

    code_most: int = 2_000
    """A block of code with more is cut, between lines, into parts that say so."""


SIZES = Sizes()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document. `headings` lead to it; `content` is Markdown."""

    index: int
    """Its place in the document, from 0."""

    content: str
    content_type: ContentType
    title: str
    headings: tuple[str, ...]
    source_url: str
    """With an anchor, where the page has an address."""

    anchor: str
    language: str | None
    """That most of its code has."""

    token_count: int
    content_hash: str
    """SHA-256 of `embedded_text`, hexadecimal."""

    identifiers: tuple[str, ...]
    position: Position
    part: tuple[int, int] | None = None
    """Which part of a block of code that was cut, of how many."""

    flags: tuple[Flag, ...] = ()

    @property
    def embedded_text(self) -> str:
        """What an embedding is made of: the content under its title and headings."""
        return _embedded(self.title, self.headings, self.content)

    @property
    def suspicion(self) -> float:
        """The highest score among the flags; 0 where there are none."""
        return max((flag.score for flag in self.flags), default=0.0)


@dataclass(slots=True)
class _Part:
    """Blocks that stay together, and the headings above them."""

    path: tuple[Heading, ...]
    blocks: list[Block]
    hidden: list[Hidden] = field(default_factory=list)
    tokens: int = 0


@dataclass(slots=True)
class _Draft:
    """A chunk that still grows. `base`: the headings that all its parts are under."""

    base: tuple[Heading, ...]
    parts: list[_Part]
    tokens: int


_SIGNATURE = re.compile(
    r"(?:class |def |async |function )?`?[A-Za-z_][\w.:]{1,120}\(.{0,300}\)`?\Z"
)
_CODE_SHARE = 3  # a third of a snippet is code
_SAFE = "-._~!$&'()*+,;=:@/?"  # in a fragment, RFC 3986


def chunk(document: Document, *, source_url: str = "", sizes: Sizes = SIZES) -> tuple[Chunk, ...]:
    """The chunks of a document, in order."""
    drafts = _drafts(_parts(document.blocks, sizes), sizes)
    return tuple(
        _finished(draft, index, document, source_url) for index, draft in enumerate(drafts)
    )


# What stays together ------------------------------------------------------------------------------


def _parts(blocks: Sequence[Block], sizes: Sizes) -> Iterator[_Part]:
    """Blocks with their headings: cut where they are too large, code with its introduction.

    A heading under which there is nothing becomes a part without blocks.
    """
    path: list[Heading] = []
    bare = 0
    """How many headings at the end of the path nothing has come under yet."""

    last: _Part | None = None
    hidden: list[Hidden] = []
    """What nothing shown has come after yet."""

    for block in blocks:
        if isinstance(block, Heading):
            if last is not None:
                yield last
                last = None
            keep = sum(1 for heading in path if heading.level < block.level)
            if bare and keep < len(path):
                yield _Part(tuple(path), [])
                bare = 0
            path = [*path[:keep], block]
            bare += 1
            continue
        if isinstance(block, Hidden):
            (hidden if last is None else last.hidden).append(block)
            continue
        for piece in split(block, sizes.most, sizes.code_most):
            weight = tokens(piece.text)
            if last is not None and _introduces(last, piece, weight, sizes):
                last.blocks.append(piece)
                last.tokens += weight
                continue
            if last is not None:
                yield last
            last = _Part(tuple(path), [piece], hidden, weight)
            hidden, bare = [], 0
    if last is not None:
        yield last
    if bare:
        yield _Part(tuple(path), [], hidden)


def _introduces(part: _Part, piece: Block, weight: int, sizes: Sizes) -> bool:
    """Whether a piece belongs to the part before it."""
    before = part.blocks[-1]
    if not isinstance(piece, Code) or part.tokens + weight > sizes.code_most:
        return False
    if isinstance(before, Code):  # what the code of a notebook's cell has printed
        cell = piece.position.cell
        is_next_part = piece.part is not None and piece.part[0] > 1
        return cell is not None and cell == before.position.cell and not is_next_part
    return isinstance(before, Paragraph | ListBlock) and part.tokens <= sizes.introduction


def _drafts(parts: Iterator[_Part], sizes: Sizes) -> list[_Draft]:
    drafts: list[_Draft] = []
    for part in parts:
        base = _common(drafts[-1], part, sizes) if drafts else None
        if base is None:
            drafts.append(_Draft(part.path, [part], part.tokens))
        else:
            last = drafts[-1]
            last.tokens += part.tokens + _heading_tokens(last, part)
            last.base = base
            last.parts.append(part)
    return list(_without_tails(drafts, sizes))


def _without_tails(drafts: Sequence[_Draft], sizes: Sizes) -> Iterator[_Draft]:
    """What is left of a section at its end, with what comes before it."""
    before: _Draft | None = None
    for draft in drafts:
        if before is not None:
            is_tail = draft.tokens <= sizes.tail and before.tokens <= sizes.most
            path = before.parts[-1].path
            if is_tail and _is(draft.parts[0].path, path) and _is(draft.base, path):
                before.parts += draft.parts
                before.tokens += draft.tokens
                continue
            yield before
        before = draft
    if before is not None:
        yield before


def _common(draft: _Draft, part: _Part, sizes: Sizes) -> tuple[Heading, ...] | None:
    """The headings of a draft with a part more; None where the part begins another chunk."""
    last = draft.parts[-1]
    is_same = _is(part.path, last.path)
    if draft.tokens + part.tokens + _heading_tokens(draft, part) > sizes.most:
        return None
    if is_same:
        return draft.base
    if _is_api(part.path) or _is_api(last.path) or draft.tokens >= sizes.merge_below:
        return None
    shared = 0
    for ours, theirs in zip(draft.base, part.path, strict=False):
        if ours is not theirs:
            break
        shared += 1
    # Sections below, and those beside it, but not those of another chapter.
    return part.path[:shared] if shared >= len(draft.base) - 1 else None


def _heading_tokens(draft: _Draft, part: _Part) -> int:
    last = draft.parts[-1].path
    return sum(tokens(heading.text) + 1 for heading in part.path if not _has(last, heading))


# Headings of one page may have one title: each is itself alone.


def _is(path: tuple[Heading, ...], other: tuple[Heading, ...]) -> bool:
    return len(path) == len(other) and all(map(operator.is_, path, other))


def _has(path: tuple[Heading, ...], heading: Heading) -> bool:
    return any(each is heading for each in path)


def _is_api(path: tuple[Heading, ...]) -> bool:
    return bool(path) and (path[-1].is_api or _SIGNATURE.match(path[-1].title) is not None)


# What a chunk says --------------------------------------------------------------------------------


def _finished(draft: _Draft, index: int, document: Document, source_url: str) -> Chunk:
    blocks = [block for part in draft.parts for block in part.blocks]
    content = "\n\n".join(_texts(draft))
    title = document.title
    headings = tuple(heading.title for heading in draft.base)
    first = draft.parts[0]
    anchor = first.path[-1].anchor if first.path else ""
    position = blocks[0].position if blocks else _all_headings(draft)[0].position
    codes = [block for block in blocks if isinstance(block, Code)]
    return Chunk(
        index=index,
        content=content,
        content_type=_content_type(draft, codes),
        title=title,
        headings=headings,
        source_url=_address(source_url, anchor, position),
        anchor=anchor,
        language=_language(codes),
        token_count=tokens(content),
        content_hash=hashlib.sha256(_embedded(title, headings, content).encode()).hexdigest(),
        identifiers=identifiers(_all_headings(draft), blocks),
        position=position,
        part=next((code.part for code in codes if code.part), None),
        flags=_flags(draft, blocks, codes),
    )


def _texts(draft: _Draft) -> Iterator[str]:
    """Blocks, and the headings below those that all of the chunk is under."""
    above: tuple[Heading, ...] = draft.base
    for part in draft.parts:
        for heading in part.path[len(draft.base) :]:
            if not _has(above, heading):
                yield heading.text
        above = part.path
        yield from (block.text for block in part.blocks)
    if len(draft.parts) == 1 and not draft.parts[0].blocks:
        # Nothing but headings: the last of them is what there is to find.
        yield draft.base[-1].text


def _all_headings(draft: _Draft) -> list[Heading]:
    return list(dict.fromkeys([*draft.base, *(h for part in draft.parts for h in part.path)]))


def _content_type(draft: _Draft, codes: Sequence[Code]) -> ContentType:
    if any(_is_api(part.path) for part in draft.parts):
        return "api_ref"
    weight = sum(tokens(code.text) for code in codes)
    return "snippet" if weight and weight * _CODE_SHARE >= draft.tokens else "guide"


def _language(codes: Sequence[Code]) -> str | None:
    weights: Counter[str] = Counter()
    for code in codes:
        if code.language and code.language != "text":
            weights[code.language] += len(code.code)
    return max(weights, key=lambda name: (weights[name], name)) if weights else None


def _address(source_url: str, anchor: str, position: Position) -> str:
    if not source_url or "#" in source_url:
        return source_url
    if position.page is not None:
        return f"{source_url}#page={position.page}"
    return f"{source_url}#{quote(anchor, safe=_SAFE)}" if anchor else source_url


def _flags(draft: _Draft, blocks: Sequence[Block], codes: Sequence[Code]) -> tuple[Flag, ...]:
    headings = _all_headings(draft)
    found = [flag for block in [*headings, *blocks] for flag in block.flags]
    prose = [heading.title for heading in headings]
    prose += [block.text for block in blocks if not isinstance(block, Code)]
    # Together, for an instruction may go on in the next paragraph.
    found += flags_of_text("\n".join(prose))
    for code in codes:
        found += flags_of_text(code.code, is_code=True)
    for part in draft.parts:
        for hidden in part.hidden:
            found += flags_of_hidden(hidden)
    return strongest(found)


def _embedded(title: str, headings: Sequence[str], content: str) -> str:
    path = [title, *headings] if title and title not in headings else list(headings)
    return "\n\n".join(part for part in (" > ".join(path), content) if part)
