"""Characters that nobody sees, and what they are good for in a text that a model will read.

They are taken out and counted. Two of them have honest uses that are kept: joiners between letters
of scripts that need them (Persian, Hindi) and in emoji.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from functions.libraries.document import Flag

_CLASSES = {
    "zero_width": "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2060-\u2064\u206a-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb",
    "bidi": "\u202a-\u202e\u2066-\u2069",
    "tag": "\U000e0000-\U000e007f",
    "variation": "\ufe00-\ufe0f\U000e0100-\U000e01ef",
    "control": "\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f",
    "surrogate": "\ud800-\udfff",
}
_INVISIBLE = re.compile("|".join(f"(?P<{name}>[{of}]+)" for name, of in _CLASSES.items()))
_NEW_LINES = str.maketrans({"\x85": "\n", "\u2028": "\n", "\u2029": "\n", "\x0c": "\n"})

_JOINERS = frozenset("\u200c\u200d")
_EMOJI_STYLE = "\ufe0f"
_RUN = 8  # hidden characters in a row spell something: one byte, at a bit each


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A text without invisible characters; how many of each class it had; what to think of them."""

    text: str
    removed: Mapping[str, int]
    flags: tuple[Flag, ...]


def cleaned(text: str) -> Cleaned:
    """Take out what nobody sees."""
    if text.isascii() and text.isprintable():
        return Cleaned(text, {}, ())
    text = text.translate(_NEW_LINES)
    removed: Counter[str] = Counter()
    longest: Counter[str] = Counter()

    def replaced(match: re.Match[str]) -> str:
        run, kind = match.group(), match.lastgroup or ""
        if _is_honest(text, match.start(), run):
            return run
        removed[kind] += len(run)
        longest[kind] = max(longest[kind], len(run))
        return ""

    shown = _INVISIBLE.sub(replaced, text)
    return Cleaned(shown, dict(removed), _flags(removed, longest))


def _is_honest(text: str, at: int, character: str) -> bool:
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if character in _JOINERS:
        return bool(before and after) and _joins(before) and _joins(after)
    # An emoji is shown in colour by the one that follows it; digits are in keycaps.
    return character == _EMOJI_STYLE and (before > "\u00a0" or after == "\u20e3")


def _joins(neighbour: str) -> bool:
    """Arabic and the scripts of India, emoji, and the selector that may stand between those."""
    return "\u0600" <= neighbour <= "\u0eff" or neighbour >= "\u2600"


def _flags(removed: Mapping[str, int], longest: Mapping[str, int]) -> tuple[Flag, ...]:
    flags = []
    if count := removed.get("tag"):
        flags.append(Flag("tag_characters", 0.9, f"{count} characters"))
    if count := removed.get("bidi"):
        flags.append(Flag("bidi_controls", 0.6, f"{count} characters"))
    hidden = max(longest.get("zero_width", 0), longest.get("variation", 0))
    if hidden >= _RUN:
        flags.append(Flag("encoded_invisibly", 0.9, f"{hidden} characters in a row"))
    elif (count := removed.get("zero_width", 0)) > 2:
        flags.append(Flag("zero_width", 0.2, f"{count} characters"))
    return tuple(flags)
