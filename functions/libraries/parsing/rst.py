"""reStructuredText, read with docutils, whose ways to other files and to raw HTML are shut."""

from __future__ import annotations

from collections.abc import Callable

from docutils import ApplicationError, core, nodes
from docutils.parsers.rst import Parser

from functions.libraries.document import Position
from functions.libraries.errors import ParseError
from functions.libraries.parsing.builder import Builder
from functions.libraries.parsing.rst_directives import (
    CODE,
    DEFAULT_LANGUAGE,
    OBJECT,
    sphinx_directives,
    sphinx_inliner,
)

_LINE_CHARACTERS = 50_000
_ERROR = 3  # a level of docutils' reports
_SETTINGS = {
    "_disable_config": True,
    "auto_id_prefix": "id",
    "doctitle_xform": False,
    "embed_images": False,
    "exit_status_level": 5,
    "file_insertion_enabled": False,
    "halt_level": 5,
    "input_encoding": "unicode",
    "line_length_limit": _LINE_CHARACTERS,
    "pep_references": False,
    "raw_enabled": False,
    "report_level": 5,
    "rfc_references": False,
    "sectsubtitle_xform": False,
    "smart_quotes": False,
    "syntax_highlight": "none",
    "tab_width": 8,
    "traceback": True,
    "warning_stream": False,
}
_CODE_LIKE = (nodes.literal, nodes.math)
_TERMS = (nodes.term, nodes.classifier, nodes.field_name, nodes.option_group, nodes.label)
_SILENT = (
    nodes.comment,
    nodes.system_message,
    nodes.substitution_definition,
    nodes.image,
    nodes.raw,
    nodes.pending,
    nodes.decoration,
    nodes.meta,
    nodes.label,
)


def read(text: str, builder: Builder, *, base: int = 0, line: int = 1) -> None:
    """Add a page, or what stands in one: headings `base` levels deeper, `line` the first.

    Raises ParseError.
    """
    if any(len(line) > _LINE_CHARACTERS for line in text.split("\n")):
        raise ParseError("line_too_long", "A line of reStructuredText is too long.")
    try:
        with sphinx_directives():
            tree = core.publish_doctree(
                text, parser=Parser(inliner=sphinx_inliner()), settings_overrides=_SETTINGS
            )
        _Walker(builder, base, line).children(tree)
    except RecursionError:
        raise ParseError("too_deep", "The page is nested too deeply.") from None
    except (ApplicationError, AssertionError, AttributeError, LookupError, TypeError, ValueError):
        raise ParseError("broken_file", "The page does not parse.") from None


