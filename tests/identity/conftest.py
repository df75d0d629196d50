"""Fixtures of this folder."""

from tests.support.people import new_person, new_team

__all__ = ["new_person", "new_team"]
