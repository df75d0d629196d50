"""What a model is told: as much of the branch as fits its window, weighed as completions are."""

from __future__ import annotations

import math
import uuid
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from functions.chat.counting import BASE_OVERHEAD, prompt_size
from tests.conversations.conftest import Memory, Talker

TEXTS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=0, max_size=80
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_sql_weighs_messages_as_completions_are_weighed(db: Any, texts: list[str]) -> None:
    with db() as connection:
        rows = connection.execute(
            "select sum(w.bound), sum(w.estimate) from unnest(%s::text[]) as t (text)"
            " cross join lateral private.message_weight(t.text, null) as w",
            [texts],
        ).fetchone()
    size = prompt_size({"messages": [{"role": "user", "content": text} for text in texts]})
    assert BASE_OVERHEAD + rows[0] == size.bound
    assert size.estimate <= rows[1] <= size.estimate + len(texts)


def test_images_weigh_their_bytes_at_most(db: Any) -> None:
    parts = [
        {"type": "text", "text": "Qu'est-ce que c'est ?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 50_000}},
    ]
    row = db().execute("select * from private.message_weight('', %s)", [Jsonb(parts)]).fetchone()
    size = prompt_size({"messages": [{"role": "user", "content": parts}]})
    assert BASE_OVERHEAD + row[0] == size.bound
    assert row[1] <= 2_050


def grow(talker: Talker, conversation: str, turns: int, words: int = 1) -> None:
    """A branch of many turns. Its answers cost nothing, as ones that failed."""
    with talker.payer.connection.transaction():
        talker.payer.connection.execute(
            """
            with numbered as (
              select n, private.uuid7() as id from generate_series(1, %(count)s) as n
            ),
            linked as (
              select n, id, lag(id) over (order by n) as parent_id from numbered
            ),
            added as (
              insert into public.messages
                (id, conversation_id, parent_id, user_id, role, status, content, created_at,
                 prompt_bound, prompt_estimate)
              select id, %(conversation)s, parent_id, %(user)s,
                case when n %% 2 = 1 then 'user' else 'assistant' end,
                case when n %% 2 = 1 then 'completed' else 'failed' end,
                rtrim(repeat('turn ' || n || ' ', %(words)s)),
                now() - make_interval(secs => %(count)s - n),
                w.bound, w.estimate
              from linked cross join lateral private.message_weight(
                rtrim(repeat('turn ' || n || ' ', %(words)s)), null) as w
            )
            update public.conversations set head_message_id =
              (select id from numbered order by n desc limit 1)
            where id = %(conversation)s
            """,
            {
                "count": turns * 2,
                "conversation": conversation,
                "user": talker.id,
                "words": words,
            },
        )


def test_the_oldest_turns_are_dropped_in_pairs_and_the_system_prompt_is_kept(
    talker: Talker, upstream: Memory, mark: str
) -> None:
    conversation = talker.begin(system_prompt="You are brief.")
    grow(talker, conversation, turns=200, words=50)
    talker.say(conversation, f"and now? {mark}")
    [sent] = upstream.bodies(mark)
    system, *history, question = sent["messages"]
    assert system == {"role": "system", "content": "You are brief."}
    assert question == {"role": "user", "content": f"and now? {mark}"}
    assert [m["role"] for m in history] == ["user", "assistant"] * (len(history) // 2)
    assert history[-1]["content"].startswith("turn 400 ")
    first = int(history[0]["content"].split()[1])
    assert first == 401 - len(history)
    weight = sum(5 + math.ceil(len(m["content"]) / 4) for m in history)
    assert 10_000 < weight < 32_768 - sent["max_tokens"]
    assert sent["max_tokens"] == 2048


def test_a_conversation_of_100_000_messages_is_read_no_further_than_the_window(
    talker: Talker, upstream: Memory, mark: str
) -> None:
    connection = talker.payer.connection
    # What the planner knows is from before: no conversation is longer than a few messages.
    talker.say(talker.begin(), "short")
    connection.execute("analyze public.messages")
    long = talker.begin()
    grow(talker, long, turns=50_000)
    assert talker.get(long)["message_count"] == 100_000
    with connection.transaction(force_rollback=True):

        def rows_read() -> int:
            row = connection.execute(
                "select seq_tup_read + idx_tup_fetch as count from pg_stat_xact_user_tables"
                " where relid = 'public.messages'::regclass"
            ).fetchone()
            assert row is not None
            return int(row["count"])

        for query, most in (
            ("select backend.conversation_messages(%s, %s, p_limit => 50)", 500),
            ("select backend.message_start(gen_random_uuid(), %s, %s, p_content => 'x')", 3_000),
        ):
            before = rows_read()
            connection.execute(query.encode(), [long, talker.id])
            assert rows_read() - before < most, query

    talker.say(long, f"and now? {mark}")
    page = talker.thread(long, limit=50)
    assert len(page["messages"]) == 50
    assert page["next"] == page["messages"][0]["id"]
    [sent] = upstream.bodies(mark)
    assert 900 < len(sent["messages"]) <= 1_001
    assert talker.get(long)["message_count"] == 100_002


def test_the_same_request_again_gets_the_same_rows(talker: Talker, service: Any) -> None:
    conversation = talker.begin()
    call = {
        "p_request_id": str(uuid.uuid4()),
        "p_conversation_id": conversation,
        "p_user_id": talker.id,
        "p_content": "Hello",
    }
    first, again = (service.rpc("message_start", **call) for _ in range(2))
    for name in ("hold_id", "user_message_id", "message_id", "messages", "candidates"):
        assert again[name] == first[name], name
    assert len(talker.messages(conversation)) == 2
    service.rpc("message_fail", p_hold_id=first["hold_id"], p_error_code="upstream_error")
    service.rpc("message_fail", p_hold_id=first["hold_id"], p_error_code="again")
    assert talker.messages(conversation)[1]["error_code"] == "upstream_error"
    talker.payer.require_free(count=1)


def test_finishing_twice_charges_once(talker: Talker, service: Any) -> None:
    conversation = talker.begin()
    started = service.rpc(
        "message_start",
        p_request_id=str(uuid.uuid4()),
        p_conversation_id=conversation,
        p_user_id=talker.id,
        p_content="Hello",
    )
    for text, tokens in (("first", 10), ("second", 20)):
        service.rpc(
            "message_finish",
            p_hold_id=started["hold_id"],
            p_prompt_tokens=10,
            p_completion_tokens=tokens,
            p_answer={"content": text},
        )
    service.rpc("message_fail", p_hold_id=started["hold_id"], p_error_code="late")
    _, answer = talker.messages(conversation)
    assert (answer["content"], answer["completion_tokens"]) == ("first", 10)
    assert talker.payer.charges() == [answer["credits"]]


def test_a_long_branch_leaves_room_for_an_answer_where_the_balance_does(
    talker: Talker, upstream: Memory, mark: str
) -> None:
    conversation = talker.begin()
    grow(talker, conversation, turns=200, words=50)
    talker.payer.connection.execute(
        "update public.credit_accounts set monthly_credit_budget = 2.2 where user_id = %s",
        [talker.id],
    )
    # The bound fills the window, so the hold is dear: less of an answer, and no refusal.
    assert talker.post(conversation, content=f"and now? {mark}").status_code == 200
    [sent] = upstream.bodies(mark)
    assert 16 <= sent["max_tokens"] < 2048
