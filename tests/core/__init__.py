"""Tests of functions/core and functions/app.py."""
