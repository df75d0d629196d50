"""Sources that are fetched and indexed by the worker's own code, from an archive to a search."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from functions.core.database import Database
from functions.core.http import Policy, SafeClient
from functions.core.settings import Settings
from functions.core.storage import open_storage
from functions.libraries import fetching
from functions.libraries.embedding.lexical import NAME, embed
from functions.libraries.errors import ParseError
from functions.libraries.sources.packages import npm_package, python_package
from functions.libraries.tasks import BUCKET, crawl_library
from functions.tasks.context import TaskContext, TaskRejectedError, TaskRetryError
from local.stack import Stack
from tests.chat.conftest import settings_of
from tests.libraries.conftest import Shelf
from tests.libraries.test_archives import tarred, zipped
from tests.support.http_server import serve

pytestmark = pytest.mark.anyio

ON_LOOPBACK = Policy(
    schemes=frozenset({"http"}),
    ports=None,
    is_allowed_address=lambda address: address.is_loopback,
    is_allowed_name=lambda _: True,
)
PAGES = {
    "lamp-1.0/README.md": b"# Lamp\n\nA library for lighthouses.\n",
    "lamp-1.0/docs/beam.md": (
        b"# Beams\n\n## Turning a beam\n\nCall `rotate_beam()` to turn the beam of the lamp.\n\n"
        b"```python\nlamp.rotate_beam(degrees=30)\n```\n\n"
        b"## Colours\n\nA beam has a colour, white unless another is set.\n"
    ),
    "lamp-1.0/docs/horn.rst": b"Horns\n=====\n\nIn fog a horn is sounded every minute.\n",
    "lamp-1.0/tests/page.md": b"# Not documentation\n",
    "lamp-1.0/setup.py": b"raise SystemExit\n",
}


class Worker:
    """A worker of the test's own."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = database

    def context(self, attempt: int = 1, **changes: Any) -> TaskContext:
        settings = self.settings.model_copy(update=changes)
        return TaskContext(settings, self.database, uuid.uuid4(), attempt)

    async def crawl(self, library_id: str, attempt: int = 1, **changes: Any) -> Any:
        return await crawl_library({"library_id": library_id}, self.context(attempt, **changes))

    async def upload(self, content: bytes) -> str:
        path = f"archives/{uuid.uuid4()}.tar.gz"
        async with open_storage(self.settings, BUCKET) as storage:
            await storage.put(path, content, "application/gzip")
        return path


@pytest.fixture
async def worker(stack: Stack) -> AsyncIterator[Worker]:
    settings = settings_of(stack)
    database = await Database.open(settings)
    yield Worker(settings, database)
    await database.aclose()


def state(shelf: Shelf, library_id: str) -> dict[str, Any]:
    return shelf.rows("select * from public.libraries where id = %s", library_id)[0]


async def test_an_uploaded_archive_can_be_searched(
    shelf: Shelf, worker: Worker, reader: str
) -> None:
    path = await worker.upload(tarred(PAGES))
    library_id = shelf.add("lamp", p_source_kind="archive", p_source_url=path)
    done = await worker.crawl(library_id)
    assert (done["result"], done["pages"]) == ("ready", 3)
    assert done["chunks"] == done["vectors"] > 0
    row = state(shelf, library_id)
    assert (row["state"], row["progress"], row["total_chunks"]) == ("ready", 100, done["chunks"])
    found = shelf.search(
        reader,
        "how do I turn the beam",
        library_id,
        p_embedding=json.dumps(embed(["how do I turn the beam"])[0]),
        p_embedding_model=NAME,
    )
    assert "rotate_beam" in json.dumps(found)
    assert "Not documentation" not in json.dumps(found)


async def test_what_did_not_change_keeps_its_vector_and_what_is_gone_goes(
    shelf: Shelf, worker: Worker, reader: str
) -> None:
    first = await worker.upload(tarred(PAGES))
    library_id = shelf.add("lamp", p_source_kind="archive", p_source_url=first)
    before = await worker.crawl(library_id)
    changed = dict(PAGES)
    del changed["lamp-1.0/docs/horn.rst"]
    changed["lamp-1.0/docs/bell.md"] = b"# Bells\n\nA bell is struck by the sea.\n"
    second = await worker.upload(tarred(changed))
    shelf.connection.execute(
        "update public.libraries set source_url = %s where id = %s", [second, library_id]
    )
    after = await worker.crawl(library_id)
    assert after["kept"] == before["chunks"] - 1
    assert after["vectors"] == 1
    assert "fog" not in json.dumps(shelf.search(reader, "fog horn", library_id))
    assert "struck by the sea" in json.dumps(shelf.search(reader, "bell", library_id))


