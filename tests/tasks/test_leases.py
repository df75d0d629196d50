"""Leases: who lost one is not heard; who lets one lapse is replaced."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest

from tests.support.service import Service, ServiceError
from tests.tasks.conftest import Connect, Queue

REPORTS: list[tuple[str, dict[str, Any]]] = [
    ("task_renew", {"p_lease_seconds": 60}),
    ("task_complete", {"p_result": {"by": "the wrong one"}}),
    ("task_fail", {"p_error": "by the wrong one"}),
    ("task_give_back", {}),
]


@pytest.mark.parametrize(("function", "arguments"), REPORTS)
def test_a_wrong_token_is_refused(
    function: str, arguments: dict[str, Any], queue: Queue, service: Service
) -> None:
    id_ = queue.enqueue()
    queue.claim_one()
    before = queue.row(id_)
    with pytest.raises(ServiceError) as refused:
        service.rpc(function, p_id=id_, p_lease_token=uuid.uuid4(), **arguments)
    assert (refused.value.status, refused.value.code) == (409, "lease_lost")
    assert queue.row(id_) == before


@pytest.mark.parametrize(("function", "arguments"), REPORTS)
def test_a_task_that_nobody_has_takes_no_report(
    function: str, arguments: dict[str, Any], queue: Queue, service: Service
) -> None:
    id_ = queue.enqueue()
    with pytest.raises(ServiceError) as refused:
        service.rpc(function, p_id=id_, p_lease_token=None, **arguments)
    assert (refused.value.status, refused.value.code) == (409, "lease_lost")
    assert queue.row(id_)["status"] == "queued"


@pytest.mark.parametrize(("function", "arguments"), REPORTS)
def test_a_worker_whose_task_was_taken_over_is_not_heard(
    function: str, arguments: dict[str, Any], queue: Queue, service: Service
) -> None:
    id_ = queue.enqueue()
    first = queue.claim_one(worker="first")
    queue.lapse(id_)
    queue.sweep()
    queue.make_due(id_)
    second = queue.claim_one(worker="second")
    before = queue.row(id_)

    with pytest.raises(ServiceError) as refused:
        service.rpc(function, p_id=id_, p_lease_token=first["lease_token"], **arguments)
    assert refused.value.code == "lease_lost"
    assert queue.row(id_) == before

    service.rpc(
        "task_complete", p_id=id_, p_lease_token=second["lease_token"], p_result={"by": "second"}
    )
    assert queue.row(id_)["result"] == {"by": "second"}


def test_a_finished_task_cannot_be_finished_again(queue: Queue, service: Service) -> None:
    id_ = queue.enqueue()
    token = queue.claim_one()["lease_token"]
    service.rpc("task_complete", p_id=id_, p_lease_token=token, p_result={"n": 1})
    with pytest.raises(ServiceError) as refused:
        service.rpc("task_complete", p_id=id_, p_lease_token=token, p_result={"n": 2})
    assert refused.value.code == "lease_lost"
    assert queue.row(id_)["result"] == {"n": 1}


def test_a_lease_that_lapsed_is_swept_and_the_task_runs_again(queue: Queue) -> None:
    id_ = queue.enqueue()
    queue.claim_one(worker="gone")
    queue.lapse(id_)
    queue.sweep()
    row = queue.row(id_)
    assert (row["status"], row["attempts"], row["lease_token"]) == ("queued", 1, None)
    assert row["last_error"] == "worker gone was not heard of in its lease"
    queue.make_due(id_)
    assert queue.claim_one()["attempt"] == 2


def test_a_live_lease_is_not_swept(queue: Queue) -> None:
    id_ = queue.enqueue()
    queue.claim_one()
    before = queue.row(id_)
    queue.sweep()
    assert queue.row(id_) == before


def test_a_renewed_lease_is_not_swept(queue: Queue, service: Service) -> None:
    id_ = queue.enqueue()
    task = queue.claim_one(lease=1)
    service.rpc("task_renew", p_id=id_, p_lease_token=task["lease_token"], p_lease_seconds=600)
    row = queue.row(id_)
    assert (row["leased_until"] - row["started_at"]).total_seconds() > 500
    queue.sweep()
    assert queue.row(id_)["status"] == "running"


def test_a_renewal_never_shortens_a_lease(queue: Queue, service: Service) -> None:
    id_ = queue.enqueue()
    task = queue.claim_one(lease=600)
    until = queue.row(id_)["leased_until"]
    service.rpc("task_renew", p_id=id_, p_lease_token=task["lease_token"], p_lease_seconds=1)
    assert queue.row(id_)["leased_until"] == until


def test_a_task_given_back_is_due_at_once_and_keeps_its_attempt(
    queue: Queue, service: Service
) -> None:
    id_ = queue.enqueue()
    task = queue.claim_one()
    service.rpc("task_give_back", p_id=id_, p_lease_token=task["lease_token"])
    assert queue.claim_one()["attempt"] == 1


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("status = 'running'", "a_running_task_has_a_lease_and_no_other_has"),
        ("status = 'done'", "a_finished_task_says_when"),
        ("finished_at = now()", "a_finished_task_says_when"),
        ("status = 'dead', finished_at = now()", "a_dead_task_has_a_reason"),
        ("result = '{}'", "only_a_done_task_has_a_result"),
        ("attempts = max_attempts", "a_queued_task_has_attempts_left"),
        ("attempts = -1", "attempts_are_within_their_limit"),
        ("status = 'paused'", "status_is_known"),
        (
            "lease_token = gen_random_uuid(), leased_until = now(), leased_by = 'w'",
            "a_running_task_has_a_lease_and_no_other_has",
        ),
    ],
)
def test_the_table_refuses_impossible_states(
    change: str, constraint: str, queue: Queue, db: Connect
) -> None:
    id_ = queue.enqueue()
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        db().execute(f"update private.tasks set {change} where id = %s", [id_])  # noqa: S608
    assert caught.value.diag.constraint_name == constraint
