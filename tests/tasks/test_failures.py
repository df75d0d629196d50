"""Failed attempts: growing pauses, then a dead letter that says why and waits for an operator."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.service import Service, ServiceError
from tests.tasks.conftest import Connect, Queue


def fail(queue: Queue, task: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    return queue.service.rpc(
        "task_fail",
        p_id=task["id"],
        p_lease_token=task["lease_token"],
        **{"p_error": "no luck", **arguments},
    )


def pause(queue: Queue, id_: str) -> float:
    """Seconds from the failure to the next attempt."""
    row = queue.row(id_)
    return (row["run_after"] - row["updated_at"]).total_seconds()


@pytest.mark.parametrize("seconds", [-1, 86_401])
def test_a_retry_in_the_past_or_far_away_is_refused(seconds: int, queue: Queue) -> None:
    id_ = queue.enqueue()
    with pytest.raises(ServiceError) as refused:
        fail(queue, queue.claim_one(), p_retry_after=seconds)
    assert refused.value.code == "invalid_argument"
    assert queue.row(id_)["status"] == "running"


def test_a_failed_task_waits_and_says_why(queue: Queue) -> None:
    id_ = queue.enqueue()
    answer = fail(queue, queue.claim_one(), p_error="the model was away")
    assert (answer["status"], answer["attempts"]) == ("queued", 1)
    row = queue.row(id_)
    assert row["last_error"] == "the model was away"
    assert 2.5 <= pause(queue, id_) <= 5
    assert queue.claim() == []


def test_the_pause_doubles_with_every_attempt(queue: Queue) -> None:
    id_ = queue.enqueue()
    for attempt in range(1, 6):
        fail(queue, queue.claim_one())
        longest = 5 * 2 ** (attempt - 1)
        assert longest / 2 <= pause(queue, id_) <= longest
        queue.make_due(id_)


def test_the_pause_has_jitter_and_a_cap(db: Connect) -> None:
    rows = (
        db()
        .execute("select extract(epoch from private.task_backoff(90)) from generate_series(1, 50)")
        .fetchall()
    )
    pauses = [float(seconds) for (seconds,) in rows]
    assert all(1800 <= seconds <= 3600 for seconds in pauses)
    assert max(pauses) - min(pauses) > 100


def test_a_handler_may_choose_the_pause(queue: Queue) -> None:
    id_ = queue.enqueue()
    fail(queue, queue.claim_one(), p_retry_after=77)
    assert 76 <= pause(queue, id_) <= 77


def test_the_last_attempt_makes_a_dead_letter(queue: Queue) -> None:
    id_ = queue.enqueue(max_attempts=2)
    fail(queue, queue.claim_one())
    queue.make_due(id_)
    answer = fail(queue, queue.claim_one(), p_error="twice")
    assert answer["status"] == "dead"
    row = queue.row(id_)
    assert (row["status"], row["attempts"], row["last_error"]) == ("dead", 2, "twice")
    assert row["finished_at"] is not None
    assert queue.claim() == []


def test_a_final_failure_is_dead_at_once(queue: Queue) -> None:
    id_ = queue.enqueue()
    assert fail(queue, queue.claim_one(), p_is_final=True)["status"] == "dead"
    assert queue.row(id_)["attempts"] == 1


def test_a_task_whose_workers_keep_dying_is_dead_in_the_end(queue: Queue) -> None:
    id_ = queue.enqueue(max_attempts=1)
    queue.claim_one(worker="w9")
    queue.lapse(id_)
    queue.sweep()
    row = queue.row(id_)
    assert (row["status"], row["last_error"]) == ("dead", "worker w9 was not heard of in its lease")


@pytest.mark.parametrize("error", ["", None, "x" * 5000])
def test_every_dead_letter_has_a_reason_of_bounded_length(error: str | None, queue: Queue) -> None:
    id_ = queue.enqueue()
    fail(queue, queue.claim_one(), p_error=error, p_is_final=True)
    assert 1 <= len(queue.row(id_)["last_error"]) <= 2000


# Operators --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "running", "done", "cancelled"])
def test_only_a_dead_task_is_retried(status: str, queue: Queue, service: Service) -> None:
    id_ = queue.enqueue()
    if status in ("running", "done"):
        token = queue.claim_one()["lease_token"]
    if status == "done":
        service.rpc("task_complete", p_id=id_, p_lease_token=token)
    if status == "cancelled":
        service.rpc("task_cancel", p_id=id_, p_reason="test")
    with pytest.raises(ServiceError) as refused:
        service.rpc("task_retry", p_id=id_)
    assert (refused.value.status, refused.value.code) == (409, "task_not_dead")
    assert refused.value.facts == {"status": status}
    assert queue.row(id_)["status"] == status


@pytest.mark.parametrize("function", ["task_retry", "task_cancel"])
def test_a_task_that_does_not_exist_is_not_found(function: str, service: Service) -> None:
    arguments = {"p_reason": "test"} if function == "task_cancel" else {}
    with pytest.raises(ServiceError) as refused:
        service.rpc(function, p_id="00000000-0000-7000-8000-000000000000", **arguments)
    assert (refused.value.status, refused.value.code) == (404, "task_not_found")


def test_a_retried_task_gets_all_its_attempts(queue: Queue, service: Service) -> None:
    id_ = queue.enqueue(max_attempts=1)
    fail(queue, queue.claim_one())
    assert service.rpc("task_retry", p_id=id_)["status"] == "queued"
    row = queue.row(id_)
    assert (row["attempts"], row["finished_at"], row["last_error"]) == (0, None, "no luck")
    task = queue.claim_one()
    service.rpc("task_complete", p_id=id_, p_lease_token=task["lease_token"])
    assert queue.row(id_)["status"] == "done"


def test_a_dead_task_whose_key_is_queued_anew_is_not_retried(
    queue: Queue, service: Service
) -> None:
    dead = queue.enqueue(key="k", max_attempts=1)
    fail(queue, queue.claim_one())
    queue.enqueue(key="k")
    with pytest.raises(ServiceError) as refused:
        service.rpc("task_retry", p_id=dead)
    assert (refused.value.status, refused.value.code) == (409, "task_already_queued")
    assert queue.row(dead)["status"] == "dead"


def test_a_done_task_is_not_cancelled(queue: Queue, service: Service) -> None:
    id_ = queue.enqueue()
    service.rpc("task_complete", p_id=id_, p_lease_token=queue.claim_one()["lease_token"])
    with pytest.raises(ServiceError) as refused:
        service.rpc("task_cancel", p_id=id_, p_reason="late")
    assert refused.value.code == "task_already_done"
    assert queue.row(id_)["status"] == "done"


def test_a_cancelled_task_is_never_claimed(queue: Queue, service: Service) -> None:
    id_ = queue.enqueue()
    service.rpc("task_cancel", p_id=id_, p_reason="not wanted")
    assert queue.claim() == []
    assert service.rpc("task_cancel", p_id=id_, p_reason="again")["last_error"] == "not wanted"


def test_the_worker_of_a_cancelled_task_is_not_heard(queue: Queue, service: Service) -> None:
    id_ = queue.enqueue()
    task = queue.claim_one()
    service.rpc("task_cancel", p_id=id_, p_reason="not wanted")
    with pytest.raises(ServiceError) as refused:
        service.rpc("task_complete", p_id=id_, p_lease_token=task["lease_token"])
    assert refused.value.code == "lease_lost"


def test_the_list_shows_no_payloads(queue: Queue, service: Service) -> None:
    ids = [queue.enqueue({"email": "somebody@example.com"}) for _ in range(3)]
    listed = service.rpc("task_list", p_kind=queue.kind)
    assert [task["id"] for task in listed] == ids[::-1]
    assert "somebody" not in str(listed)
    page = service.rpc("task_list", p_kind=queue.kind, p_limit=1, p_before=ids[1])
    assert [task["id"] for task in page] == [ids[0]]
    assert service.rpc("task_list", p_kind=queue.kind, p_status="dead") == []


def test_the_status_counts_tasks(queue: Queue, service: Service) -> None:
    for _ in range(3):
        queue.enqueue()
    later = queue.enqueue()
    queue.change(later, "run_after = now() + interval '1 hour'")
    lapsed = queue.claim_one()["id"]
    queue.change(lapsed, "leased_until = now() + interval '1 second'")
    status = service.rpc("task_status", p_kinds=[queue.kind])
    counts = {name: status[name] for name in ("queued", "due", "running", "dead")}
    assert counts == {"queued": 3, "due": 2, "running": 1, "dead": 0}


def test_only_old_finished_tasks_are_purged(queue: Queue, service: Service) -> None:
    old_done, young_done, old_dead = queue.enqueue(), queue.enqueue(), queue.enqueue()
    for id_, token in [(task["id"], task["lease_token"]) for task in queue.claim(3)]:
        if id_ == old_dead:
            service.rpc("task_fail", p_id=id_, p_lease_token=token, p_error="x", p_is_final=True)
        else:
            service.rpc("task_complete", p_id=id_, p_lease_token=token)
    for id_ in (old_done, old_dead):
        queue.change(id_, "finished_at = now() - interval '40 days'")
    service.rpc("task_purge", p_days=30)
    left = {task["id"] for task in service.rpc("task_list", p_kind=queue.kind)}
    assert left == {young_done, old_dead}


def test_a_purge_of_the_future_is_refused(queue: Queue, service: Service) -> None:
    id_ = queue.enqueue()
    service.rpc("task_complete", p_id=id_, p_lease_token=queue.claim_one()["lease_token"])
    with pytest.raises(ServiceError) as refused:
        service.rpc("task_purge", p_days=-1)
    assert refused.value.code == "invalid_argument"
    assert queue.row(id_)["status"] == "done"
