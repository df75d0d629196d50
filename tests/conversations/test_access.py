"""Who reads and writes a conversation, who pays, and what becomes of it when its author is gone."""

from __future__ import annotations

import uuid
from decimal import Decimal

import httpx
import pytest

from tests.conversations.conftest import NewTalker, Talker, Team, with_key


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


# An organization's -------------------------------------------------------------------------------


def test_a_stranger_begins_nothing_in_an_organization(team: Team, new_talker: NewTalker) -> None:
    stranger = new_talker()
    for organization in (team.id, str(uuid.uuid4()), "no-such-team"):
        answer = stranger.http.post("/conversations", json={"organization": organization})
        refused(answer, 403, "not_a_member")
        answer = stranger.http.get("/conversations", params={"organization": organization})
        refused(answer, 403, "not_a_member")


def test_a_conversation_that_is_not_shared_is_its_authors_alone(team: Team) -> None:
    conversation = team.member.begin(organization=team.id)
    team.member.say(conversation, "mine")
    for other in (team.founder, team.admin):
        refused(other.http.get(f"/conversations/{conversation}"), 404, "conversation_not_found")
        refused(other.post(conversation, content="x"), 404, "conversation_not_found")
        assert other.rows("conversations") == []
        assert other.rows("messages") == []
        assert other.http.get("/conversations").json()["conversations"] == []


def test_members_read_and_write_what_is_shared_and_the_organization_pays(
    team: Team, new_talker: NewTalker
) -> None:
    conversation = team.founder.begin(organization=team.id, is_shared=True)
    first = team.founder.say(conversation, "one")
    second = team.member.say(conversation, "two")
    rows = team.member.rows("messages", order="created_at")
    assert [m["content"] for m in rows[::2]] == ["one", "two"]
    assert [m["user_id"] for m in rows[::2]] == [team.founder.id, team.member.id]
    assert team.founder.payer.charges() == team.member.payer.charges() == []
    spent = sum(Decimal(str(a["message"]["credits"])) for a in (first, second))
    assert team.balance == 100 - spent
    # Whoever writes may name it; what it is stays its author's and the admins' to say.
    path = f"/conversations/{conversation}"
    assert team.member.http.patch(path, json={"title": "Ours"}).json()["title"] == "Ours"
    for change in ({"is_shared": False}, {"status": "archived"}, {"system_prompt": "x"}):
        refused(team.member.http.patch(path, json=change), 403, "not_the_author")
    refused(team.member.http.delete(path), 403, "not_the_author")
    assert team.admin.http.patch(path, json={"status": "archived"}).status_code == 200
    stranger = new_talker()
    refused(stranger.http.get(path), 404, "conversation_not_found")


def test_who_left_an_organization_sees_nothing_of_it_not_even_their_own(team: Team) -> None:
    conversation = team.member.begin(organization=team.id)
    team.member.say(conversation, "mine")
    team.connection.execute(
        "delete from public.organization_members where user_id = %s", [team.member.id]
    )
    refused(team.member.http.get(f"/conversations/{conversation}"), 404, "conversation_not_found")
    refused(team.member.post(conversation, content="x"), 404, "conversation_not_found")
    assert team.member.rows("conversations") == team.member.rows("messages") == []
    assert team.member.http.get("/conversations").json()["conversations"] == []


def test_lists_hold_ones_own_and_what_is_shared(team: Team) -> None:
    own = team.member.begin()
    private = team.member.begin(organization=team.id)
    shared = team.founder.begin(organization=team.id, is_shared=True)
    team.founder.begin(organization=team.id)
    listed = team.member.http.get("/conversations").json()["conversations"]
    assert [c["id"] for c in listed] == [shared, private, own]
    listed = team.member.http.get("/conversations", params={"organization": team.id}).json()
    assert [c["id"] for c in listed["conversations"]] == [shared, private]
    assert {row["id"] for row in team.member.rows("conversations")} == {shared, private, own}


# API keys ----------------------------------------------------------------------------------------


