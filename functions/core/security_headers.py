"""Headers on every answer that keep a browser from making more of it than data."""

from __future__ import annotations

from functions.core.settings import Settings

HSTS_SECONDS = 31_536_000
"""One year."""


def security_headers(settings: Settings) -> list[tuple[bytes, bytes]]:
    """Raw ASGI headers; a route that sets one of them itself wins."""
    headers = [
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"x-frame-options", b"DENY"),
        # Answers are about one caller: no cache may keep them.
        (b"cache-control", b"no-store"),
        # Nothing is a page but /docs, which has a policy of its own.
        (b"content-security-policy", b"frame-ancestors 'none'; base-uri 'none'"),
    ]
    if settings.public_url.startswith("https://"):
        headers.append((b"strict-transport-security", b"max-age=%d" % HSTS_SECONDS))
    return headers
