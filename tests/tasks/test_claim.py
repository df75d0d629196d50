"""Claiming: bad requests are refused, and no task is ever handed to two workers."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from dataclasses import replace

import psycopg
import pytest

from tests.support.service import Service, ServiceError
from tests.tasks.conftest import Connect, Queue

WORKERS = 8


@pytest.mark.parametrize(
    ("argument", "value", "param"),
    [
        ("p_limit", 0, "limit"),
        ("p_limit", 101, "limit"),
        ("p_limit", None, "limit"),
        ("p_lease_seconds", 0, "lease_seconds"),
        ("p_lease_seconds", 3601, "lease_seconds"),
        ("p_worker", "", "worker"),
        ("p_worker", "x" * 201, "worker"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(
    argument: str, value: object, param: str, service: Service, queue: Queue
) -> None:
    id_ = queue.enqueue()
    arguments = {
        "p_kinds": [queue.kind],
        "p_worker": "w1",
        "p_limit": 1,
        "p_lease_seconds": 60,
    } | {argument: value}
    with pytest.raises(ServiceError) as refused:
        service.rpc("task_claim", **arguments)
    assert (refused.value.status, refused.value.code) == (400, "invalid_argument")
    assert refused.value.facts == {"param": param}
    assert queue.row(id_)["status"] == "queued"


def test_tasks_of_other_kinds_are_left_alone(queue: Queue, service: Service) -> None:
    queue.enqueue()
    other = service.rpc(
        "task_claim", p_kinds=["another_kind"], p_worker="w1", p_limit=1, p_lease_seconds=60
    )
    assert other == []
    assert len(queue.claim()) == 1


@pytest.mark.parametrize(("limit", "claimed"), [(-1, 0), (0, 0), (1, 1), (2, 2), (99, 3)])
def test_of_a_kind_no_more_is_claimed_than_was_asked_for(
    limit: int, claimed: int, queue: Queue, service: Service
) -> None:
    other = replace(queue, kind=f"{queue.kind}_other")
    for _ in range(3):
        queue.enqueue(priority=1)
    later = other.enqueue()
    tasks = service.rpc(
        "task_claim",
        p_kinds=[queue.kind, other.kind],
        p_worker="w1",
        p_limit=4,
        p_lease_seconds=60,
        p_limits={queue.kind: limit, "another": 1},
    )
    assert [task["kind"] for task in tasks] == [queue.kind] * claimed + [other.kind]
    assert tasks[-1]["id"] == later


def test_the_more_urgent_come_first_of_whatever_kind(queue: Queue, service: Service) -> None:
    other = replace(queue, kind=f"{queue.kind}_other")
    ids = [
        chosen.enqueue(priority=priority)
        for chosen, priority in ((queue, 3), (other, 2), (queue, 1), (other, 4))
    ]
    tasks = service.rpc(
        "task_claim",
        p_kinds=[queue.kind, other.kind],
        p_worker="w1",
        p_limit=3,
        p_lease_seconds=60,
    )
    assert [task["id"] for task in tasks] == [ids[2], ids[1], ids[0]]
    assert queue.row(ids[3])["status"] == "queued"


def test_a_running_task_is_not_claimed_again(queue: Queue) -> None:
    queue.enqueue()
    queue.claim_one()
    assert queue.claim() == []


def test_a_claim_waits_for_nobody(queue: Queue, db: Connect) -> None:
    """A task whose row is locked is passed over, not waited for."""
    locked, free = queue.enqueue(), queue.enqueue()
    connection = db()
    connection.execute("begin")
    connection.execute("select from private.tasks where id = %s for update", [locked])
    assert [task["id"] for task in queue.claim(2)] == [free]
    connection.execute("rollback")


def test_a_claim_says_who_has_the_task_and_for_how_long(queue: Queue) -> None:
    id_ = queue.enqueue()
    queue.claim_one(lease=90, worker="host:1")
    row = queue.row(id_)
    assert (row["status"], row["leased_by"], row["attempts"]) == ("running", "host:1", 1)
    assert (row["leased_until"] - row["started_at"]).total_seconds() == 90


def test_eight_workers_never_get_the_same_task(queue: Queue, db: Connect) -> None:
    total = 240
    connection = db()
    connection.execute(
        "select private.task_enqueue(%s, '{}') from generate_series(1, %s)", [queue.kind, total]
    )
    connections = [db() for _ in range(WORKERS)]
    barrier = threading.Barrier(WORKERS)
    claimed: list[list[str]] = [[] for _ in range(WORKERS)]

    def work(number: int, own: psycopg.Connection) -> None:
        barrier.wait()
        while True:
            row = own.execute(
                "select backend.task_claim(%s, %s, 3, 60)", [[queue.kind], f"w{number}"]
            ).fetchone()
            assert row
            if not row[0]:
                break
            claimed[number] += [task["id"] for task in row[0]]

    threads = [
        threading.Thread(target=work, args=(number, own)) for number, own in enumerate(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # A claim passes over rows that another one has locked at that moment; none is left behind.
    claimed.append([task["id"] for task in queue.claim(100)])
    times = Counter(id_ for ids in claimed for id_ in ids)
    assert len(times) == total
    assert set(times.values()) == {1}
    by_worker = connection.execute(
        "select leased_by, count(*) from private.tasks where kind = %s group by 1", [queue.kind]
    ).fetchall()
    assert sum(number for _, number in by_worker) == total
    for number in range(WORKERS):
        assert dict(by_worker).get(f"w{number}", 0) == len(claimed[number])


def test_tenants_take_turns(queue: Queue) -> None:
    busy, quiet = str(uuid.uuid4()), str(uuid.uuid4())
    tasks = [queue.enqueue({"n": n}, tenant=busy) for n in range(4)]
    late = [queue.enqueue({"n": n}, tenant=quiet) for n in range(2)]
    nobodys = queue.enqueue({})
    order = [task["id"] for task in queue.claim(limit=10)]
    assert order == [tasks[0], late[0], nobodys, tasks[1], late[1], tasks[2], tasks[3]]
