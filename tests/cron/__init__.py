"""Tests of cron: when jobs run, that they never overlap, and what they do."""
