"""The body of a DOCX file, element by element: paragraphs, lists, tables, and what is hidden."""

from __future__ import annotations

from functions.libraries.document import Position
from functions.libraries.parsing.builder import Builder
from functions.libraries.parsing.docx_styles import Styles

_WHITE = frozenset({"ffffff", "fefefe"})
_TINY = 4  # half points
_SKIPPED = frozenset({"w:del", "w:moveFrom", "mc:Fallback", "w:instrText", "w:delText", "w:pict"})
_OFF = frozenset({"0", "false", "off"})


class Body:
    """Filled by expat's handlers with word/document.xml."""

    def __init__(self, builder: Builder, styles: Styles) -> None:
        self._builder = builder
        self._styles = styles
        self._paragraphs = 0
        self._skipped = 0
        self._in_text = False
        self._text: list[str] = []
        self._hidden: list[str] = []
        self._reason: str | None = None
        """Why the run that is open is not shown."""

        self._in_run_properties = False
        self._style = ""
        self._outline: int | None = None
        self._list_depth: int | None = None
        self._code: list[str] = []
        self._tables: list[list[list[str]]] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:  # noqa: PLR0912 - as many elements
        if tag in _SKIPPED or self._skipped:
            self._skipped += 1
            return
        value = attributes.get("w:val", "")
        match tag:
            case "w:p":
                self._paragraphs += 1
                self._text, self._hidden, self._style = [], [], ""
                self._outline = self._list_depth = None
            case "w:pStyle":
                self._style = value
            case "w:outlineLvl":
                self._outline = int(value) + 1 if value.isdigit() and int(value) < 9 else None
            case "w:numPr":
                self._list_depth = 0
            case "w:ilvl":
                self._list_depth = min(int(value), 9) if value.isdigit() else 0
            case "w:r":
                self._reason = None
            case "w:rPr":
                self._in_run_properties = True
            case "w:vanish" | "w:color" | "w:sz" if self._in_run_properties:
                self._reason = self._reason or _why_hidden(tag, value)
            case "w:t":
                self._in_text = True
            case "w:tab":
                if not self._in_run_properties:
                    self.piece("\t")
            case "w:br" | "w:cr":
                self.piece("\n")
            case "w:tbl":
                self._end_code()
                self._tables.append([])
            case "w:tr" if self._tables:
                self._tables[-1].append([])
            case "w:tc" if self._tables and self._tables[-1]:
                self._tables[-1][-1].append("")
            case _:
                pass

    def end(self, tag: str) -> None:
        if self._skipped:
            self._skipped -= 1
            return
        match tag:
            case "w:t":
                self._in_text = False
            case "w:rPr":
                self._in_run_properties = False
            case "w:r":
                self._reason = None
            case "w:p":
                self._end_paragraph()
            case "w:tbl" if self._tables:
                rows = self._tables.pop()
                if self._tables:  # a table in a cell of another
                    self._in_cell(" ".join(cell for row in rows for cell in row))
                else:
                    self._builder.table(rows, self._position())
            case _:
                pass

    def text(self, text: str) -> None:
        if self._in_text and not self._skipped:
            self.piece(text)

    def piece(self, text: str) -> None:
        (self._text if self._reason is None else self._hidden).append(text)

    def close(self) -> None:
        self._end_code()

    def _end_paragraph(self) -> None:
        text, hidden = "".join(self._text), "".join(self._hidden)
        self._text, self._hidden = [], []
        if hidden.strip():
            self._builder.hidden(hidden, "hidden_text", self._position())
        if self._tables:
            self._in_cell(text)
            return
        if self._styles.is_code(self._style):
            self._code.append(text)
            return
        self._end_code()
        level = self._styles.level(self._style) or self._outline
        if level:
            self._builder.heading(min(level, 6), text, self._position())
        elif self._list_depth is not None:
            for _ in range(self._list_depth + 1):
                self._builder.begin_item()
            self._builder.paragraph(text, self._position())
            for _ in range(self._list_depth + 1):
                self._builder.end_item()
        else:
            self._builder.paragraph(text, self._position())

    def _in_cell(self, text: str) -> None:
        rows = self._tables[-1]
        if rows and rows[-1]:
            rows[-1][-1] = f"{rows[-1][-1]} {text}".strip()

    def _end_code(self) -> None:
        code, self._code = self._code, []
        if code:
            self._builder.code("\n".join(code), self._position())

    def _position(self) -> Position:
        return Position(element=self._paragraphs)


def _why_hidden(tag: str, value: str) -> str | None:
    if tag == "w:vanish":
        return None if value.lower() in _OFF else "vanish"
    if tag == "w:color":
        return "white_text" if value.lower() in _WHITE else None
    return "tiny_font" if value.isdigit() and int(value) <= _TINY else None
