"""Which documents a message is answered from: whose, in which state, and chosen by whom."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conversations.conftest import Memory, Talker, Team, with_key
from tests.conversations.documents import (
    HARBOUR,
    LAMP,
    NewReader,
    Reader,
    new_reader,
    reader,
    reader_of,
)
from tests.libraries.conftest import MODEL
from tests.support.service import Service, ServiceError

__all__ = ["new_reader", "reader", "reader_of"]

NOBODYS = "01234567-89ab-7def-8123-456789abcdef"  # the same in every worker
ASK = {"content": "What does a berth in the harbour cost?"}


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    found: dict[str, Any] = answer.json()
    return found


def named(answer: dict[str, Any]) -> list[str]:
    """The documents that an answer was given."""
    return [citation["document_id"] for citation in answer["message"]["citations"]]


# What is no list of documents --------------------------------------------------------------------

WRONG: list[tuple[Any, int, str, str]] = [
    ("some", 422, "invalid_request", "documents"),
    (7, 422, "invalid_request", "documents"),
    ({"id": NOBODYS}, 422, "invalid_request", "documents"),
    (["mine"], 422, "invalid_request", "documents"),
    ([None], 422, "invalid_request", "documents"),
    ([NOBODYS] * 51, 422, "invalid_request", "documents"),
    ([NOBODYS], 404, "document_not_found", "documents"),
]


@pytest.mark.parametrize(
    ("documents", "status", "code", "param"),
    WRONG,
    ids=["word", "number", "object", "malformed", "null", "too_many", "unknown"],
)
def test_a_wrong_choice_is_refused(
    talker: Talker, documents: Any, status: int, code: str, param: str
) -> None:
    conversation = talker.begin()
    for answer in (
        talker.post(conversation, **ASK, documents=documents),
        talker.post(conversation, **ASK, documents=documents, stream=True),
        talker.http.patch(f"/conversations/{conversation}", json={"documents": documents}),
        talker.http.post("/conversations", json={"documents": documents}),
    ):
        problem = refused(answer, status, code)
        first = "documents" if code == "document_not_found" else problem["errors"][0]["path"]
        assert first.partition("[")[0] == param
    talker.require_nothing_happened(conversation)
    assert talker.get(conversation)["documents"] is None
    assert [c["id"] for c in talker.rows("conversations")] == [conversation]


@pytest.mark.parametrize(
    "documents",
    ["some", 7, {}, [7], ["mine"], [None], [NOBODYS] * 51],
    ids=["word", "number", "object", "numbers", "malformed", "null", "too_many"],
)
def test_so_it_is_by_the_function_of_clients(talker: Talker, documents: Any) -> None:
    conversation = talker.begin()
    answer = talker.rpc(
        "update_conversation", p_id=conversation, p_changes={"documents": documents}
    )
    assert answer.status_code == 400, answer.text
    assert "invalid_argument" in answer.text
    assert talker.get(conversation)["documents"] is None


@pytest.mark.parametrize("state", ["uploading", "queued", "indexing", "failed"])
def test_one_that_is_not_ready_says_in_which_state_it_is(reader: Reader, state: str) -> None:
    talker, ready = reader.talker, reader.document()
    document = reader.author.added()["id"]
    if state != "uploading":
        assert reader.author.upload(
            reader.author.shelf.rows(
                "select storage_path from public.documents where id = %s", document
            )[0]["storage_path"]
        ).is_success
        reader.author.queue(document)
    if state in ("indexing", "failed"):
        reader.author.shelf.call("backend.document_begin", document)
    if state == "failed":
        reader.author.shelf.call("backend.document_fail", document, "empty", "There is nothing.")
    conversation = talker.begin()
    problem = refused(
        talker.post(conversation, **ASK, documents=[ready, document]), 409, "document_not_ready"
    )
    assert (problem["document_id"], problem["state"]) == (document, state)
    # It can be chosen ahead; asked it is refused until it is ready, or left out.
    path = f"/conversations/{conversation}"
    assert talker.http.patch(path, json={"documents": [document]}).status_code == 200
    refused(talker.post(conversation, **ASK), 409, "document_not_ready")
    talker.require_nothing_happened(conversation)
    assert named(talker.say(conversation, **ASK, documents="all")) == [ready]


# Somebody else's ---------------------------------------------------------------------------------


def test_a_strangers_document_answers_as_none(
    new_reader: NewReader, upstream: Memory, mark: str
) -> None:
    owner, stranger = new_reader(), new_reader()
    theirs = owner.document(f"{HARBOUR} {mark}")
    talker = stranger.talker
    own = stranger.document(LAMP)
    conversation = talker.begin()
    message = talker.say(conversation, "Hello")["user_message_id"]
    for body in (
        ASK,
        ASK | {"stream": True},
        ASK | {"parent_id": None},
        ASK | {"id": NOBODYS},
        {"regenerate": message},
    ):
        for others in ([], [own]):
            problems = []
            for document in (theirs, str(uuid.uuid4())):
                answer = talker.post(conversation, **body, documents=[*others, document])
                problem = refused(answer, 404, "document_not_found")
                assert problem["document_id"] == document
                problems.append({n: v for n, v in problem.items() if n != "document_id"})
            assert problems[0] == problems[1]
    for path, method in ((f"/conversations/{conversation}", "PATCH"), ("/conversations", "POST")):
        answer = talker.http.request(method, path, json={"documents": [theirs]})
        refused(answer, 404, "document_not_found")
    assert len(talker.messages(conversation)) == 2
    assert len(talker.payer.charges()) == 1
    assert talker.payer.account()["held"] == 0
    # "all" are those that are one's own.
    assert named(talker.say(conversation, "berth harbour lighthouse", documents="all")) == [own]
    assert upstream.counts(mark) == {"open": 0, "completed": 0, "cancelled": 0, "failed": 0}


def test_a_conversation_is_answered_from_documents_of_whoever_it_belongs_to(
    team: Team, reader_of: Callable[[Talker], Reader]
) -> None:
    """Who reads what is shared must not read a member's own; what one leaves is not taken along."""
    member = reader_of(team.member)
    own = member.document(HARBOUR)
    ours = reader_of(team.founder).document(HARBOUR, organization_id=team.id)
    personal = team.member.begin()
    shared = team.founder.begin(organization=team.id, is_shared=True)
    refused(team.member.post(personal, **ASK, documents=[ours]), 404, "document_not_found")
    refused(team.member.post(shared, **ASK, documents=[own]), 404, "document_not_found")
    refused(
        team.member.http.post("/conversations", json={"organization": team.id, "documents": [own]}),
        404,
        "document_not_found",
    )
    assert team.member.messages(personal) == team.member.messages(shared) == []
    assert team.balance == 100
    for documents, mine, theirs in (("all", own, ours), (None, own, ours)):
        if documents is None:
            for person, conversation, one in (
                (team.member, personal, own),
                (team.founder, shared, ours),
            ):
                person.http.patch(f"/conversations/{conversation}", json={"documents": [one]})
        assert named(team.member.say(personal, **ASK, documents=documents)) == [mine]
        assert named(team.member.say(shared, **ASK, documents=documents)) == [theirs]