def test_a_key_without_the_scope_is_refused(talker: Talker, functions_url: str) -> None:
    conversation = talker.begin()
    with with_key(talker, functions_url, scopes=["images"]) as key:
        for answer in (
            key.get("/conversations"),
            key.post("/conversations", json={}),
            key.post(f"/conversations/{conversation}/messages", json={"content": "x"}),
            key.get("/agents"),
        ):
            refused(answer, 403, "insufficient_scope")
    talker.require_nothing_happened(conversation)


def test_a_persons_key_acts_as_that_person(talker: Talker, functions_url: str) -> None:
    conversation = talker.begin()
    with with_key(talker, functions_url) as key:
        answer = key.post(
            f"/conversations/{conversation}/messages", json={"content": "Hi", "stream": False}
        )
        assert answer.status_code == 200, answer.text
        assert "ratelimit-limit" in answer.headers
        assert [c["id"] for c in key.get("/conversations").json()["conversations"]] == [
            conversation
        ]
    [row] = talker.payer.settled_usage()
    assert row["api_key_id"] is not None
    assert talker.finished(conversation)[0]["user_id"] is not None


def test_an_organizations_key_keeps_conversations_of_its_own(
    team: Team, functions_url: str
) -> None:
    private = team.member.begin(organization=team.id)
    personal = team.founder.begin()
    with with_key(team.founder, functions_url, organization=team.id) as key:
        made = key.post("/conversations", json={"title": "Customers"}).json()
        assert (made["user_id"], made["organization_id"]) == (None, team.id)
        path = f"/conversations/{made['id']}"
        answer = key.post(f"{path}/messages", json={"content": "Hi", "stream": False})
        assert answer.status_code == 200, answer.text
        for other in (private, personal):
            refused(key.get(f"/conversations/{other}"), 404, "conversation_not_found")
        assert [c["id"] for c in key.get("/conversations").json()["conversations"]] == [made["id"]]
        refused(team.member.http.get(path), 404, "conversation_not_found")
        assert key.patch(path, json={"is_shared": True}).status_code == 200
        assert team.member.get(made["id"])["title"] == "Customers"
        assert key.delete(path).status_code == 200
    assert team.balance < 100


# Through the Supabase SDK ------------------------------------------------------------------------


def test_clients_have_the_same_through_their_functions(team: Team) -> None:
    member = team.member
    made = member.rpc(
        "create_conversation", p_values={"is_shared": True}, p_organization_id=team.id
    ).json()
    member.say(made["id"], "Hello there")
    assert member.rpc("list_conversations").json()["conversations"][0]["id"] == made["id"]
    thread = member.rpc("conversation_thread", p_id=made["id"]).json()
    assert [m["role"] for m in thread["messages"]] == ["user", "assistant"]
    renamed = member.rpc("update_conversation", p_id=made["id"], p_changes={"title": "T"}).json()
    assert (renamed["title"], renamed["title_source"]) == ("T", "user")
    chosen = member.rpc(
        "select_branch", p_id=made["id"], p_message_id=thread["messages"][0]["id"]
    ).json()
    assert chosen["head_message_id"] == thread["head_message_id"]
    assert member.rpc("delete_conversation", p_id=made["id"]).json()["deleted"] is True
    assert member.rpc("conversation_thread", p_id=made["id"]).status_code == 404
    assert member.rpc("restore_conversation", p_id=made["id"]).json()["status"] == "active"


@pytest.mark.parametrize("table", ["conversations", "messages", "agents"])
def test_clients_write_no_row_themselves(talker: Talker, table: str) -> None:
    conversation = talker.begin()
    talker.say(conversation, "Hello")
    before = talker.messages(conversation)
    for method, query, body in (
        ("POST", "", {"user_id": talker.id}),
        ("PATCH", "?id=not.is.null", {"created_at": "2020-01-01"}),
        ("DELETE", "?id=not.is.null", None),
    ):
        answer = talker.rest.request(method, f"/{table}{query}", json=body)
        assert answer.status_code in {401, 403}, answer.text
    assert talker.messages(conversation) == before


