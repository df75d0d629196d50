"""Roles of Sphinx, in reStructuredText and in MyST: what is left of one is its text."""

from __future__ import annotations

import re

from functions.libraries.words import words

_CODE = words(
    "code class func meth attr data exc obj mod const type any method function option envvar file "
    "command program kbd samp makevar confval setting member macro var struct enum pep-code regexp "
    "token keyword fixture hook deco decorator literal"
)
_TARGET = re.compile(r"(.{0,500}?)\s*<[^<>]{0,500}>\Z", re.DOTALL)
_MYST = re.compile(r"\{([A-Za-z][\w:.+-]{0,40})\}`([^`\n]{1,500})`")


def shown(role: str, text: str) -> tuple[str, bool]:
    """The text of a role, and whether it is code."""
    name = role.lower().rpartition(":")[2]
    is_code = name in _CODE
    target = _TARGET.match(text)
    if target and target.group(1):
        text = target.group(1)
    elif is_code:
        text = text.rpartition(".")[2] if text.startswith("~") else text.lstrip("!.")
    return text, is_code


def without_myst_roles(text: str) -> str:
    """Text in which MyST's roles have become what they show."""
    return _MYST.sub(_replaced, text) if "}`" in text else text


def _replaced(found: re.Match[str]) -> str:
    text, is_code = shown(found.group(1), found.group(2))
    return f"`{text}`" if is_code else text
