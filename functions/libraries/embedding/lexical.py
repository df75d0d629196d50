"""The embedding that is always there: words, their parts and their letters, hashed to numbers.

It knows no meaning: texts are alike that share words, parts of names (`getUserName`, `user_name`)
and stems, which it catches by pieces of words. It is no neural embedding and does not replace one;
it needs no model, no card and no network, and the same text always has the same vector.

The hashing is that of Weinberger et al., Feature Hashing for Large Scale Multitask Learning (2009):
each feature has one place and one sign, both from its digest, so that collisions cancel on average.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from functions.core.errors import OperatorError
from functions.libraries.words import words

NAME = "lexical-hash-1"
"""Changes with the features and their weights: vectors of two names are not comparable."""

DIMENSIONS = 1536

# How much a feature counts beside a whole word. Chosen by what finds most in the documentation of
# aiohttp, click and Jinja, for questions made of headings and docstrings (docs/search.md).
_PART = 0.6  # of a name that is made of several words
_PAIR = 1.2  # two words beside each other
_PIECE = 0.5  # four letters: stems, endings, slips of the pen
_COMMON = 0.15  # a word that is in every text

_PIECE_LENGTH = 4
_MAX_WORDS = 20_000  # of one text
_MAX_WORD = 64  # characters that are looked at

_WORD = re.compile(r"[^\W_]+(?:[_.:-]+[^\W_]+)*")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")

_COMMON_WORDS = words(
    "a about after all also an and any are as at be been before but by can could did do does each "
    "for from get had has have how if in into is it its may more most must no not of on one only "
    "or other our out over should so some such than that the their them then there these they "
    "this those to under up use used using was we were what when where which while who why will "
    "with would you your"
)


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Vectors of length 1; one of a text without a word has nothing but a fixed first number.

    Raises OperatorError where numpy is not installed.
    """
    numpy = _library()
    return [_vector(numpy, text).tolist() for text in texts]


def _vector(numpy: Any, text: str) -> Any:  # noqa: ANN401 - a module, an array
    counted: Counter[str] = Counter()
    for feature in _features(text):
        counted[feature] += 1
    vector = numpy.zeros(DIMENSIONS, dtype=numpy.float64)
    for feature, count in counted.items():
        place, sign = _place(feature)
        # A word that comes ten times says more than one that comes once, but not ten times more.
        vector[place] += sign * _weight(feature) * (1.0 + math.log(count))
    length = float(numpy.linalg.norm(vector))
    if length == 0.0:
        vector[0] = length = 1.0
    return (vector / length).astype(numpy.float32)


def _features(text: str) -> Iterator[str]:
    """`w:` words, `p:` parts of names, `b:` pairs of words, `c:` pieces of words."""
    last = ""
    for number, match in enumerate(_WORD.finditer(text)):
        if number == _MAX_WORDS:
            return
        spelt = match.group()[:_MAX_WORD]
        word = spelt.lower()
        yield f"w:{word}"
        parts = [part.lower() for part in _PARTS.findall(spelt)]
        if len(parts) > 1:
            yield from (f"p:{part}" for part in parts)
            # However it is joined: user_name, userName and user.name.
            yield f"w:{''.join(parts)}"
        for part in parts:
            if part not in _COMMON_WORDS:
                padded = f"<{part}>"
                for start in range(len(padded) - _PIECE_LENGTH + 1):
                    yield f"c:{padded[start : start + _PIECE_LENGTH]}"
        if word in _COMMON_WORDS:
            continue
        if last:
            yield f"b:{last} {word}"
        last = word


def _weight(feature: str) -> float:
    kind, _, name = feature.partition(":")
    if kind == "w":
        return _COMMON if name in _COMMON_WORDS else 1.0
    if kind == "p":
        # Beside the word itself where that stands alone: `name` is alike to `user_name`.
        return _COMMON if name in _COMMON_WORDS else _PART
    return _PAIR if kind == "b" else _PIECE


@lru_cache(maxsize=200_000)
def _place(feature: str) -> tuple[int, int]:
    """A part is hashed as the word that it is."""
    shown = f"w:{feature[2:]}" if feature.startswith("p:") else feature
    number = int.from_bytes(hashlib.blake2b(shown.encode(), digest_size=8).digest(), "little")
    return (number >> 1) % DIMENSIONS, 1 if number & 1 else -1


def _library() -> Any:  # noqa: ANN401 - a module
    try:
        import numpy as np  # noqa: PLC0415 - only where vectors are made
    except ImportError:
        raise OperatorError(
            "numpy_missing", "Embeddings need numpy: pip install 'quernel[libraries]'."
        ) from None
    return np
