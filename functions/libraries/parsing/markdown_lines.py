"""What Markdown's dialects add to it, rewritten line by line into what every reader knows.

MkDocs indents admonitions and tabs, Docusaurus puts them between colons, MyST into fences, MDX
writes components and code of JavaScript. The number of lines stays, so that positions are right.
"""

from __future__ import annotations

import re

from functions.libraries.words import words

_FENCE = re.compile(r"([ \t>]{0,40})(`{3,}|~{3,})[ \t]*+([^`\n]*+)\Z")
_INDENTED = re.compile(
    r"""([ ]{0,40})(?:!!!|\?\?\?\+?|===[!+]?)[ ]{1,9}"""
    r"""([\w -]{0,40})(?:"([^"\n]{0,200})")?[ ]{0,9}\Z"""
)
_COLONS = re.compile(r"[ ]{0,40}:{3,}[ ]*(?:\{?([a-zA-Z][\w-]{0,40})\}?)?(.{0,300})\Z")
_AUTODOC = re.compile(r"[ ]{0,3}::: [\w.]{1,200}\Z")  # of mkdocstrings
_LABEL = re.compile(r"[ ]{0,3}\([\w:. -]{1,200}\)=[ ]*\Z")  # of MyST
_MYST = re.compile(r"\{([\w:.-]{1,40})\}[ ]*(.{0,300})\Z")
_OPTION = re.compile(r"[ ]{0,40}:[\w-]{1,40}:(?: .{0,300})?\Z")
_ALERT = re.compile(r"([ ]{0,3}>[ ]?)\[!([A-Za-z]{1,20})\][+-]?[ ]*(.{0,200})\Z")
_ATTRIBUTES = re.compile(
    r"(?<![ \t])[ \t]++\{[:.][^{}\n]{0,200}\}[ \t]*\Z|\A[ ]{0,3}\{:[^{}\n]{0,200}\}\Z"
)

_MDX_CODE = re.compile(
    r"(?:import\s+(?:[\w*{].{0,500}\sfrom\s|[\"'{])|import\s*\{|export\s+(?:default|const|let|"
    r"function|async|class|var|\{|\*))"
)
_TAG_LINE = re.compile(r"\s{0,200}</?(?:[A-Z][\w.]{0,80}(?:[\s/>]|\Z)|>)")
_SHOWN = re.compile(
    r"""\b(?:title|label|header|summary|heading)=(?:"([^"\n]{1,200})"|'([^'\n]{1,200})')"""
)
_INLINE_TAG = re.compile(r"</?[A-Z][\w.]{0,80}(?:\s[^<>\n]{0,500})?/?>")
_TAG_LINES = 40  # that one component's attributes may take

# Directives of MyST whose body is code, and those that hold nothing of their own.
CODE = words("code code-block code-cell sourcecode doctest prompt eval-rst")
EMPTY = words(
    "toctree include literalinclude raw image figure mermaid graphviz contents tableofcontents "
    "autosummary automodule autoclass autofunction bibliography plot video iframe"
)


def rewritten(text: str, *, is_mdx: bool) -> tuple[str, list[str]]:
    """The text for a plain reader of Markdown, and comments that were taken out of it."""
    comments: list[str] = []
    if is_mdx:
        text = _without_comments(text, comments)
    lines = text.split("\n")
    return "\n".join(_Rewriter(lines, is_mdx=is_mdx).lines()), comments


def _without_comments(text: str, comments: list[str]) -> str:
    """Without what stands between {/* and */}; by hand, for a pattern would look for every end."""
    parts = []
    at = 0
    while (begin := text.find("{/*", at)) >= 0 and (end := text.find("*/}", begin + 3)) >= 0:
        comments.append(text[begin + 3 : end].strip())
        parts += [text[at:begin], "\n" * text.count("\n", begin, end)]
        at = end + 3
    return "".join([*parts, text[at:]])


