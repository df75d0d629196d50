"""Libraries as they are kept: who reads them, whose names are whose, crawls, vectors, the tools."""

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
from tests.libraries.conftest import (
    DIMENSIONS,
    MODEL,
    Shelf,
    chunk,
    contents,
    end_task,
    vector,
)


def code_of(error: psycopg.Error) -> str:
    """The stable code of a refusal of the database."""
    found: str = json.loads(error.diag.message_detail or "{}")["code"]
    return found


def refused(shelf: Shelf, function: str, *values: Any, **named: Any) -> str:
    with pytest.raises(psycopg.Error) as refusal:
        shelf.call(function, *values, **named)
    return code_of(refusal.value)


class Team:
    """An organization with a founder, a member and a private library."""

    def __init__(self, shelf: Shelf, new_user: NewUser) -> None:
        self.founder, self.member = new_user().id, new_user().id
        self.organization = shelf.organization(self.founder)
        self.id, self.slug = self.organization["id"], self.organization["slug"]
        shelf.join(self.id, self.member)
        self.library_id = f"/{self.slug}/secrets"
        shelf.call(
            "backend.library_add",
            self.library_id,
            "Secrets",
            "git",
            p_organization=self.slug,
            p_user_id=self.founder,
        )
        self.begun = shelf.begin(self.library_id)
        shelf.put(self.begun, chunk("the zebra is hidden in the cellar"))
        shelf.embed(self.begun["version_id"])
        shelf.finish(self.begun)


@pytest.fixture
def team(shelf: Shelf, new_user: NewUser) -> Team:
    return Team(shelf, new_user)


# Who reads what ----------------------------------------------------------------------------------

TABLES = ["libraries", "library_versions", "documentation_chunks"]


@pytest.mark.parametrize("table", TABLES)
def test_private_rows_are_the_members(
    shelf: Shelf, team: Team, new_user: NewUser, table: str
) -> None:
    column = "id" if table == "libraries" else "library_id"

    def seen(user_id: str) -> int:
        with shelf.as_role("authenticated", {"sub": user_id}) as connection:
            rows = connection.execute(
                f"select from public.{table} where {column} = %s".encode(), [team.library_id]
            )
            return rows.rowcount

    assert [seen(team.founder), seen(team.member), seen(new_user().id)] == [1, 1, 0]


def test_a_search_reads_what_the_caller_may(shelf: Shelf, team: Team, new_user: NewUser) -> None:
    stranger = new_user().id
    query = {"p_embedding": Jsonb(vector("zebra hidden cellar")), "p_embedding_model": MODEL}
    for user_id in (team.founder, team.member):
        found = shelf.search(user_id, "zebra", team.library_id, **query)
        assert contents(found) == ["the zebra is hidden in the cellar"]
    answer = shelf.search(stranger, "zebra", team.library_id, **query)
    assert (answer["state"], answer["status"]) == ("not_found", 404)
    # Not even its name: a library that is not there is answered the same.
    absent = shelf.search(stranger, "zebra", f"/{team.slug}/nothing", **query)
    assert answer.keys() == absent.keys()
    everywhere = shelf.search(stranger, "zebra hidden cellar", None, **query)
    assert team.library_id not in {one["library_id"] for one in everywhere["results"]}
    assert team.library_id in {
        one["library_id"]
        for one in shelf.search(team.member, "zebra hidden cellar", None, **query)["results"]
    }


def test_ids_of_others_versions_lead_nowhere(shelf: Shelf, team: Team, new_user: NewUser) -> None:
    """private.find_my_chunks() is no way around: it asks who the caller is."""
    query = (
        b"select cardinality(private.find_my_chunks(array[%s]::uuid[], 'zebra', null, null, null,"
        b" 'down'))"
    )
    for user_id, count in ((team.member, 1), (new_user().id, 0)):
        with shelf.as_role("authenticated", {"sub": user_id}) as connection:
            row = connection.execute(query, [team.begun["version_id"]]).fetchone()
        assert row == (count,)


