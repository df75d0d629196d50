"""Quernel's functions: the Python that talks to the outside world, one folder per domain."""
