"""Agents: who may use and edit them, and that a system prompt is told to nobody else."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import pytest

from tests.conversations.conftest import Memory, NewTalker, Talker, Team, with_key

NOBODYS = "01234567-89ab-7def-8123-456789abcdef"  # the same in every worker

SECRET = "the secret recipe of the cook"


def make(talker: Talker, **values: Any) -> str:
    answer = talker.http.post("/agents", json={"name": "Cook", "system_prompt": SECRET} | values)
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["id"]
    return found


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "status", "code"),
    [
        ({"name": ""}, 400, "invalid_argument"),
        ({"name": None}, 400, "invalid_argument"),
        ({"name": "x" * 101}, 400, "invalid_argument"),
        ({"temperature": 2.1}, 400, "invalid_argument"),
        ({"temperature": -0.1}, 400, "invalid_argument"),
        ({"temperature": 1e9}, 400, "invalid_argument"),
        ({"max_tokens": 0}, 400, "invalid_argument"),
        ({"max_tokens": 10**12}, 400, "invalid_argument"),
        ({"avatar_url": "javascript:alert(1)"}, 400, "invalid_argument"),
        ({"model": "no-such-model"}, 404, "model_not_found"),
        ({"fallback_models": ["no-such-model"]}, 404, "model_not_found"),
        ({"fallback_models": ["Qwen2.5-32B-Instruct-AWQ"] * 4}, 400, "invalid_argument"),
        ({"user_id": NOBODYS}, 422, "invalid_request"),
        ({"is_public": "yes"}, 422, "invalid_request"),
    ],
    ids=repr,
)
def test_a_wrong_value_is_refused(
    talker: Talker, values: dict[str, Any], status: int, code: str
) -> None:
    answer = talker.http.post("/agents", json={"name": "Cook"} | values)
    refused(answer, status, code)
    assert talker.rows("agents") == []


def test_a_plan_allows_so_many_agents(new_talker: NewTalker) -> None:
    talker = new_talker("free")
    make(talker)
    answer = talker.http.post("/agents", json={"name": "Second"})
    refused(answer, 402, "plan_limit_reached")
    assert answer.json()["limit_source"] == "plan.max_agents"
    assert len(talker.rows("agents")) == 1


def test_a_strangers_agent_is_as_good_as_none(new_talker: NewTalker) -> None:
    owner, stranger = new_talker(), new_talker()
    agent = make(owner)
    for method, path, body in (
        ("GET", "/agents/{}", None),
        ("PATCH", "/agents/{}", {"name": "Mine"}),
        ("DELETE", "/agents/{}", None),
    ):
        real, unreal = (
            stranger.http.request(method, path.format(identity), json=body)
            for identity in (agent, str(uuid.uuid4()))
        )
        assert (real.status_code, real.json()) == (unreal.status_code, unreal.json())
        refused(real, 404, "agent_not_found")
    refused(stranger.http.post("/conversations", json={"agent_id": agent}), 404, "agent_not_found")
    conversation = stranger.begin()
    refused(
        stranger.http.patch(f"/conversations/{conversation}", json={"agent_id": agent}),
        404,
        "agent_not_found",
    )
    assert stranger.rows("agents") == []
    stranger.require_nothing_happened(conversation)


def test_an_agent_that_is_no_longer_public_answers_no_stranger(new_talker: NewTalker) -> None:
    owner, user = new_talker(), new_talker()
    agent = make(owner, is_public=True)
    conversation = user.begin(agent_id=agent)
    owner.http.patch(f"/agents/{agent}", json={"is_public": False})
    refused(user.post(conversation, content="x"), 404, "agent_not_found")
    user.require_nothing_happened(conversation)
    assert (
        user.http.patch(f"/conversations/{conversation}", json={"agent_id": None}).status_code
        == 200
    )
    assert user.say(conversation, "x")["message"]["status"] == "completed"


# A public agent's prompt -------------------------------------------------------------------------


def test_a_public_agent_is_used_and_paid_by_anybody_and_its_prompt_told_to_nobody(
    new_talker: NewTalker, upstream: Memory, mark: str
) -> None:
    owner, user = new_talker(), new_talker()
    secret = f"{SECRET} {mark}"
    agent = make(owner, is_public=True, system_prompt=secret, description=f"about {mark}")
    told: list[str] = []

    def ask(answer: httpx.Response) -> httpx.Response:
        told.append(answer.text)
        return answer

    found = ask(user.http.get("/agents/public", params={"query": f"about {mark}"})).json()
    assert [a["id"] for a in found["agents"]] == [agent]
    assert "system_prompt" not in found["agents"][0]
    assert ask(user.rpc("public_agents", p_query=mark)).json()["agents"][0]["id"] == agent
    read = ask(user.http.get(f"/agents/{agent}")).json()
    assert (read["is_editable"], "system_prompt" in read) == (False, False)
    assert user.http.get("/agents/public", params={"query": "secret recipe"}).json()["agents"] == []

    conversation = user.begin(agent_id=agent)
    for body in (
        {"content": "Hello"},
        {"content": "simulate: status=400"},
        {"content": "simulate: status=500"},
        {"content": "simulate: fault=reset"},
        {"content": "x", "max_tokens": 999_999},
        {"content": "word " * 60_000},
    ):
        ask(user.post(conversation, **body))
    events = user.stream(conversation, content="Hello again")
    told.append(json.dumps([event.data for event in events]))
    assert upstream.bodies(mark)[0]["messages"][0] == {"role": "system", "content": secret}

    ask(user.http.get("/conversations", params={"query": SECRET, "status": "all"}))
    ask(user.http.get("/conversations"))
    ask(user.http.get(f"/conversations/{conversation}/messages"))
    told += [
        json.dumps(user.rows(table))
        for table in ("agents", "conversations", "messages", "usage_logs")
    ]
    told.append(json.dumps(user.rows("conversations", select="*,agents(*),messages(*)")))
    assert not [text for text in told if SECRET in text]
    assert user.rows("agents") == []
    # Whoever talks pays; the author neither pays nor reads along.
    assert len(user.payer.charges()) == 2
    assert owner.payer.charges() == []
    assert owner.rows("conversations") == []


def test_an_agents_model_and_parameters_are_used_and_can_be_overridden(
    talker: Talker, upstream: Memory, mark: str
) -> None:
    agent = make(talker, temperature=0.1, max_tokens=77, system_prompt=mark)
    conversation = talker.begin(agent_id=agent, system_prompt="not this one")
    talker.say(conversation, "one")
    talker.say(conversation, "two", temperature=1.5, max_tokens=33)
    first, second = upstream.bodies(mark)
    assert (first["temperature"], first["max_tokens"]) == (0.1, 77)
    assert (second["temperature"], second["max_tokens"]) == (1.5, 33)
    assert first["messages"][0] == {"role": "system", "content": mark}


def test_a_conversation_goes_on_without_its_agent(talker: Talker, upstream: Memory, mark: str):
    agent = make(talker)
    conversation = talker.begin(agent_id=agent)
    talker.http.delete(f"/agents/{agent}").raise_for_status()
    assert talker.get(conversation)["agent_id"] is None
    talker.say(conversation, mark)
    assert upstream.bodies(mark)[0]["messages"] == [{"role": "user", "content": mark}]


# An organization's -------------------------------------------------------------------------------


def test_members_use_an_organizations_agent_author_and_admins_edit_it(
    team: Team, new_talker: NewTalker
) -> None:
    agent = make(team.founder, organization=team.id)
    own = make(team.member, organization=team.id, name="Own")
    listed = team.member.http.get("/agents", params={"organization": team.id}).json()["agents"]
    assert [(a["id"], "system_prompt" in a) for a in listed] == [(own, True), (agent, False)]
    again = team.member.rpc("organization_agents", p_organization_id=team.id).json()["agents"]
    assert again == listed
    assert [a["id"] for a in team.member.rows("agents")] == [own]
    assert len(team.admin.rows("agents")) == 2
    refused(team.member.http.patch(f"/agents/{agent}", json={"name": "x"}), 403, "not_the_author")
    assert team.admin.http.patch(f"/agents/{own}", json={"name": "Ours"}).status_code == 200
    conversation = team.member.begin(agent_id=agent, organization=team.id)
    assert team.member.say(conversation, "Hi")["message"]["status"] == "completed"
    refused(new_talker().http.get(f"/agents/{agent}"), 404, "agent_not_found")


def test_a_key_with_the_scope_makes_and_changes_agents(team: Team, functions_url: str) -> None:
    with with_key(team.founder, functions_url, organization=team.id) as key:
        made = key.post("/agents", json={"name": "Bot", "system_prompt": "x"}).json()
        assert (made["user_id"], made["organization_id"]) == (None, team.id)
        assert key.patch(f"/agents/{made['id']}", json={"name": "Bot 2"}).status_code == 200
        assert [a["id"] for a in key.get("/agents").json()["agents"]] == [made["id"]]
        assert key.delete(f"/agents/{made['id']}").json() == {"id": made["id"], "deleted": True}
    with with_key(team.founder, functions_url, organization=team.id, scopes=["chat"]) as key:
        refused(key.post("/agents", json={"name": "Bot"}), 403, "insufficient_scope")


def test_clients_have_the_same_through_their_functions(talker: Talker) -> None:
    made = talker.rpc("create_agent", p_values={"name": "A"}).json()
    assert (made["temperature"], made["max_tokens"]) == (0.7, 2048)
    changed = talker.rpc("update_agent", p_id=made["id"], p_changes={"name": "B"}).json()
    assert changed["name"] == "B"
    assert [a["name"] for a in talker.rows("agents")] == ["B"]
    assert talker.rpc("delete_agent", p_id=made["id"]).json()["deleted"] is True
    assert talker.rows("agents") == []


def test_pages_of_agents_follow_each_other(talker: Talker) -> None:
    made = [make(talker) for _ in range(5)]
    first = talker.http.get("/agents", params={"limit": 3}).json()
    second = talker.http.get("/agents", params={"limit": 3, "after": first["next"]}).json()
    assert [a["id"] for a in first["agents"] + second["agents"]] == made[::-1]
    assert second["next"] is None