async def test_without_a_model_of_vectors_words_are_enough(
    shelf: Shelf, worker: Worker, reader: str
) -> None:
    path = await worker.upload(tarred(PAGES))
    library_id = shelf.add("lamp", p_source_kind="archive", p_source_url=path)
    done = await worker.crawl(library_id, documentation_embedding_model=None)
    assert (done["result"], done["vectors"]) == ("ready", 0)
    assert "rotate_beam" in json.dumps(shelf.search(reader, "rotate_beam", library_id))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"not an archive", "unreadable"),
        (tarred({"a/setup.py": b"x"}), "no_documentation"),
        (zipped({}), "no_documentation"),
        (tarred({"docs/a.md": b"   "}), "library_is_empty"),
    ],
    ids=["no-archive", "no-pages", "empty", "blank"],
)
async def test_what_cannot_be_indexed_is_a_state_and_not_tried_again(
    shelf: Shelf, worker: Worker, content: bytes, code: str
) -> None:
    path = await worker.upload(content)
    library_id = shelf.add("bad", p_source_kind="archive", p_source_url=path)
    assert await worker.crawl(library_id) == {"result": "failed", "code": code}
    row = state(shelf, library_id)
    assert (row["state"], row["error_code"]) == ("failed", code)
    assert row["error_message"]


async def test_what_was_ready_is_served_when_a_later_crawl_fails(
    shelf: Shelf, worker: Worker, reader: str
) -> None:
    path = await worker.upload(tarred(PAGES))
    library_id = shelf.add("lamp", p_source_kind="archive", p_source_url=path)
    await worker.crawl(library_id)
    async with open_storage(worker.settings, BUCKET) as storage:
        await storage.delete([path])
    assert await worker.crawl(library_id) == {"result": "failed", "code": "source_gone"}
    assert state(shelf, library_id)["state"] == "failed"
    assert "rotate_beam" in json.dumps(shelf.search(reader, "rotate_beam", library_id))


async def test_a_page_that_cannot_be_read_does_not_keep_the_others_out(
    shelf: Shelf, worker: Worker
) -> None:
    pages = PAGES | {"lamp-1.0/docs/bad.md": bytes(range(256)) * 4, "lamp-1.0/docs/n.ipynb": b"{"}
    path = await worker.upload(tarred(pages))
    library_id = shelf.add("lamp", p_source_kind="archive", p_source_url=path)
    done = await worker.crawl(library_id)
    assert (done["result"], done["pages"]) == ("ready", 3)
    assert sum(done["skipped"].values()) == 2


async def test_a_library_that_is_gone_is_not_crawled(worker: Worker) -> None:
    assert await worker.crawl("/nobody/nothing") == {"result": "gone"}
    with pytest.raises(TaskRejectedError):
        await crawl_library({}, worker.context())


async def test_two_crawls_at_once_do_not_mix(shelf: Shelf, worker: Worker) -> None:
    path = await worker.upload(tarred(PAGES))
    library_id = shelf.add("lamp", p_source_kind="archive", p_source_url=path)
    begun = shelf.begin(library_id, "latest", p_embedding_model=NAME, p_dimensions=1536)
    done = await worker.crawl(library_id)
    assert done["result"] == "ready"
    with pytest.raises(Exception, match="ended, or another"):
        shelf.put(begun)


# Packages -----------------------------------------------------------------------------------------