def test_members_ask_what_is_shared_and_who_left_asks_nothing(
    team: Team, reader_of: Callable[[Talker], Reader]
) -> None:
    ours = reader_of(team.founder).document(HARBOUR, organization_id=team.id)
    shared = team.founder.begin(organization=team.id, is_shared=True, documents=[ours])
    path = f"/conversations/{shared}"
    assert named(team.member.say(shared, **ASK)) == [ours]
    # What it is answered from stays its author's and the admins' to say; a message may say so.
    refused(team.member.http.patch(path, json={"documents": []}), 403, "not_the_author")
    assert named(team.member.say(shared, **ASK, documents=[])) == []
    assert team.admin.http.patch(path, json={"documents": "all"}).json()["documents"] == "all"
    spent = team.balance
    team.connection.execute(
        "delete from public.organization_members where user_id = %s", [team.member.id]
    )
    for documents in ([ours], "all", None):
        answer = team.member.post(shared, **ASK, documents=documents)
        refused(answer, 404, "conversation_not_found")
        answer = team.member.post(team.member.begin(), **ASK, documents=documents)
        if documents == [ours]:
            refused(answer, 404, "document_not_found")
        else:
            assert named(answer.json()) == []
    assert team.balance == spent


def test_an_organizations_key_asks_its_documents_where_it_may(
    team: Team, reader_of: Callable[[Talker], Reader], functions_url: str
) -> None:
    ours = reader_of(team.founder).document(HARBOUR, organization_id=team.id)
    own = reader_of(team.founder).document(HARBOUR)
    both = {"scopes": ["chat", "documents"], "organization": team.id}
    with with_key(team.founder, functions_url, **both) as key:
        conversation = key.post("/conversations", json={"documents": "all"}).json()["id"]
        path = f"/conversations/{conversation}/messages"
        body = ASK | {"stream": False}
        refused(key.post(path, json=body | {"documents": [own]}), 404, "document_not_found")
        assert named(key.post(path, json=body).json()) == [ours]
        assert named(key.post(path, json=body | {"documents": [ours]}).json()) == [ours]
    kept = len(team.founder.messages(conversation))
    with with_key(team.founder, functions_url, organization=team.id) as key:  # of chat alone
        for documents in ([ours], "all", None):
            answer = key.post(path, json=body | {"documents": documents})
            assert refused(answer, 403, "insufficient_scope")["required_scope"] == "documents"
        answer = key.post("/conversations", json={"documents": [ours]})
        refused(answer, 403, "insufficient_scope")
        assert len(team.founder.messages(conversation)) == kept
        assert named(key.post(path, json=body | {"documents": []}).json()) == []


