"""robots.txt (RFC 9309): what a site asks crawlers not to read, and how slowly to read the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from functions.core.errors import QuernelError
from functions.core.http import SafeClient
from functions.libraries.errors import SourceError

AGENT = "Quernel"
MAX_BYTES = 500 * 1024  # as the RFC asks for at least
MAX_DELAY_SECONDS = 10.0
SECONDS = 20.0


@dataclass(frozen=True)
class Robots:
    """The rules for us."""

    rules: Any = field(repr=False)
    delay: float
    """Seconds between two pages."""

    sitemaps: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Robots:
        """Raises SourceError where what reads the rules is not installed."""
        try:
            from protego import Protego  # noqa: PLC0415 - only where sites are crawled
        except ImportError:
            raise SourceError(
                "source_not_configured", "The operator has not installed protego."
            ) from None
        rules = Protego.parse(text)
        asked = rules.crawl_delay(AGENT)
        delay = min(max(float(asked or 0), 0.0), MAX_DELAY_SECONDS)
        return cls(rules, delay, tuple(rules.sitemaps)[:10])

    @classmethod
    async def fetch(cls, http: SafeClient, url: str) -> Robots:
        """Of the site of an address. Without a file everything may be read.

        Raises SourceError where its server cannot say: then nothing may be.
        """
        parts = urlsplit(url)
        try:
            answer = await http.fetch(
                f"{parts.scheme}://{parts.netloc}/robots.txt",
                max_bytes=MAX_BYTES,
                timeout_seconds=SECONDS,
            )
        except QuernelError as error:
            if error.code == "response_too_large":
                return cls.parse("")
            raise
        if answer.status >= 500:
            raise SourceError("source_unavailable", "The site's robots.txt cannot be read.")
        return cls.parse(answer.body.decode("utf-8", "replace") if answer.status == 200 else "")

    def allows(self, url: str) -> bool:
        return bool(self.rules.can_fetch(url, AGENT))
