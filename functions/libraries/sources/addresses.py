"""Addresses of pages, in one spelling, and which of them belong to a site."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from itertools import chain, islice
from urllib.parse import urljoin, urlsplit, urlunsplit

MAX_URL = 1_000  # characters
MAX_SEGMENTS = 20
"""Folders of a path; a site that links `next/next/next/…` ends there."""

MAX_LINKS = 5_000
"""Of one page."""

_HREF = re.compile(r"<a\s[^<>]{0,500}?href\s{0,9}=\s{0,9}[\"']?([^\"'\s<>]{1,1000})", re.IGNORECASE)
_MARKDOWN = re.compile(r"\]\(\s{0,9}<?([^)\s>]{1,1000})")
_NO_PAGE = re.compile(
    r"\.(?:png|jpe?g|gif|svg|webp|ico|css|js|mjs|map|json|xml|zip|t?gz|bz2|xz|pdf|mp4|webm|mp3"
    r"|woff2?|ttf|whl|exe|dmg)\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Place:
    """An origin, and the folder of it that is read."""

    origin: str
    folder: str
    """Of paths, with a slash at its end."""

    @classmethod
    def of(cls, url: str) -> Place:
        """The folder that a page is in, or is: `/docs` and `/docs/` are the same."""
        parts = urlsplit(url)
        head, _, last = parts.path.rpartition("/")
        folder = f"{head}/" if "." in last or not last else f"{head}/{last}/"
        return cls(f"{parts.scheme}://{parts.netloc}", folder)

    def within(self, name: str) -> str:
        return f"{self.origin}{self.folder}{name}"

    def at_root(self, name: str) -> str:
        return f"{self.origin}/{name}"

    def link(self, target: str, base: str) -> str | None:
        """The address that a page at `base` links to, in one spelling; None for one elsewhere.

        What comes after `#` and `?` is left out: the same page is one address, and no calendar
        goes on for ever.
        """
        url = self.joined(base, target)
        if url is None or not f"{url}/".startswith(f"{self.origin}/"):
            return None
        path = urlsplit(url).path
        is_within = path.startswith(self.folder) or f"{path}/" == self.folder
        if not is_within or path.count("/") > MAX_SEGMENTS or _NO_PAGE.search(path):
            return None
        return url

    @staticmethod
    def joined(base: str, target: str) -> str | None:
        """An address without query and fragment; None for what is none."""
        try:
            parts = urlsplit(urljoin(base, html.unescape(target.strip())))
            if parts.scheme not in ("https", "http") or not parts.netloc or parts.username:
                return None
            url = urlunsplit((parts.scheme, parts.netloc.lower(), parts.path or "/", "", ""))
        except ValueError:
            return None
        return url if len(url) <= MAX_URL and url.isprintable() and " " not in url else None


def links_of(text: str, base: str, place: Place) -> list[str]:
    """Pages of a place that HTML or Markdown links to, each once."""
    found = chain(_HREF.finditer(text), _MARKDOWN.finditer(text))
    links = (place.link(one[1], base) for one in islice(found, MAX_LINKS))
    return list(dict.fromkeys(link for link in links if link is not None))
