"""Tests of usage: rollups, retention, reports."""
