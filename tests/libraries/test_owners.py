"""Libraries over HTTP, for those who own them: who is refused, and from an upload to an answer."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import psycopg
import pytest

from functions.core.auth import Caller
from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.storage import StorageError, open_storage
from functions.libraries.owner_schemas import LibraryRequest
from functions.libraries.owners import LibraryOwnerService
from local.stack import Stack
from supabase import create_client
from tests.api_keys.conftest import Keys, keys
from tests.chat.conftest import settings_of, wait_for
from tests.conftest import NewUser
from tests.credits.parallel import at_once, open_doors, split
from tests.libraries.conftest import Shelf
from tests.libraries.owners import Door, Team
from tests.libraries.test_archives import tarred

__all__ = ["keys"]

PAGES = {"README.md": b"# Lamp\n\nCall `rotate_beam()` to turn the beam of the lamp.\n"}
LATER = {"README.md": b"# Lamp\n\nA horn is sounded in fog with `sound_horn()`.\n"}
ON_ONE = [
    ("GET", ""),
    ("POST", "/upload"),
    ("POST", "/uploaded"),
    ("POST", "/refresh"),
    ("DELETE", ""),
]
BODIES = {
    "an-id-of-one-part": {"library_id": "/docs"},
    "an-id-with-dots": {"library_id": "/acme/../secrets"},
    "an-id-of-three-parts": {"library_id": "/acme/docs/1.0"},
    "a-long-id": {"library_id": "/acme/" + "x" * 100},
    "no-title": {"title": ""},
    "a-long-title": {"title": "x" * 256},
    "a-kind-of-operators": {"source_kind": "folder"},
    "an-unknown-kind": {"source_kind": "tape"},
    "no-source": {"source_url": None},
    "a-long-source": {"source_url": "x" * 501},
    "git-over-http": {"source_kind": "git", "source_url": "http://127.0.0.1/x.git"},
    "a-file": {"source_kind": "git", "source_url": "file:///etc/passwd"},
    "an-archive-elsewhere": {"source_kind": "archive", "source_url": "uploads/theirs/1"},
    "a-script-as-docs": {"docs_url": "javascript:alert(1)"},
    "often": {"refresh_seconds": 60},
    "never": {"refresh_seconds": 10**12},
    "many-aliases": {"aliases": ["x"] * 21},
    "metadata-that-is-none": {"metadata": []},
    "scores": {"trust_score": 10},
}


@pytest.fixture
def team(keys: Keys, functions_url: str) -> Team:
    return Team.found(keys, functions_url)


@pytest.fixture
def stranger(functions_url: str, new_user: NewUser) -> Door:
    return Door(functions_url, new_user().token)


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def put(answer: httpx.Response, files: dict[str, bytes]) -> httpx.Response:
    """Upload as `upload` of an answer says."""
    upload = answer.json()["upload"]
    return httpx.request(
        upload["method"],
        upload["url"],
        headers=upload["headers"],
        content=tarred(files),
        trust_env=False,
        timeout=60,
    )


def long_ago(shelf: Shelf, library_id: str) -> None:
    """The last crawl was asked for some time ago."""
    shelf.rows(
        "update public.libraries set crawl_asked_at = now() - interval '1 hour' where id = %s"
        " returning id",
        library_id,
    )


def crawls(shelf: Shelf, library_id: str) -> int:
    return len(
        shelf.rows(
            "select from private.tasks where kind = 'library_crawl'"
            " and split_part(key, ' ', 1) = %s",
            library_id,
        )
    )


def rest(shelf: Shelf, library_id: str) -> None:
    """Wait until no worker has it: a crawl says how it ended a moment before its task does."""
    at_work = (
        "select from private.tasks where kind = 'library_crawl' and split_part(key, ' ', 1) = %s"
        " and status in ('queued', 'running')"
    )
    wait_for(lambda: not shelf.rows(at_work, library_id), 30)


def ready(door: Door, library_id: str) -> dict[str, Any]:
    """The library once it can be asked."""

    def read() -> dict[str, Any] | None:
        found = door.get(f"/libraries{library_id}").json()
        assert found["crawl"]["step"] != "failed", found
        return found if found["crawl"]["step"] == "ready" else None

    found: dict[str, Any] = wait_for(read, 30)
    return found


# Who is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [("GET", None), ("POST", None), *ON_ONE])
def test_nobody_without_a_credential(functions_url: str, method: str, path: str | None) -> None:
    where = "/libraries" if path is None else f"/libraries/acme/docs{path}"
    for door in (Door(functions_url), Door(functions_url, "nobody")):
        assert door.ask(method, where).status_code == 401


@pytest.mark.parametrize(("method", "path"), [("GET", None), ("POST", None), *ON_ONE])
def test_no_key_without_the_scope(team: Team, method: str, path: str | None) -> None:
    added = team.added()
    where = "/libraries" if path is None else f"/libraries{added['library_id']}{path}"
    body = {"json": team.body("more")} if (method, path) == ("POST", None) else {}
    answer = team.key(scopes=["documents"]).ask(method, where, **body)
    assert refused(answer) == (403, "insufficient_scope")
    assert team.door.get(f"/libraries{added['library_id']}").status_code == 200


@pytest.mark.parametrize(("method", "path"), ON_ONE)
@pytest.mark.parametrize(
    "name",
    ["..%2f..", "%00", "a b", "-x", ".hidden", "x" * 101, "caf%C3%A9", "a%0a"],
    ids=["up", "nul", "space", "dash", "dot", "long", "accent", "newline"],
)
def test_no_id_that_cannot_be_one(team: Team, method: str, path: str, name: str) -> None:
    for where in (f"/libraries/{name}/docs{path}", f"/libraries/acme/{name}{path}"):
        assert team.door.ask(method, where).status_code in (404, 422)


@pytest.mark.parametrize("changes", BODIES.values(), ids=BODIES.keys())
def test_no_body_that_makes_no_sense(team: Team, shelf: Shelf, changes: dict[str, Any]) -> None:
    answer = team.door.post("/libraries", team.body() | changes)
    assert refused(answer) == (422, "invalid_request")
    assert shelf.rows("select from public.libraries where vendor = %s", team.slug) == []


@pytest.mark.parametrize(
    "params",
    [{"limit": 0}, {"limit": 101}, {"after": "x"}, {"organization": "x" * 101}],
    ids=["none", "many", "after", "organization"],
)
def test_no_page_that_makes_no_sense(team: Team, params: dict[str, Any]) -> None:
    assert refused(team.door.get("/libraries", **params)) == (422, "invalid_request")


def test_nobody_adds_but_admins(team: Team, stranger: Door, shelf: Shelf) -> None:
    assert refused(team.members_door.post("/libraries", team.body())) == (403, "not_an_admin")
    assert refused(stranger.post("/libraries", team.body())) == (403, "not_a_member")
    nobodys = team.body()
    del nobodys["organization"]
    assert refused(team.door.post("/libraries", nobodys)) == (400, "invalid_argument")
    elsewhere = team.body() | {"library_id": "/somebody/docs"}
    assert refused(team.door.post("/libraries", elsewhere)) == (400, "invalid_argument")
    assert shelf.rows("select from public.libraries where vendor = %s", team.slug) == []


@pytest.mark.parametrize(("method", "path"), ON_ONE)
def test_what_is_somebody_elses_is_as_if_it_were_not_there(
    team: Team, stranger: Door, keys: Keys, method: str, path: str
) -> None:
    library_id = team.added()["library_id"]
    others = Team.found(keys, team.url)
    for door in (stranger, others.door, others.key(scopes=["libraries"])):
        theirs = door.ask(method, f"/libraries{library_id}{path}")
        nobodys = door.ask(method, f"/libraries/{team.slug}/nothing{path}")
        assert refused(theirs) == (404, "library_not_found")
        assert (theirs.status_code, theirs.content) == (nobodys.status_code, nobodys.content)
    assert team.door.get(f"/libraries{library_id}").status_code == 200


@pytest.mark.parametrize(("method", "path"), [one for one in ON_ONE if one != ("GET", "")])
def test_members_read_and_change_nothing(team: Team, method: str, path: str) -> None:
    library_id = team.added()["library_id"]
    assert team.members_door.get(f"/libraries{library_id}").json()["library_id"] == library_id
    answer = team.members_door.ask(method, f"/libraries{library_id}{path}")
    assert refused(answer) == (404, "library_not_found")


@pytest.mark.parametrize(("method", "path"), [one for one in ON_ONE if one != ("GET", "")])
def test_what_is_everybodys_is_an_operators_to_change(
    team: Team, shelf: Shelf, method: str, path: str
) -> None:
    library_id = shelf.add("lamp", p_source_kind="pypi", p_source_url="lamp")
    assert team.door.get(f"/libraries{library_id}").json()["is_public"]
    answer = team.door.ask(method, f"/libraries{library_id}{path}")
    assert refused(answer) == (404, "library_not_found")
    assert shelf.rows("select from public.libraries where id = %s", library_id)


def test_no_organization_names_an_object_of_another(team: Team, keys: Keys, shelf: Shelf) -> None:
    """The worker reads objects with the secret key."""
    victim = Team.found(keys, team.url)
    added = victim.door.post("/libraries", victim.archive()).json()
    path = added["upload"]["path"]
    assert path.startswith(f"uploads/{victim.organization_id}/")
    named = {"p_user_id": team.owner.id, "p_organization": team.slug}
    for kind in ("archive", "folder"):
        with pytest.raises(psycopg.Error) as refusal:
            shelf.call("backend.library_add", f"/{team.slug}/x", "X", kind, path, **named)
        assert refusal.value.sqlstate == "PT400"
    mine = team.door.post("/libraries", team.archive()).json()["library_id"]
    own = f"uploads/{team.organization_id}/"
    for source in (path, "snapshots/x", f"{own}../{victim.organization_id}/x", own, None):
        for kind in ("archive", "folder"):
            with pytest.raises(psycopg.errors.CheckViolation):
                shelf.rows(
                    "update public.libraries set source_url = %s, source_kind = %s where id = %s",
                    source,
                    kind,
                    mine,
                )


# How many there may be ---------------------------------------------------------------------------


def test_the_plan_says_how_many(team: Team, shelf: Shelf) -> None:
    team.on_plan("free")
    answer = team.door.post("/libraries", team.body())
    assert refused(answer) == (402, "plan_limit_reached")
    assert answer.json()["limit_source"] == "plan.max_libraries"
    team.on_plan("pro")
    for number in range(5):
        team.added(f"docs-{number}")
    answer = team.door.post("/libraries", team.body("more"))
    assert refused(answer) == (402, "plan_limit_reached")
    team.door.delete(f"/libraries/{team.slug}/docs-0")
    team.added("more")
    assert len(shelf.rows("select from public.libraries where vendor = %s", team.slug)) == 5


def test_two_at_once_are_not_more_than_that(team: Team, stack: Stack, shelf: Shelf) -> None:
    team.on_plan("pro")
    for number in range(4):
        team.added(f"docs-{number}")
    doors = open_doors(stack.admin_dsn, 6)

    def add(door: psycopg.Connection, index: int) -> Any:
        from tests.credits.ledger import call  # noqa: PLC0415

        return call(
            door,
            "backend.library_add",
            p_id=f"/{team.slug}/at-once-{index}",
            p_title="Docs",
            p_source_kind="pypi",
            p_source_url="lamp",
            p_user_id=team.owner.id,
            p_organization=team.slug,
        )

    try:
        added, refusals = split(at_once(doors, add))
    finally:
        for door in doors:
            door.close()
    assert (len(added), len(refusals)) == (1, 5)
    assert {refusal.code for refusal in refusals} == {"plan_limit_reached"}
    assert len(shelf.rows("select from public.libraries where vendor = %s", team.slug)) == 5


# What is done ------------------------------------------------------------------------------------


def test_a_library_is_added_and_crawled_at_once(team: Team) -> None:
    values = {"description": "Turns.", "aliases": ["beam"], "metadata": {"tier": 1}}
    added = team.added(**values)
    assert added["library_id"] == f"/{team.slug}/docs"
    assert added["state"] == "unfinished"
    assert not added["is_public"]
    assert {"task_id", "upload", "upload_path", "status"}.isdisjoint(added)
    where = f"/libraries{added['library_id']}"
    # No registry is named here, and the crawl says so.
    found: dict[str, Any] = wait_for(
        lambda: (now := team.door.get(where).json())["crawl"]["step"] == "failed" and now, 30
    )
    assert found["state"] == "failed"
    assert found["crawl"]["error_code"] == "source_not_configured"
    assert found["versions"] == []
    assert {name: found[name] for name in values} == values
    assert refused(team.door.post("/libraries", team.body())) == (409, "library_id_taken")


def test_an_organizations_key_needs_to_name_nobody(team: Team) -> None:
    door = team.key(scopes=["libraries"])
    body = team.body()
    del body["organization"]
    answer = door.post("/libraries", body)
    assert answer.status_code == 201
    where = f"/libraries{answer.json()['library_id']}"
    assert door.get(where).status_code == 200
    assert door.delete(where).json() == {"library_id": body["library_id"], "deleted": True}


def test_an_archive_is_crawled_when_it_is_there(team: Team, stranger: Door, shelf: Shelf) -> None:
    answer = team.door.post("/libraries", team.archive())
    added = answer.json()
    library_id, where = added["library_id"], f"/libraries{added['library_id']}"
    assert (added["state"], added["step"]) == ("unfinished", "uploading")
    assert crawls(shelf, library_id) == 0
    assert shelf.call("backend.library_source", library_id) is None
    for path in ("/uploaded", "/refresh"):
        assert refused(team.door.post(where + path)) == (409, "library_not_uploaded")
    assert crawls(shelf, library_id) == 0

    assert put(answer, PAGES).is_success
    assert crawls(shelf, library_id) == 0
    assert team.door.post(f"{where}/uploaded").json()["crawl"]["step"] == "queued"
    found = ready(team.door, library_id)
    assert found["state"] == "ready"
    assert found["total_chunks"] > 0
    [version] = found["versions"]
    assert (version["version"], version["is_latest"], version["is_searched"]) == (
        "latest",
        True,
        True,
    )
    asked = {"library_id": library_id, "query": "how is the beam turned"}
    assert "rotate_beam" in team.members_door.post("/libraries/query", asked).text
    assert stranger.post("/libraries/query", asked).status_code == 404


def test_the_official_client_uploads_without_a_credential(team: Team, stack: Stack) -> None:
    added = team.door.post("/libraries", team.archive()).json()
    upload = added["upload"]
    client = create_client(stack.supabase_url, stack.keys.publishable_key)
    bucket = client.storage.from_(upload["bucket"])
    content = tarred(PAGES)
    bucket.upload_to_signed_url(upload["path"], upload["token"], content)
    assert team.door.post(f"/libraries{added['library_id']}/uploaded").is_success
    assert ready(team.door, added["library_id"])["state"] == "ready"


def test_the_address_takes_one_object_alone(team: Team) -> None:
    added = team.door.post("/libraries", team.archive())
    other = team.door.post("/libraries", team.archive("other"))
    upload, others = added.json()["upload"], other.json()["upload"]
    elsewhere = upload["url"].replace(upload["path"], others["path"])
    answer = httpx.put(elsewhere, content=b"x", headers=upload["headers"], trust_env=False)
    assert answer.is_error
    where = f"/libraries{other.json()['library_id']}/uploaded"
    assert refused(team.door.post(where)) == (409, "library_not_uploaded")


def test_another_archive_takes_the_place_of_the_first(team: Team, shelf: Shelf) -> None:
    answer = team.door.post("/libraries", team.archive())
    library_id, where = answer.json()["library_id"], f"/libraries{answer.json()['library_id']}"
    put(answer, PAGES)
    team.door.post(f"{where}/uploaded")
    ready(team.door, library_id)
    rest(shelf, library_id)
    long_ago(shelf, library_id)
    assert put(team.door.post(f"{where}/upload"), LATER).is_success
    assert team.door.post(f"{where}/uploaded").is_success
    asked = {"library_id": library_id, "query": "horn in fog"}
    wait_for(lambda: "sound_horn" in team.door.post("/libraries/query", asked).text, 30)
    ready(team.door, library_id)
    asked["query"] = "how is the beam turned"
    assert "rotate_beam" not in team.door.post("/libraries/query", asked).text


def test_what_is_no_archive_takes_none(team: Team) -> None:
    where = f"/libraries{team.added()['library_id']}"
    for path in ("/upload", "/uploaded"):
        answer = team.door.post(where + path)
        assert refused(answer) == (409, "library_takes_no_archive")


def test_an_archive_that_is_too_large_is_not_crawled(team: Team, shelf: Shelf) -> None:
    answer = team.door.post("/libraries", team.archive())
    library_id = answer.json()["library_id"]
    put(answer, PAGES)
    shelf.rows(
        "update storage.objects set metadata = metadata || '{\"size\": 268435457}'"
        " where bucket_id = 'libraries' and name = %s returning id",
        answer.json()["upload"]["path"],
    )
    refusal = team.door.post(f"/libraries{library_id}/uploaded")
    assert refused(refusal) == (400, "library_too_large")
    assert crawls(shelf, library_id) == 0


def test_an_archive_is_not_announced_while_it_is_read(team: Team, shelf: Shelf) -> None:
    answer = team.door.post("/libraries", team.archive())
    library_id = answer.json()["library_id"]
    put(answer, PAGES)
    where = f"/libraries{library_id}"
    shelf.rows(
        "insert into private.tasks (kind, key, payload, status, attempts, started_at, lease_token,"
        " leased_until, leased_by) select 'library_crawl', private.crawl_key(l), '{}', 'running',"
        " 1, now(), gen_random_uuid(), now() + interval '1 minute', 'test'"
        " from public.libraries as l where l.id = %s returning id",
        library_id,
    )
    refusal = team.door.post(f"{where}/uploaded")
    assert refused(refusal) == (409, "crawl_in_progress")
    assert int(refusal.headers["retry-after"]) == 30
    shelf.rows(
        "delete from private.tasks where split_part(key, ' ', 1) = %s returning id", library_id
    )
    assert team.door.post(f"{where}/uploaded").is_success


def test_a_crawl_is_asked_for_once_in_some_minutes(team: Team, shelf: Shelf) -> None:
    library_id = team.added()["library_id"]
    where = f"/libraries{library_id}"
    rest(shelf, library_id)
    early = team.door.post(f"{where}/refresh")
    assert refused(early) == (429, "rate_limited")
    assert early.json()["limit_source"] == "library_refresh_min_seconds"
    assert 0 < int(early.headers["retry-after"]) <= 300
    assert team.door.get(where).json()["crawl"]["step"] == "failed"
    long_ago(shelf, library_id)
    assert team.door.post(f"{where}/refresh").json()["crawl"]["step"] == "queued"
    assert crawls(shelf, library_id) == 2


def test_libraries_are_listed_in_pages(team: Team, keys: Keys, shelf: Shelf) -> None:
    public = shelf.add("lamp")
    mine = [team.added(f"docs-{number}")["library_id"] for number in range(5)]
    theirs = Team.found(keys, team.url).added()["library_id"]

    seen: list[str] = []
    after: dict[str, Any] = {}
    while True:
        page = team.door.get("/libraries", organization=team.slug, limit=2, **after).json()
        seen += [one["library_id"] for one in page["libraries"]]
        if page["next"] is None:
            break
        assert len(page["libraries"]) == 2
        after = {"after": page["next"]}
    assert seen == mine

    first = {"limit": 100, "after": f"/{shelf.mark}/a"}
    around = [one["library_id"] for one in team.door.get("/libraries", **first).json()["libraries"]]
    assert public in around
    last = {"limit": 100, "after": mine[0]}
    after_mine = [
        one["library_id"] for one in team.door.get("/libraries", **last).json()["libraries"]
    ]
    assert mine[1:] == after_mine[:4]
    assert theirs not in around + after_mine
    exact = team.door.get("/libraries", organization=team.slug, limit=5).json()
    assert (len(exact["libraries"]), exact["next"]) == (5, None)


def test_nobody_lists_what_is_somebody_elses(team: Team, stranger: Door) -> None:
    team.added()
    answer = stranger.get("/libraries", organization=team.slug)
    assert refused(answer) == (403, "not_a_member")
    everything = stranger.get("/libraries", limit=100, after=f"/{team.slug}/a")
    assert team.slug not in everything.text


def test_with_a_library_goes_its_archive(team: Team, shelf: Shelf) -> None:
    answer = team.door.post("/libraries", team.archive())
    path = answer.json()["upload"]["path"]
    assert put(answer, PAGES).is_success
    where = f"/libraries{answer.json()['library_id']}"
    assert team.door.delete(where).json()["deleted"]
    assert team.door.get(where).status_code == 404
    here = "select from storage.objects where bucket_id = 'libraries' and name = %s"
    wait_for(lambda: not shelf.rows(here, path), 30)
    # The address is good for two hours, and whatever is put there goes too.
    later = shelf.rows(
        "select run_after - created_at as wait from private.tasks where kind = 'files_delete'"
        " and status = 'queued' and payload -> 'paths' ? %s",
        path,
    )
    assert [one["wait"].total_seconds() for one in later] == [125 * 60]


@pytest.mark.anyio
async def test_without_storage_nothing_is_left_behind(
    team: Team, stack: Stack, shelf: Shelf
) -> None:
    settings = settings_of(stack)
    caller = Caller(uuid.UUID(team.owner.id))
    request = LibraryRequest.model_validate(team.archive())
    database = await Database.open(settings)
    away = settings.model_copy(update={"supabase_url": "http://127.0.0.1:9"})
    try:
        async with open_storage(away, "libraries") as storage:
            with pytest.raises(StorageError):
                await LibraryOwnerService(database, storage).add(caller, request)
        with pytest.raises(QuernelError) as refusal:
            await LibraryOwnerService(database, None).add(caller, request)
    finally:
        await database.aclose()
    assert refusal.value.code == "storage_not_configured"
    assert shelf.rows("select from public.libraries where vendor = %s", team.slug) == []
