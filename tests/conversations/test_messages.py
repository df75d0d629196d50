"""A message is stored, answered and charged once, and the answer says so."""

from __future__ import annotations

import uuid
from decimal import Decimal

from tests.conversations.conftest import MODEL, Memory, Talker, text_of


def test_a_stream_tells_ids_first_and_usage_last(talker: Talker, mark: str) -> None:
    conversation = talker.begin()
    events = talker.stream(conversation, content=f"Hello {mark}")
    first, *chunks, finished, done = events
    assert first.name == "started"
    assert first.data["conversation_id"] == conversation
    assert {"user_message_id", "message_id", "title"} <= first.data.keys()
    assert (finished.name, done.data) == ("finished", "[DONE]")
    assert all(chunk.data["object"] == "chat.completion.chunk" for chunk in chunks)
    usage = chunks[-1].data["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    question, answer = talker.finished(conversation)
    assert (str(question["id"]), str(answer["id"])) == (
        first.data["user_message_id"],
        first.data["message_id"],
    )
    assert answer["content"] == text_of(events)
    assert answer["status"] == "completed"
    assert answer["finish_reason"] == "stop"
    assert answer["model_used"] == MODEL
    assert answer["tokens_used"] == usage["total_tokens"]
    assert finished.data["message"]["content"] == answer["content"]

    [row] = talker.payer.settled_usage()
    assert (row["resource_type"], str(row["resource_id"])) == ("conversation", conversation)
    assert answer["hold_id"] == row["id"]
    assert answer["credits"] == row["credits"] == Decimal(str(usage["credits_charged"]))
    assert talker.payer.charges() == [row["credits"]]
    assert talker.payer.balance == 100 - row["credits"]
    assert Decimal(str(usage["credits_remaining"])) == talker.payer.balance


def test_an_answer_in_one_piece_says_the_same(talker: Talker) -> None:
    conversation = talker.begin()
    answer = talker.say(conversation, "Hello")
    message = answer["message"]
    assert message["id"] == answer["message_id"]
    assert message["status"] == "completed"
    assert message["content"].startswith("[simulated]")
    assert answer["usage"]["credits_charged"] == message["credits"] > 0
    assert talker.payer.charges() == [Decimal(str(message["credits"]))]


def test_the_model_is_told_what_was_said_before(
    talker: Talker, upstream: Memory, mark: str
) -> None:
    conversation = talker.begin(system_prompt="You are brief.")
    first = talker.say(conversation, f"one {mark}")
    talker.say(conversation, f"two {mark}", temperature=0.2, max_tokens=50)
    sent = upstream.bodies(mark)[-1]
    assert sent["messages"] == [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": f"one {mark}"},
        {"role": "assistant", "content": first["message"]["content"]},
        {"role": "user", "content": f"two {mark}"},
    ]
    assert (sent["temperature"], sent["max_tokens"]) == (0.2, 50)
    answer = talker.finished(conversation)[-1]
    assert answer["metadata"] == {"temperature": 0.2, "max_tokens": 50}


def test_counters_and_head_follow_the_messages(talker: Talker) -> None:
    conversation = talker.begin()
    answers = [talker.say(conversation, text) for text in ("one", "two", "three")]
    found = talker.get(conversation)
    assert found["message_count"] == 6
    assert found["total_tokens"] == sum(a["message"]["tokens_used"] for a in answers)
    assert found["head_message_id"] == answers[-1]["message_id"]
    assert found["last_message_at"] == answers[-1]["message"]["created_at"]
    thread = talker.thread(conversation)["messages"]
    assert [m["role"] for m in thread] == ["user", "assistant"] * 3
    assert [m["content"] for m in thread[::2]] == ["one", "two", "three"]


def test_a_failure_keeps_the_question_and_charges_nothing(talker: Talker) -> None:
    conversation = talker.begin()
    answer = talker.post(conversation, content="simulate: status=500")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (502, "upstream_error")
    question, failed = talker.finished(conversation)
    assert problem["message_id"] == str(failed["id"])
    assert question["content"] == "simulate: status=500"
    assert (failed["status"], failed["error_code"]) == ("failed", "upstream_error")
    assert (failed["credits"], failed["tokens_used"]) == (0, 0)
    talker.payer.require_free(count=1, code="upstream_error")
    # And the conversation goes on, by a new answer to the same question or by a new question.
    assert talker.post(conversation, regenerate=str(failed["id"])).status_code == 502
    assert talker.say(conversation, "Hello")["message"]["status"] == "completed"


def test_a_stream_that_fails_ends_with_a_problem(talker: Talker) -> None:
    conversation = talker.begin()
    events = talker.stream(conversation, content="simulate: fault=reset after=3")
    assert [event.name for event in events if event.name != "message"] == ["started", "error"]
    problem = events[-2].data
    assert (problem["code"], problem["status"]) == ("upstream_error", 502)
    assert problem["message_id"] == events[0].data["message_id"]
    assert events[-1].data == "[DONE]"
    assert talker.finished(conversation)[-1]["status"] == "failed"
    talker.payer.require_free(count=1)


def test_what_a_model_server_says_when_it_refuses_is_not_passed_on(talker: Talker) -> None:
    conversation = talker.begin()
    answer = talker.post(conversation, content="simulate: status=400")
    assert (answer.status_code, answer.json()["code"]) == (400, "upstream_rejected")
    assert answer.json()["detail"] == "The model server refused the conversation as it is."


# The same message again --------------------------------------------------------------------------


def test_the_same_id_again_gives_the_answer_and_charges_nothing(talker: Talker) -> None:
    conversation = talker.begin()
    body = {"id": str(uuid.uuid4()), "content": "Hello"}
    first = talker.post(conversation, **body)
    again = talker.post(conversation, **body)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["message"] == first.json()["message"]
    assert again.json()["usage"].items() <= first.json()["usage"].items()
    events = talker.stream(conversation, **body)
    assert [e.name for e in events] == ["started", "message", "finished", "message"]
    assert text_of(events) == first.json()["message"]["content"]
    assert events[0].data["user_message_id"] == body["id"]
    assert len(talker.messages(conversation)) == 2
    assert len(talker.payer.charges()) == 1


def test_an_id_that_is_being_answered_is_refused_until_it_is(talker: Talker) -> None:
    conversation = talker.begin()
    body = {"id": str(uuid.uuid4()), "content": "simulate: tokens=40 token_ms=20"}
    talker.leave_after(conversation, 2, **body)
    answer = talker.post(conversation, **body)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_in_progress")
    assert answer.headers["retry-after"] == "1"
    talker.finished(conversation)
    assert talker.post(conversation, **body).headers["idempotent-replayed"] == "true"
    assert len(talker.payer.charges()) == 1


def test_an_id_whose_answer_failed_is_answered_anew(talker: Talker) -> None:
    conversation = talker.begin()
    body = {"id": str(uuid.uuid4()), "content": "simulate: status=500"}
    assert talker.post(conversation, **body).status_code == 502
    assert talker.post(conversation, **body).status_code == 502
    question, *answers = talker.finished(conversation)
    assert str(question["id"]) == body["id"]
    assert [a["parent_id"] for a in answers] == [question["id"]] * 2


def test_an_id_of_another_message_is_a_conflict(talker: Talker) -> None:
    conversation = talker.begin()
    message = str(uuid.uuid4())
    talker.say(conversation, "Hello", id=message)
    other = talker.begin()
    for where, content in ((conversation, "Bye"), (other, "Hello")):
        answer = talker.post(where, id=message, content=content)
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")
    assert len(talker.payer.charges()) == 1


# Branches ----------------------------------------------------------------------------------------


def test_a_new_answer_is_a_branch(talker: Talker, upstream: Memory, mark: str) -> None:
    conversation = talker.begin()
    first = talker.say(conversation, f"one {mark}")
    talker.say(conversation, f"two {mark}")
    again = talker.post(conversation, regenerate=first["message_id"]).json()
    assert again["user_message_id"] == first["user_message_id"]
    assert again["message_id"] != first["message_id"]
    assert upstream.bodies(mark)[-1]["messages"] == [{"role": "user", "content": f"one {mark}"}]
    thread = talker.thread(conversation)["messages"]
    assert [m["id"] for m in thread] == [first["user_message_id"], again["message_id"]]
    assert thread[1]["siblings"] == [first["message_id"], again["message_id"]]
    assert len(talker.messages(conversation)) == 5


def test_an_edit_is_a_branch_and_either_can_be_shown(talker: Talker) -> None:
    conversation = talker.begin()
    first = talker.say(conversation, "one")
    second = talker.say(conversation, "two")
    edited = talker.say(conversation, "two, better", parent_id=first["message_id"])
    thread = talker.thread(conversation)["messages"]
    assert [m["content"] for m in thread[::2]] == ["one", "two, better"]
    assert thread[2]["siblings"] == [second["user_message_id"], edited["user_message_id"]]

    begun_anew = talker.say(conversation, "one, better", parent_id=None)
    thread = talker.thread(conversation)["messages"]
    assert [m["content"] for m in thread[::2]] == ["one, better"]
    assert thread[0]["siblings"] == [first["user_message_id"], begun_anew["user_message_id"]]

    shown = talker.http.patch(
        f"/conversations/{conversation}", json={"head_message_id": second["user_message_id"]}
    )
    assert shown.json()["head_message_id"] == second["message_id"]
    thread = talker.thread(conversation)["messages"]
    assert [m["content"] for m in thread[::2]] == ["one", "two"]
    assert [m["content"] for m in talker.messages(conversation) if m["role"] == "user"] == [
        "one",
        "two",
        "two, better",
        "one, better",
    ]


def test_a_thread_comes_page_by_page(talker: Talker) -> None:
    conversation = talker.begin()
    for number in range(3):
        talker.say(conversation, f"{number}")
    whole = talker.thread(conversation)
    assert whole["next"] is None
    last = talker.thread(conversation, limit=4)
    first = talker.thread(conversation, limit=4, before=last["next"])
    assert first["messages"] + last["messages"] == whole["messages"]
    assert first["next"] is None


# Titles ------------------------------------------------------------------------------------------


def test_the_title_is_made_of_the_first_message(talker: Talker) -> None:
    conversation = talker.begin()
    talker.say(conversation, "## Why is the **sky** blue? I have wondered for long.")
    found = talker.get(conversation)
    assert (found["title"], found["title_source"]) == ("Why is the sky blue?", "generated")
    talker.say(conversation, "And the sea?")
    assert talker.get(conversation)["title"] == "Why is the sky blue?"


def test_a_title_of_the_users_is_never_overwritten(talker: Talker) -> None:
    conversation = talker.begin()
    talker.http.patch(f"/conversations/{conversation}", json={"title": "  Mine  "})
    talker.say(conversation, "Why is the sky blue?")
    found = talker.get(conversation)
    assert (found["title"], found["title_source"]) == ("Mine", "user")
