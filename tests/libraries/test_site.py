"""Sites of documentation: which pages are read, which are not, and where a crawl ends."""

from __future__ import annotations

import gzip
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from functions.core.addresses import Address
from functions.core.errors import QuernelError
from functions.core.http import Policy, SafeClient
from functions.libraries.errors import SourceError
from functions.libraries.sources import site
from functions.libraries.sources.addresses import MAX_LINKS, Place, links_of
from functions.libraries.sources.files import Skipped
from functions.libraries.sources.robots import MAX_DELAY_SECONDS, Robots
from functions.libraries.sources.site import Pages, Site
from functions.libraries.sources.sitemaps import pages_of
from functions.libraries.sources.snapshots import Snapshot, packed
from tests.core.tls import Authority
from tests.support.http_server import serve

pytestmark = pytest.mark.anyio

NAME = "docs.quernel.app"
Answer = str | bytes | web.Response | Callable[[web.BaseRequest], web.StreamResponse]


@dataclass
class Host:
    """A site on loopback: what it answers by path, and what it was asked."""

    pages: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""
    client: Callable[[], SafeClient] = SafeClient
    http: SafeClient = field(default_factory=SafeClient)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        found = self.pages.get(request.path, web.Response(status=404, text="no such page"))
        if callable(found):
            return found(request)
        if isinstance(found, web.Response):
            return web.Response(status=found.status, headers=found.headers.copy(), body=found.body)
        content = found.encode() if isinstance(found, str) else found
        is_html = content.lstrip().startswith(b"<")
        kind = "text/html; charset=utf-8" if is_html else "text/plain"
        return web.Response(body=content, headers={"content-type": kind})

    async def crawl(self, path: str = "/", before: Snapshot | None = None) -> Crawled:
        skipped = Skipped()
        pages = await Site(f"{self.url}{path}", self.http, before).pages(skipped)
        return Crawled(pages, skipped.counts, self.url)


@dataclass
class Crawled:
    pages: Pages
    skipped: dict[str, int]
    url: str

    @property
    def paths(self) -> set[str]:
        return {file.path for file in self.pages.files}


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host()
    authority = Authority(tmp_path)

    async def here(name: str, port: int) -> list[Address]:  # noqa: ARG001
        return [ip_address("10.0.0.1" if name.startswith("inside.") else "127.0.0.1")]

    made.client = partial(
        SafeClient,
        policy=Policy(ports=None, is_allowed_address=lambda one: one.is_loopback),
        resolver=here,
        ssl_context=authority.client_context(),
    )
    made.http = made.client()
    async with serve(made.answer, tls=authority.server_context(NAME)) as url:
        made.url = f"https://{NAME}:{url.rpartition(':')[2]}"
        yield made
    await made.http.aclose()


def linking(*targets: str, title: str = "Page") -> str:
    links = "".join(f'<a href="{target}">x</a> ' for target in targets)
    return f"<html><body><h1>{title}</h1><p>Words of the page.</p>{links}</body></html>"


def redirect(target: str, status: int = 302) -> web.Response:
    return web.Response(status=status, headers={"location": target})


# Which pages ------------------------------------------------------------------------------------


async def test_links_are_followed_within_the_folder(host: Host) -> None:
    host.pages = {
        "/docs/": linking("beam.html", "sub/", "../private/", "https://elsewhere.quernel.app/x"),
        "/docs/beam.html": linking("/docs/beam.html#part", "beam.html?page=2", "/docs/oil"),
        "/docs/sub/": linking("/blog/", "mailto:x@quernel.test", "javascript:x()", "/docs/a.png"),
        "/docs/oil": linking(),
        "/private/": linking(),
        "/blog/": linking(),
    }
    found = await host.crawl("/docs/")
    assert found.paths == {
        "docs/index.html",
        "docs/beam.html",
        "docs/sub/index.html",
        "docs/oil.html",
    }
    assert {file.url for file in found.pages.files} >= {f"{host.url}/docs/oil"}
    assert not {"/private/", "/blog/", "/docs/a.png", "/docs/beam.html?page=2"} & set(host.asked)
    assert host.asked.count("/docs/beam.html") == 1