def test_who_leaves_or_is_suspended_reads_no_more(shelf: Shelf, team: Team) -> None:
    assert shelf.search(team.member, "zebra", team.library_id)["results"]
    shelf.connection.execute(
        "delete from public.organization_members where user_id = %s", [team.member]
    )
    assert shelf.search(team.member, "zebra", team.library_id)["state"] == "not_found"
    public = shelf.publish(chunk("zebra in public"))["library_id"]
    assert shelf.search(team.member, "zebra", public)["results"]
    shelf.connection.execute(
        "update public.profiles set is_active = false where id = %s", [team.member]
    )
    assert shelf.search(team.member, "zebra", public)["state"] == "not_found"


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("statement", ["insert", "update", "delete"])
def test_nobody_writes_but_functions(shelf: Shelf, team: Team, table: str, statement: str) -> None:
    text = {
        "insert": "insert into public.{} default values",
        "update": "update public.{} set organization_id = null",
        "delete": "delete from public.{}",
    }[statement].format(table)
    for role in ("anon", "authenticated", "service_role"):
        with (
            shelf.as_role(role, {"sub": team.founder}) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(text.encode())


# Names -------------------------------------------------------------------------------------------


def test_a_private_id_begins_with_the_slug(shelf: Shelf, team: Team) -> None:
    named = {"p_organization": team.slug, "p_user_id": team.founder}
    for library_id in ("/somebody/secrets", f"/{team.slug}x/secrets", "/react/react"):
        code = refused(shelf, "backend.library_add", library_id, "Secrets", "git", **named)
        assert code == "invalid_argument"
    assert (
        refused(shelf, "backend.library_add", team.library_id, "Again", "git", **named)
        == "library_id_taken"
    )


def test_a_public_id_never_takes_a_slug(shelf: Shelf, team: Team) -> None:
    code = refused(
        shelf, "backend.library_add", f"/{team.slug}/docs", "Docs", "git", p_actor="operator"
    )
    assert code == "library_id_taken"


def test_no_organization_takes_a_public_name(shelf: Shelf, reader: str) -> None:
    shelf.add()
    with (
        shelf.as_role("authenticated", {"sub": reader}) as connection,
        pytest.raises(psycopg.Error) as refusal,
    ):
        connection.execute("select public.create_organization('Squatter', %s)", [shelf.mark])
    assert code_of(refusal.value) == "slug_taken"


def test_a_name_goes_to_one_of_two_at_once(stack: Stack, new_user: NewUser) -> None:
    """A public library and an organization of its name, at the same time."""
    founder = new_user().id
    outcomes = []
    for turn in range(6):
        slug = f"race{turn}{uuid.uuid4().hex[:10]}"

        def found(slug: str = slug) -> str:
            with psycopg.connect(stack.admin_dsn) as connection:
                try:
                    connection.execute(
                        "insert into public.organizations (name, slug, created_by)"
                        " values ('x', %s, %s)",
                        [slug, founder],
                    )
                except psycopg.Error as error:
                    return code_of(error)
            return "made"

        def add(slug: str = slug) -> str:
            with psycopg.connect(stack.admin_dsn) as connection:
                try:
                    connection.execute(
                        "select backend.library_add(%s, 'Docs', 'git', p_actor => 'operator')",
                        [f"/{slug}/docs"],
                    )
                except psycopg.Error as error:
                    return code_of(error)
            return "made"

        with ThreadPoolExecutor(2) as pool:
            outcomes.append(tuple(one.result() for one in (pool.submit(found), pool.submit(add))))
    assert len(outcomes) == 6
    assert set(outcomes) <= {("made", "library_id_taken"), ("slug_taken", "made")}


@pytest.mark.parametrize(
    "library_id",
    ["docs", "/docs", "/a/b/c", "/../b", "/a/..", "/a b/c", "/a/" + "b" * 100, "/a/b%"],
    ids=["word", "one", "three", "dots", "parent", "space", "long", "percent"],
)
def test_what_is_no_id_is_refused(shelf: Shelf, library_id: str) -> None:
    code = refused(shelf, "backend.library_add", library_id, "Docs", "git", p_actor="operator")
    assert code == "invalid_argument"


def test_only_admins_and_operators_write(shelf: Shelf, team: Team, new_user: NewUser) -> None:
    named = {"p_organization": team.slug, "p_user_id": team.member}
    assert (
        refused(shelf, "backend.library_add", f"/{team.slug}/x", "X", "git", **named)
        == "not_an_admin"
    )
    for user_id in (team.member, new_user().id):
        code = refused(shelf, "backend.library_delete", team.library_id, p_user_id=user_id)
        assert code == "library_not_found"
    public = shelf.add()
    assert refused(shelf, "backend.library_delete", public, p_user_id=team.founder) == (
        "library_not_found"
    )
    assert refused(shelf, "backend.library_delete", public) == "invalid_argument"
    shelf.call("backend.library_delete", team.library_id, p_user_id=team.founder)
    assert shelf.rows("select from public.libraries where id = %s", team.library_id) == []
    assert (
        shelf.rows(
            "select from private.documentation_embeddings where library_version_id = %s",
            team.begun["version_id"],
        )
        == []
    )


# Resolving ---------------------------------------------------------------------------------------


def resolved(shelf: Shelf, user_id: str, name: str | None, **named: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = shelf.ask(
        user_id, "public.resolve_library", p_library_name=name, **named
    )["matches"]
    return found


@pytest.fixture
def named_libraries(shelf: Shelf) -> dict[str, str]:
    """Four, whose names are nobody else's."""
    tail = shelf.mark[1:]
    return {
        key: shelf.add(
            project.format(tail),
            p_title=title.format(tail),
            p_values=Jsonb(
                {"popularity_score": stars, "aliases": [f"py{tail}"] if stars > 9000 else []}
            ),
        )
        for key, project, title, stars in (
            ("kit", "kit{}.js", "Kit{}.js", 9001),
            ("router", "kit{}-router", "Kit{} Router", 100),
            ("forms", "kit{}-forms", "Kit{} Forms", 1),
        )
    }


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("kit{}.js", "kit"),
        ("Kit{}js", "kit"),
        ("py{}", "kit"),
        ("kit{}", "kit"),
        ("kit{} router", "router"),
        ("kit{}-ruoter", "router"),
        ("KIT{}_FORMS", "forms"),
    ],
    ids=["exact", "plain", "alias", "beginning", "words", "misspelt", "upper"],
)
def test_a_name_leads_to_its_library(
    shelf: Shelf, reader: str, named_libraries: dict[str, str], name: str, first: str
) -> None:
    found = resolved(shelf, reader, name.format(shelf.mark[1:]))
    assert found[0]["library_id"] == named_libraries[first]
    assert [one["confidence"] for one in found] == sorted(
        (one["confidence"] for one in found), reverse=True
    )
    assert all(0 < one["confidence"] <= 1 for one in found)


