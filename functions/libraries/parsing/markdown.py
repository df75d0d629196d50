"""Markdown and MDX, read with markdown-it-py (CommonMark and tables)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

from functions.libraries.document import Position
from functions.libraries.parsing import front_matter, rst
from functions.libraries.parsing.builder import Builder
from functions.libraries.parsing.html import read_fragment
from functions.libraries.parsing.html_hidden import hides
from functions.libraries.parsing.markdown_lines import CODE, EMPTY, rewritten
from functions.libraries.parsing.roles import without_myst_roles

_ANCHOR = re.compile(r"\{#([\w:.-]{1,200})\}\s{0,9}\Z")
_INFO = re.compile(r"\{?\.?([\w+#.-]{1,40})")
_MYST = re.compile(r"\{([\w-]{1,40})\}\s*([\w+#.-]{0,40})")
_OPTIONS = re.compile(r"(?:[ ]{0,4}:[\w-]{1,40}:.{0,300}\n|---\n(?:[^\n]{0,300}\n){0,20}?---\n)+")
_NAMED = re.compile(r"""<a\s[^>]{0,100}?(?:name|id)=["']([\w:.-]{1,200})["']""", re.IGNORECASE)
_OPENING = re.compile(r"<(div|span|p|section|details|aside)\b([^>]{0,500})>", re.IGNORECASE)
_MDX = re.compile(r"^(?:import .{1,200} from ['\"]|export const )", re.MULTILINE)
_COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)


def read(text: str, builder: Builder, *, name: str = "") -> None:
    """Add a page. Raises ParseError."""
    values, text = front_matter.split(text, builder.limits)
    builder.meta(values)
    description = values.get("description")
    if isinstance(description, str):  # sites show it under the title
        builder.paragraph(description, Position(line=1))
    is_mdx = name.lower().endswith(".mdx") or bool(values and _MDX.search(text[:4_096]))
    read_fragment_of(text, builder, is_mdx=is_mdx)


def read_fragment_of(
    text: str,
    builder: Builder,
    *,
    is_mdx: bool = False,
    base: int = 0,
    position: Position | None = None,
) -> None:
    """Add Markdown that stands in something else: headings `base` levels deeper, at `position`."""
    text, comments = rewritten(text, is_mdx=is_mdx)
    for comment in comments:
        builder.hidden(comment, "comment", position or Position())
    tokens = _reader(builder.limits.depth).parse(text)
    _Walker(builder, tokens, base=base, position=position).walk()


def _reader(depth: int) -> MarkdownIt:
    return MarkdownIt("commonmark", {"maxNesting": depth}).enable(["table", "strikethrough"])