async def test_a_sitemap_says_which_pages_there_are(host: Host) -> None:
    def sitemap(*paths: str) -> str:
        rows = "".join(f"<url><loc> {host.url}{path} </loc></url>" for path in paths)
        return f'<?xml version="1.0"?><urlset xmlns="x">{rows}</urlset>'

    index = (
        f"<sitemapindex><sitemap><loc>{host.url}/one.xml.gz</loc></sitemap>"
        f"<sitemap><loc>{host.url}/two.xml</loc></sitemap>"
        f"<sitemap><loc>{host.url}/sitemap.xml</loc></sitemap></sitemapindex>"
    )
    host.pages = {
        "/": linking("/unlisted"),
        "/robots.txt": f"Sitemap: {host.url}/sitemap.xml\n",
        "/sitemap.xml": index,
        "/one.xml.gz": gzip.compress(sitemap("/a", "/b").encode()),
        "/two.xml": sitemap("/b", "/c", "https://elsewhere.quernel.app/x"),
        **{f"/{name}": linking() for name in ("a", "b", "c", "unlisted")},
    }
    found = await host.crawl()
    assert found.paths == {"index.html", "a.html", "b.html", "c.html"}
    assert host.asked.count("/sitemap.xml") == 1


async def test_llms_txt_comes_first(host: Host) -> None:
    host.pages = {
        "/docs/": linking("/docs/other"),
        "/docs/llms.txt": (
            f"# Lamp\n\n- [Beams]({host.url}/docs/beam.md): how to turn\n- [Oil](oil)\n"
        ),
        "/docs/beam.md": "# Beams\n",
        "/docs/oil": linking(),
        "/docs/other": linking(),
        "/sitemap.xml": f"<urlset><url><loc>{host.url}/docs/other</loc></url></urlset>",
    }
    found = await host.crawl("/docs/")
    assert found.paths == {"docs/index.html", "docs/beam.md", "docs/oil.html"}


async def test_a_page_about_a_missing_llms_txt_is_none(host: Host) -> None:
    host.pages = {"/": linking("/a"), "/a": linking(), "/llms.txt": linking("/wrong")}
    assert (await host.crawl()).paths == {"index.html", "a.html"}


# What a site asks for ---------------------------------------------------------------------------


async def test_robots_txt_is_obeyed(host: Host) -> None:
    host.pages = {
        "/": linking("/open", "/shut/page", "/a/private.html", "/a/public.html"),
        "/robots.txt": "User-agent: Other\nDisallow: /\n\nUser-agent: *\nDisallow: /shut\n"
        "Disallow: /*/private.html$\n",
        **{
            name: linking() for name in ("/open", "/shut/page", "/a/private.html", "/a/public.html")
        },
    }
    found = await host.crawl()
    assert found.paths == {"index.html", "open.html", "a/public.html"}
    assert found.skipped == {"forbidden": 2}
    assert not {"/shut/page", "/a/private.html"} & set(host.asked)


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ("User-agent: Quernel\nDisallow: /\n", "source_forbidden"),
        (web.Response(status=503), "source_unavailable"),
    ],
    ids=["forbidden", "unavailable"],
)
async def test_a_site_that_does_not_want_it_is_not_read(
    host: Host, rules: Answer, code: str
) -> None:
    host.pages = {"/": linking("/a"), "/a": linking(), "/robots.txt": rules}
    with pytest.raises(SourceError) as refused:
        await host.crawl()
    assert refused.value.code == code
    assert "/a" not in host.asked


async def test_pages_that_ask_not_to_be_found_are_left_out(host: Host) -> None:
    hidden = '<html><head><meta name="robots" content="noindex"></head><body>x</body></html>'
    host.pages = {"/": linking("/hidden"), "/hidden": hidden}
    found = await host.crawl()
    assert (found.paths, found.skipped) == ({"index.html"}, {"forbidden": 1})


def test_a_pause_is_as_long_as_asked_and_bounded() -> None:
    assert Robots.parse("User-agent: *\nCrawl-delay: 2\n").delay == 2
    assert Robots.parse("User-agent: *\nCrawl-delay: 9999\n").delay == MAX_DELAY_SECONDS
    assert Robots.parse("User-agent: *\nCrawl-delay: x\n").delay == 0


