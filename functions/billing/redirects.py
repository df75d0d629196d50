"""Which addresses a checkout may send the buyer's browser to: pages of allowed origins only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from functions.core.errors import InvalidRequestError

_DEFAULT_PORTS = {"http": 80, "https": 443}

_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
"""What browsers drop or reinterpret, so that they would see another address than we do."""


def require_allowed(url: str, origins: Iterable[str], *, param: str) -> None:
    """Raise InvalidRequestError `url_not_allowed` unless `url` is a page of one of `origins`."""
    allowed = {origin for listed in origins if (origin := _origin(listed)) is not None}
    origin = None if _UNSAFE.search(url) else _origin(url)
    if origin is None or origin not in allowed:
        raise InvalidRequestError(
            "url_not_allowed", "This address is not of an allowed origin.", {"param": param}
        )


def _origin(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port (RFC 6454); None for anything but a plain web address."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        return None
    return parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme]