class _Rewriter:
    def __init__(self, lines: list[str], *, is_mdx: bool) -> None:
        self._lines = lines
        self._is_mdx = is_mdx
        self._fence: str | None = None
        self._directives: list[str] = []
        """Fences of MyST's directives that are open and hold Markdown."""

        self._dedents: list[int] = []
        """Columns at which the bodies of admonitions that are open stand."""

        self._at_begin = True

    def lines(self) -> list[str]:
        done: list[str] = []
        at = 0
        while at < len(self._lines):
            line = self._dedented(self._lines[at])
            taken = 0
            if self._fence is None and self._is_mdx:
                taken = self._component(at, line, done)
            if not taken:
                done.append(self._line(line))
                taken = 1
            at += taken
        return done

    def _dedented(self, line: str) -> str:
        """Without the indentation of the admonitions that are open; those it leaves are closed."""
        if not self._dedents or not line.strip():
            return line
        indent = len(line) - len(line.lstrip(" "))
        while self._dedents and indent < self._dedents[-1]:
            self._dedents.pop()
            self._fence = None
        return line[4 * len(self._dedents) :]

    def _line(self, line: str) -> str:  # noqa: PLR0911 - one kind of line after another
        fence = _FENCE.match(line)
        if self._fence is not None:
            if fence and fence.group(2).startswith(self._fence) and not fence.group(3).strip():
                self._fence = None
            return line
        if fence and fence.group(2) in self._directives[-1:] and not fence.group(3).strip():
            self._directives.pop()
            return ""
        if fence:
            self._fence = fence.group(2)
            return self._opened(line, fence)
        if found := _INDENTED.match(line):
            kind, title = found.group(2).strip(), found.group(3)
            self._dedents.append(len(found.group(1)) + 4 * (len(self._dedents) + 1))
            return found.group(1) + _named(kind.split(" ")[0] if kind else "", title)
        if _AUTODOC.match(line) or _LABEL.match(line) or self._is_option(line):
            return ""
        if line.lstrip().startswith(":::") and (found := _COLONS.match(line)):
            return _named(found.group(1) or "", found.group(2).strip().strip("[]"))
        if found := _ALERT.match(line):
            return found.group(1) + _named(found.group(2).lower(), found.group(3))
        if "{" in line:
            line = _ATTRIBUTES.sub("", line)
        return _INLINE_TAG.sub("", line) if self._is_mdx and "`" not in line else line

    def _is_option(self, line: str) -> bool:
        """Whether a line is an option of the directive that is open, as `:class: wide`."""
        return bool(self._directives) and _OPTION.match(line) is not None

    def _opened(self, line: str, fence: re.Match[str]) -> str:
        """A fence; one of MyST that holds Markdown becomes no fence at all."""
        directive = _MYST.match(fence.group(3).strip())
        if directive is None or directive.group(1) in CODE | EMPTY:
            return line
        self._fence = None
        self._directives.append(fence.group(2))
        return fence.group(1) + _named(directive.group(1), directive.group(2))

    def _component(self, at: int, line: str, done: list[str]) -> int:
        """Lines of MDX that are code of JavaScript, or nothing but a component's tag: how many."""
        before = self._lines[at - 1].strip() if at else ""
        if not before and _MDX_CODE.match(line) and not self._dedents:
            count = 1
            while at + count < len(self._lines) and self._lines[at + count].strip():
                count += 1
            done += [""] * count
            return count
        if not _TAG_LINE.match(line):
            return 0
        count, text = 1, line
        while not text.rstrip().endswith(">") and "</" not in text and count < _TAG_LINES:
            if at + count >= len(self._lines) or not self._lines[at + count].strip():
                break
            text += " " + self._lines[at + count].strip()
            count += 1
        if ">" not in text:
            return 0
        shown = [first or second for first, second in _SHOWN.findall(text)]
        # What stands between a component's tags on the same line is text.
        inside = _INLINE_TAG.sub(" ", text).strip()
        inside = "" if inside.startswith("<") and "</" not in text else inside
        words = " ".join([*shown, inside]).strip()
        done += [words if words != "<>" else "", *[""] * (count - 1)]
        return count


def _named(kind: str, title: str | None) -> str:
    """The first line of an admonition: its title, or its kind as a word."""
    if title and title.strip():
        return f"**{title.strip()}**  "  # two spaces end the line
    return f"**{kind.replace(chr(45), chr(32)).capitalize()}:**  " if kind else ""