class Registry:
    """Describes one package, and has its archive."""

    def __init__(self) -> None:
        self.url = ""
        self.archive = tarred(PAGES)
        self.sha256 = hashlib.sha256(self.archive).hexdigest()
        self.status = 200
        self.asked: list[str] = []

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.asked.append(request.path)
        if self.status != 200:
            return web.Response(status=self.status)
        if request.path.endswith(".tar.gz"):
            return web.Response(body=self.archive)
        archive = {"packagetype": "sdist", "url": f"{self.url}/lamp-1.0.tar.gz"}
        archive["digests"] = {"sha256": self.sha256}  # type: ignore[assignment]
        links = {"Documentation": "https://lamp.quernel.test/docs/"}
        dist = {"tarball": f"{self.url}/lamp-1.0.tar.gz"}
        return web.json_response(
            {
                "info": {"version": "1.0", "project_urls": links},
                "urls": [{"packagetype": "bdist_wheel"}, archive],
                "dist-tags": {"latest": "1.0"},
                "versions": {"1.0": {"dist": dist, "homepage": "https://lamp.quernel.test"}},
            }
        )


@asynccontextmanager
async def registry(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Registry]:
    made = Registry()
    monkeypatch.setattr(fetching, "SafeClient", lambda: SafeClient(policy=ON_LOOPBACK))
    async with serve(made.answer) as url:
        made.url = url
        yield made


@pytest.mark.parametrize(("kind", "name"), [("pypi", "lamp"), ("npm", "@coast/lamp")])
async def test_a_package_is_indexed_under_its_version(
    shelf: Shelf, worker: Worker, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    library_id = shelf.add("lamp", p_source_kind=kind, p_source_url=name)
    async with registry(monkeypatch) as source:
        urls = {"python_registry_url": source.url, "npm_registry_url": source.url}
        done = await worker.crawl(library_id, **urls)
    assert (done["result"], done["version"], done["pages"]) == ("ready", "1.0", 3)
    assert state(shelf, library_id)["default_version"] == "1.0"
    described = "/pypi/lamp/json" if kind == "pypi" else "/@coast/lamp"
    assert source.asked == [described, "/lamp-1.0.tar.gz"]


async def test_an_archive_that_is_not_the_described_one_is_refused(
    shelf: Shelf, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    library_id = shelf.add("lamp", p_source_kind="pypi", p_source_url="lamp")
    async with registry(monkeypatch) as source:
        source.sha256 = "0" * 64
        done = await worker.crawl(library_id, python_registry_url=source.url)
    assert done == {"result": "failed", "code": "unreadable"}


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "unknown_package"), (410, "unknown_package"), (500, "source_unavailable")],
)
async def test_a_registry_that_has_none_is_told_from_one_that_fails(
    shelf: Shelf, worker: Worker, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    library_id = shelf.add("lamp", p_source_kind="pypi", p_source_url="lamp")
    async with registry(monkeypatch) as source:
        source.status = status
        done = await worker.crawl(library_id, python_registry_url=source.url)
    assert done == {"result": "failed", "code": code}


async def test_without_a_registry_nobody_is_asked(shelf: Shelf, worker: Worker) -> None:
    library_id = shelf.add("lamp", p_source_kind="npm", p_source_url="lamp")
    done = await worker.crawl(library_id)
    assert done == {"result": "failed", "code": "source_not_configured"}


async def test_a_registry_that_points_at_private_addresses_is_refused(
    shelf: Shelf, worker: Worker
) -> None:
    """The vetting of addresses is that of any URL of a user's."""
    library_id = shelf.add("lamp", p_source_kind="pypi", p_source_url="lamp")
    done = await worker.crawl(library_id, python_registry_url="https://127.0.0.1")
    assert done == {"result": "failed", "code": "source_refused"}


@pytest.mark.parametrize("name", ["../secrets", "a/b/c", "", "lamp?x=1", "@coast", "lamp\n"])
async def test_a_name_that_is_none_is_not_asked_for(name: str) -> None:
    http = SafeClient(policy=ON_LOOPBACK)
    for find in (python_package, npm_package):
        with pytest.raises(ParseError) as refused:
            await find(http, "http://127.0.0.1:9", name)
        assert refused.value.code == "unknown_package"
    await http.aclose()


async def test_storage_that_does_not_answer_is_tried_again(shelf: Shelf, worker: Worker) -> None:
    library_id = shelf.add("lamp", p_source_kind="archive", p_source_url="archives/x.tar.gz")
    with pytest.raises(TaskRetryError):
        await worker.crawl(library_id, supabase_url="http://127.0.0.1:9")
