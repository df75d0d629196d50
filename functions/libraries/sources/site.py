"""A site of documentation: its pages, as far as it wants them read, within bounds.

Which pages there are is told by llms.txt, else by a sitemap, else by the links of the pages
themselves. None leaves the origin and the folder of the address that was given. robots.txt is
obeyed (RFC 9309), and a page that has not changed is not sent again (ETag).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from functions.core.errors import QuernelError
from functions.core.http import FetchedResponse, SafeClient
from functions.libraries.errors import SourceError
from functions.libraries.sources.addresses import Place, links_of
from functions.libraries.sources.files import Skipped, SourceFile, safe_path
from functions.libraries.sources.robots import Robots
from functions.libraries.sources.sitemaps import MAX_SITEMAP_BYTES, listed, pages_of
from functions.libraries.sources.snapshots import Snapshot

MAX_PAGES = 2_000
MAX_PAGE_BYTES = 10 * 1024 * 1024  # as functions/libraries/parsing takes
MAX_KEPT_BYTES = 128 * 1024 * 1024
MAX_SITEMAPS = 20
MAX_REDIRECTS = 5
AT_ONCE = 4
SECONDS = 1_800.0
"""For a whole site; the pages that were fetched by then are what there is."""

PAGE_SECONDS = 30.0

_READABLE = re.compile(r"text/(?:html|markdown|plain|x-markdown|x-rst)|application/xhtml\+xml")
_NO_INDEX = re.compile(rb"<meta[^>]{1,200}name=[\"']?robots[\"']?[^>]{1,200}noindex", re.IGNORECASE)
_SUFFIXES = {
    ".html",
    ".htm",
    ".md",
    ".mdx",
    ".markdown",
    ".rst",
    ".txt",
    ".adoc",
    ".ipynb",
    ".json",
    ".yaml",
    ".yml",
}
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (404, 410)


@dataclass(frozen=True)
class Pages:
    """What a site has now."""

    files: list[SourceFile] = field(repr=False)
    etags: dict[str, str] = field(repr=False)

    @property
    def revision(self) -> str:
        """The same for the same pages."""
        digest = hashlib.sha256()
        for file in sorted(self.files, key=lambda one: one.url):
            digest.update(f"{file.url}\n{hashlib.sha256(file.content).hexdigest()}\n".encode())
        return digest.hexdigest()


class Site:
    """The site at an https address."""

    def __init__(
        self,
        address: str,
        http: SafeClient,
        before: Snapshot | None = None,
        *,
        seconds: float = SECONDS,
    ) -> None:
        """`before`: its pages of the last time; `seconds`: what is not read by then is left out.

        Raises QuernelError `url_refused`.
        """
        http.vet(address)
        self._address = address
        self._http = http
        self._before = before or Snapshot()
        self._etags: dict[str, str] = {}
        self._files: dict[str, SourceFile] = {}
        self._room = MAX_KEPT_BYTES
        self._ends = time.monotonic() + seconds

    async def pages(self, skipped: Skipped) -> Pages:
        """Everything that may be read. Raises SourceError, QuernelError for the first page."""
        start, first = await self._start()
        place = Place.of(start)
        robots = await Robots.fetch(self._http, start)
        if not robots.allows(start):
            raise SourceError("source_forbidden", "The site's robots.txt asks not to read it.")
        waiting, follows = await self._seeds(place, robots, start, first)
        self._take(start, first, skipped)
        seen = {start, *waiting}
        while waiting and len(self._files) < MAX_PAGES and time.monotonic() < self._ends:
            batch, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            if robots.delay:
                batch, waiting = batch[:1], batch[1:] + waiting
                await asyncio.sleep(robots.delay)
            allowed = [url for url in batch if robots.allows(url)]
            if len(allowed) < len(batch):
                skipped.add("forbidden", len(batch) - len(allowed))
            found = await asyncio.gather(*(self._page(url, place, skipped) for url in allowed))
            if follows:
                for link in (link for links in found for link in links):
                    if link not in seen and len(seen) < 10 * MAX_PAGES:
                        seen.add(link)
                        waiting.append(link)
        if waiting:
            skipped.add("bound_reached", len(waiting))
        return Pages(list(self._files.values()), self._etags)

    async def _start(self) -> tuple[str, FetchedResponse]:
        """Where the site begins: redirects are followed within its origin."""
        url = self._address.partition("#")[0]
        for _ in range(MAX_REDIRECTS):
            answer = await self._ask(url)
            if answer.status not in _REDIRECTS:
                break
            target = Place.joined(url, answer.headers.get("location", ""))
            if target is None:
                break
            if urlsplit(target)[:2] != urlsplit(url)[:2]:
                raise SourceError("source_moved", "The site has moved to another address.")
            url = target
        else:
            raise SourceError("source_unavailable", "The site redirects without end.")
        if answer.status in _GONE:
            raise SourceError("source_gone", "There is no such page.")
        if answer.status != 200:
            raise SourceError("source_unavailable", f"The site answered with {answer.status}.")
        return url, answer

    async def _seeds(
        self, place: Place, robots: Robots, start: str, first: FetchedResponse
    ) -> tuple[list[str], bool]:
        """Addresses to begin with, and whether links of pages lead to more."""
        for url in dict.fromkeys((place.within("llms.txt"), place.at_root("llms.txt"))):
            text = await self._text(url, robots)
            links = [] if text is None else links_of(text, url, place)
            if links:
                return _unlike(links, start), False
        found: dict[str, None] = {}
        waiting = list(
            dict.fromkeys(
                [*robots.sitemaps, place.within("sitemap.xml"), place.at_root("sitemap.xml")]
            )
        )
        seen = set(waiting)
        for count, url in enumerate(waiting):
            if count >= MAX_SITEMAPS:
                break
            content = await self._bytes(url, robots)
            if content is None:
                continue
            found |= dict.fromkeys(pages_of(content, place))
            for further in listed(content):
                if further not in seen and len(seen) < 4 * MAX_SITEMAPS:
                    seen.add(further)
                    waiting.append(further)
        if found:
            return _unlike(list(found), start), False
        return _unlike(links_of(_decoded(first), start, place), start), True

    async def _page(self, url: str, place: Place, skipped: Skipped) -> Sequence[str]:
        """Take a page; the links on it."""
        try:
            answer = await self._followed(url, place)
        except QuernelError as error:
            skipped.add("too_large" if error.code == "response_too_large" else "unreachable")
            return ()
        if answer is None:
            skipped.add("redirected")
            return ()
        end, response = answer
        if response.status == 304 and end in self._before.etags:
            kept = self._before.files[end]
            self._keep(SourceFile(kept.path, kept.content, end), self._before.etags[end], skipped)
            return links_of(kept.content.decode("utf-8", "replace"), end, place)
        if response.status != 200:
            skipped.add("unreachable")
            return ()
        self._take(end, response, skipped)
        return links_of(_decoded(response), end, place)

    async def _followed(self, url: str, place: Place) -> tuple[str, FetchedResponse] | None:
        """The answer at the end of redirects; None where they lead away, or in a circle."""
        for _ in range(MAX_REDIRECTS):
            answer = await self._ask(url, self._before.etags.get(url))
            if answer.status not in _REDIRECTS:
                return url, answer
            target = place.link(answer.headers.get("location", ""), url)
            if target is None:
                return None
            url = target
        return None

    def _take(self, url: str, answer: FetchedResponse, skipped: Skipped) -> None:
        media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type and _READABLE.fullmatch(media_type) is None:
            skipped.add("unsupported_format")
            return
        if _NO_INDEX.search(answer.body[: 64 * 1024]):
            skipped.add("forbidden")
            return
        path = _path(url, media_type)
        if path is None:
            skipped.add("unsafe_name")
            return
        etag = answer.headers.get("etag", "")
        self._keep(SourceFile(path, answer.body, url), etag, skipped)

    def _keep(self, file: SourceFile, etag: str, skipped: Skipped) -> None:
        if file.path in self._files:
            return
        if len(file.content) > self._room or len(self._files) >= MAX_PAGES:
            skipped.add("bound_reached")
            return
        self._room -= len(file.content)
        self._files[file.path] = file
        if 0 < len(etag) <= 200:
            self._etags[file.url] = etag

    async def _ask(self, url: str, etag: str | None = None) -> FetchedResponse:
        headers = {"accept": "text/markdown, text/html;q=0.9, text/plain;q=0.8"}
        if etag is not None:
            headers["if-none-match"] = etag
        return await self._http.fetch(
            url, headers=headers, max_bytes=MAX_PAGE_BYTES, timeout_seconds=PAGE_SECONDS
        )

    async def _bytes(self, url: str, robots: Robots) -> bytes | None:
        """Of what may not be there."""
        if not robots.allows(url):
            return None
        try:
            answer = await self._http.fetch(
                url, max_bytes=MAX_SITEMAP_BYTES, timeout_seconds=PAGE_SECONDS
            )
        except QuernelError:
            return None
        return answer.body if answer.status == 200 else None

    async def _text(self, url: str, robots: Robots) -> str | None:
        content = await self._bytes(url, robots)
        # Sites that have no such file may answer with a page about that.
        if content is None or content.lstrip()[:1] in (b"<", b""):
            return None
        return content.decode("utf-8", "replace")


def _path(url: str, media_type: str) -> str | None:
    """As a path of a file, with a suffix that says what it is."""
    path = unquote(urlsplit(url).path).lstrip("/")
    if not path or path.endswith("/"):
        path += "index.html"
    if PurePosixPath(path).suffix.lower() not in _SUFFIXES:
        path += ".md" if "markdown" in media_type else ".txt" if "plain" in media_type else ".html"
    return safe_path(path)


def _decoded(answer: FetchedResponse) -> str:
    return answer.body.decode("utf-8", "replace")


def _unlike(urls: Sequence[str], start: str) -> list[str]:
    return [url for url in dict.fromkeys(urls) if url != start]