def test_of_two_that_are_as_like_the_popular_one_is_surer(shelf: Shelf, reader: str) -> None:
    project = f"same{shelf.mark}"
    for stars in (5, 50000):
        shelf.call(
            "backend.library_add",
            f"/{shelf.mark}{stars}/{project}",
            project,
            "git",
            p_values=Jsonb({"popularity_score": stars}),
            p_actor="operator",
        )
    found = resolved(shelf, reader, project)
    assert [one["popularity_score"] for one in found] == [50000, 5]
    assert found[0]["confidence"] > found[1]["confidence"]


def test_names_of_others_are_not_told(shelf: Shelf, team: Team, new_user: NewUser) -> None:
    ids = {one["library_id"] for one in resolved(shelf, team.member, f"{team.slug} secrets")}
    assert team.library_id in ids
    for named in ({"name": "secrets"}, {"name": team.library_id}, {"name": team.slug}):
        found = resolved(shelf, new_user().id, named["name"], p_limit=50)
        assert team.library_id not in {one["library_id"] for one in found}


def test_a_library_says_where_it_stands(shelf: Shelf, reader: str) -> None:
    old, new = shelf.add("old"), shelf.publish(chunk("zebra"), project="new")["library_id"]

    def state(library_id: str) -> tuple[str, int]:
        answer = shelf.search(reader, "zebra", library_id)
        [match] = [
            one
            for one in resolved(shelf, reader, library_id, p_limit=50)
            if one["library_id"] == library_id
        ]
        assert (match["state"], match["status"]) == (answer["state"], answer["status"])
        return answer["state"], answer["status"]

    assert state(new) == ("ready", 200)
    assert state(old) == ("unfinished", 202)
    begun = shelf.begin(old)
    shelf.call("backend.library_progress", begun["version_id"], begun["crawl"], 40, "indexing")
    answer = shelf.search(reader, "zebra", old)
    assert (answer["step"], answer["progress"]) == ("indexing", 40)
    shelf.call(
        "backend.library_version_fail",
        begun["version_id"],
        begun["crawl"],
        "too_large",
        "Too large",
    )
    assert state(old) == ("failed", 404)
    shelf.call("backend.library_move", old, new, "operator")
    assert state(old) == ("moved", 301)
    assert shelf.search(reader, "zebra", old)["moved_to"] == new
    assert shelf.search(reader, "zebra", f"{new}/9.9")["versions"] == ["1.0"]
    assert shelf.search(reader, "zebra", f"/{shelf.mark}/absent")["status"] == 404


def test_a_library_moves_to_where_its_readers_may_go(shelf: Shelf, team: Team) -> None:
    public = shelf.add()
    for target in (team.library_id, public, "/nobody/nothing"):
        assert refused(shelf, "backend.library_move", public, target, "operator") == (
            "library_not_found"
        )


# Crawls ------------------------------------------------------------------------------------------


