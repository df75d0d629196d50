"""What keeps a page from taking forever: lexbor's time grows with the square of depth and of the
attributes of an element. Checked on the text, before it parses.
"""

from __future__ import annotations

import re
from collections import Counter

from functions.libraries.errors import ParseError
from functions.libraries.words import words

MAX_DEPTH = 2_000  # elements inside each other, as written; read are those of Limits.depth
MAX_ATTRIBUTES = 500  # of one element

# Possessive throughout: nothing is tried twice.
_ATTRIBUTE = r"""[\s/]*+[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"'][^\s>]*+)?+)?+"""
_ATTRIBUTES = re.compile(_ATTRIBUTE)
_TAG = re.compile(rf"<(/?)([a-zA-Z][^\s/>]*+)((?:{_ATTRIBUTE})*+)")

# Elements that have no end tag, or need none: the next one of the kind ends them.
_FLAT = words(
    "area base br col embed hr img input link meta param source track wbr "
    "p li dt dd tr td th thead tbody tfoot colgroup option optgroup rp rt"
)


def guard(text: str) -> None:
    """Raise ParseError (`too_deep`, `too_many_attributes`) for what would be slow to parse."""
    opened: Counter[str] = Counter()
    depth = 0
    for match in _TAG.finditer(text):
        closes, name, attributes = match.groups()
        # Each attribute takes two characters at least.
        if (
            len(attributes) > 2 * MAX_ATTRIBUTES
            and sum(1 for _ in _ATTRIBUTES.finditer(attributes)) > MAX_ATTRIBUTES
        ):
            raise ParseError("too_many_attributes", "An element has too many attributes.")
        name = name.lower()
        if name in _FLAT:
            continue
        if not closes:
            opened[name] += 1
            depth += 1
            if depth > MAX_DEPTH:
                raise ParseError("too_deep", "Elements are nested too deeply.")
        elif opened[name]:
            opened[name] -= 1
            depth -= 1
