"""The tests, one folder per domain."""