def chunks_of(shelf: Shelf, begun: dict[str, Any]) -> dict[str, str]:
    return {
        row["content"]: str(row["id"])
        for row in shelf.rows(
            "select id, content from public.documentation_chunks where library_version_id = %s",
            begun["version_id"],
        )
    }


def totals(shelf: Shelf, library_id: str) -> dict[str, Any]:
    [row] = shelf.rows(
        "select total_versions, total_chunks, total_snippets, total_tokens, default_version"
        " from public.libraries where id = %s",
        library_id,
    )
    return row


def test_a_crawl_is_seen_when_it_is_finished(shelf: Shelf, reader: str) -> None:
    begun = shelf.publish(chunk("zebra stays"), chunk("zebra goes", 2))
    library_id = begun["library_id"]
    before = chunks_of(shelf, begun)
    again = shelf.begin(library_id)
    assert (again["version_id"], again["crawl"]) == (begun["version_id"], 2)
    assert shelf.put(again, chunk("zebra stays"), chunk("zebra comes", 4)) == {
        "added": 1,
        "kept": 1,
    }
    shelf.embed(again["version_id"])
    query = {"p_embedding": Jsonb(vector("zebra")), "p_embedding_model": MODEL}
    for extra in ({}, query):
        found = contents(shelf.search(reader, "zebra", library_id, **extra))
        assert sorted(found) == ["zebra goes", "zebra stays"]
    assert totals(shelf, library_id)["total_chunks"] == 2
    assert shelf.finish(again)["removed"] == 1
    for extra in ({}, query):
        found = contents(shelf.search(reader, "zebra", library_id, **extra))
        assert sorted(found) == ["zebra comes", "zebra stays"]
    after = chunks_of(shelf, begun)
    assert after["zebra stays"] == before["zebra stays"]
    assert totals(shelf, library_id)["total_chunks"] == 2


def test_what_did_not_change_keeps_its_vector(shelf: Shelf) -> None:
    begun = shelf.publish(chunk("one"), chunk("two", 1))
    again = shelf.begin(begun["library_id"])
    shelf.put(again, chunk("two", 5, flags=["instructions"]), chunk("three", 6))
    missing = shelf.call("backend.library_embeddings_missing", again["version_id"])
    assert [one["content"] for one in missing["chunks"]] == ["three"]
    # Nor does a new version begin from nothing.
    newer = shelf.begin(begun["library_id"], "2.0")
    shelf.put(newer, chunk("one", path="elsewhere.md"), chunk("four", 1))
    missing = shelf.call("backend.library_embeddings_missing", newer["version_id"])
    assert [one["content"] for one in missing["chunks"]] == ["four"]


def test_putting_twice_is_putting_once(shelf: Shelf) -> None:
    begun = shelf.begin(shelf.add())
    chunks = [chunk(f"text {n}", n) for n in range(10)]
    assert shelf.put(begun, *chunks) == {"added": 10, "kept": 0}
    assert shelf.put(begun, *reversed(chunks)) == {"added": 0, "kept": 10}
    assert shelf.put(begun, *chunks[:2], *chunks[:2]) == {"added": 0, "kept": 2}
    assert len(chunks_of(shelf, begun)) == 10


def test_many_put_at_once(shelf: Shelf, stack: Stack) -> None:
    begun = shelf.begin(shelf.add())
    chunks = [chunk(f"text {n}", n, f"{n % 3}.md") for n in range(60)]

    def put(turn: int) -> int:
        mine = chunks[turn * 5 :] + chunks[: turn * 5]
        with psycopg.connect(stack.admin_dsn, autocommit=True) as connection:
            row = connection.execute(
                "select (backend.library_chunks_put(%s, %s, %s) ->> 'added')::integer",
                [begun["version_id"], begun["crawl"], Jsonb(mine)],
            ).fetchone()
        assert row is not None
        return int(row[0])

    with ThreadPoolExecutor(6) as pool:
        added = list(pool.map(put, range(6)))
    assert sum(added) == 60
    assert len(chunks_of(shelf, begun)) == 60
    assert shelf.finish(begun)["total_chunks"] == 60


def test_a_crawl_that_was_overtaken_is_refused(shelf: Shelf) -> None:
    library_id = shelf.add()
    first, second = shelf.begin(library_id), shelf.begin(library_id)
    assert second["crawl"] == first["crawl"] + 1
    with pytest.raises(psycopg.Error) as refusal:
        shelf.put(first, chunk("late"))
    assert code_of(refusal.value) == "crawl_superseded"
    arguments = (first["version_id"], first["crawl"])
    assert refused(shelf, "backend.library_version_finish", *arguments) == "crawl_superseded"
    assert refused(shelf, "backend.library_progress", *arguments, 5) == "crawl_superseded"
    shelf.put(second, chunk("in time"))
    shelf.finish(second)
    with pytest.raises(psycopg.Error) as refusal:
        shelf.finish(second)
    assert code_of(refusal.value) == "crawl_superseded"


