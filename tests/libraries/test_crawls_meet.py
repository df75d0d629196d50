"""Crawls that meet: a source that is changed meanwhile, and writers that come at the same time."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from local.stack import Stack
from tests.conftest import NewUser
from tests.libraries.conftest import DIMENSIONS, MODEL, Shelf, chunk, vector
from tests.libraries.test_schema import code_of, refused


def source_of(shelf: Shelf, library_id: str) -> dict[str, Any]:
    found: dict[str, Any] = shelf.call("backend.library_source", library_id)
    return found


def tasks_of(shelf: Shelf, library_id: str) -> list[dict[str, Any]]:
    return shelf.rows("select * from private.tasks where payload ->> 'library_id' = %s", library_id)


def moved_source(shelf: Shelf, library_id: str, source_url: str) -> list[dict[str, Any]]:
    """The tasks there are once its source lies elsewhere; the run's worker does none of them."""
    with shelf.connection.transaction():
        shelf.call("backend.library_source_put", library_id, source_url, "operator")
        tasks = tasks_of(shelf, library_id)
        shelf.connection.execute(
            "delete from private.tasks where payload ->> 'library_id' = %s", [library_id]
        )
    return tasks


# A source that is another one by now --------------------------------------------------------------


def test_a_crawl_of_what_was_there_before_is_not_heard(shelf: Shelf, reader: str) -> None:
    library_id = shelf.add(p_source_kind="archive", p_source_url="old.tar.gz")
    old = source_of(shelf, library_id)["source_id"]
    begun = shelf.begin(library_id, p_source_id=old)
    shelf.put(begun, chunk("zebra"))
    [task] = moved_source(shelf, library_id, "new.tar.gz")
    assert task["payload"]["source_id"] == source_of(shelf, library_id)["source_id"] != old
    with pytest.raises(psycopg.Error) as refusal:
        shelf.put(begun, chunk("late"))
    assert code_of(refusal.value) == "crawl_superseded"
    with pytest.raises(psycopg.Error) as refusal:
        shelf.finish(begun)
    assert code_of(refusal.value) == "crawl_superseded"
    for function, values in (
        ("backend.library_version_begin", ["1.0"]),
        ("backend.library_unchanged", ["1.0", "abc"]),
        ("backend.library_fail", ["no_text", "There is nothing."]),
    ):
        code = refused(shelf, function, library_id, *values, p_source_id=old)
        assert code == "crawl_superseded", function
    assert shelf.search(reader, "zebra", library_id)["state"] == "unfinished"


def test_its_task_is_another_one(shelf: Shelf) -> None:
    library_id = shelf.add(p_source_kind="archive", p_source_url="old.tar.gz")
    old = source_of(shelf, library_id)["source_id"]
    with shelf.connection.transaction():
        first = shelf.call("private.crawl_library", library_id)
        shelf.connection.execute(
            "update private.tasks set status = 'running', attempts = 1, started_at = now(),"
            " lease_token = gen_random_uuid(), leased_until = now() + interval '1 minute',"
            " leased_by = 'test' where id = %s",
            [first],
        )
    tasks = moved_source(shelf, library_id, "new.tar.gz")
    assert sorted(task["status"] for task in tasks) == ["queued", "running"]
    assert {task["payload"]["source_id"] for task in tasks} > {old}


def test_an_old_task_that_dies_ends_no_crawl_of_the_new_source(shelf: Shelf) -> None:
    library_id = shelf.add(p_source_kind="archive", p_source_url="old.tar.gz")
    old_key = shelf.crawl_key(library_id)
    moved_source(shelf, library_id, "new.tar.gz")
    begun = shelf.begin(library_id)
    payload = Jsonb({"library_id": library_id})
    with shelf.connection.transaction():
        task_id = shelf.call("private.task_enqueue", "library_crawl", payload, old_key)
        shelf.connection.execute(
            "update private.tasks set status = 'dead', last_error = 'test', finished_at = now()"
            " where id = %s",
            [task_id],
        )
    shelf.put(begun, chunk("zebra"))
    assert shelf.finish(begun)["total_chunks"] == 1


