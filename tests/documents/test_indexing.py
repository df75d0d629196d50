"""Files that the worker's own code reads: from the upload to a search that cites the page."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from functions.core.database import Database
from functions.documents.tasks import index_document
from functions.libraries.embedding.lexical import NAME
from functions.tasks.context import TaskContext, TaskRejectedError, TaskRetryError
from local.stack import Stack
from tests.chat.conftest import settings_of
from tests.documents.conftest import Author, NewAuthor
from tests.libraries.pages import pdf

pytestmark = pytest.mark.anyio

TEXT = b"# Harbour rules\n\nBoats are moored at night.\n\n## Fees\n\nA berth costs nine coins.\n"


class Worker:
    """A worker of the test's own."""

    def __init__(self, stack: Stack, database: Database) -> None:
        self._stack = stack
        self._database = database

    async def index(self, document_id: str, **changes: Any) -> Any:
        settings = settings_of(self._stack, **changes)
        context = TaskContext(settings, self._database, uuid.uuid4(), 1)
        return await index_document({"document_id": document_id}, context)


@pytest.fixture
async def worker(stack: Stack) -> AsyncIterator[Worker]:
    database = await Database.open(settings_of(stack))
    yield Worker(stack, database)
    await database.aclose()


def put(author: Author, content: bytes, name: str, mime_type: str) -> str:
    document = author.added(name, mime_type=mime_type, file_size=len(content))
    assert author.upload(document["storage_path"], content).is_success
    author.queue(document["id"])
    return str(document["id"])


def row(author: Author, document_id: str) -> dict[str, Any]:
    [found] = author.rest.get(f"/documents?id=eq.{document_id}").json()
    return dict(found)


async def test_a_file_can_be_searched_by_its_owner_alone(
    new_author: NewAuthor, worker: Worker
) -> None:
    author, stranger = new_author(), new_author()
    document_id = put(author, TEXT, "rules.md", "text/markdown")
    done = await worker.index(document_id)
    assert done["result"] == "ready"
    found = row(author, document_id)
    assert (found["state"], found["progress"], found["chunk_count"]) == (
        "ready",
        100,
        done["chunks"],
    )
    assert "nine coins" in str(author.search("what does a berth cost"))
    assert "nine coins" not in str(stranger.search("what does a berth cost"))


async def test_what_is_found_says_on_which_page_it_is(
    new_author: NewAuthor, worker: Worker
) -> None:
    author = new_author()
    boats = [f"Boat number {number} is moored at the northern pier." for number in range(40)]
    lamps = [f"Lighthouse number {number} turns every ten seconds." for number in range(40)]
    content = pdf([boats, lamps])
    document_id = put(author, content, "manual.pdf", "application/pdf")
    assert (await worker.index(document_id))["result"] == "ready"
    assert row(author, document_id)["page_count"] == 2
    chunks = author.shelf.rows(
        "select page, content from public.document_chunks where document_id = %s", document_id
    )
    assert {chunk["page"] for chunk in chunks} == {1, 2}
    assert all(("Lighthouse" in chunk["content"]) == (chunk["page"] == 2) for chunk in chunks)
    [first, *_] = author.search("which lighthouse turns")["results"]
    assert 2 in first["pages"]


async def test_vectors_are_those_of_the_lexical_embedding(
    new_author: NewAuthor, worker: Worker
) -> None:
    author = new_author()
    document_id = put(author, TEXT, "rules.md", "text/markdown")
    await worker.index(document_id)
    assert row(author, document_id)["embedding_model"] == NAME
    [counted] = author.shelf.rows(
        "select count(*) as chunks, count(embedding) as vectors from public.document_chunks"
        " where document_id = %s",
        document_id,
    )
    assert counted["chunks"] == counted["vectors"] > 0


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ((b"%PDF-1.7 broken", "a.pdf", "application/pdf"), "broken_file"),
        ((b"   \n", "a.md", "text/markdown"), "empty"),
        ((bytes(range(256)) * 4, "a.txt", "text/plain"), "binary"),
    ],
    ids=["broken", "blank", "binary"],
)
async def test_what_cannot_be_read_is_a_state(
    new_author: NewAuthor, worker: Worker, file: tuple[bytes, str, str], code: str
) -> None:
    author = new_author()
    document_id = put(author, *file)
    assert await worker.index(document_id) == {"result": "failed", "code": code}
    found = row(author, document_id)
    assert (found["state"], found["error_code"]) == ("failed", code)


@pytest.mark.parametrize(
    ("content", "name", "mime_type"),
    [
        (b"berth,coins\nNorth,9\nSouth,12\n", "fees.csv", "text/csv"),
        (b'{"berths": [{"name": "North", "coins": 9}]}', "fees.json", "application/json"),
        (b"berths:\n- name: North\n  coins: 9\n", "fees.yaml", "application/yaml"),
    ],
    ids=["csv", "json", "yaml"],
)
async def test_data_is_read_as_text(
    new_author: NewAuthor, worker: Worker, content: bytes, name: str, mime_type: str
) -> None:
    author = new_author()
    document_id = put(author, content, name, mime_type)
    assert (await worker.index(document_id))["result"] == "ready"
    assert "North" in str(author.search("coins"))


async def test_one_that_was_deleted_meanwhile_is_over(
    new_author: NewAuthor, worker: Worker
) -> None:
    author = new_author()
    document_id = put(author, TEXT, "rules.md", "text/markdown")
    assert author.rest.delete(f"/documents?id=eq.{document_id}").is_success
    assert await worker.index(document_id) == {"result": "over"}
    assert await worker.index(str(uuid.uuid4())) == {"result": "over"}


async def test_storage_that_does_not_answer_is_tried_again(
    new_author: NewAuthor, worker: Worker
) -> None:
    author = new_author()
    document_id = put(author, TEXT, "rules.md", "text/markdown")
    with pytest.raises(TaskRetryError):
        await worker.index(document_id, supabase_url="http://127.0.0.1:9")
    assert (await worker.index(document_id))["result"] == "ready"


async def test_a_task_without_a_document_is_rejected(worker: Worker) -> None:
    with pytest.raises(TaskRejectedError):
        await worker.index(None)  # type: ignore[arg-type]


async def test_the_runs_worker_indexes_what_is_uploaded(new_author: NewAuthor) -> None:
    author = new_author()
    document = author.added("rules.md", mime_type="text/markdown", file_size=len(TEXT))
    assert author.upload(document["storage_path"], TEXT).is_success
    assert author.uploaded(document["id"]).is_success
    from tests.chat.conftest import wait_for  # noqa: PLC0415

    wait_for(lambda: row(author, document["id"])["state"] == "ready", 30)
    assert "nine coins" in str(author.search("berth"))
