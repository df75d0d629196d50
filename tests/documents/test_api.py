"""Documents over HTTP: who is refused, and from an upload to an answer that cites the page."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest

from functions.core.auth import Caller
from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.storage import StorageError, open_storage
from functions.documents.schemas import DocumentRequest
from functions.documents.service import DocumentService
from local.stack import Stack
from supabase import create_client
from tests.api_keys.conftest import Keys, keys
from tests.chat.conftest import settings_of, wait_for
from tests.documents.conftest import Author, NewAuthor
from tests.libraries.conftest import DIMENSIONS
from tests.libraries.owners import Door, Team
from tests.libraries.pages import pdf

__all__ = ["keys"]

TEXT = b"# Harbour rules\n\nBoats are moored at night.\n\n## Fees\n\nA berth costs nine coins.\n"
BODY = {"original_filename": "rules.md", "mime_type": "text/markdown", "file_size": len(TEXT)}
ON_ONE = [("GET", ""), ("POST", "/uploaded"), ("DELETE", "")]
ROUTES = [
    ("GET", "", None),
    ("POST", "", BODY),
    ("POST", "/search", {"query": "x"}),
    *((method, f"/{uuid.UUID(int=7)}{path}", None) for method, path in ON_ONE),
]
NAMES = ["list", "add", "search", "read", "uploaded", "delete"]
BODIES: dict[str, tuple[dict[str, Any], int, str]] = {
    "no-name": ({"original_filename": ""}, 422, "invalid_request"),
    "a-long-name": ({"original_filename": "x" * 256}, 422, "invalid_request"),
    "a-path": ({"original_filename": "../../etc/passwd"}, 400, "invalid_argument"),
    "dots": ({"original_filename": ".."}, 400, "invalid_argument"),
    "a-line-break": ({"original_filename": "a\nb"}, 400, "invalid_argument"),
    "nul": ({"original_filename": "a\x00b"}, 400, "invalid_text"),
    "a-blank-title": ({"name": "  "}, 400, "invalid_argument"),
    "no-size": ({"file_size": 0}, 422, "invalid_request"),
    "a-size-as-text": ({"file_size": "5"}, 422, "invalid_request"),
    "too-large": ({"file_size": 50 * 1024**2 + 1}, 400, "document_too_large"),
    "beyond-numbers": ({"file_size": 10**30}, 422, "invalid_request"),
    "an-unknown-type": ({"mime_type": "video/mp4"}, 400, "document_type_unknown"),
    "a-long-type": ({"mime_type": "x" * 101}, 422, "invalid_request"),
    "much-metadata": ({"metadata": {"x": "y" * 20_000}}, 400, "invalid_argument"),
    "a-path-of-its-own": ({"storage_path": "theirs/x"}, 422, "invalid_request"),
    "a-state": ({"state": "ready"}, 422, "invalid_request"),
}
QUESTIONS = {
    "none": {"query": ""},
    "long": {"query": "x" * 10_001},
    "no-ids": {"document_ids": ["x"]},
    "many-ids": {"document_ids": [str(uuid.UUID(int=7))] * 101},
    "tokens": {"tokens": 0},
    "huge": {"tokens": 10**30},
    "limit": {"limit": 101},
    "flagged": {"flagged": "up"},
    "unknown": {"user_id": str(uuid.UUID(int=7))},
}


@pytest.fixture
def team(keys: Keys, functions_url: str) -> Team:
    return Team.found(keys, functions_url)


@pytest.fixture
def door(new_author: NewAuthor, functions_url: str) -> Door:
    """Somebody whose plan has documents."""
    return Door(functions_url, new_author().user.token)


@pytest.fixture
def stranger(new_author: NewAuthor, functions_url: str) -> Door:
    return Door(functions_url, new_author().user.token)


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def put(added: dict[str, Any], content: bytes, **headers: str) -> httpx.Response:
    """Upload as `upload` of an answer says."""
    upload = added["upload"]
    return httpx.request(
        upload["method"],
        upload["url"],
        headers=upload["headers"] | headers,
        content=content,
        trust_env=False,
        timeout=60,
    )


def add(door: Door, content: bytes = TEXT, **values: Any) -> dict[str, Any]:
    answer = door.post("/documents", BODY | {"file_size": len(content)} | values)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def indexed(door: Door, content: bytes = TEXT, **values: Any) -> dict[str, Any]:
    """A document that can be searched."""
    added = add(door, content, **values)
    assert put(added, content).is_success
    where = f"/documents/{added['id']}"
    assert door.post(f"{where}/uploaded").json()["state"] == "queued"
    found: dict[str, Any] = wait_for(
        lambda: (now := door.get(where).json())["state"] in ("ready", "failed") and now, 30
    )
    return found


# Who is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=NAMES)
def test_nobody_without_a_credential(
    functions_url: str, method: str, path: str, body: dict[str, Any] | None
) -> None:
    for nobody in (Door(functions_url), Door(functions_url, "nobody")):
        assert nobody.ask(method, f"/documents{path}", json=body).status_code == 401


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=NAMES)
def test_no_key_without_the_scope(
    team: Team, method: str, path: str, body: dict[str, Any] | None
) -> None:
    answer = team.key(scopes=["libraries"]).ask(method, f"/documents{path}", json=body)
    assert refused(answer) == (403, "insufficient_scope")


@pytest.mark.parametrize(("method", "path"), ON_ONE)
def test_no_id_that_cannot_be_one(door: Door, method: str, path: str) -> None:
    for name in ("x", "1", "00000000-0000-0000-0000-00000000000g", "x" * 300, "%00"):
        assert refused(door.ask(method, f"/documents/{name}{path}")) == (422, "invalid_request")


@pytest.mark.parametrize(("changes", "status", "code"), BODIES.values(), ids=BODIES.keys())
def test_no_body_that_makes_no_sense(
    door: Door, changes: dict[str, Any], status: int, code: str
) -> None:
    assert refused(door.post("/documents", BODY | changes)) == (status, code)
    assert door.get("/documents").json() == {"documents": [], "next": None}


@pytest.mark.parametrize("changes", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_no_question_that_makes_no_sense(door: Door, changes: dict[str, Any]) -> None:
    answer = door.post("/documents/search", {"query": "x"} | changes)
    assert refused(answer) == (422, "invalid_request")


def test_no_more_than_the_plan_allows(new_author: NewAuthor, functions_url: str) -> None:
    free = Door(functions_url, new_author("free").user.token)
    assert refused(free.post("/documents", BODY)) == (402, "plan_limit_reached")


@pytest.mark.parametrize(("method", "path"), ON_ONE)
def test_what_is_a_strangers_is_as_if_it_were_not_there(
    door: Door, stranger: Door, team: Team, method: str, path: str
) -> None:
    document_id = add(door)["id"]
    for other in (stranger, team.door, team.key(scopes=["documents"])):
        theirs = other.ask(method, f"/documents/{document_id}{path}")
        nobodys = other.ask(method, f"/documents/{uuid.uuid4()}{path}")
        assert refused(theirs) == (404, "document_not_found")
        assert theirs.content == nobodys.content
    assert door.get(f"/documents/{document_id}").json()["state"] == "uploading"


def test_members_read_what_is_their_organizations_and_change_nothing(team: Team) -> None:
    document_id = add(team.door, organization=team.slug)["id"]
    assert team.members_door.get(f"/documents/{document_id}").status_code == 200
    for method, path in (("POST", "/uploaded"), ("DELETE", "")):
        answer = team.members_door.ask(method, f"/documents/{document_id}{path}")
        assert refused(answer) == (404, "document_not_found")


def test_nobody_adds_for_an_organization_of_others(team: Team, stranger: Door) -> None:
    for request in (
        lambda: stranger.post("/documents", BODY | {"organization": team.slug}),
        lambda: stranger.get("/documents", organization=team.slug),
        lambda: stranger.post("/documents/search", {"query": "x", "organization": team.slug}),
    ):
        assert refused(request()) == (403, "not_a_member")


# What is done ------------------------------------------------------------------------------------


def test_a_file_is_uploaded_indexed_and_found(door: Door, stranger: Door, author: Author) -> None:
    added = add(door)
    where = f"/documents/{added['id']}"
    assert (added["state"], added["upload"]["path"]) == ("uploading", added["storage_path"])
    assert refused(door.post(f"{where}/uploaded")) == (409, "document_not_uploaded")
    assert put(added, TEXT).is_success
    assert door.get(where).json()["state"] == "uploading"
    assert door.post(f"{where}/uploaded").json()["state"] == "queued"
    wait_for(lambda: door.get(where).json()["state"] == "ready", 30)
    asked = {"query": "what does a berth cost"}
    [first, *_] = door.post("/documents/search", asked).json()["results"]
    assert (first["document_id"], first["name"]) == (added["id"], "rules.md")
    assert "nine coins" in first["content"]
    [row] = author.shelf.rows(
        "select * from public.usage_logs where action = 'search-documents' and user_id = %s",
        added["user_id"],
    )
    assert (row["resource_type"], row["query"]) == ("document", asked["query"])
    assert row["tokens_returned"] > 0
    assert row["latency_ms"] is not None
    narrowed = asked | {"document_ids": [added["id"]]}
    assert stranger.post("/documents/search", narrowed).json()["results"] == []


def test_the_official_client_uploads_without_a_credential(door: Door, stack: Stack) -> None:
    added = add(door)
    upload = added["upload"]
    client = create_client(stack.supabase_url, stack.keys.publishable_key)
    client.storage.from_(upload["bucket"]).upload_to_signed_url(
        upload["path"], upload["token"], TEXT, {"content-type": "text/markdown"}
    )
    assert door.post(f"/documents/{added['id']}/uploaded").json()["file_size"] == len(TEXT)


def test_an_address_takes_one_file_once(door: Door) -> None:
    added, other = add(door), add(door)
    assert put(added, TEXT).is_success
    assert put(added, b"# Other rules").is_error
    elsewhere = added["upload"]["url"].replace(added["storage_path"], other["storage_path"])
    assert httpx.put(elsewhere, content=TEXT, trust_env=False).is_error
    where = f"/documents/{other['id']}/uploaded"
    assert refused(door.post(where)) == (409, "document_not_uploaded")


def test_documents_are_listed_in_pages(door: Door, stranger: Door) -> None:
    mine = [add(door, name=f"rules {number}")["id"] for number in range(5)]
    seen: list[str] = []
    after: dict[str, Any] = {}
    while True:
        page = door.get("/documents", limit=2, **after).json()
        seen += [one["id"] for one in page["documents"]]
        if page["next"] is None:
            break
        assert len(page["documents"]) == 2
        after = {"after": page["next"]}
    assert seen == mine[::-1]
    assert door.get("/documents", limit=5).json()["next"] is None
    assert stranger.get("/documents").json()["documents"] == []


def test_what_is_found_says_on_which_page_it_is(door: Door) -> None:
    boats = [f"Boat number {number} is moored at the northern pier." for number in range(40)]
    lamps = [f"Lighthouse number {number} turns every ten seconds." for number in range(40)]
    values = {"original_filename": "manual.pdf", "mime_type": "application/pdf"}
    assert indexed(door, pdf([boats, lamps]), **values)["page_count"] == 2
    asked = {"query": "which lighthouse turns", "tokens": 800}
    [first, *_] = door.post("/documents/search", asked).json()["results"]
    assert 2 in first["pages"]


def test_a_file_that_cannot_be_read_says_why(door: Door) -> None:
    values = {"original_filename": "a.pdf", "mime_type": "application/pdf"}
    found = indexed(door, b"%PDF-1.7 broken", **values)
    assert (found["state"], found["error_code"]) == ("failed", "broken_file")


def test_an_organizations_documents_are_searched_apart(team: Team) -> None:
    content = b"# Crane\n\nThe crane lifts nine tons.\n"
    key = team.key(scopes=["documents"])
    shared = indexed(key, content)["id"]
    mine = indexed(team.door, b"# Crane\n\nMy own crane lifts two tons.\n")["id"]
    asked = {"query": "what does the crane lift"}

    def found(door: Door, **values: Any) -> set[str]:
        answer = door.post("/documents/search", asked | values).json()
        return {one["document_id"] for one in answer["results"]}

    assert found(team.door) == {shared, mine}
    assert found(team.door, organization=team.slug) == {shared}
    assert found(team.door, document_ids=[mine]) == {mine}
    assert found(team.members_door) == {shared}
    assert found(key) == {shared}
    assert found(key, document_ids=[mine]) == set()


def test_a_question_has_a_vector_of_the_model_that_most_were_indexed_with(
    author: Author, functions_url: str
) -> None:
    door = Door(functions_url, author.user.token)
    begin = "backend.document_search_begin"
    assert author.shelf.call(begin, p_user_id=author.id) == {"embedding_model": None}
    author.indexed("Boats.", "Piers.", "Lamps.", name="a.txt")
    other = author.indexed("Cranes.", name="b.txt")
    author.shelf.rows(
        "update public.documents set embedding_model = 'other', dimensions = %s where id = %s"
        " returning id",
        DIMENSIONS,
        other,
    )
    assert author.shelf.call(begin, p_user_id=author.id)["embedding_model"] == "hashed-64"
    narrowed = author.shelf.call(begin, p_document_ids=[other], p_user_id=author.id)
    assert narrowed["embedding_model"] == "other"
    lexical = indexed(door, b"# Horns\n\nA horn is sounded in fog.\n")["id"]
    asked = {"query": "horn fog", "document_ids": [lexical]}
    [found, *_] = door.post("/documents/search", asked).json()["results"]
    assert found["vector_place"] == 1


def test_the_limit_of_a_key_counts_its_questions(team: Team) -> None:
    key = team.key(scopes=["documents"], rate_limit_per_minute=3)
    answers = [key.post("/documents/search", {"query": "x"}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    told = [(a.headers["ratelimit-limit"], a.headers["ratelimit-remaining"]) for a in answers]
    assert told == [("3", "2"), ("3", "1"), ("3", "0"), ("3", "0")]
    assert refused(answers[-1]) == (429, "rate_limited")
    assert int(answers[-1].headers["retry-after"]) > 0
    assert "rate_limit" not in answers[0].json()
    person = team.door.post("/documents/search", {"query": "x"})
    assert "ratelimit-limit" not in person.headers


def test_with_a_document_goes_its_file(door: Door, author: Author) -> None:
    added = add(door)
    assert put(added, TEXT).is_success
    where = f"/documents/{added['id']}"
    assert door.delete(where).json() == {"id": added["id"], "deleted": True}
    assert refused(door.get(where)) == (404, "document_not_found")
    here = "select from storage.objects where bucket_id = 'documents' and name = %s"
    wait_for(lambda: not author.shelf.rows(here, added["storage_path"]), 30)
    # The address is good for two hours, and whatever is put there goes too.
    waits = "select run_after - created_at as wait from private.tasks where kind = 'files_delete'"
    later = author.shelf.rows(
        f"{waits} and status = 'queued' and payload -> 'paths' ? %s", added["storage_path"]
    )
    assert [one["wait"].total_seconds() for one in later] == [125 * 60]


@pytest.mark.anyio
async def test_without_storage_nothing_is_left_behind(author: Author, stack: Stack) -> None:
    settings = settings_of(stack)
    caller = Caller(uuid.UUID(author.id))
    request = DocumentRequest.model_validate(BODY)
    database = await Database.open(settings)
    away = settings.model_copy(update={"supabase_url": "http://127.0.0.1:9"})
    try:
        async with open_storage(away, "documents") as storage:
            with pytest.raises(StorageError):
                await DocumentService(database, settings, storage).add(caller, request)
        with pytest.raises(QuernelError) as refusal:
            await DocumentService(database, settings, None).add(caller, request)
    finally:
        await database.aclose()
    assert refusal.value.code == "storage_not_configured"
    assert author.rest.get("/documents").json() == []
