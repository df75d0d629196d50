"""Names in code and headings, which people search for as they are spelt."""

from __future__ import annotations

import re
from collections.abc import Iterable

from functions.libraries.document import Block, Code, Heading
from functions.libraries.words import words

MOST = 100
"""Identifiers of one chunk; the first that come are the ones that are defined or called."""

_LONGEST = 100  # characters
_NAME = re.compile(r"[A-Za-z_$@][\w$]{0,99}(?:(?:\.|::|->)[A-Za-z_$][\w$]{0,99}){0,8}")
_QUOTED = re.compile(r"`([^`\n]{2,100})`")
_LOOKS_SO = re.compile(r"\w[._:]\w|_|[a-z][A-Z]|\(\)|^--?\w|^@\w|^[A-Z]{2,}\w*$")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]{1,50}")
_STRING = re.compile(r""""(?:[^"\\\n]|\\.){0,300}"|'(?:[^'\\\n]|\\.){0,300}'""")
_COMMENT = re.compile(r"(?m)(?:^|\s)(?:#|//|--)(?:\s.*)?$")

# Of the languages that documentation is mostly written in; they say nothing of what it is about.
_WORDS = words(
    "abstract and as assert async await bool boolean break case catch char class const "
    "continue def default del delete do done double echo elif else end enum except export "
    "extends extern false False fi final finally float fn for from func function global go "
    "goto if impl implements import in include int interface is lambda let long match mod "
    "module mut namespace new nil none None not null nullptr of or package pass print "
    "private protected pub public raise ref require return returns self short sizeof "
    "static str string struct super switch template then this throw throws trait true True "
    "try type typedef typeof undefined union unsigned use using var virtual void where "
    "while with yield"
)


def identifiers(headings: Iterable[Heading], blocks: Iterable[Block]) -> tuple[str, ...]:
    """Each once, in order: those of headings, of code in prose, of code."""
    names: dict[str, None] = {}
    codes = []
    for heading in headings:
        for word in heading.title.replace("`", " ").split():
            _add_word(word, names)
        if heading.is_api:
            _add_names(heading.title, names)
    for block in blocks:
        if isinstance(block, Code):
            codes.append(block)
            continue
        for quoted in _QUOTED.findall(block.text):
            _add_word(quoted, names)
    for code in codes:
        for option in _OPTION.findall(code.code):
            names[option] = None
        if code.language is None:  # a drawing or a log as likely as code
            for word in code.code.split():
                _add_word(word, names)
        elif code.language not in {"text", "html", "xml", "markdown"}:
            _add_names(_COMMENT.sub("", _STRING.sub('""', code.code)), names)
        if len(names) > MOST:
            break
    return tuple(names)[:MOST]


def _add_word(text: str, names: dict[str, None]) -> None:
    word = text.strip(" ,.;:!?()[]{}\"'")
    if _LOOKS_SO.search(text) and len(word) <= _LONGEST and " " not in word and len(word) > 1:
        names[word.split("(")[0].strip("[]{}<>=,") or word] = None


def _add_names(code: str, names: dict[str, None]) -> None:
    for match in _NAME.finditer(code):
        name = match.group().removeprefix("self.").removeprefix("this.")
        if len(name) > 1 and name not in _WORDS and len(name) <= _LONGEST:
            names[name] = None
            if len(names) > 2 * MOST:
                return