# The next time ----------------------------------------------------------------------------------


async def test_what_has_not_changed_is_not_sent_again(host: Host) -> None:
    def tagged(content: str) -> Callable[[web.BaseRequest], web.StreamResponse]:
        etag = f'"{len(content)}"'

        def answer(request: web.BaseRequest) -> web.StreamResponse:
            if request.headers.get("if-none-match") == etag:
                return web.Response(status=304, headers={"etag": etag})
            return web.Response(text=content, content_type="text/html", headers={"etag": etag})

        return answer

    host.pages = {
        "/": linking("/a", "/b"),
        "/a": tagged(linking("/c", title="First")),
        "/b": tagged(linking(title="Second")),
        "/c": tagged(linking(title="Third one")),
    }
    first = await host.crawl()
    kept = Snapshot.read(packed(first.pages.files, first.pages.etags))
    again = await host.crawl(before=kept)
    assert again.paths == first.paths == {"index.html", "a.html", "b.html", "c.html"}
    assert again.pages.revision == first.pages.revision
    assert set(again.pages.etags) == {f"{host.url}/{name}" for name in "abc"}

    host.pages["/b"] = tagged(linking(title="Second, changed"))
    changed = await host.crawl(before=kept)
    assert changed.pages.revision != first.pages.revision
    contents = {file.path: file.content for file in changed.pages.files}
    assert b"Second, changed" in contents["b.html"]
    assert b"Third one" in contents["c.html"]


def test_a_snapshot_that_is_none_holds_nothing() -> None:
    for content in (b"", b"x" * 100, gzip.compress(b"no tar"), packed([], {})[:40]):
        assert Snapshot.read(content) == Snapshot()


# Hostile sites ----------------------------------------------------------------------------------


async def test_a_site_without_end_ends(host: Host, monkeypatch: Any) -> None:
    monkeypatch.setattr(site, "MAX_PAGES", 25)

    def page(request: web.BaseRequest) -> web.StreamResponse:
        number = int(request.path.rpartition("/")[2] or 0)
        links = [f"/p/{number * 3 + n}" for n in range(1, 4)]
        return web.Response(text=linking(*links), content_type="text/html")

    host.pages = dict.fromkeys((f"/p/{n}" for n in range(500)), page) | {"/": linking("/p/1")}
    found = await host.crawl()
    assert len(found.pages.files) == 25
    assert found.skipped["bound_reached"] > 0
    assert len(host.asked) < 40


async def test_a_loop_of_links_and_of_redirects_ends(host: Host) -> None:
    host.pages = {
        "/": linking("/a", "/around", "/next/"),
        "/a": linking("/", "/a", "/a#x", "/a?x=1"),
        "/around": redirect("/about"),
        "/about": redirect("/around"),
        **{"/" + "next/" * n: linking("next/") for n in range(1, 60)},
    }
    found = await host.crawl()
    assert {"index.html", "a.html"} < found.paths
    assert found.skipped["redirected"] == 1
    assert len(host.asked) < 60


async def test_a_huge_page_is_passed_over_and_the_rest_is_read(
    host: Host, monkeypatch: Any
) -> None:
    monkeypatch.setattr(site, "MAX_PAGE_BYTES", 100_000)
    host.pages = {
        "/": linking("/huge", "/packed", "/a"),
        "/huge": "<p>" + "x" * 50_000_000,
        "/packed": web.Response(
            body=gzip.compress(b"<p>" + b"x" * 50_000_000),
            headers={"content-encoding": "gzip", "content-type": "text/html"},
        ),
        "/a": linking(),
    }
    found = await host.crawl()
    assert (found.paths, found.skipped) == ({"index.html", "a.html"}, {"too_large": 2})


async def test_bounds_of_a_whole_site_are_kept(host: Host, monkeypatch: Any) -> None:
    monkeypatch.setattr(site, "MAX_KEPT_BYTES", 3_000)
    pages = {f"/{n}": "<p>" + "x" * 1_000 for n in range(6)}
    host.pages = {"/": linking(*pages), **pages}
    found = await host.crawl()
    assert sum(len(file.content) for file in found.pages.files) <= 3_000
    assert found.skipped["bound_reached"] == 4