def test_a_crawl_that_fails_leaves_what_was_there(shelf: Shelf, reader: str) -> None:
    begun = shelf.publish(chunk("zebra before"))
    again = shelf.begin(begun["library_id"])
    shelf.put(again, chunk("zebra after", 2))
    shelf.call(
        "backend.library_version_fail",
        again["version_id"],
        again["crawl"],
        "too_large",
        "Too large",
    )
    answer = shelf.search(reader, "zebra", begun["library_id"])
    assert contents(answer) == ["zebra before"]
    # What it had put counts for the next one, whose it is.
    third = shelf.begin(begun["library_id"])
    assert shelf.put(third, chunk("zebra after", 2)) == {"added": 0, "kept": 1}
    assert shelf.finish(third)["removed"] == 1
    assert contents(shelf.search(reader, "zebra", begun["library_id"])) == ["zebra after"]


@pytest.mark.parametrize("status", ["dead", "cancelled"])
def test_a_crawl_ends_with_its_task(shelf: Shelf, reader: str, status: str) -> None:
    begun = shelf.publish(chunk("first"))
    library_id = begun["library_id"]
    again = shelf.begin(library_id)
    end_task(
        shelf, "library_crawl", shelf.crawl_key(library_id), {"library_id": library_id}, status
    )

    [version] = shelf.rows(
        "select * from public.library_versions where library_id = %s", library_id
    )
    [library] = shelf.rows("select * from public.libraries where id = %s", library_id)
    for row in (version, library):
        assert (row["state"], row["error_code"]) == ("failed", "crawl_given_up")
    assert version["next_crawl"] is None
    assert library["next_refresh_at"] is not None
    assert refused(shelf, "backend.library_version_finish", again["version_id"], again["crawl"])
    # What is served stays, and the next crawl begins as any.
    assert contents(shelf.search(reader, "first", library_id)) == ["first"]
    shelf.put(third := shelf.begin(library_id), chunk("third"))
    shelf.finish(third)
    assert contents(shelf.search(reader, "third", library_id)) == ["third"]


def test_a_source_that_is_never_reached_ends_with_its_task(shelf: Shelf) -> None:
    library_id = shelf.add()
    end_task(
        shelf, "library_crawl", shelf.crawl_key(library_id), {"library_id": library_id}, "dead"
    )
    [library] = shelf.rows("select * from public.libraries where id = %s", library_id)
    assert (library["state"], library["error_code"]) == ("failed", "crawl_given_up")


def test_a_library_that_is_ready_stays_so_when_a_task_dies(shelf: Shelf) -> None:
    library_id = shelf.publish(chunk("first"))["library_id"]
    end_task(
        shelf, "library_crawl", shelf.crawl_key(library_id), {"library_id": library_id}, "dead"
    )
    [library] = shelf.rows("select * from public.libraries where id = %s", library_id)
    assert (library["state"], library["error_code"]) == ("ready", None)


def test_nothing_found_is_not_finished(shelf: Shelf, reader: str) -> None:
    begun = shelf.publish(chunk("zebra"))
    again = shelf.begin(begun["library_id"])
    arguments = (again["version_id"], again["crawl"])
    assert refused(shelf, "backend.library_version_finish", *arguments) == "library_is_empty"
    assert contents(shelf.search(reader, "zebra", begun["library_id"])) == ["zebra"]


def test_the_latest_is_one(shelf: Shelf, reader: str) -> None:
    library_id = shelf.publish(chunk("zebra one"), version="1.0")["library_id"]
    shelf.publish(chunk("zebra two"), version="2.0")
    old = shelf.begin(library_id, "1.1")
    shelf.put(old, chunk("zebra between"))
    assert shelf.finish(old, p_is_latest=False)["is_latest"] is False
    for asked, found in (
        (library_id, "zebra two"),
        (f"{library_id}/1.0", "zebra one"),
        (f"{library_id}/v1.1", "zebra between"),
        (library_id.upper(), "zebra two"),
    ):
        assert contents(shelf.search(reader, "zebra", asked)) == [found]
    assert contents(shelf.search(reader, "zebra", library_id, p_version="1.0")) == ["zebra one"]
    assert totals(shelf, library_id) | {"total_tokens": 0, "total_snippets": 0} == {
        "total_versions": 3,
        "total_chunks": 3,
        "total_snippets": 0,
        "total_tokens": 0,
        "default_version": "2.0",
    }


