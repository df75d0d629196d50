"""Sitemaps (sitemaps.org): read without a parser of XML, which would follow what it declares."""

from __future__ import annotations

import html
import re
import zlib
from itertools import islice

from functions.libraries.sources.addresses import Place

MAX_SITEMAP_BYTES = 10 * 1024 * 1024
MAX_UNPACKED_BYTES = 50 * 1024 * 1024  # as the protocol allows
MAX_ADDRESSES = 50_000

_LOCATION = re.compile(r"<loc>\s{0,99}(?:<!\[CDATA\[\s{0,99})?([^<\]\s]{1,2000})")
_INDEX = re.compile(r"<sitemapindex[\s>]")


def pages_of(content: bytes, place: Place) -> list[str]:
    """Pages of a place that a sitemap names; none of an index of sitemaps."""
    text = _text(content)
    if _INDEX.search(text[:2_000]):
        return []
    links = (place.link(address, place.origin) for address in _addresses(text))
    return list(dict.fromkeys(link for link in links if link is not None))


def listed(content: bytes) -> list[str]:
    """Sitemaps that an index names."""
    text = _text(content)
    return _addresses(text) if _INDEX.search(text[:2_000]) else []


def _addresses(text: str) -> list[str]:
    found = islice(_LOCATION.finditer(text), MAX_ADDRESSES)
    return [html.unescape(one[1]) for one in found]


def _text(content: bytes) -> str:
    if content.startswith(b"\x1f\x8b"):
        unpacking = zlib.decompressobj(wbits=31)
        try:
            content = unpacking.decompress(content, MAX_UNPACKED_BYTES)
        except zlib.error:
            return ""
    return content.decode("utf-8", "replace")