@pytest.mark.parametrize(
    "address",
    [
        "http://docs.quernel.app/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://localhost/",
        "https://169.254.169.254/latest/",
        "file:///etc/passwd",
        "https://a:b@docs.quernel.app/",
    ],
    ids=["http", "loopback", "loopback6", "name", "metadata", "file", "password"],
)
def test_private_addresses_are_not_called(address: str) -> None:
    with pytest.raises(QuernelError) as refused:
        Site(address, SafeClient())
    assert (refused.value.code, refused.value.status) == ("url_refused", 400)


async def test_no_way_leads_to_a_private_address(host: Host) -> None:
    port = host.url.rpartition(":")[2]
    inside = f"https://inside.quernel.app:{port}/secret"
    host.pages = {
        "/": linking(inside, "/led", "//127.0.0.1/x", f"https://{NAME}:{port}@10.0.0.1/"),
        "/led": redirect(inside),
        "/robots.txt": f"Sitemap: {inside}\n",
        "/sitemap.xml": f"<sitemapindex><loc>{inside}</loc></sitemapindex>",
        "/llms.txt": f"- [x]({inside})\n",
    }
    found = await host.crawl()
    assert (found.paths, found.skipped) == ({"index.html"}, {"redirected": 1})
    assert "/secret" not in host.asked
    with pytest.raises(QuernelError) as refused:
        await Site(inside, host.http).pages(Skipped())
    assert refused.value.code == "url_refused"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (redirect("https://elsewhere.quernel.app/", 301), "source_moved"),
        (redirect("/"), "source_unavailable"),
        (web.Response(status=404), "source_gone"),
        (web.Response(status=500), "source_unavailable"),
    ],
    ids=["moved", "circle", "gone", "error"],
)
async def test_a_site_that_is_not_there_says_so(host: Host, answer: Answer, code: str) -> None:
    host.pages = {"/": answer}
    with pytest.raises(SourceError) as refused:
        await host.crawl()
    assert refused.value.code == code


async def test_what_is_no_page_is_passed_over(host: Host) -> None:
    host.pages = {
        "/": linking("/image", "/gone", "/broken"),
        "/image": web.Response(body=b"\x89PNG", headers={"content-type": "image/png"}),
        "/broken": b"<p>\xff\xfe broken \x80 bytes</p>",
    }
    found = await host.crawl()
    assert found.paths == {"index.html", "broken.html"}
    assert found.skipped == {"unsupported_format": 1, "unreachable": 1}


async def test_a_sitemap_that_unpacks_without_end_is_bounded(host: Host) -> None:
    bomb = gzip.compress(b"<urlset>" + b" " * 200_000_000)
    host.pages = {"/": linking("/a"), "/a": linking(), "/sitemap.xml": bomb}
    assert (await host.crawl()).paths == {"index.html", "a.html"}


@pytest.mark.parametrize(
    "piece",
    ["<a ", "<a href", "<a href=", "](", "]( ", "<loc>", "<loc>" + " " * 200, "<loc><![CDATA["],
    ids=["tag", "name", "equals", "markdown", "space", "loc", "spaces", "cdata"],
)
def test_links_are_found_in_time_that_grows_with_the_page_alone(piece: str) -> None:
    """As a ratio: eight times the text takes about eight times as long, never sixty-four."""
    place = Place("https://docs.quernel.app", "/")

    def seconds(count: int) -> float:
        text = piece * (count // len(piece))
        begun = time.process_time()
        links_of(text, place.origin, place)
        pages_of(text.encode(), place)
        return time.process_time() - begun

    small = min(seconds(100_000) for _ in range(3))
    large = min(seconds(800_000) for _ in range(3))
    assert large < 30 * small + 0.05


def test_a_page_has_so_many_links_and_no_more() -> None:
    place = Place("https://docs.quernel.app", "/")
    text = "".join(f'<a href="/{n}">' for n in range(MAX_LINKS + 10))
    assert len(links_of(text, place.origin, place)) == MAX_LINKS