# Erasure -----------------------------------------------------------------------------------------


def test_deleted_users_chats_do_not_remain(team: Team) -> None:
    # LibreChat 6733: the account went, and its conversations and agents stayed.
    author = team.member
    personal = author.begin()
    author.say(personal, "a private thought")
    private = author.begin(organization=team.id)
    author.say(private, "a thought at work")
    agent = author.http.post("/agents", json={"name": "Mine", "system_prompt": "secret"}).json()[
        "id"
    ]
    author.say(author.begin(agent_id=agent), "hello agent")
    thought = [author.id, "%thought%"]
    connection = team.connection
    connection.execute("delete from auth.users where id = %s", [author.id])
    assert author.messages(personal) == author.messages(private) == []
    for query in (
        "select 1 from public.conversations where user_id = %s or title like %s",
        "select 1 from public.messages where user_id = %s or content like %s",
        "select 1 from public.agents where user_id = %s or name like %s",
        "select 1 from private.message_words as w left join public.messages as m"
        " on m.id = w.message_id where m.id is null and %s <> %s",
    ):
        assert connection.execute(query, thought).fetchall() == [], query


def test_what_was_shared_stays_with_the_organization_without_its_author(team: Team) -> None:
    author = team.member
    shared = author.begin(organization=team.id, is_shared=True)
    answer = author.say(shared, "how we do it")
    agent = author.http.post("/agents", json={"name": "Ours", "organization": team.id}).json()["id"]
    team.connection.execute("delete from auth.users where id = %s", [author.id])
    found = team.admin.get(shared)
    assert (found["user_id"], found["message_count"]) == (None, 2)
    thread = team.admin.thread(shared)["messages"]
    assert [m["user_id"] for m in thread] == [None, None]
    assert thread[1]["id"] == answer["message_id"]
    assert team.admin.say(shared, "we go on")["message"]["status"] == "completed"
    assert team.admin.http.get(f"/agents/{agent}").json()["user_id"] is None


def test_an_author_can_be_erased_though_their_organizations_plan_is_full(team: Team) -> None:
    team.connection.execute(
        "update public.organizations set plan_id = (select id from public.plans where slug = 'pro')"
        " where id = %s",
        [team.id],
    )
    for number in range(5):
        answer = team.member.http.post(
            "/agents", json={"name": f"{number}", "organization": team.id}
        )
        assert answer.status_code == 201, answer.text
    refused(
        team.member.http.post("/agents", json={"name": "6", "organization": team.id}),
        402,
        "plan_limit_reached",
    )
    gone = team.connection.execute("delete from auth.users where id = %s", [team.member.id])
    assert gone.rowcount == 1


def test_an_author_is_erased_while_they_are_answered(team: Team) -> None:
    author = team.member
    conversation = author.begin()
    author.leave_after(conversation, 3, content="simulate: tokens=30 token_ms=20")
    team.connection.execute("delete from auth.users where id = %s", [author.id])
    assert author.messages(conversation) == []
    rows = team.connection.execute(
        "select status from private.credit_holds where user_id = %s", [author.id]
    ).fetchall()
    assert rows == []


def test_purged_with_its_messages_after_the_retention(talker: Talker, service: object) -> None:
    kept, old = talker.begin(), talker.begin()
    for conversation in (kept, old):
        talker.say(conversation, "Hello")
        talker.http.delete(f"/conversations/{conversation}")
    talker.payer.connection.execute(
        "update public.conversations set deleted_at = now() - interval '31 days' where id = %s",
        [old],
    )
    service.rpc("conversation_purge")  # type: ignore[attr-defined]
    assert talker.messages(old) == []
    assert len(talker.messages(kept)) == 2
    assert len(talker.payer.charges()) == 2
    answer = talker.http.post(f"/conversations/{old}/restore")
    refused(answer, 404, "conversation_not_found")