@pytest.mark.parametrize(
    "values",
    [
        {"content": ""},
        {"content": None},
        {"type": "poem"},
        {"token_count": 0},
        {"source_path": ""},
        {"chunk_index": -1},
        {"flags": ["Not A Word"]},
        {"content": "x" * 100_001},
    ],
    ids=["empty", "null", "type", "tokens", "path", "index", "flag", "long"],
)
def test_what_is_no_chunk_is_refused(shelf: Shelf, values: dict[str, Any]) -> None:
    begun = shelf.begin(shelf.add())
    with pytest.raises(psycopg.Error) as refusal:
        shelf.put(begun, chunk("good"), chunk("bad", 1) | values)
    assert code_of(refusal.value) == "invalid_argument"
    assert chunks_of(shelf, begun) == {}


def test_libraries_are_crawled_again_when_it_is_time(shelf: Shelf) -> None:
    library_id = shelf.publish(chunk("zebra"), p_values=Jsonb({"refresh_seconds": 7200}))[
        "library_id"
    ]
    archive = shelf.publish(chunk("zebra"), project="archive", p_source_kind="archive")[
        "library_id"
    ]
    shelf.connection.execute(
        "delete from private.tasks where split_part(key, ' ', 1) in (%s, %s)", [library_id, archive]
    )
    [row] = shelf.rows(
        "select next_refresh_at - now() between interval '1 hour' and interval '2 hours' as is_soon"
        " from public.libraries where id = %s",
        library_id,
    )
    assert row["is_soon"]
    assert library_id not in shelf.call("backend.libraries_due", 1000)["library_ids"]
    shelf.connection.execute(
        "update public.libraries set next_refresh_at = now() where id = %s", [library_id]
    )
    assert library_id in shelf.call("backend.libraries_due", 1000)["library_ids"]
    assert library_id not in shelf.call("backend.libraries_due", 1000)["library_ids"]
    assert (
        len(shelf.rows("select from private.tasks where split_part(key, ' ', 1) = %s", library_id))
        == 1
    )
    assert shelf.rows("select from private.tasks where split_part(key, ' ', 1) = %s", archive) == []


def test_snapshots_go_with_what_they_are_of(shelf: Shelf) -> None:
    library_id = shelf.add()
    for path in ("one.tar", "two.tar", "two.tar"):
        begun = shelf.begin(library_id)
        shelf.put(begun, chunk("zebra"))
        shelf.finish(begun, p_values=Jsonb({"snapshot_path": f"{shelf.mark}/{path}"}))

    def forgotten() -> list[Any]:
        return [
            row["payload"]["paths"]
            for row in shelf.rows(
                "select payload from private.tasks where kind = 'files_delete'"
                " and payload::text like %s order by id",
                f"%{shelf.mark}%",
            )
        ]

    assert forgotten() == [[f"{shelf.mark}/one.tar"]]
    shelf.call("backend.library_delete", library_id, p_actor="operator")
    assert forgotten() == [[f"{shelf.mark}/one.tar"], [f"{shelf.mark}/two.tar"]]


# Vectors -----------------------------------------------------------------------------------------


def test_another_model_takes_over_when_it_is_whole(shelf: Shelf, reader: str) -> None:
    begun = shelf.publish(
        *(chunk(f"zebra {word}", n * 2) for n, word in enumerate(("a", "b", "c")))
    )
    version_id, library_id = begun["version_id"], begun["library_id"]
    old = {"p_embedding": Jsonb(vector("zebra")), "p_embedding_model": MODEL}
    new = {"p_embedding": Jsonb(vector("zebra", 32)), "p_embedding_model": "other-32"}

    def found(query: dict[str, Any]) -> int:
        return len(shelf.search(reader, "", library_id, **query)["results"])

    begun_again = shelf.call("backend.library_reembed", version_id, "other-32", 32)
    assert begun_again == {"model": "other-32", "is_switched": False, "missing": 3}
    missing = shelf.call("backend.library_embeddings_missing", version_id)
    assert (missing["model"], missing["dimensions"], missing["missing"]) == ("other-32", 32, 3)
    vectors = [
        {"id": one["id"], "embedding": vector(one["content"], 32)} for one in missing["chunks"]
    ]
    put = shelf.call("backend.library_embeddings_put", version_id, "other-32", Jsonb(vectors[:2]))
    assert put == {"stored": 2, "missing": 1, "is_switched": False}
    assert (found(old), found(new)) == (3, 0)
    # A chunk that comes meanwhile needs both, and the one that serves first.
    again = shelf.begin(library_id)
    shelf.put(
        again, *(chunk(f"zebra {word}", n * 2) for n, word in enumerate(("a", "b", "c", "d")))
    )
    assert shelf.call("backend.library_embeddings_missing", version_id)["model"] == MODEL
    shelf.embed(version_id)
    shelf.finish(again)
    assert (found(old), found(new)) == (4, 0)
    put = shelf.embed(version_id)
    assert (put["is_switched"], put["missing"]) == (True, 0)
    assert (found(old), found(new)) == (0, 4)
    models = shelf.rows(
        "select distinct model from private.documentation_embeddings where library_version_id = %s",
        version_id,
    )
    assert [row["model"] for row in models] == ["other-32"]


