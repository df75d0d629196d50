"""Tests of libraries: reading, cutting and screening, what is kept, and the search."""