def test_a_library_that_is_added_again_is_another_one(shelf: Shelf) -> None:
    library_id = shelf.add()
    old = source_of(shelf, library_id)["source_id"]
    shelf.call("backend.library_delete", library_id, p_actor="operator")
    assert shelf.add() == library_id
    code = refused(
        shelf, "backend.library_version_begin", library_id, "1.0", MODEL, DIMENSIONS, old
    )
    assert code == "crawl_superseded"


# What nobody has finished -------------------------------------------------------------------------


def test_nobody_reads_what_a_crawl_has_put_before_it_is_finished(shelf: Shelf, reader: str) -> None:
    begun = shelf.publish(chunk("zebra"))
    again = shelf.begin(begun["library_id"])
    shelf.put(again, chunk("zebra"), chunk("giraffe", 1))

    def read() -> list[str]:
        with shelf.as_role("authenticated", {"sub": reader}) as connection:
            rows = connection.execute(
                "select content from public.documentation_chunks where library_id = %s"
                " order by content",
                [begun["library_id"]],
            ).fetchall()
        return [row[0] for row in rows]

    assert read() == ["zebra"]
    shelf.finish(again)
    assert read() == ["giraffe", "zebra"]


# At the same time ---------------------------------------------------------------------------------


def test_the_last_vectors_of_two_workers_at_once(shelf: Shelf, stack: Stack) -> None:
    chunks = [chunk(f"text {n}", n) for n in range(40)]
    begun = shelf.publish(*chunks)
    shelf.call("backend.library_reembed", begun["version_id"], "hashed-32", 32)
    missing = shelf.call("backend.library_embeddings_missing", begun["version_id"], 2000)["chunks"]

    def put(turn: int) -> Any:
        mine = [one for place, one in enumerate(missing) if place % 4 == turn]
        vectors = [{"id": one["id"], "embedding": vector(one["content"], 32)} for one in mine]
        with psycopg.connect(stack.admin_dsn, autocommit=True) as connection:
            row = connection.execute(
                "select backend.library_embeddings_put(%s, 'hashed-32', %s)",
                [begun["version_id"], Jsonb(vectors)],
            ).fetchone()
        assert row is not None
        return row[0]["is_switched"]

    with ThreadPoolExecutor(4) as pool:
        switched = list(pool.map(put, range(4)))
    assert sorted(switched) == [False, False, False, True]
    [row] = shelf.rows(
        "select embedding_model from public.library_versions where id = %s", begun["version_id"]
    )
    assert row["embedding_model"] == "hashed-32"


def test_a_library_is_deleted_while_its_crawl_puts(shelf: Shelf, stack: Stack) -> None:
    for turn in range(4):
        library_id = shelf.add(f"docs{turn}")
        begun = shelf.begin(library_id)
        chunks = [chunk(f"text {n}", n) for n in range(200)]

        def put(begun: dict[str, Any] = begun, chunks: list[Any] = chunks) -> str:
            with psycopg.connect(stack.admin_dsn) as connection:
                try:
                    connection.execute(
                        "select backend.library_chunks_put(%s, %s, %s)",
                        [begun["version_id"], begun["crawl"], Jsonb(chunks)],
                    )
                except psycopg.Error as error:
                    return code_of(error)
            return "put"

        def delete(library_id: str = library_id) -> str:
            with psycopg.connect(stack.admin_dsn) as connection:
                connection.execute(
                    "select backend.library_delete(%s, p_actor => 'operator')", [library_id]
                )
            return "deleted"

        with ThreadPoolExecutor(3) as pool:
            ends = [pool.submit(one) for one in (put, delete, put)]
            outcomes = {one.result(timeout=60) for one in ends}
        assert outcomes <= {"put", "deleted", "library_version_not_found"}
        assert shelf.rows("select from public.libraries where id = %s", library_id) == []