def test_vectors_of_another_model_are_refused(shelf: Shelf) -> None:
    begun = shelf.publish(chunk("zebra"), is_embedded=False)
    version_id = begun["version_id"]
    [chunk_id] = chunks_of(shelf, begun).values()
    one = [{"id": chunk_id, "embedding": [0.5] * DIMENSIONS}]
    put = "backend.library_embeddings_put"
    assert refused(shelf, put, version_id, "other", Jsonb(one)) == "embedding_model_changed"
    short = [{"id": chunk_id, "embedding": [0.5]}]
    assert refused(shelf, put, version_id, MODEL, Jsonb(short)) == "invalid_argument"
    assert refused(shelf, put, uuid.uuid4(), MODEL, Jsonb(one)) == "library_version_not_found"
    other = shelf.publish(chunk("lion"), project="other", is_embedded=False)
    answer = shelf.call(put, other["version_id"], MODEL, Jsonb(one))
    assert answer["stored"] == 0


# The tools ---------------------------------------------------------------------------------------


def ask(shelf: Shelf, user_id: str, query: str, library_id: str, **named: Any) -> dict[str, Any]:
    """As functions/ do: what was kept, or else with a vector."""
    who = {"p_user_id": user_id} | named
    begun: dict[str, Any] = shelf.call("backend.library_query_begin", query, library_id, **who)
    if begun["is_answered"]:
        return begun
    found: dict[str, Any] = shelf.call(
        "backend.library_query",
        query,
        library_id,
        p_embedding=Jsonb(vector(query)),
        p_embedding_model=begun["embedding_model"],
        **who,
    )
    return found


def test_an_answer_is_given_again_until_something_changes(shelf: Shelf, reader: str) -> None:
    begun = shelf.publish(chunk("zebra before"))
    library_id = begun["library_id"]
    assert ask(shelf, reader, "zebra", library_id)["is_cached"] is False
    again = ask(shelf, reader, "zebra", library_id)
    assert (again["is_cached"], contents(again)) == (True, ["zebra before"])
    assert ask(shelf, reader, "zebras", library_id)["is_cached"] is False
    for named in ({"p_tokens": 10}, {"p_type": "guide"}, {"p_flagged": "exclude"}):
        assert ask(shelf, reader, "zebra", library_id, **named)["is_cached"] is False
    newer = shelf.begin(library_id)
    shelf.put(newer, chunk("zebra after"))
    shelf.finish(newer)
    after = ask(shelf, reader, "zebra", library_id)
    assert (after["is_cached"], contents(after)) == (False, ["zebra after"])
    shelf.connection.execute(
        "update private.library_answers set expires_at = now() - interval '1 second'"
        " where library_id = %s",
        [library_id],
    )
    assert ask(shelf, reader, "zebra", library_id)["is_cached"] is False
    assert ask(shelf, reader, "zebra", library_id)["is_cached"] is True


def test_answers_are_purged_when_they_have_expired(shelf: Shelf, reader: str) -> None:
    library_id = shelf.publish(chunk("zebra"))["library_id"]
    ask(shelf, reader, "zebra", library_id)
    ask(shelf, reader, "zebra", library_id, p_type="snippet")
    shelf.connection.execute(
        "update private.library_answers set expires_at = now() - interval '1 hour'"
        " where library_id = %s and answer -> 'results' = '[]'",
        [library_id],
    )
    shelf.call("backend.library_answers_purge", 50000)
    left = shelf.rows(
        "select answer ->> 'tokens' as tokens from private.library_answers where library_id = %s",
        library_id,
    )
    assert [row["tokens"] != "0" for row in left] == [True]


