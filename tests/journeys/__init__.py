"""Whole stories, told by real clients against the whole stack."""
