"""Repositories, sites and packages from the task to the search, and what the next crawl does."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from functions.core.storage import open_storage
from functions.libraries import fetching
from functions.libraries.embedding import lexical
from functions.libraries.sources.git import Repository
from functions.libraries.sources.snapshots import Snapshot
from functions.libraries.tasks import BUCKET, embed_library
from functions.tasks.context import TaskRejectedError, TaskRetryError
from tests.libraries.conftest import Shelf, chunk
from tests.libraries.git_server import commit, repository
from tests.libraries.test_crawl import PAGES, Worker, registry, state, worker
from tests.libraries.test_git import Remote, remote
from tests.libraries.test_site import Host, host, linking

__all__ = ["host", "remote", "worker"]

pytestmark = pytest.mark.anyio


def version(shelf: Shelf, library_id: str) -> dict[str, Any]:
    return shelf.rows("select * from public.library_versions where library_id = %s", library_id)[0]


def deletions(shelf: Shelf, path: str) -> int:
    """Tasks that delete this object."""
    return len(
        shelf.rows(
            "select from private.tasks where kind = 'files_delete' and payload -> 'paths' ? %s",
            path,
        )
    )


async def snapshot(worker: Worker, path: str) -> Snapshot:
    async with open_storage(worker.settings, BUCKET) as storage:
        return Snapshot.read(await storage.get(path))


@pytest.mark.parametrize("remote", [True], indirect=True, ids=["filters"])
async def test_a_repository_is_indexed_and_again_when_it_has_a_new_commit(
    shelf: Shelf, worker: Worker, reader: str, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "SafeClient", remote.client)
    monkeypatch.setattr(fetching, "Repository", partial(Repository, authority=remote.trusted))
    files = {name.removeprefix("lamp-1.0/"): content for name, content in PAGES.items()}
    folder = repository(remote.root / "lamp", files)
    library_id = shelf.add("lamp", p_source_kind="git", p_source_url=f"{remote.url}/lamp")
    done = await worker.crawl(library_id)
    assert (done["result"], done["version"], done["pages"]) == ("ready", "main", 3)
    assert "rotate_beam" in json.dumps(shelf.search(reader, "turn a beam", library_id))
    first = version(shelf, library_id)
    kept = await snapshot(worker, first["snapshot_path"])
    assert set(kept.files) == {"README.md", "docs/beam.md", "docs/horn.rst"}

    assert await worker.crawl(library_id) == {"result": "unchanged"}
    row = state(shelf, library_id)
    assert (row["state"], row["next_refresh_at"] is not None) == ("ready", True)
    assert version(shelf, library_id)["crawl"] == first["crawl"]

    made = commit(folder, {"docs/bell.md": b"# Bells\n\nA bell is struck by the sea.\n"})
    done = await worker.crawl(library_id)
    assert (done["result"], done["vectors"]) == ("ready", 1)
    again = version(shelf, library_id)
    assert (again["source_revision"], again["crawl"]) == (made, first["crawl"] + 1)
    assert again["snapshot_path"] != first["snapshot_path"]
    assert deletions(shelf, first["snapshot_path"]) == 1


async def test_a_crawl_that_failed_is_well_again_when_nothing_has_changed(
    shelf: Shelf, worker: Worker, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "SafeClient", host.client)
    host.pages = {"/": linking("/a"), "/a": linking(title="Bells of the sea")}
    library_id = shelf.add("lamp", p_source_kind="site", p_source_url=f"{host.url}/")
    assert (await worker.crawl(library_id))["result"] == "ready"
    pages, host.pages = host.pages, {}
    assert await worker.crawl(library_id) == {"result": "failed", "code": "source_gone"}
    assert (state(shelf, library_id)["state"], state(shelf, library_id)["total_chunks"]) > (
        "failed",
        0,
    )
    host.pages = pages
    assert await worker.crawl(library_id) == {"result": "unchanged"}
    row = state(shelf, library_id)
    assert (row["state"], row["error_code"]) == ("ready", None)


async def test_a_site_is_indexed_and_again_when_a_page_has_changed(
    shelf: Shelf, worker: Worker, reader: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "SafeClient", host.client)
    host.pages = {
        "/docs/": linking("beam"),
        "/docs/beam": "<html><body><h1>Beams</h1><h2 id='turn'>Turning a beam</h2>"
        "<p>Call <code>rotate_beam()</code> to turn the beam of the lamp.</p></body></html>",
    }
    library_id = shelf.add("lamp", p_source_kind="site", p_source_url=f"{host.url}/docs/")
    assert (await worker.crawl(library_id))["pages"] == 2
    [best, *_] = shelf.search(reader, "turning a beam", library_id)["results"]
    assert best["source_url"].startswith(f"{host.url}/docs/beam")
    kept = await snapshot(worker, version(shelf, library_id)["snapshot_path"])
    assert set(kept.files) == {f"{host.url}/docs/", f"{host.url}/docs/beam"}

    assert await worker.crawl(library_id) == {"result": "unchanged"}
    host.pages["/docs/"] = linking("beam", title="Another beginning")
    done = await worker.crawl(library_id)
    assert (done["result"], done["kept"] > 0) == ("ready", True)


async def test_a_package_is_not_fetched_again_under_the_same_version(
    shelf: Shelf, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    library_id = shelf.add("lamp", p_source_kind="pypi", p_source_url="lamp")
    async with registry(monkeypatch) as source:
        assert (await worker.crawl(library_id, python_registry_url=source.url))["result"] == "ready"
        done = await worker.crawl(library_id, python_registry_url=source.url)
        assert done == {"result": "unchanged"}
        assert source.asked.count("/lamp-1.0.tar.gz") == 1
        # Where vectors are to be made by another model it is.
        done = await worker.crawl(
            library_id, python_registry_url=source.url, documentation_embedding_model=None
        )
        assert done["result"] == "ready"
        assert source.asked.count("/lamp-1.0.tar.gz") == 2


async def test_what_was_crawled_but_is_not_served_is_crawled(
    shelf: Shelf, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revision is one only of what is searched."""
    library_id = shelf.add("lamp", p_source_kind="pypi", p_source_url="lamp")
    async with registry(monkeypatch) as source:
        assert (await worker.crawl(library_id, python_registry_url=source.url))["result"] == "ready"
        shelf.begin(library_id, p_embedding_model=lexical.NAME, p_dimensions=lexical.DIMENSIONS)
        done = await worker.crawl(library_id, python_registry_url=source.url)
    assert done["result"] == "ready"