def test_no_answer_reaches_another_tenant(shelf: Shelf, team: Team, new_user: NewUser) -> None:
    stranger, other = new_user().id, Team(shelf, new_user)
    mine = ask(shelf, team.member, "zebra", team.library_id)
    assert contents(mine) == ["the zebra is hidden in the cellar"]
    # Of one's own organization one has it again ...
    assert ask(shelf, team.founder, "zebra", team.library_id)["is_cached"] is True
    # ... and nobody else has it at all.
    for user_id in (stranger, other.member):
        answer = ask(shelf, user_id, "zebra", team.library_id)
        assert (answer["state"], answer.get("results")) == ("not_found", None)
    name = f"{team.slug} secrets"
    # In one transaction, so that no library that is added meanwhile takes the kept answers away.
    with shelf.connection.transaction():
        for user_id, is_found in ((team.member, True), (stranger, False), (other.member, False)):
            for is_kept in (False, True):
                answer = shelf.call("backend.library_resolve", "", name, p_user_id=user_id)
                assert answer["is_cached"] is is_kept
                found = {one["library_id"] for one in answer["matches"]}
                assert (team.library_id in found) is is_found
    shelf.connection.execute(
        "delete from public.organization_members where user_id = %s", [team.member]
    )
    assert ask(shelf, team.member, "zebra", team.library_id)["state"] == "not_found"


def test_a_resolved_name_is_kept_until_libraries_change(shelf: Shelf, reader: str) -> None:
    name = f"kept{shelf.mark}"

    def resolve() -> tuple[bool, int]:
        answer = shelf.call("backend.library_resolve", "", name, p_user_id=reader)
        return answer["is_cached"], len(answer["matches"])

    shelf.add(name)
    assert resolve() == (False, 1)
    shelf.add(f"{name}-two")
    assert resolve()[1] == 2


def test_every_call_has_its_usage_row(shelf: Shelf, reader: str) -> None:
    library_id = shelf.publish(chunk("zebra", token_count=7))["library_id"]
    client = {"p_client": Jsonb({"ip": "192.0.2.1", "user_agent": "editor", "spent_ms": 12})}
    shelf.call("backend.library_resolve", "how", "docs", p_user_id=reader, **client)
    for _ in range(2):
        ask(shelf, reader, "where is the zebra", library_id, **client)
    ask(shelf, reader, "where", "/nobody/nothing", **client)
    rows = shelf.rows(
        "select action, library_id, query, tokens_returned, credits, latency_ms, status,"
        " host(ip_address) as ip from public.usage_logs where user_id = %s order by id",
        reader,
    )
    assert [(row["action"], row["library_id"], row["tokens_returned"]) for row in rows[1:]] == [
        ("query-docs", library_id, 7),
        ("query-docs", library_id, 7),
        ("query-docs", "/nobody/nothing", 0),
    ]
    assert (rows[0]["action"], rows[0]["query"]) == ("resolve-library-id", "docs how")
    assert {row["status"] for row in rows} == {"completed"}
    assert all(row["latency_ms"] >= 12 and row["credits"] == 0 for row in rows)
    assert {row["ip"] for row in rows} == {"192.0.2.1"}
    [day] = shelf.rows(
        "select request_count from public.api_usage where user_id = %s and action = 'query-docs'",
        reader,
    )
    assert day["request_count"] == 3


def test_keys_are_asked_for_their_scope_and_limits(shelf: Shelf, team: Team) -> None:
    def key(**values: Any) -> str:
        with shelf.as_role("authenticated", {"sub": team.founder}, commit=True) as connection:
            row = connection.execute(
                "select public.create_api_key('k', %s, %s) ->> 'key'", [Jsonb(values), team.id]
            ).fetchone()
        assert row is not None
        return str(shelf.call("private.api_key_hash", row[0]))

    chat = key(scopes=["chat"])
    code = refused(shelf, "backend.library_query_begin", "zebra", team.library_id, p_key_hash=chat)
    assert code == "insufficient_scope"
    docs = key(scopes=["libraries"], rate_limit_per_minute=2)
    answer = shelf.call("backend.library_query", "zebra", team.library_id, p_key_hash=docs)
    assert contents(answer) == ["the zebra is hidden in the cellar"]
    codes = [
        shelf.call("backend.library_query_begin", "zebra", team.library_id, p_key_hash=docs)[
            "state"
        ]
        for _ in range(2)
    ]
    assert codes == ["ready", "ready"]
    code = refused(shelf, "backend.library_query_begin", "zebra", team.library_id, p_key_hash=docs)
    assert code == "rate_limited"
    [state] = shelf.rows(
        "select s.active_holds from private.api_key_states as s"
        " inner join private.api_key_hashes as h on h.api_key_id = s.api_key_id"
        " where h.key_hash = %s",
        docs,
    )
    assert state["active_holds"] == 0
