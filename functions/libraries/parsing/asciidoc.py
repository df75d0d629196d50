"""AsciiDoc: the part of it that documentation is written in.

There is no kept parser in Python. Read are sections, listings, literal and fenced blocks, lists,
description lists, tables, admonitions, attributes and links. Includes are not followed, and macros
leave their text.
"""

from __future__ import annotations

import re

from functions.libraries.document import Position
from functions.libraries.parsing.builder import Builder

_HEADING = re.compile(r"(={1,6}|#{1,6})[ \t]+(\S.{0,500})\Z")
_ATTRIBUTE = re.compile(r":(!?[\w-]{1,60}!?):(?:[ \t]+(.{0,1000}))?\Z")
_ANCHOR = re.compile(
    r"\[\[([\w:.-]{1,200})(?:,[^\]\n]{0,200})?\]\]\Z|\[#([\w:.-]{1,200})[^\]\n]{0,200}\]\Z"
)
_BLOCK_ATTRIBUTES = re.compile(r"\[([^\[\]\n]{0,500})\]\Z")
_TITLE = re.compile(r"\.(?![.\s])(.{1,300})\Z")
_DELIMITER = re.compile(
    r"(-{4,}|\.{4,}|={4,}|\*{4,}|_{4,}|\+{4,}|/{4,}|--|`{3,}|~{4,})([\w+#-]{0,40})\Z"
)
_TABLE = re.compile(r"[|,:!]={3,}\Z")
_ITEM = re.compile(r"[ \t]{0,20}(\*{1,6}|-|\.{1,6}|\d{1,4}\.|<[\d.]{1,3}>)[ \t]+(\S.*)\Z")
_TERM = re.compile(r"[ \t]{0,20}(\S.{0,200}?)(:{2,4}|;;)(?:[ \t]+(.*))?\Z")
_ADMONITION = re.compile(r"(NOTE|TIP|IMPORTANT|WARNING|CAUTION):[ \t]+(.*)\Z")
_DIRECTIVE = re.compile(r"(?:include|ifdef|ifndef|ifeval|endif|image|video|audio|toc)::")
_KINDS = frozenset({"NOTE", "TIP", "IMPORTANT", "WARNING", "CAUTION"})

_REFERENCE = re.compile(r"\{([\w-]{1,60})\}")
_LINK = re.compile(
    r"(?:link:|mailto:|xref:|https?://|image:)([^\s\[\]]{0,500})\[([^\[\]\n]{0,300})\]"
)
_CROSS = re.compile(r"<<#?([^<>,\n]{1,200})(?:,[ ]*([^<>\n]{1,300}))?>>")
_MACRO = re.compile(
    r"\b(?:kbd|btn|menu|footnote|indexterm2?|pass|stem):[^\s\[\]]{0,100}\[([^\[\]\n]{0,300})\]"
)
_CODE = re.compile(r"(?<![\w`])`\+?([^`\n]{1,300}?)\+?`(?![\w`])")
_STRONG = re.compile(r"(?<![\w*])\*{1,2}([^*\n]{1,300}?)\*{1,2}(?![\w*])")
_EMPHASIS = re.compile(r"(?<![\w_])_{1,2}([^_\n]{1,300}?)_{1,2}(?![\w_])")
_INDEX = re.compile(r"\(\(\(?([^()\n]{1,200})\)?\)\)")
_CELL = re.compile(r"(?:\d{0,3}(?:\.\d{1,3})?[+*])?[<^>.]{0,4}[adehlmsv]?\|")
_COLUMNS = re.compile(r"cols=\"?([^\"\]]{1,200})\"?")
_TIMES = re.compile(r"(\d{1,3})\*")
_MAX_ATTRIBUTES = 200


def read(text: str, builder: Builder) -> None:
    """Add a page."""
    _Reader(text.split("\n"), builder).read()


