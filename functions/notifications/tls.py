"""The certificates that servers of others are checked against: those that httpx trusts."""

from __future__ import annotations

import ssl
from functools import lru_cache

import httpx


@lru_cache(maxsize=1)
def public_tls() -> ssl.SSLContext:
    """Made once per process: reading the certificates takes longer than sending a message."""
    return httpx.create_ssl_context(trust_env=False)