# What was chosen ---------------------------------------------------------------------------------


def test_what_a_conversation_remembers_holds_for_every_message(reader: Reader) -> None:
    talker = reader.talker
    harbour, other = reader.document(HARBOUR), reader.document(HARBOUR, name="other.txt")
    conversation = talker.begin(documents=[harbour.upper(), harbour])
    path = f"/conversations/{conversation}"
    assert talker.get(conversation)["documents"] == [harbour]
    for _ in range(2):
        assert named(talker.say(conversation, **ASK)) == [harbour]
    # A message may say otherwise, for itself.
    assert named(talker.say(conversation, **ASK, documents=[other])) == [other]
    assert named(talker.say(conversation, **ASK, documents=[])) == []
    assert named(talker.say(conversation, **ASK)) == [harbour]
    changed = talker.http.patch(path, json={"documents": [other]}).json()
    assert changed["documents"] == [other]
    assert named(talker.say(conversation, **ASK)) == [other]
    for nothing in ([], None):
        assert talker.http.patch(path, json={"documents": nothing}).json()["documents"] is None
        assert named(talker.say(conversation, **ASK)) == []
    assert talker.http.patch(path, json={"title": "x"}).json()["documents"] is None


def test_an_answer_made_anew_has_the_documents_of_its_question(reader: Reader) -> None:
    talker = reader.talker
    harbour, other = reader.document(HARBOUR), reader.document(HARBOUR, name="other.txt")
    conversation = talker.begin(documents=[other])
    first = talker.say(conversation, **ASK, documents=[harbour])
    answer = talker.post(conversation, regenerate=first["message_id"]).json()
    assert named(answer) == [harbour]
    answer = talker.post(conversation, regenerate=first["message_id"], documents=[other]).json()
    assert named(answer) == [other]
    # An edit is a new message beside it; the branches keep what they were given.
    edited = talker.say(conversation, "harbour berth", parent_id=None)
    assert named(edited) == [other]
    shown = {str(m["id"]): named({"message": m}) for m in talker.messages(conversation)}
    assert shown[first["message_id"]] == [harbour]
    silent = talker.say(conversation, **ASK, documents=[])
    assert named(talker.post(conversation, regenerate=silent["message_id"]).json()) == []


def test_what_is_gone_ends_no_conversation(reader: Reader) -> None:
    talker = reader.talker
    harbour, lamp = reader.document(HARBOUR, name="rules.txt"), reader.document(HARBOUR)
    conversation = talker.begin(documents=[harbour, lamp])
    first = talker.say(conversation, **ASK)
    assert set(named(first)) == {harbour, lamp}
    reader.forget(harbour)
    assert named(talker.say(conversation, **ASK)) == [lamp]
    reader.forget(lamp)
    assert named(talker.say(conversation, **ASK)) == []
    assert named(talker.post(conversation, regenerate=first["message_id"]).json()) == []
    refused(talker.post(conversation, **ASK, documents=[lamp]), 404, "document_not_found")
    # What was cited still says its name.
    kept = next(m for m in talker.messages(conversation) if str(m["id"]) == first["message_id"])
    assert {c["name"] for c in kept["citations"]} == {"rules.txt", "notes.txt"}


def test_the_same_message_again_is_answered_as_before_without_its_documents(
    reader: Reader,
) -> None:
    talker, document = reader.talker, reader.document()
    conversation = talker.begin()
    body = ASK | {"id": str(uuid.uuid4()), "documents": [document]}
    first = talker.post(conversation, **body).json()
    reader.forget(document)
    again = talker.post(conversation, **body)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["message"] == first["message"]
    events = talker.stream(conversation, **body)
    assert events[0].data["citations"] == first["message"]["citations"]
    assert named(first) == [document]
    assert len(talker.payer.charges()) == 1


