"""Tests of `quernel doctor`."""