class _Walker:
    def __init__(self, builder: Builder, base: int, line: int) -> None:
        self._builder = builder
        self._level = base
        self._first = line
        self._line = 1
        self._language: str | None = None
        self._lead = ""
        """A term, until the paragraph comes that says what it means."""

        self._kinds: list[tuple[type[object], Callable[[nodes.Element], None]]] = [
            (nodes.section, self._section),
            (nodes.title, self._title),
            (nodes.literal_block, self._code),
            (nodes.doctest_block, self._code),
            (nodes.math_block, self._code),
            (nodes.bullet_list, self._list),
            (nodes.enumerated_list, self._list),
            (nodes.definition_list_item, self._definition),
            (nodes.field, self._definition),
            (nodes.option_list_item, self._definition),
            (nodes.table, self._table),
            (nodes.docinfo, self._docinfo),
            (nodes.Admonition, self._admonition),
            (nodes.line_block, self._lines),
            (nodes.container, self._container),
            (nodes.footnote, self._definition),
            (nodes.citation, self._definition),
        ]

    def children(self, node: nodes.Element) -> None:
        for child in node.children:
            self._node(child)

    def _node(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.comment) and DEFAULT_LANGUAGE in node:
            self._language = node[DEFAULT_LANGUAGE]
        elif isinstance(node, nodes.comment):
            self._builder.hidden(node.astext(), "comment", self._position(node))
        elif isinstance(node, nodes.system_message):
            self._unread(node)
        if isinstance(node, _SILENT):
            return
        for kind, handle in self._kinds:
            if isinstance(node, kind) and isinstance(node, nodes.Element):
                handle(node)
                return
        if isinstance(node, nodes.TextElement):
            lead, self._lead = self._lead, ""
            self._builder.paragraph(lead + _text(node), self._position(node))
        elif isinstance(node, nodes.Element):
            self.children(node)

    def _unread(self, node: nodes.system_message) -> None:
        """What docutils could make nothing of, such as a table out of line, is text at least."""
        for literal in node.findall(nodes.literal_block):
            text = literal.astext()
            if node["level"] >= _ERROR and not text.lstrip().startswith(".."):
                self._builder.paragraph(text, self._position(node))

    def _section(self, node: nodes.Element) -> None:
        self._level += 1
        self.children(node)
        self._level -= 1

    def _title(self, node: nodes.Element) -> None:
        if isinstance(node.parent, nodes.section):
            # Explicit targets come before the name that follows from the title.
            names = node.parent["ids"]
            anchor = names[-1] if names else None
            self._builder.heading(max(1, self._level), _text(node), self._position(node), anchor)
        else:
            self._builder.paragraph(_text(node), self._position(node))

    def _container(self, node: nodes.Element) -> None:
        signature = node.get(OBJECT)
        if signature is None:
            self.children(node)
            return
        self._level += 1
        name = signature.split("(")[0].split(" ")[-1]
        self._builder.heading(
            min(self._level, 6), signature, self._position(node), name or None, is_api=True
        )
        self.children(node)
        self._level -= 1

    def _code(self, node: nodes.Element) -> None:
        language = node.get(CODE)
        if language is None:
            named: list[str] = node.get("classes", [])
            classes = [name for name in named if name != "code"]
            language = classes[0] if classes else None
        if isinstance(node, nodes.doctest_block):
            language = "pycon"
        if isinstance(node, nodes.math_block):
            language = "latex"
        self._builder.code(node.astext(), self._position(node), language or self._language)

    def _list(self, node: nodes.Element) -> None:
        start = int(node.get("start", 1))
        for number, item in enumerate(node.children, start):
            is_numbered = isinstance(node, nodes.enumerated_list)
            self._builder.begin_item(f"{number}." if is_numbered else "-")
            if isinstance(item, nodes.Element):
                self.children(item)
            self._builder.end_item()

    def _definition(self, node: nodes.Element) -> None:
        """A term and what it means: in one item where that is short."""
        names = [_text(child) for child in node.children if isinstance(child, _TERMS)]
        self._builder.begin_item()
        self._lead = f"{', '.join(names)}: "
        for child in node.children:
            if isinstance(child, nodes.paragraph):
                self._node(child)
            elif isinstance(child, nodes.Element) and not isinstance(child, _TERMS):
                self.children(child)
        if self._lead:  # a term that nothing is said of
            self._builder.paragraph(self._lead.rstrip(" :"), self._position(node))
            self._lead = ""
        self._builder.end_item()

    def _table(self, node: nodes.Element) -> None:
        rows, has_head = [], False
        for part in node.findall(nodes.row):
            has_head = has_head or isinstance(part.parent, nodes.thead)
            rows.append([_block_text(cell) for cell in part.children])
        for title in node.findall(nodes.title):
            self._builder.paragraph(_text(title), self._position(node))
        if rows and not has_head:
            rows.insert(0, [""] * len(rows[0]))
        self._builder.table(rows, self._position(node))

    def _docinfo(self, node: nodes.Element) -> None:
        for field in node.children:
            if isinstance(field, nodes.field) and len(field.children) > 1:
                name, body = field.children[:2]
                self._builder.meta({name.astext(): body.astext()})
            elif isinstance(field, nodes.Element):
                self._builder.meta({field.tagname: field.astext()})

    def _admonition(self, node: nodes.Element) -> None:
        if not isinstance(node, nodes.admonition | nodes.system_message):
            word = type(node).__name__.capitalize()
            self._builder.paragraph(f"{word}:", self._position(node))
        self.children(node)

    def _lines(self, node: nodes.Element) -> None:
        text = "\n".join(_text(line) for line in node.findall(nodes.line))
        self._builder.paragraph(text, self._position(node))

    def _position(self, node: nodes.Node) -> Position:
        self._line = node.line or self._line
        return Position(line=self._first + self._line - 1)


def _text(node: nodes.Node) -> str:
    """Text of one line: code in backquotes, line ends as spaces."""
    if isinstance(node, nodes.Text):
        return str(node).replace("\n", " ")
    if isinstance(node, _CODE_LIKE):
        code = " ".join(node.astext().split())
        return f"`{code}`" if "`" not in code else code
    if isinstance(node, nodes.image):
        return ""
    return "".join(_text(child) for child in node.children)


def _block_text(node: nodes.Node) -> str:
    if isinstance(node, nodes.TextElement):
        return _text(node)
    return " ".join(_block_text(child) for child in node.children)
