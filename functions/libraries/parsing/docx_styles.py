"""What the styles of a DOCX file mean: headings by their outline level, code by their name.

Names of styles are translated, identifiers often too; the outline level is not.
"""

from __future__ import annotations

import re

_HEADING = re.compile(r"heading ?(\d)\Z", re.IGNORECASE)
_CODE = re.compile(r"code|source|preformatted|verbatim|listing|monospace", re.IGNORECASE)
_MAX = 5_000  # styles


class Styles:
    """Filled by expat's handlers with what word/styles.xml says."""

    def __init__(self) -> None:
        self.levels: dict[str, int] = {}
        self.code: set[str] = set()
        self._style = ""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        value = attributes.get("w:val", "")
        if tag == "w:style":
            self._style = attributes.get("w:styleId", "")[:200]
        elif not self._style or len(self.levels) + len(self.code) > _MAX:
            return
        elif tag == "w:name":
            if found := _HEADING.match(value):
                self.levels[self._style] = int(found.group(1))
            elif value.lower() == "title":
                self.levels[self._style] = 1
            elif _CODE.search(value):
                self.code.add(self._style)
        elif tag == "w:outlineLvl" and value.isdigit() and int(value) < 9:
            self.levels.setdefault(self._style, int(value) + 1)

    def end(self, tag: str) -> None:
        if tag == "w:style":
            self._style = ""

    def level(self, style: str) -> int | None:
        """Of a heading; also where the file has no styles."""
        found = re.match(r"Heading(\d)\Z", style)
        return self.levels.get(style) or (int(found.group(1)) if found else None)

    def is_code(self, style: str) -> bool:
        return style in self.code or _CODE.search(style) is not None
