"""What somebody could want to do with conversations that is not theirs to do."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from functions.conversations.answering import Said
from tests.conversations.conftest import NewTalker, Talker
from tests.support.people import wait_until_blocked
from tests.support.service import Service, ServiceError

Connect = Callable[[], psycopg.Connection]
FINISH = {
    "p_prompt_tokens": 10,
    "p_completion_tokens": 5,
    "p_answer": {"content": "x", "finish_reason": "stop"},
}


def test_a_message_whose_first_answer_was_lost_is_charged_once(
    talker: Talker, service: Service
) -> None:
    conversation = talker.begin()
    call = {
        "p_conversation_id": conversation,
        "p_user_id": talker.id,
        "p_content": "Hello",
        "p_message_id": str(uuid.uuid4()),
    }
    first = service.rpc("message_start", p_request_id=uuid.uuid4(), **call)["hold_id"]
    connection = talker.payer.connection
    connection.execute(
        "update private.credit_holds set deadline = created_at + interval '1 microsecond'"
        " where id = %s",
        [first],
    )
    connection.execute(
        "update public.messages set created_at = created_at - interval '1 hour'"
        " where conversation_id = %s",
        [conversation],
    )
    connection.execute(
        "update public.conversations as c set last_message_at = (select max(m.created_at)"
        " from public.messages as m where m.conversation_id = c.id) where c.id = %s",
        [conversation],
    )
    service.rpc("credit_reap")
    service.rpc("messages_sweep")
    second = service.rpc("message_start", p_request_id=uuid.uuid4(), **call)["hold_id"]
    service.rpc("message_finish", p_hold_id=second, **FINISH)
    with pytest.raises(ServiceError) as info:
        service.rpc("message_finish", p_hold_id=first, **FINISH)
    assert info.value.code == "hold_released"
    assert len(talker.payer.charges()) == 1


def test_there_is_an_end_to_conversations_in_which_nothing_was_said(talker: Talker) -> None:
    connection = talker.payer.connection
    kept = talker.begin()
    connection.execute(
        "insert into public.conversations (user_id) select %s from generate_series(1, 99)",
        [talker.id],
    )
    problem = talker.http.post("/conversations", json={})
    assert (problem.status_code, problem.json()["code"]) == (409, "too_many_empty_conversations")
    talker.say(kept, "Hello")
    talker.begin()


def test_what_a_model_refuses_is_one_of_the_months_requests(talker: Talker) -> None:
    """It is kept, so it may not be had without an end for nothing."""
    conversation = talker.begin()
    talker.post(conversation, content="simulate: status=400", stream=False)
    [row] = talker.payer.connection.execute(
        "select period_requests from public.credit_accounts where user_id = %s", [talker.id]
    ).fetchall()
    assert row["period_requests"] == 1
    assert talker.payer.charges() == []


def test_pages_and_contexts_have_a_size(talker: Talker, db: Connect) -> None:
    conversation, connection = talker.begin(), db()
    parent = None
    for number in range(20):
        message = str(uuid.uuid4())
        connection.execute(
            "insert into public.messages (id, conversation_id, parent_id, role, status, content,"
            " parts, prompt_bound, prompt_estimate)"
            " values (%s, %s, %s, %s, %s, 'look', %s, 1000000, 2000)",
            [
                message,
                conversation,
                parent,
                "assistant" if number % 2 else "user",
                "failed" if number % 2 else "completed",
                Jsonb([{"type": "text", "text": "x" * 1_000_000}]),
            ],
        )
        parent = message
    connection.execute(
        "update public.conversations set head_message_id = %s where id = %s",
        [parent, conversation],
    )
    page = talker.http.get(f"/conversations/{conversation}/messages", params={"limit": 200})
    assert len(page.content) < 9_000_000
    assert page.json()["next"] == page.json()["messages"][0]["id"]
    row = connection.execute(
        "select octet_length((private.branch_context(%s, %s, 100000, true)).messages::text)",
        [conversation, parent],
    ).fetchone()
    assert row is not None
    assert row[0] < 9_000_000


def test_a_stranger_learns_of_a_public_agent_what_everybody_may(
    team: Any, new_talker: NewTalker
) -> None:
    agent = team.founder.http.post(
        "/agents",
        json={"name": "Bot", "organization": team.id, "is_public": True, "system_prompt": "s"},
    ).json()
    seen = new_talker().http.get(f"/agents/{agent['id']}").json()
    assert set(seen) == {
        "id", "name", "description", "avatar_url", "model", "fallback_models", "is_public",
        "created_at", "is_editable",
    }  # fmt: skip


def test_an_erased_author_is_in_no_words_and_no_addresses(team: Any) -> None:
    shared = team.member.begin(organization=team.id, is_shared=True)
    team.member.say(shared, "hello world")
    hold = team.member.messages(shared)[-1]["hold_id"]
    connection = team.founder.payer.connection
    connection.execute("delete from auth.users where id = %s", [team.member.id])
    words = connection.execute(
        "select count(*) as count from private.message_words where words::text like %s",
        [f"%u:{team.member.id}%"],
    ).fetchone()
    assert words == {"count": 0}
    row = connection.execute(
        "select user_id, ip_address, user_agent from public.usage_logs where id = %s", [hold]
    ).fetchone()
    assert row == {"user_id": None, "ip_address": None, "user_agent": None}


@pytest.mark.parametrize("kind", ["key", "agent"])
def test_making_for_an_organization_and_erasing_its_maker_never_wait_for_each_other(
    team: Any, db: Connect, kind: str
) -> None:
    obstacle, maker, eraser, watcher = (db() for _ in range(4))
    claims = json.dumps({"sub": team.admin.id, "role": "authenticated"})
    maker.execute("select set_config('request.jwt.claims', %s, false)", [claims])
    maker.execute("set role authenticated")
    making = {
        "key": "select public.create_api_key('k', '{}', %s)",
        "agent": 'select public.create_agent(\'{"name": "x"}\', %s)',
    }[kind]
    with ThreadPoolExecutor(2) as pool:
        with obstacle.transaction():
            obstacle.execute(
                "select from public.organizations where id = %s for no key update", [team.id]
            )
            made = pool.submit(maker.execute, making.encode(), [team.id])
            wait_until_blocked(watcher, maker.info.backend_pid)
            erased = pool.submit(
                eraser.execute, "delete from auth.users where id = %s", [team.admin.id]
            )
            wait_until_blocked(watcher, eraser.info.backend_pid)
        made.result(timeout=20)
        erased.result(timeout=20)


def test_an_answer_that_ends_and_the_erasure_of_its_host_never_wait_for_each_other(
    team: Any, service: Service, db: Connect
) -> None:
    shared = team.founder.begin(organization=team.id, is_shared=True)
    hold = service.rpc(
        "message_start",
        p_request_id=uuid.uuid4(),
        p_conversation_id=shared,
        p_user_id=team.member.id,
        p_content="Hello",
    )["hold_id"]
    team.founder.http.patch(f"/conversations/{shared}", json={"is_shared": False})
    finisher, eraser, obstacle, watcher = (db() for _ in range(4))
    with ThreadPoolExecutor(2) as pool:
        with obstacle.transaction():
            obstacle.execute(
                "select from public.conversations where id = %s for no key update", [shared]
            )
            erased = pool.submit(
                eraser.execute, "delete from auth.users where id = %s", [team.founder.id]
            )
            wait_until_blocked(watcher, eraser.info.backend_pid)
            ended = pool.submit(
                finisher.execute,
                "select backend.message_finish(%s, 10, 5, p_answer => %s)",
                [hold, Jsonb({"content": "x"})],
            )
            wait_until_blocked(watcher, finisher.info.backend_pid)
        erased.result(timeout=20)
        ended.result(timeout=20)


def test_what_a_model_server_says_of_its_end_can_be_stored() -> None:
    said = Said()
    said.take([{"choices": [{"delta": {"content": "a\0b"}, "finish_reason": "st\0op\ud800"}]}])
    assert "\0" not in json.dumps(said.pack(), ensure_ascii=False)
    assert said.pack()["finish_reason"].encode()


def test_words_are_looked_for_without_the_parsers_comments(db: Connect) -> None:
    row = db().execute("select private.search_words(%s)::text", ["<!-- hello -->" * 3]).fetchone()
    assert row is not None
    assert row[0] == "'hello'"
