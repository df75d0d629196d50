"""Tests of privacy: the catalogue of personal data, and erasure."""
