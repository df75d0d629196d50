"""HTML, whole pages and what stands in Markdown. Read with selectolax (lexbor), as browsers do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

from functions.libraries.document import Position
from functions.libraries.errors import ParseError
from functions.libraries.parsing.builder import Builder
from functions.libraries.parsing.html_guard import guard
from functions.libraries.parsing.html_hidden import hiding_rules, why_hidden
from functions.libraries.parsing.html_main import is_furniture, main_node
from functions.libraries.words import words

INLINE = words(
    "a abbr acronym b bdi bdo big br cite code data del dfn em font i img ins kbd label mark "
    "picture q ruby s samp small span strike strong sub sup time tt u var wbr output"
)
_BLOCKS = "p,div,pre,ul,ol,dl,table,h1,h2,h3,h4,h5,h6,section,article,blockquote,figure"
_CODE_TAGS = frozenset({"code", "kbd", "tt", "samp"})
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LANGUAGE = re.compile(r"(?:\A|\s)(?:lang(?:uage)?|highlight(?:-source)?|brush)[-:]\s?([\w+#.-]+)")
_SOURCE = re.compile(r"(?:\A|\s)(?:sourceCode|src|prettyprint|listing)\s+([a-z][\w+#]*)")
_NO_LANGUAGE = frozenset({"notranslate", "source", "highlight", "block"})


def read(text: str, builder: Builder) -> None:
    """Add the main content of a page. Raises ParseError."""
    page = _parsed(text)
    title = page.css_first("title")
    if title is not None:
        builder.meta({"title": _page_title(title.text(deep=True))})
    for node in page.css("meta[name]")[:100]:
        name = (node.attributes.get("name") or "").lower()
        if name in {"description", "keywords", "generator", "author"}:
            builder.meta({name: node.attributes.get("content") or ""})
    canonical = page.css_first("link[rel=canonical]")
    if canonical is not None:
        builder.meta({"canonical": canonical.attributes.get("href") or ""})
    main = main_node(page)
    if main is not None:
        rules = hiding_rules([node.text(deep=True) for node in page.css("style")[:50]])
        walker = _Walker(builder, rules, in_body=main.tag == "body")
        walker.flow(main, 0)
        walker.flush()


def read_fragment(text: str, builder: Builder, position: Position) -> None:
    """Add a piece of HTML that stands in something else, at `position`. Raises ParseError."""
    body = _parsed(f"<!doctype html><body>{text}").body  # so that comments are inside
    if body is not None:
        walker = _Walker(builder, frozenset(), in_body=False, position=position)
        walker.flow(body, 0)
        walker.flush()


def _parsed(text: str) -> LexborHTMLParser:
    guard(text)
    try:
        return LexborHTMLParser(text)
    except (ValueError, RuntimeError, MemoryError):
        raise ParseError("broken_file", "The page does not parse.") from None


def _page_title(title: str) -> str:
    """Without the site's name, which generators put behind it."""
    for divider in (" — ", " | ", " \u2013 ", " · "):
        title = title.split(divider, 1)[0]
    return title.strip().removesuffix("¶")


def _children(node: LexborNode) -> Iterator[LexborNode]:
    child = node.first_child
    while child is not None:
        yield child
        child = child.next