def test_two_that_are_to_lead_to_each_other_make_no_circle(shelf: Shelf, stack: Stack) -> None:
    for turn in range(4):
        one, other = shelf.add(f"one{turn}"), shelf.add(f"other{turn}")

        def move(pair: tuple[str, str]) -> str:
            with psycopg.connect(stack.admin_dsn) as connection:
                try:
                    connection.execute("select backend.library_move(%s, %s, 'operator')", [*pair])
                except psycopg.Error as error:
                    return code_of(error)
            return "moved"

        with ThreadPoolExecutor(2) as pool:
            outcomes = sorted(pool.map(move, [(one, other), (other, one)]))
        assert outcomes == ["library_not_found", "moved"]


# Bounds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["1e131071", "-1e131071", "65505"], ids=["huge", "low", "over"])
def test_a_vector_of_numbers_that_it_cannot_hold_is_refused(
    shelf: Shelf, reader: str, number: str
) -> None:
    begun = shelf.publish(chunk("zebra"))
    with pytest.raises(psycopg.Error) as refusal:
        shelf.search(
            reader,
            "zebra",
            begun["library_id"],
            p_embedding=f"[{','.join([number] * DIMENSIONS)}]",
            p_embedding_model=MODEL,
        )
    assert code_of(refusal.value) == "invalid_argument"


def test_a_number_of_a_hundred_thousand_digits_is_no_small_object(shelf: Shelf) -> None:
    for value in ({"a": 0}, {"a": "x" * 20_000}):
        size = shelf.call("private.json_size", Jsonb(value))
        assert size == len(json.dumps(value))
    [row] = shelf.rows(
        """select private.json_size('{"a": [{"b": -1e131071}]}') as size,"""
        """ private.json_size('{"a": ["1e131071", 1e99, true, null]}') as text"""
    )
    assert row["size"] == 2**31 - 1
    assert row["text"] < 200


def test_an_organization_asks_for_so_many_crawls_in_a_day(shelf: Shelf, new_user: NewUser) -> None:
    founder = new_user().id
    organization = shelf.organization(founder)
    named = {"p_organization": organization["slug"], "p_user_id": founder}

    def add() -> Any:
        library_id = f"/{organization['slug']}/{uuid.uuid4().hex[:8]}"
        return shelf.call("backend.library_add", library_id, "Docs", "git", **named)

    with shelf.connection.transaction(force_rollback=True):
        shelf.connection.execute(
            "update private.settings set value = '2' where name = 'library_crawls_per_day'"
        )
        first = add()["library_id"]
        # Whoever deletes it and adds it again has asked all the same.
        shelf.call("backend.library_delete", first, p_user_id=founder)
        add()
        with pytest.raises(psycopg.Error) as refusal, shelf.connection.transaction():
            add()
        facts = json.loads(refusal.value.diag.message_detail or "{}")
        assert (facts["code"], facts["limit_source"]) == ("rate_limited", "library_crawls_per_day")
        assert 0 < facts["retry_after"] <= 86_400
        shelf.connection.execute(
            "update private.settings set value = '0' where name = 'library_crawls_per_day'"
        )
        add()


def test_a_library_whose_archive_never_comes_is_deleted(shelf: Shelf, new_user: NewUser) -> None:
    founder = new_user().id
    slug = shelf.organization(founder)["slug"]
    ids = [f"/{slug}/{name}" for name in ("late", "new")]
    for library_id in ids:
        named = {"p_organization": slug, "p_user_id": founder}
        shelf.call("backend.library_add", library_id, "Docs", "archive", **named)
    shelf.connection.execute(
        "update public.libraries set created_at = now() - interval '25 hours' where id = %s",
        [ids[0]],
    )
    assert shelf.call("backend.libraries_expire")["count"] >= 1
    left = shelf.rows("select id from public.libraries where id = any(%s)", ids)
    assert [row["id"] for row in left] == ids[1:]
