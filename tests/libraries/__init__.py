"""Tests of reading, cutting and screening documentation."""