class _Walker:
    """Goes through the elements, and remembers the text of the paragraph it is in."""

    def __init__(
        self,
        builder: Builder,
        rules: frozenset[str],
        *,
        in_body: bool,
        position: Position | None = None,
    ) -> None:
        self._builder = builder
        self._rules = rules
        self._in_body = in_body
        self._fixed = position
        self._elements = 0
        self._text: list[str] = []
        self._anchor: str | None = None
        self._blocks: dict[str, Callable[[LexborNode, int], None]] = {
            "pre": self._pre,
            "ul": self._list,
            "ol": self._list,
            "dl": self._definitions,
            "table": self._table,
            **dict.fromkeys(_HEADINGS, self._heading),
        }

    def flow(self, node: LexborNode, depth: int) -> None:
        """What an element holds, in order."""
        for child in _children(node):
            if child.is_text_node:
                self._text.append(_collapsed(child.text_content))
            elif child.is_comment_node:
                self._builder.hidden(child.comment_content or "", "comment", self._position())
            elif child.is_element_node:
                self._element(child, depth + 1)

    def flush(self) -> None:
        """End the paragraph."""
        text, self._text = "".join(self._text), []
        if text.strip():
            self._builder.paragraph(text, self._position())

    def _element(self, node: LexborNode, depth: int) -> None:
        self._elements += 1
        tag = node.tag or ""
        if is_furniture(node, tag, in_body=self._in_body) or self._is_hidden(node):
            return
        if depth > self._builder.limits.depth:
            self._builder.warn("nesting_flattened")
            self._text.append(_collapsed(node.text(deep=True, separator=" ")))
        elif tag in INLINE and (tag in _CODE_TAGS or node.css_first(_BLOCKS) is None):
            self._text.append(self._inline(node, depth))
        else:
            self.flush()
            identifier = node.attributes.get("id")
            if identifier and tag not in _HEADINGS:
                self._anchor = identifier if tag in {"section", "div", "a", "span"} else None
            self._blocks.get(tag, self.flow)(node, depth)
            self.flush()

    def _is_hidden(self, node: LexborNode) -> bool:
        reason = why_hidden(node, self._rules)
        if reason is not None:
            self._builder.hidden(node.text(deep=True, separator=" "), reason, self._position())
        return reason is not None

    def _inline(self, node: LexborNode, depth: int) -> str:
        """The text of an element inside a line."""
        tag = node.tag or ""
        if tag == "br":
            return "\n"
        if tag in _CODE_TAGS:
            code = " ".join(node.text(deep=True).split())
            return f"`{code}`" if code and "`" not in code else code
        if depth > self._builder.limits.depth:
            return _collapsed(node.text(deep=True, separator=" "))
        parts = []
        for child in _children(node):
            if child.is_text_node:
                parts.append(_collapsed(child.text_content))
            elif child.is_comment_node:
                self._builder.hidden(child.comment_content or "", "comment", self._position())
            elif child.is_element_node:
                self._elements += 1
                skipped = is_furniture(child, child.tag or "", in_body=False)
                if not skipped and not self._is_hidden(child):
                    parts.append(self._inline(child, depth + 1))
        return "".join(parts)

    def _heading(self, node: LexborNode, depth: int) -> None:
        title = self._inline(node, depth).strip().removesuffix("¶").removesuffix("#").strip()
        inner = node.css_first("[id]")
        anchor = node.attributes.get("id") or (inner and inner.attributes.get("id"))
        self._builder.heading(
            _HEADINGS[node.tag or ""], title, self._position(), anchor or self._anchor
        )
        self._anchor = None

    def _pre(self, node: LexborNode, _: int) -> None:
        for line in node.css("span.linenos, span.lineno, .gp-number"):
            line.decompose()
        for line_end in node.css("br"):
            line_end.replace_with("\n")
        self._builder.code(node.text(deep=True), self._position(), _language_of(node))

    def _list(self, node: LexborNode, depth: int) -> None:
        number = 0
        for child in _children(node):
            if not child.is_element_node:
                continue
            self._elements += 1
            if is_furniture(child, child.tag or "", in_body=False) or self._is_hidden(child):
                continue
            number += 1
            self._builder.begin_item(f"{number}." if node.tag == "ol" else "-")
            if depth > self._builder.limits.depth:
                self._builder.warn("nesting_flattened")
                self._text.append(_collapsed(child.text(deep=True, separator=" ")))
            else:
                self.flow(child, depth + 1)
            self.flush()
            self._builder.end_item()

    def _definitions(self, node: LexborNode, depth: int) -> None:
        """Terms; or the signatures of Sphinx, under which whole sections stand."""
        level = self._builder.level
        term = ""
        for child in _children(node):
            if not child.is_element_node or self._is_hidden(child):
                continue
            self._elements += 1
            if child.tag == "dt" and "sig" in (child.attributes.get("class") or "").split():
                title = " ".join(self._inline(child, depth).split()).removesuffix("¶")
                self._builder.heading(
                    min(level + 1, 6),
                    title.replace("`", ""),
                    self._position(),
                    child.attributes.get("id"),
                    is_api=True,
                )
            elif child.tag == "dt":
                self.flush()
                term = self._inline(child, depth).strip()
            elif term:
                self._builder.begin_item()
                self._text.append(f"{term}: ")
                self.flow(child, depth + 1)
                self.flush()
                self._builder.end_item()
                term = ""
            else:
                self.flow(child, depth + 1)
                self.flush()
        self._builder.level = level

    def _table(self, node: LexborNode, depth: int) -> None:
        code = node.css_first("td.code pre, .rouge-code pre, td.blob-code")
        if code is not None and code.tag == "pre":
            self._pre(code, depth)
            return
        if node.css_first("table table, pre, ul, ol, h1, h2, h3") is not None:
            self.flow(node, depth)  # a table for the sake of layout, or one whose cells hold blocks
            return
        caption = node.css_first("caption")
        if caption is not None:
            self._builder.paragraph(self._inline(caption, depth), self._position())
        rows = []
        for row in node.css("tr"):
            cells = [
                self._inline(cell, depth)
                for cell in _children(row)
                if cell.is_element_node and cell.tag in {"td", "th"} and not self._is_hidden(cell)
            ]
            if cells:
                rows.append(cells)
        if rows and node.css_first("th") is None:
            rows.insert(0, [""] * len(rows[0]))
        self._builder.table(rows, self._position())

    def _position(self) -> Position:
        return self._fixed or Position(element=self._elements)


def _language_of(node: LexborNode) -> str | None:
    """By the classes of the code, of what is in it, and of what is around it."""
    inner = node.css_first("code")
    around = [node.parent, node.parent.parent if node.parent is not None else None]
    for element in [inner, node, *around]:
        if element is None or not element.is_element_node:
            continue
        attributes = element.attributes
        for name in ("data-lang", "data-language", "lang"):
            if name != "lang" and attributes.get(name):
                return attributes[name]
        classes = attributes.get("class") or ""
        for pattern in (_LANGUAGE, _SOURCE):
            found = pattern.search(classes)
            if found and found.group(1) not in _NO_LANGUAGE:
                return found.group(1)
    return None


def _collapsed(text: str | None) -> str:
    """Line ends in HTML are spaces."""
    return (text or "").replace("\n", " ").replace("\t", " ")
