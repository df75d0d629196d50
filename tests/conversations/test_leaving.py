"""A reader that leaves: the answer is made to its end, within a bound, kept and charged once."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable

import httpx
import pytest

from local.processes import LOOPBACK, Child, free_port
from tests.chat.test_leaving import extra_app
from tests.conversations.conftest import Memory, NewTalker, Talker, text_of, wait_for

__all__ = ["extra_app"]

SLOW = "simulate: tokens=60 token_ms=15"


def test_an_answer_whose_reader_left_is_finished_kept_and_charged_once(
    talker: Talker, upstream: Memory, mark: str
) -> None:
    conversation = talker.begin()
    read = talker.leave_after(conversation, 4, content=f"{mark} {SLOW}")
    assert len(text_of(read)) > 0
    _, answer = talker.finished(conversation)
    assert answer["status"] == "completed"
    assert answer["content"].startswith(text_of(read))
    assert len(answer["content"]) > len(text_of(read))
    assert upstream.counts(mark)["completed"] == 1
    [row] = talker.payer.settled_usage()
    assert row["status"] == "completed"
    assert row["completion_tokens"] == 60
    assert talker.payer.charges() == [row["credits"]]
    assert talker.payer.account()["held"] == 0


def test_so_is_one_that_was_waited_for_in_one_piece(talker: Talker) -> None:
    conversation = talker.begin()
    with pytest.raises(httpx.ReadTimeout):
        talker.http.post(
            f"/conversations/{conversation}/messages",
            json={"content": SLOW, "stream": False},
            timeout=0.3,
        )
    _, answer = talker.finished(conversation)
    assert answer["status"] == "completed"
    [row] = talker.payer.settled_usage()
    assert talker.payer.charges() == [row["credits"]]


def test_one_whose_reader_left_at_once_is_made_all_the_same(talker: Talker) -> None:
    """Before it is answered with a first byte: what has begun goes on, what has not never was."""
    conversation = talker.begin()
    url = talker.http.base_url
    body = json.dumps({"content": SLOW, "parent_id": None}).encode()
    head = (
        f"POST /conversations/{conversation}/messages HTTP/1.1\r\nhost: {url.host}\r\n"
        f"authorization: {talker.http.headers['authorization']}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    for seconds in (0, 0.01, 0.03, None):
        with socket.create_connection((url.host, url.port), timeout=10) as connection:
            connection.sendall(head.encode() + body)
            if seconds is None:
                wait_for(lambda: talker.messages(conversation))
            else:
                time.sleep(seconds)
    answers = [m for m in talker.finished(conversation) if m["role"] == "assistant"]
    assert len(answers) >= 1
    assert {answer["status"] for answer in answers} == {"completed"}
    talker.payer.settled_usage(len(answers))
    assert len(talker.payer.charges()) == len(answers)


def test_leaving_at_any_moment_charges_once(talker: Talker) -> None:
    # LibreChat PR 15889: the abort handler and the end of the stream both charged.
    conversation = talker.begin()
    counts = range(1, 26, 4)
    for count in counts:
        talker.leave_after(conversation, count, content="simulate: tokens=12", parent_id=None)
    rows = talker.payer.settled_usage(len(counts))
    assert {row["status"] for row in rows} == {"completed"}
    assert sorted(talker.payer.charges()) == sorted(row["credits"] for row in rows)
    answers = [m for m in talker.finished(conversation) if m["role"] == "assistant"]
    assert sorted(a["credits"] for a in answers) == sorted(row["credits"] for row in rows)


def test_the_time_after_leaving_is_bounded(
    new_talker: NewTalker,
    upstream: Memory,
    mark: str,
    extra_app: Callable[..., Child],
) -> None:
    port = free_port()
    extra_app(port, QUERNEL_ABANDONED_ANSWER_SECONDS="0.5")
    talker = new_talker(base_url=f"http://{LOOPBACK}:{port}")
    conversation = talker.begin()
    read = talker.leave_after(conversation, 4, content=f"{mark} simulate: tokens=500 token_ms=20")
    _, answer = talker.finished(conversation)
    assert (answer["status"], answer["error_code"]) == ("cancelled", "answer_abandoned")
    assert answer["content"].startswith(text_of(read))
    [row] = talker.payer.settled_usage()
    assert row["status"] == "cancelled"
    assert 5 <= row["completion_tokens"] < 200
    assert talker.payer.charges() == [row["credits"]] == [answer["credits"]]
    wait_for(lambda: upstream.counts(mark)["cancelled"] == 1)

    # Before the model has said anything it costs nothing.
    silent = talker.begin()
    talker.leave_after(silent, 1, content=f"{mark} simulate: first_ms=20000")
    _, answer = talker.finished(silent)
    assert (answer["status"], answer["credits"]) == ("failed", 0)
    assert len(talker.payer.charges()) == 1


def test_a_server_that_stops_keeps_and_charges_what_there_is(
    new_talker: NewTalker,
    mark: str,
    extra_app: Callable[..., Child],
) -> None:
    port = free_port()
    app = extra_app(port)
    talker = new_talker(base_url=f"http://{LOOPBACK}:{port}")
    short, long = talker.begin(), talker.begin()
    talker.leave_after(short, 4, content=f"{mark} simulate: tokens=60 token_ms=20")
    read = talker.leave_after(long, 4, content=f"{mark} simulate: tokens=5000 token_ms=20")
    os.kill(app.pid, signal.SIGTERM)
    wait_for(lambda: not app.running, seconds=30)
    assert [m["status"] for m in talker.messages(short)] == ["completed", "completed"]
    _, answer = talker.messages(long)
    assert answer["status"] == "cancelled"
    assert answer["content"].startswith(text_of(read))
    assert len(talker.payer.charges()) == 2
    assert talker.payer.account()["held"] == 0


def test_an_answer_that_was_lost_is_marked_and_its_hold_returned(
    talker: Talker, service: object
) -> None:
    # As after a crash: a hold and its answer, and nobody who would end them.
    conversation = talker.begin()
    started = service.rpc(  # type: ignore[attr-defined]
        "message_start",
        p_request_id="01999c5e-0000-7000-8000-000000000001",
        p_conversation_id=conversation,
        p_user_id=talker.id,
        p_content="Hello",
    )
    connection = talker.payer.connection
    connection.execute(
        "update private.credit_holds set created_at = now() - interval '1 hour',"
        " deadline = now() - interval '1 minute' where id = %s",
        [started["hold_id"]],
    )
    connection.execute(
        "update public.usage_logs as u set created_at = h.created_at"
        " from private.credit_holds as h where h.id = u.id and u.id = %s",
        [started["hold_id"]],
    )
    connection.execute(
        "update public.messages set created_at = now() - interval '1 hour'"
        " where conversation_id = %s",
        [conversation],
    )
    connection.execute(
        "update public.conversations as c set last_message_at = (select max(m.created_at)"
        " from public.messages as m where m.conversation_id = c.id) where c.id = %s",
        [conversation],
    )
    service.rpc("credit_reap")  # type: ignore[attr-defined]
    service.rpc("messages_sweep")  # type: ignore[attr-defined]
    question, answer = sorted(talker.messages(conversation), key=lambda m: m["role"] != "user")
    assert (answer["status"], answer["error_code"]) == ("failed", "answer_lost")
    assert question["content"] == "Hello"
    assert talker.payer.account()["held"] == 0
    # Should it end after all, it is charged after all, and kept.
    service.rpc(  # type: ignore[attr-defined]
        "message_finish",
        p_hold_id=started["hold_id"],
        p_prompt_tokens=10,
        p_completion_tokens=5,
        p_answer={"content": "Here I am.", "finish_reason": "stop"},
    )
    answer = next(m for m in talker.messages(conversation) if m["role"] == "assistant")
    assert (answer["status"], answer["content"]) == ("completed", "Here I am.")
    assert answer["error_code"] is None
    assert talker.payer.charges() == [answer["credits"]]
