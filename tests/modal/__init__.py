"""Tests of modal_app.py: what it would deploy, and that it runs."""
