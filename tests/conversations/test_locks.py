"""Erasing an author while their answer ends: one waits for the other, and never each for both."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.conversations.conftest import Talker, Team
from tests.support.people import wait_until_blocked
from tests.support.service import Service

FINISH = "select backend.message_finish(%s, 10, 5, p_answer => %s)"
FAIL = "select backend.message_fail(%s, 'upstream_error')"
ERASE = "delete from auth.users where id = %s"


def started(service: Service, talker: Talker, conversation: str) -> str:
    """The hold of an answer that is being made."""
    hold: str = service.rpc(
        "message_start",
        p_request_id=uuid.uuid4(),
        p_conversation_id=conversation,
        p_user_id=talker.id,
        p_content="Hello",
    )["hold_id"]
    return hold


@pytest.mark.parametrize("is_of_organization", [False, True])
@pytest.mark.parametrize(
    ("end", "erases_first"), [(FINISH, False), (FINISH, True), (FAIL, False), (FAIL, True)]
)
def test_an_erasure_and_the_end_of_an_answer_wait_for_each_other(
    team: Team,
    service: Service,
    db: Callable[[], psycopg.Connection],
    *,
    end: str,
    is_of_organization: bool,
    erases_first: bool,
) -> None:
    author = team.member
    conversation = author.begin(**({"organization": team.id} if is_of_organization else {}))
    hold = started(service, author, conversation)
    values: list[Any] = [hold, Jsonb({"content": "Hi"})] if end is FINISH else [hold]
    steps: list[tuple[str, list[Any]]] = [(end, values), (ERASE, [author.id])]
    first, second, watcher = db(), db(), db()
    if erases_first:
        steps.reverse()
    with ThreadPoolExecutor(1) as pool:
        with first.transaction():
            first.execute(steps[0][0].encode(), steps[0][1])
            waiting = pool.submit(second.execute, steps[1][0].encode(), steps[1][1])
            wait_until_blocked(watcher, second.info.backend_pid)
        waiting.result(timeout=10)
    assert author.messages(conversation) == []
    row = watcher.execute(
        "select status, user_id from private.credit_holds where id = %s", [hold]
    ).fetchone()
    assert row == ("settled" if end is FINISH else "released", None)


def test_two_members_write_into_one_conversation_at_once(team: Team) -> None:
    conversation = team.founder.begin(organization=team.id, is_shared=True)
    team.founder.say(conversation, "one")
    head = team.founder.get(conversation)["head_message_id"]
    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(talker.say, conversation, f"{n}", parent_id=head)
            for n in range(4)
            for talker in (team.founder, team.member)
        ]
        answers = [call.result(timeout=60) for call in calls]
    found = team.founder.get(conversation)
    assert found["message_count"] == 2 + 2 * len(answers)
    assert found["head_message_id"] in {answer["message_id"] for answer in answers}
    branches = {m["parent_id"] for m in team.founder.messages(conversation) if m["role"] == "user"}
    assert branches == {None, uuid.UUID(head)}
