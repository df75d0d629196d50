"""Tests of gpu/: the real code on tiny models that the tests make."""
