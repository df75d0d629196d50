"""Asking for work: with the transaction, once per key, and announced."""

from __future__ import annotations

import threading
from datetime import timedelta

import psycopg
import pytest

from tests.tasks.conftest import Connect, Queue


@pytest.mark.parametrize(
    ("arguments", "constraint"),
    [
        ({"payload": "[]"}, "payload_is_an_object"),
        ({"kind": "Not Snake"}, "kind_is_snake_case"),
        ({"key": ""}, "key_is_not_empty"),
        ({"max_attempts": 101}, "max_attempts_is_between_1_and_100"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(
    arguments: dict[str, object], constraint: str, db: Connect
) -> None:
    values = {"kind": "test_refused", "payload": "{}", "key": None, "max_attempts": 8} | arguments
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        db().execute(
            "select private.task_enqueue(%(kind)s, %(payload)s, %(key)s,"
            " p_max_attempts => %(max_attempts)s)",
            values,
        )
    assert caught.value.diag.constraint_name == constraint


def test_a_task_vanishes_with_its_transaction(queue: Queue, db: Connect) -> None:
    connection = db()
    connection.execute("begin")
    connection.execute("select private.task_enqueue(%s, '{}')", [queue.kind])
    connection.execute("rollback")
    assert queue.claim() == []


def test_a_task_is_claimed_with_its_payload(queue: Queue) -> None:
    id_ = queue.enqueue({"answer": 42})
    task = queue.claim_one()
    assert (task["id"], task["kind"], task["payload"]) == (id_, queue.kind, {"answer": 42})
    assert task["attempt"] == 1


def test_the_same_key_is_queued_once(queue: Queue) -> None:
    first = queue.enqueue({"n": 1}, key="k")
    assert queue.enqueue({"n": 2}, key="k") == first
    (task,) = queue.claim(10)
    assert task["payload"] == {"n": 1}


def test_the_same_key_is_not_queued_beside_a_running_task(queue: Queue) -> None:
    first = queue.enqueue(key="k")
    queue.claim_one()
    assert queue.enqueue(key="k") == first


def test_a_key_is_free_again_when_its_task_is_done(queue: Queue) -> None:
    first = queue.enqueue(key="k")
    task = queue.claim_one()
    queue.service.rpc("task_complete", p_id=first, p_lease_token=task["lease_token"])
    assert queue.enqueue(key="k") != first


def test_tasks_without_a_key_are_all_queued(queue: Queue) -> None:
    assert len({queue.enqueue(), queue.enqueue()}) == 2


def test_a_key_asked_for_earlier_is_due_earlier(queue: Queue, db: Connect) -> None:
    later = db().execute("select now() + interval '1 hour'").fetchone()
    assert later
    id_ = queue.enqueue(key="k", run_after=later[0])
    assert queue.claim() == []
    queue.enqueue(key="k")
    assert queue.claim_one()["id"] == id_


def test_asking_again_does_not_cut_the_pause_after_a_failure_short(queue: Queue) -> None:
    id_ = queue.enqueue(key="k")
    task = queue.claim_one()
    queue.service.rpc("task_fail", p_id=id_, p_lease_token=task["lease_token"], p_error="no")
    waits_until = queue.row(id_)["run_after"]
    queue.enqueue(key="k")
    assert queue.row(id_)["run_after"] == waits_until


def test_fifty_parallel_requests_with_one_key_make_one_task(queue: Queue, db: Connect) -> None:
    connections = [db() for _ in range(10)]
    ids: list[str] = []

    def ask(connection: psycopg.Connection) -> None:
        for _ in range(5):
            row = connection.execute(
                "select private.task_enqueue(%s, '{}', 'k')", [queue.kind]
            ).fetchone()
            assert row
            ids.append(str(row[0]))

    threads = [threading.Thread(target=ask, args=(one,)) for one in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 50
    assert len(set(ids)) == 1


def test_lower_priorities_and_older_tasks_go_first(queue: Queue) -> None:
    second = queue.enqueue()
    third = queue.enqueue()
    first = queue.enqueue(priority=1)
    assert [task["id"] for task in queue.claim(3)] == [first, second, third]


def test_listeners_hear_of_a_task_after_the_commit(queue: Queue, db: Connect) -> None:
    listener, writer = db(), db()
    listener.execute("listen quernel_tasks")
    writer.execute("begin")
    writer.execute("select private.task_enqueue(%s, '{}')", [queue.kind])
    assert queue.kind not in {n.payload for n in listener.notifies(timeout=0.2)}
    writer.execute("commit")
    heard = set()
    for notification in listener.notifies(timeout=5):
        heard.add(notification.payload)
        if queue.kind in heard:
            break
    assert queue.kind in heard


def test_a_task_for_later_is_not_announced(queue: Queue, db: Connect) -> None:
    listener = db()
    listener.execute("listen quernel_tasks")
    now = listener.execute("select now()").fetchone()
    assert now
    queue.enqueue(run_after=now[0] + timedelta(hours=1))
    assert queue.kind not in {n.payload for n in listener.notifies(timeout=0.3)}
