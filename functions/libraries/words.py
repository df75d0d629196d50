"""Sets of words, as they are read."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """The words between the spaces of a text."""
    return frozenset(text.split())