# Vectors of another model -----------------------------------------------------------------------


async def test_vectors_are_made_by_another_model_while_the_old_ones_serve(
    shelf: Shelf, worker: Worker
) -> None:
    begun = shelf.publish(chunk("turn the beam"), chunk("fill the oil", 1))
    asked = {"version_id": begun["version_id"]}
    with shelf.connection.transaction():
        told = shelf.call("backend.library_reembed", begun["version_id"], lexical.NAME, 1536)
    assert (told["missing"], told["is_switched"]) == (2, False)
    done = await embed_library(asked, worker.context())
    assert done == {"result": "ready", "vectors": 2}
    row = version(shelf, begun["library_id"])
    assert (row["embedding_model"], row["next_embedding_model"]) == (lexical.NAME, None)
    assert (row["state"], row["crawl"]) == ("ready", begun["crawl"])
    assert await embed_library(asked, worker.context()) == {"result": "ready", "vectors": 0}


async def test_what_has_gone_needs_no_vectors(worker: Worker) -> None:
    gone = {"version_id": "01234567-89ab-7def-8123-456789abcdef"}
    assert await embed_library(gone, worker.context()) == {"result": "over"}
    with pytest.raises(TaskRejectedError):
        await embed_library({}, worker.context())


async def test_a_model_that_does_not_answer_is_asked_again(shelf: Shelf, worker: Worker) -> None:
    begun = shelf.publish(chunk("turn the beam"))
    shelf.call("backend.library_reembed", begun["version_id"], "Another-Model", 1536)
    context = worker.context(llm_url="http://127.0.0.1:9/v1")
    with pytest.raises(TaskRetryError):
        await embed_library({"version_id": begun["version_id"]}, context)


def test_all_versions_of_other_models_are_made_anew_once(shelf: Shelf) -> None:
    begun = shelf.publish(chunk("turn the beam"))
    connection = shelf.connection
    with connection.transaction(force_rollback=True):
        connection.execute("delete from private.tasks where kind = 'library_embed'")
        first = shelf.call("backend.libraries_reembed", lexical.NAME, 1536, 5000)
        assert first["count"] >= 1
        [task] = shelf.rows(
            "select payload from private.tasks where kind = 'library_embed' and key = %s",
            begun["version_id"],
        )
        assert task["payload"] == {"version_id": begun["version_id"]}
        row = version(shelf, begun["library_id"])
        assert row["next_embedding_model"] == lexical.NAME
        assert shelf.call("backend.libraries_reembed", lexical.NAME, 1536, 5000)["count"] == 0
