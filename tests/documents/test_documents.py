"""Documents: whose they are, how many there may be, what is found in them, what goes with them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from local.stack import Stack
from tests.chat.conftest import wait_for
from tests.documents.conftest import MODEL, Author, NewAuthor, vector
from tests.libraries.conftest import contents, end_task


def code_of(error: psycopg.Error) -> str:
    found: str = json.loads(error.diag.message_detail or "{}")["code"]
    return found


def refusal(answer: Any) -> tuple[int, str]:
    """Status and code of a refusal through PostgREST."""
    return answer.status_code, json.loads(answer.json()["details"])["code"]


# Putting in --------------------------------------------------------------------------------------


def test_a_document_is_put_in_and_indexed(author: Author) -> None:
    document = author.added("my notes.txt", file_size=1)
    assert document["storage_path"] == f"{author.id}/{document['id']}/my_notes.txt"
    assert document["state"] == "uploading"
    assert refusal(author.uploaded(document["id"])) == (409, "document_not_uploaded")
    assert author.upload(document["storage_path"]).is_success
    answer = author.uploaded(document["id"])
    assert (answer.json()["state"], answer.json()["file_size"]) == ("queued", 5)
    tasks = author.shelf.rows("select kind from private.tasks where key = %s", document["id"])
    assert [task["kind"] for task in tasks] == ["document_index"]
    # It cannot be replaced behind the index.
    assert not author.upload(document["storage_path"], b"other").is_success


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"file_size": 60_000_000}, "document_too_large"),
        ({"mime_type": "application/x-msdownload"}, "document_type_unknown"),
        ({"original_filename": "../../secret"}, None),
        ({"original_filename": "..", "name": "x"}, None),
        ({"name": " "}, None),
        ({"file_size": 0}, None),
        ({"storage_path": "elsewhere"}, None),
        ({"state": "ready"}, None),
        ({"chunk_count": 5}, None),
    ],
    ids=["large", "type", "path", "dots", "blank", "empty", "place", "state", "count"],
)
def test_what_is_no_document_is_refused(
    author: Author, values: dict[str, Any], code: str | None
) -> None:
    answer = author.insert(**values)
    assert not answer.is_success
    if code:
        assert refusal(answer) == (400, code)
    assert author.shelf.rows("select from public.documents where user_id = %s", author.id) == []


def test_nothing_is_uploaded_that_has_no_row(author: Author, new_author: NewAuthor) -> None:
    stranger = new_author()
    theirs = stranger.added()
    for path in (f"{author.id}/x/notes.txt", f"{author.id}/notes.txt", theirs["storage_path"]):
        assert author.upload(path).status_code in (400, 403), path
    assert stranger.upload(theirs["storage_path"]).is_success
    # Nor is it read by anybody else.
    path = f"/object/documents/{theirs['storage_path']}"
    assert stranger.storage.get(path).content == b"hello"
    assert not author.storage.get(path).is_success


def test_the_plan_says_how_many(new_author: NewAuthor) -> None:
    author = new_author("free")
    assert refusal(author.insert()) == (402, "plan_limit_reached")
    with pytest.raises(psycopg.Error) as refused:
        author.shelf.call(
            "backend.document_add",
            Jsonb({"original_filename": "a.txt", "mime_type": "text/plain", "file_size": 1}),
            p_user_id=author.id,
        )
    assert code_of(refused.value) == "plan_limit_reached"


def test_twenty_at_once_are_not_more_than_the_plan_allows(
    new_author: NewAuthor, stack: Stack
) -> None:
    author = new_author("pro")
    author.shelf.connection.execute(
        "insert into public.documents (user_id, name, original_filename, mime_type, file_size)"
        " select %s, 'n', 'n', 'text/plain', 1 from generate_series(1, 45)",
        [author.id],
    )

    def insert(_: int) -> str:
        with psycopg.connect(stack.admin_dsn) as connection:
            try:
                connection.execute(
                    "insert into public.documents"
                    " (user_id, name, original_filename, mime_type, file_size)"
                    " values (%s, 'n', 'n', 'text/plain', 1)",
                    [author.id],
                )
            except psycopg.Error as error:
                return code_of(error)
        return "inserted"

    with ThreadPoolExecutor(10) as pool:
        outcomes = list(pool.map(insert, range(20)))
    assert sorted(outcomes) == ["inserted"] * 5 + ["plan_limit_reached"] * 15
    count = author.shelf.rows("select from public.documents where user_id = %s", author.id)
    assert len(count) == 50


def test_a_stranger_does_not_learn_what_an_organizations_plan_allows(
    author: Author, new_author: NewAuthor
) -> None:
    stranger = new_author()
    organization = author.shelf.organization(author.id)
    author.shelf.connection.execute(
        "update public.organizations set plan_id = (select id from public.plans"
        " where slug = 'free') where id = %s",
        [organization["id"]],
    )
    assert refusal(author.insert(organization_id=organization["id"])) == (
        402,
        "plan_limit_reached",
    )
    answer = stranger.insert(organization_id=organization["id"])
    assert (answer.status_code, answer.json()["code"]) == (403, "42501")


def test_an_attempt_that_was_overtaken_is_not_heard(author: Author) -> None:
    document = author.added()
    assert author.upload(document["storage_path"]).is_success
    author.queue(document["id"])
    shelf = author.shelf
    first = shelf.call("backend.document_begin", document["id"], MODEL, 64)["attempt"]
    second = shelf.call("backend.document_begin", document["id"], MODEL, 64)["attempt"]
    assert second == first + 1
    piece = {"chunk_index": 0, "content": "late", "token_count": 1, "embedding": vector("late")}
    with pytest.raises(psycopg.Error) as refused:
        shelf.call("backend.document_chunks_put", document["id"], Jsonb([piece]), p_attempt=first)
    assert code_of(refused.value) == "document_not_indexing"
    with pytest.raises(psycopg.Error) as refused:
        shelf.call("backend.document_finish", document["id"], p_attempt=first)
    assert code_of(refused.value) == "document_not_indexing"
    told = shelf.call("backend.document_fail", document["id"], "no_text", "None.", p_attempt=first)
    assert told["state"] == "gone"
    shelf.call("backend.document_chunks_put", document["id"], Jsonb([piece]), p_attempt=second)
    finished = shelf.call("backend.document_finish", document["id"], p_attempt=second)
    assert (finished["state"], finished["chunk_count"]) == ("ready", 1)


def test_documents_are_indexed_so_often_in_a_day(author: Author) -> None:
    connection, document = author.shelf.connection, author.added()
    assert author.upload(document["storage_path"]).is_success
    queue = "select private.queue_document(d) from public.documents as d where d.id = %s"
    with connection.transaction(force_rollback=True):
        connection.execute(
            "update private.settings set value = '1' where name = 'document_indexes_per_day'"
        )
        connection.execute(queue, [document["id"]])
        with pytest.raises(psycopg.Error) as refused, connection.transaction():
            connection.execute(queue, [document["id"]])
    assert code_of(refused.value) == "rate_limited"


# Whose it is -------------------------------------------------------------------------------------


def test_ids_that_a_caller_sends_open_nothing(author: Author, new_author: NewAuthor) -> None:
    stranger = new_author()
    mine = author.indexed("the zebra is in the cellar")
    theirs = stranger.indexed("the zebra of the stranger")
    query = {"p_embedding": Jsonb(vector("zebra cellar")), "p_embedding_model": MODEL}
    for extra in ({}, query):
        found = stranger.search("zebra", p_document_ids=[mine, theirs], **extra)
        assert contents(found) == ["the zebra of the stranger"]
        assert stranger.search("zebra", p_document_ids=[mine], **extra)["results"] == []
        answer = author.shelf.call(
            "backend.document_search", "zebra", [mine], p_user_id=stranger.id, **extra
        )
        assert answer["results"] == []
    for function in ("document_read", "document_delete", "document_uploaded"):
        with pytest.raises(psycopg.Error) as refused:
            author.shelf.call(f"backend.{function}", mine, p_user_id=stranger.id)
        assert code_of(refused.value) == "document_not_found"
    assert stranger.rest.get("/documents", params={"id": f"eq.{mine}"}).json() == []
    assert stranger.rest.get("/document_chunks", params={"document_id": f"eq.{mine}"}).json() == []
    assert stranger.rest.delete("/documents", params={"id": f"eq.{mine}"}).is_success
    assert contents(author.search("zebra")) == ["the zebra is in the cellar"]


def test_an_organization_shares_its_documents(author: Author, new_author: NewAuthor) -> None:
    member, stranger = new_author(), new_author()
    organization = author.shelf.organization(author.id)
    author.shelf.join(organization["id"], member.id)
    shared = author.indexed("the shared zebra", organization_id=organization["id"])
    author.indexed("the zebra of my own")
    [row] = author.shelf.rows("select storage_path from public.documents where id = %s", shared)
    assert row["storage_path"].startswith(f"{organization['id']}/")
    assert contents(member.search("zebra")) == ["the shared zebra"]
    assert stranger.search("zebra")["results"] == []
    assert sorted(contents(author.search("zebra"))) == ["the shared zebra", "the zebra of my own"]
    # A member reads it, and does not delete it.
    member.rest.delete("/documents", params={"id": f"eq.{shared}"})
    with pytest.raises(psycopg.Error) as refused:
        author.shelf.call("backend.document_delete", shared, p_user_id=member.id)
    assert code_of(refused.value) == "document_not_found"
    assert contents(member.search("zebra")) == ["the shared zebra"]
    answer = stranger.insert(organization_id=organization["id"])
    assert answer.status_code in (401, 403)
    # It outlives its author's account, as the organization's.
    author.shelf.connection.execute(
        "update public.documents set user_id = null where id = %s", [shared]
    )
    assert contents(member.search("zebra")) == ["the shared zebra"]
    author.shelf.connection.execute(
        "delete from public.organization_members where user_id = %s", [member.id]
    )
    assert member.search("zebra")["results"] == []


# Search ------------------------------------------------------------------------------------------


def test_passages_say_where_they_are_from(author: Author) -> None:
    document_id = author.indexed(
        "the zebra is striped", "lions have manes", "the zebra is in the cellar", name="zoo.txt"
    )
    answer = author.search("zebra cellar")
    best = answer["results"][0]
    assert (best["document_id"], best["name"], best["pages"], best["first_index"]) == (
        document_id,
        "zoo.txt",
        [3],
        4,
    )
    assert best["content"] == "the zebra is in the cellar"
    assert answer["tokens"] == sum(one["tokens"] for one in answer["results"])


def test_words_and_meaning_are_fused(author: Author) -> None:
    author.indexed(
        "an automobile on the road", "bread", "a road from the village to the town with a map"
    )
    query = {"p_embedding": Jsonb(vector("vehicle")), "p_embedding_model": MODEL}
    assert author.search("vehicle")["results"] == []
    found = author.search("vehicle", **query)["results"]
    assert (found[0]["content"], found[0]["vector_place"]) == ("an automobile on the road", 1)
    both = author.search("road", **query)["results"][0]
    assert both["content"] == "an automobile on the road"
    assert (both["text_place"], both["vector_place"]) == (1, 1)
    assert both["score"] == pytest.approx(2 / 11, abs=1e-6)
    other = author.search("vehicle", p_embedding=query["p_embedding"], p_embedding_model="other")
    assert other["results"] == []


def test_an_answer_keeps_to_its_tokens(author: Author) -> None:
    author.indexed(*(f"zebra {'x' * 90} {n}" for n in range(10)))
    answer = author.search("zebra", p_tokens=60)
    assert len(answer["results"]) == 2
    assert answer["tokens"] <= 60
    assert len(author.search("zebra", p_limit=3)["results"]) == 3


def test_other_languages_are_found(author: Author) -> None:
    author.indexed("Les maisons blanches du village", "Die Häuser am See")
    assert contents(author.search("maisons")) == ["Les maisons blanches du village"]
    assert contents(author.search("Häuser")) == ["Die Häuser am See"]


# Index -------------------------------------------------------------------------------------------


def test_nothing_is_found_before_the_index_is_finished(author: Author) -> None:
    shelf = author.shelf
    document_id = author.indexed("zebra old")
    author.queue(document_id)
    assert author.search("zebra")["results"] == []
    shelf.call("backend.document_begin", document_id, MODEL, 64)
    one = {"chunk_index": 0, "content": "zebra new", "token_count": 2}
    shelf.call("backend.document_chunks_put", document_id, Jsonb([one]), 50)
    shelf.call("backend.document_chunks_put", document_id, Jsonb([one | {"page": 2}]), 40)
    [row] = shelf.rows("select progress from public.documents where id = %s", document_id)
    assert row["progress"] == 50
    assert author.search("zebra")["results"] == []
    done = shelf.call("backend.document_finish", document_id)
    assert (done["state"], done["chunk_count"]) == ("ready", 1)
    assert author.search("zebra")["results"][0]["pages"] == [2]
    with pytest.raises(psycopg.Error) as refused:
        shelf.call("backend.document_chunks_put", document_id, Jsonb([one]))
    assert code_of(refused.value) == "document_not_indexing"
    assert shelf.call("backend.document_begin", document_id) is None


def test_an_index_that_fails_says_why(author: Author) -> None:
    document = author.added()
    author.upload(document["storage_path"])
    author.queue(document["id"])
    author.shelf.call("backend.document_begin", document["id"])
    answer = author.shelf.call("backend.document_fail", document["id"], "unreadable", "No text")
    assert answer == {"state": "failed"}
    [row] = author.rest.get("/documents", params={"id": f"eq.{document['id']}"}).json()
    assert (row["state"], row["error_code"], row["error_message"]) == (
        "failed",
        "unreadable",
        "No text",
    )


def test_one_that_is_read_is_not_queued_again(author: Author) -> None:
    document = author.added()
    author.upload(document["storage_path"])
    author.queue(document["id"])
    shelf = author.shelf
    shelf.call("backend.document_begin", document["id"], MODEL, 64)
    with shelf.connection.transaction():
        task_id = shelf.call(
            "private.task_enqueue",
            "document_index",
            Jsonb({"document_id": document["id"]}),
            document["id"],
            p_run_after="2100-01-01",
        )
    assert author.uploaded(document["id"]).json()["state"] == "indexing"
    one = {"chunk_index": 0, "content": "zebra", "token_count": 2}
    shelf.call("backend.document_chunks_put", document["id"], Jsonb([one]))
    assert shelf.call("backend.document_finish", document["id"])["state"] == "ready"
    shelf.rows("delete from private.tasks where id = %s returning id", task_id)


@pytest.mark.parametrize("status", ["dead", "cancelled"])
def test_an_index_ends_with_its_task(author: Author, status: str) -> None:
    document = author.added()
    author.upload(document["storage_path"])
    author.queue(document["id"])
    shelf = author.shelf
    shelf.call("backend.document_begin", document["id"], MODEL, 64)
    payload = {"document_id": document["id"]}
    end_task(shelf, "document_index", document["id"], payload, status)
    [row] = shelf.rows("select * from public.documents where id = %s", document["id"])
    assert (row["state"], row["error_code"]) == ("failed", "index_given_up")
    # Whoever has it tried again has it done.
    assert shelf.call("backend.document_begin", document["id"], MODEL, 64)["state"] == "indexing"


def test_an_index_that_ended_well_stays_so_when_a_task_dies(author: Author) -> None:
    document_id = author.indexed("the beam turns")
    end_task(author.shelf, "document_index", document_id, {"document_id": document_id}, "dead")
    assert author.search("beam")["results"]


def test_with_a_document_goes_what_is_of_it(author: Author, functions_url: str) -> None:
    assert functions_url
    document_id = author.indexed("zebra")
    shelf = author.shelf
    [row] = shelf.rows("select storage_path from public.documents where id = %s", document_id)
    assert author.rest.delete("/documents", params={"id": f"eq.{document_id}"}).is_success
    assert (
        shelf.rows("select from public.document_chunks where document_id = %s", document_id) == []
    )
    # The worker deletes the object.
    wait_for(
        lambda: (
            not shelf.rows(
                "select from storage.objects where bucket_id = 'documents' and name = %s",
                row["storage_path"],
            )
        ),
        20,
    )


def test_what_never_came_is_deleted(author: Author) -> None:
    late, early = author.added(), author.added()
    author.shelf.connection.execute(
        "update public.documents set created_at = now() - interval '25 hours' where id = %s",
        [late["id"]],
    )
    author.shelf.call("backend.documents_expire", 1000)
    left = author.rest.get("/documents", params={"user_id": f"eq.{author.id}"}).json()
    assert [one["id"] for one in left] == [early["id"]]


def test_with_a_person_go_their_documents(author: Author) -> None:
    document_id = author.indexed("zebra")
    author.shelf.connection.execute("delete from public.profiles where id = %s", [author.id])
    for table, column in (("documents", "id"), ("document_chunks", "document_id")):
        query = f"select from public.{table} where {column} = %s"
        assert author.shelf.rows(query, document_id) == []