class _Reader:
    def __init__(self, lines: list[str], builder: Builder) -> None:
        self._lines = lines
        self._builder = builder
        self._at = 0
        self._attributes: dict[str, str] = {"nbsp": " ", "empty": "", "sp": " ", "zwsp": ""}
        self._anchor: str | None = None
        self._style: list[str] = []
        """Of the block that comes: what stood in brackets before it."""

        self._columns = ""
        """The same as it was written: what it says of columns has commas inside."""

        self._language: str | None = None
        self._paragraph: list[str] = []
        self._paragraph_at = 1
        self._in_header = False
        """Between the title of the page and the first empty line: author and revision."""

        self._is_attached = False
        """A plus has said that the block that comes belongs to the item."""

        self._containers: list[tuple[str, bool]] = []
        """Delimiters of blocks that are open and hold blocks, and whether each is attached."""

        self._markers: list[str] = []
        """Of the lists that are open, the outermost first."""

    def read(self) -> None:
        while self._at < len(self._lines):
            line = self._lines[self._at].rstrip()
            self._at += 1
            self._line(line)
        self._end_list()

    def _line(self, line: str) -> None:  # noqa: PLR0912 - one kind of line after another
        if not line:
            self._flush()
            self._in_header = False
        elif found := _DELIMITER.match(line):
            self._flush()
            self._block(found.group(1), found.group(2))
        elif _TABLE.match(line):
            self._flush()
            self._end_list()
            self._table(line)
        elif self._in_header and not line.startswith(("//", ":")):
            self._builder.meta(
                {"author" if "@" in line or line[:1].isalpha() else "revision": line}
            )
        elif line.startswith("//") or _DIRECTIVE.match(line):
            if line.startswith("//"):
                self._builder.hidden(line[2:], "comment", self._position())
        elif self._paragraph and not _ITEM.match(line) and not _TERM.match(line) and line != "+":
            self._paragraph.append(line)
        elif found := _HEADING.match(line):
            self._heading(found)
        elif found := _ATTRIBUTE.match(line):
            self._attribute(found)
        elif found := _ANCHOR.match(line):
            self._anchor = found.group(1) or found.group(2)
        elif found := _BLOCK_ATTRIBUTES.match(line):
            self._columns = found.group(1)
            self._style = [part.strip().strip('"') for part in found.group(1).split(",")]
        elif found := _TITLE.match(line):
            self._flush()
            self._builder.paragraph(self._prose(found.group(1)), self._position())
        elif found := _ITEM.match(line):
            self._item(found.group(1), found.group(2))
        elif found := _TERM.match(line):
            self._item("::", f"{found.group(1)}: {found.group(3) or ''}")
        elif line == "+":
            self._flush()
            self._is_attached = bool(self._markers)
        elif found := _ADMONITION.match(line):
            self._flush()
            self._start(f"{found.group(1).capitalize()}: {found.group(2)}")
        elif line.startswith((" ", "\t")) and not self._markers:
            self._literal(line)
        else:
            self._start(line)

    def _start(self, line: str) -> None:
        if self._style and self._style[0] in _KINDS:
            line = f"{self._style[0].capitalize()}: {line}"
            self._style = []
        self._paragraph = [line]
        self._paragraph_at = self._at

    def _flush(self) -> None:
        lines, self._paragraph = self._paragraph, []
        if lines:
            text = "".join(
                line.removesuffix(" +") + ("\n" if line.endswith(" +") else " ") for line in lines
            )
            self._builder.paragraph(self._prose(text), Position(line=self._paragraph_at))
            if self._markers and not self._goes_on():
                self._end_list()

    def _goes_on(self) -> bool:
        """Whether the next line that is not empty belongs to the list."""
        for line in self._lines[self._at - 1 : self._at + 5]:
            if line.strip():
                return bool(_ITEM.match(line) or _TERM.match(line) or line.strip() == "+") or bool(
                    _DELIMITER.match(line.rstrip()) or _BLOCK_ATTRIBUTES.match(line.rstrip())
                )
        return False

    def _heading(self, found: re.Match[str]) -> None:
        self._end_list()
        level = len(found.group(1))
        title = self._prose(found.group(2))
        if level == 1 and not self._builder.blocks:
            self._builder.meta({"title": title})
            self._in_header = True
        self._builder.heading(level, title, self._position(), self._anchor)
        self._anchor, self._style = None, []

    def _attribute(self, found: re.Match[str]) -> None:
        name, value = found.group(1), found.group(2) or ""
        if name.startswith("!") or name.endswith("!"):
            self._attributes.pop(name.strip("!"), None)
        elif len(self._attributes) < _MAX_ATTRIBUTES:
            # Written out once, so that no attribute grows out of others without end.
            self._attributes[name] = self._referred(value)[:1_000]
        if name == "source-language":
            self._language = value
        if name in {"description", "keywords", "author", "revnumber"}:
            self._builder.meta({name: value})

    def _item(self, marker: str, text: str) -> None:
        self._flush()
        kind = marker if marker[0] in "*.-:" else "1."
        while kind in self._markers and self._markers[-1] != kind:
            self._close_item()
        if self._markers and self._markers[-1] == kind:
            self._close_item()
        self._markers.append(kind)
        self._builder.begin_item("1." if kind[0] in ".1" else "-")
        self._start(text)

    def _close_item(self) -> None:
        self._markers.pop()
        self._builder.end_item()

    def _end_list(self) -> None:
        if self._paragraph:
            markers, self._markers = self._markers, []
            self._flush()
            self._markers = markers
        while self._markers:
            self._close_item()

    def _block(self, delimiter: str, language: str) -> None:
        """A delimited block: to the letter, or what is inside read like everything else."""
        style, self._style = self._style, []
        attached, self._is_attached = self._is_attached, False
        kind = delimiter[0]
        is_code = kind in ".-`" and delimiter != "--"
        is_code = is_code or bool(style and style[0] in {"source", "listing", "literal"})
        begin = self._at
        is_end = bool(self._containers) and self._containers[-1][0] == delimiter
        attached = attached or (is_end and self._containers[-1][1])
        if not attached and kind != "/":
            self._end_list()
        if is_code or kind in "/+":
            inside = []
            while self._at < len(self._lines) and self._lines[self._at].rstrip() != delimiter:
                inside.append(self._lines[self._at])
                self._at += 1
            self._at += 1
            text = "\n".join(line for line in inside if not _DIRECTIVE.match(line))
            position = Position(line=begin)
            if kind == "/":
                self._builder.hidden(text, "comment", position)
            elif kind != "+":
                named = language or next(iter(style[1:2]), "") or self._language
                is_source = kind in "-`" or bool(style and style[0] == "source")
                self._builder.code(text, position, named if is_source else None)
        elif is_end:
            self._containers.pop()
        else:
            self._containers.append((delimiter, attached))
        if not is_code and style and style[0] in _KINDS:
            self._builder.paragraph(f"{style[0].capitalize()}:", self._position())

    def _literal(self, line: str) -> None:
        lines, begin = [line], self._at
        while self._at < len(self._lines) and self._lines[self._at].strip():
            lines.append(self._lines[self._at].rstrip())
            self._at += 1
        cut = min(len(text) - len(text.lstrip()) for text in lines)
        self._builder.code("\n".join(text[cut:] for text in lines), Position(line=begin))

    def _table(self, delimiter: str) -> None:
        columns, self._style, self._columns = self._columns, [], ""
        begin = self._at
        lines = []
        while self._at < len(self._lines) and self._lines[self._at].rstrip() != delimiter:
            lines.append(self._lines[self._at].rstrip())
            self._at += 1
        self._at += 1
        first = next((len(_cells(line)) for line in lines if line.strip()), 0)
        width = _width(columns) or first
        cells: list[str] = []
        for line in lines:
            found = _cells(line) if delimiter[0] == "|" else line.split(",")
            if found:
                cells += found
            elif cells and line.strip():
                cells[-1] += " " + line.strip()
        if width:
            cells = [self._prose(cell) for cell in cells]
            rows = [cells[at : at + width] for at in range(0, len(cells), width)]
            self._builder.table(rows, Position(line=begin))

    def _prose(self, text: str) -> str:
        text = self._referred(text)
        text = _MACRO.sub(r"\1", text)
        text = _LINK.sub(lambda found: found.group(2).rstrip("^") or found.group(1), text)
        text = _CROSS.sub(lambda found: found.group(2) or found.group(1), text)
        text = _INDEX.sub(r"\1", text)
        text = _CODE.sub(r"`\1`", text)
        text = _STRONG.sub(r"\1", text)
        return _EMPHASIS.sub(r"\1", text)

    def _referred(self, text: str) -> str:
        if "{" not in text:
            return text
        return _REFERENCE.sub(
            lambda found: self._attributes.get(found.group(1), found.group()), text
        )

    def _position(self) -> Position:
        return Position(line=self._at)


def _cells(line: str) -> list[str]:
    """What stands behind each bar of a line; nothing where it has none."""
    if "|" not in line:
        return []
    parts = _CELL.split(line.replace("\\|", "\x00"))
    return [part.strip().replace("\x00", "|") for part in parts[1:]]


def _width(style: str) -> int:
    found = _COLUMNS.search(style)
    if not found:
        return 0
    times = _TIMES.search(found.group(1))
    return int(times.group(1)) if times else found.group(1).count(",") + 1