class _Walker:
    """Goes along the tokens, which come in order, with begins and ends."""

    def __init__(
        self, builder: Builder, tokens: Sequence[Token], *, base: int, position: Position | None
    ) -> None:
        self._builder = builder
        self._tokens = tokens
        self._base = base
        self._fixed = position
        self._line = 1
        self._lists: list[int | None] = []
        """Of every list that is open: the number of its next item, None where it has bullets."""

        self._rows: list[list[str]] = []
        self._anchor: str | None = None
        self._hidden_by: tuple[str, str] | None = None
        """The tag and the reason of an element that hides what follows until it ends."""

    def walk(self) -> None:
        for at, token in enumerate(self._tokens):
            if token.map:
                self._line = token.map[0] + 1
            self._token(token, at)

    def _token(self, token: Token, at: int) -> None:
        match token.type:
            case "inline":
                self._inline(token, at)
            case "fence" | "code_block":
                self._code(token)
            case "html_block":
                self._html(token.content)
            case "bullet_list_open":
                self._lists.append(None)
            case "ordered_list_open":
                self._lists.append(int(token.attrGet("start") or 1))
            case "bullet_list_close" | "ordered_list_close":
                self._lists.pop()
            case "list_item_open":
                self._begin_item()
            case "list_item_close":
                self._builder.end_item()
            case "table_open":
                self._rows = []
            case "tr_open":
                self._rows.append([])
            case "table_close":
                self._builder.table(self._rows, self._position())
            case _:
                pass

    def _begin_item(self) -> None:
        number = self._lists[-1] if self._lists else None
        self._builder.begin_item("-" if number is None else f"{number}.")
        if number is not None:
            self._lists[-1] = number + 1

    def _inline(self, token: Token, at: int) -> None:
        before = self._tokens[at - 1]
        text = self._text(token.children or [])
        if self._hidden_by is not None:
            self._builder.hidden(text, self._hidden_by[1], self._position())
        elif before.type == "heading_open":
            self._heading(int(before.tag[1:]), text)
        elif before.type in {"th_open", "td_open"}:
            self._rows[-1].append(text)
        else:
            self._builder.paragraph(text, self._position())

    def _heading(self, level: int, text: str) -> None:
        anchor = _ANCHOR.search(text)
        if anchor:
            text = text[: anchor.start()]
        self._builder.heading(
            min(level + self._base, 6),
            text,
            self._position(),
            anchor.group(1) if anchor else self._anchor,
        )
        self._anchor = None

    def _code(self, token: Token) -> None:
        if self._hidden_by is not None:
            self._builder.hidden(token.content, self._hidden_by[1], self._position())
            return
        code, info = token.content, token.info.strip()
        directive = _MYST.match(info)
        if directive:
            if directive.group(1) == "eval-rst":
                rst.read(code, self._builder, base=self._builder.level, line=self._line + 1)
                return
            if directive.group(1) in EMPTY:
                return
            code = _OPTIONS.sub("", code, count=1) if _OPTIONS.match(code) else code
            info = directive.group(2) if directive.group(1) in CODE else directive.group(1)
        found = _INFO.match(info)
        self._builder.code(code, self._position(), found.group(1) if found else None)

    def _html(self, html: str) -> None:
        if self._hidden_by is not None:
            tag, reason = self._hidden_by
            if f"</{tag}" in html.lower():
                self._hidden_by = None
            else:
                self._builder.hidden(html, reason, self._position())
            return
        named = _NAMED.search(html)
        if named:
            self._anchor = named.group(1)
        opening = _OPENING.search(html)
        if opening and f"</{opening.group(1).lower()}" not in html.lower():
            hidden = hides(opening.group(2))
            if hidden:
                self._hidden_by = opening.group(1).lower(), hidden
        read_fragment(html, self._builder, self._position())

    def _text(self, tokens: Sequence[Token]) -> str:
        """The text of a line: code in backquotes, links without their targets."""
        parts: list[str] = []
        hidden: list[str] = []
        hidden_by: tuple[str, str] | None = None
        for token in tokens:
            if token.type == "html_inline":
                opening = _OPENING.match(token.content)
                reason = hides(opening.group(2)) if opening and not hidden_by else None
                if opening and reason:
                    hidden_by = opening.group(1).lower(), reason
                elif hidden_by and token.content.lower().startswith(f"</{hidden_by[0]}"):
                    self._builder.hidden("".join(hidden), hidden_by[1], self._position())
                    hidden, hidden_by = [], None
                else:
                    parts.append(self._inline_html(token.content))
            else:
                (hidden if hidden_by else parts).append(_shown(token))
        if hidden_by:
            self._builder.hidden("".join(hidden), hidden_by[1], self._position())
        return without_myst_roles("".join(parts))

    def _inline_html(self, html: str) -> str:
        comment = _COMMENT.match(html)
        if comment:
            self._builder.hidden(comment.group(1), "comment", self._position())
        return "\n" if html.lower().startswith("<br") else ""

    def _position(self) -> Position:
        return self._fixed or Position(line=self._line)


def _shown(token: Token) -> str:
    match token.type:
        case "text" | "text_special":
            return token.content
        case "code_inline":
            return f"`{token.content}`"
        case "softbreak":
            return " "
        case "hardbreak":
            return "\n"
        case _:
            return ""