def test_a_deletion_that_is_under_way_keeps_nobody_waiting(reader: Reader) -> None:
    talker, document = reader.talker, reader.document()
    conversation = talker.begin(documents=[document])
    connection = talker.payer.connection
    with connection.transaction():
        connection.execute("delete from public.documents where id = %s", [document])
        assert named(talker.say(conversation, **ASK)) == [document]
    assert named(talker.say(conversation, **ASK)) == []


def test_messages_and_deletions_at_once_end_in_an_answer_or_in_not_found(reader: Reader) -> None:
    talker = reader.talker
    documents = [reader.document(HARBOUR, name=f"{n}.txt") for n in range(4)]
    conversations = [talker.begin() for _ in documents]

    def ask(number: int) -> httpx.Response:
        return talker.post(conversations[number], **ASK, documents=[documents[number]])

    with ThreadPoolExecutor(8) as pool:
        gone = [pool.submit(reader.forget, document) for document in documents]
        asked = [pool.submit(ask, number) for number in range(4)]
        answers = [future.result(timeout=30) for future in asked]
        for future in gone:
            future.result(timeout=30)
    for number, answer in enumerate(answers):
        kept = talker.messages(conversations[number])
        if answer.status_code == 200:
            assert named(answer.json()) in ([], [documents[number]])
            assert len(kept) == 2
        else:
            refused(answer, 404, "document_not_found")
            assert kept == []
    assert len(talker.payer.charges()) == sum(a.status_code == 200 for a in answers)
    assert talker.payer.account()["held"] == 0


def test_one_that_goes_between_question_and_answer_is_left_out(
    reader: Reader, service: Service
) -> None:
    talker, document = reader.talker, reader.document(has_vectors=True)
    gone = reader.document(HARBOUR, name="gone.txt", has_vectors=True)
    call = {
        "p_request_id": str(uuid.uuid4()),
        "p_conversation_id": talker.begin(documents="all"),
        "p_user_id": talker.id,
        "p_content": ASK["content"],
    }
    wanted = service.rpc("message_start", **call)
    assert wanted["state"] == "search"
    reader.forget(gone)
    started = service.rpc("message_start", **call, p_embedding_model=wanted["embedding_model"])
    assert [c["document_id"] for c in started["citations"]] == [document]
    # The same request again, and the other went too: the same rows, without it.
    reader.forget(document)
    again = service.rpc("message_start", **call, p_embedding_model=wanted["embedding_model"])
    assert again["hold_id"] == started["hold_id"]
    assert again["citations"] == talker.messages(call["p_conversation_id"])[1]["citations"] == []
    assert again["messages"][-1]["content"] == ASK["content"]
    service.rpc("message_fail", p_hold_id=started["hold_id"], p_error_code="upstream_error")


def test_what_others_have_is_no_reason_for_a_vector(
    new_reader: NewReader, service: Service
) -> None:
    new_reader().document(has_vectors=True)
    talker = new_reader().talker
    started = service.rpc(
        "message_start",
        p_request_id=str(uuid.uuid4()),
        p_conversation_id=talker.begin(documents="all"),
        p_user_id=talker.id,
        p_content=ASK["content"],
    )
    assert (started["state"], started["citations"]) == ("started", [])
    service.rpc("message_fail", p_hold_id=started["hold_id"], p_error_code="upstream_error")


def test_nothing_is_kept_while_a_vector_is_made(reader: Reader, service: Service) -> None:
    talker, document = reader.talker, reader.document(has_vectors=True)
    conversation = talker.begin()
    wanted = service.rpc(
        "message_start",
        p_request_id=str(uuid.uuid4()),
        p_conversation_id=conversation,
        p_user_id=talker.id,
        p_content='  - What does "a berth" cost?',
        p_documents={"documents": [document]},
    )
    assert wanted == {
        "state": "search",
        "question": "What does  a berth  cost?",
        "embedding_model": MODEL,
    }
    talker.require_nothing_happened(conversation)
    with pytest.raises(ServiceError) as info:
        service.rpc(
            "message_start",
            p_request_id=str(uuid.uuid4()),
            p_conversation_id=conversation,
            p_user_id=str(uuid.uuid4()),
            p_content="x",
            p_documents={"documents": [document]},
        )
    assert info.value.status in (403, 404)
