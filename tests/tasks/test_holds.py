"""Tasks that work under a hold: leases extend it, death and cancellation return it."""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from tests.conftest import NewUser
from tests.support.service import Service, ServiceError
from tests.tasks.conftest import Queue


class Payer:
    """Somebody with 100 credits and a hold of 40."""

    def __init__(self, service: Service, queue: Queue, user_id: str) -> None:
        self.service = service
        self.queue = queue
        self.user_id = user_id
        service.rpc(
            "credit_grant",
            p_user_id=user_id,
            p_amount=100,
            p_source="bonus",
            p_idempotency_key=f"test:{uuid.uuid4()}",
            p_reason="test",
            p_actor="test",
        )
        self.start = self.balance()
        self.hold_id: str = service.rpc(
            "credit_hold",
            p_user_id=user_id,
            p_organization_id=None,
            p_amount=40,
            p_idempotency_key=f"test:{uuid.uuid4()}",
            p_action="image",
            p_seconds=60,
        )["hold_id"]

    def balance(self) -> dict[str, Any]:
        answer = self.service.rpc("credit_balance", p_user_id=self.user_id)
        return {name: Decimal(answer[name]) for name in ("balance", "held", "available", "debt")}

    def hold(self) -> dict[str, Any]:
        row = self.queue.connection.execute(
            "select status, deadline, deadline - now() from private.credit_holds where id = %s",
            [self.hold_id],
        ).fetchone()
        assert row
        return {"status": row[0], "deadline": row[1], "seconds_left": row[2].total_seconds()}

    def change_hold(self, assignments: str) -> None:
        self.queue.connection.execute(
            f"update private.credit_holds set {assignments} where id = %s",  # noqa: S608
            [self.hold_id],
        )

    def expire(self) -> None:
        """Let the reaper return the hold."""
        self.change_hold("deadline = created_at + interval '1 microsecond'")
        self.service.rpc("credit_reap")
        assert self.hold()["status"] == "expired"


@pytest.fixture
def payer(service: Service, queue: Queue, new_user: NewUser) -> Payer:
    return Payer(service, queue, new_user().id)


def test_one_key_does_not_work_under_two_holds(payer: Payer, queue: Queue) -> None:
    first = queue.enqueue(key="k")
    with pytest.raises(Exception, match="already works under another hold"):
        queue.enqueue(key="k", hold_id=payer.hold_id)
    assert queue.row(first)["hold_id"] is None


def test_a_queued_task_whose_hold_is_gone_is_not_started(payer: Payer, queue: Queue) -> None:
    id_ = queue.enqueue(hold_id=payer.hold_id)
    payer.expire()
    assert queue.claim() == []
    queue.service.rpc("task_bury")
    row = queue.row(id_)
    assert row["status"] == "dead"
    assert row["last_error"] == "the credits held for it were returned before it could run"
    assert payer.balance() == payer.start


def test_a_dead_task_whose_hold_is_gone_is_not_retried(payer: Payer, queue: Queue) -> None:
    id_ = queue.enqueue(hold_id=payer.hold_id)
    task = queue.claim_one()
    queue.service.rpc(
        "task_fail", p_id=id_, p_lease_token=task["lease_token"], p_error="x", p_is_final=True
    )
    with pytest.raises(ServiceError) as refused:
        queue.service.rpc("task_retry", p_id=id_)
    assert (refused.value.status, refused.value.code) == (409, "hold_released")
    assert queue.row(id_)["status"] == "dead"


def test_a_renewal_is_refused_when_the_hold_has_come_to_its_end(payer: Payer, queue: Queue) -> None:
    id_ = queue.enqueue(hold_id=payer.hold_id)
    task = queue.claim_one()
    until = queue.row(id_)["leased_until"]
    payer.expire()
    with pytest.raises(ServiceError) as refused:
        queue.service.rpc(
            "task_renew", p_id=id_, p_lease_token=task["lease_token"], p_lease_seconds=300
        )
    assert (refused.value.status, refused.value.code) == (409, "hold_expired")
    assert queue.row(id_)["leased_until"] == until


def test_a_claim_makes_the_hold_outlast_the_lease(payer: Payer, queue: Queue) -> None:
    id_ = queue.enqueue(hold_id=payer.hold_id)
    queue.claim_one(lease=300)
    assert payer.hold()["deadline"] > queue.row(id_)["leased_until"]


def test_a_renewal_extends_the_hold(payer: Payer, queue: Queue) -> None:
    id_ = queue.enqueue(hold_id=payer.hold_id)
    task = queue.claim_one(lease=30)
    before = payer.hold()["deadline"]
    answer = queue.service.rpc(
        "task_renew", p_id=id_, p_lease_token=task["lease_token"], p_lease_seconds=600
    )
    after = payer.hold()["deadline"]
    assert (after - before).total_seconds() > 500
    assert datetime.fromisoformat(answer["hold_deadline"]) == after


def test_a_hold_lasts_through_the_pause_before_the_next_attempt(payer: Payer, queue: Queue) -> None:
    id_ = queue.enqueue(hold_id=payer.hold_id)
    task = queue.claim_one(lease=10)
    queue.service.rpc(
        "task_fail",
        p_id=id_,
        p_lease_token=task["lease_token"],
        p_error="busy",
        p_retry_after=900,
    )
    assert payer.hold()["deadline"] > queue.row(id_)["run_after"]
    assert payer.balance()["held"] == 40


def test_a_hold_outlasts_a_worker_that_dies_until_the_task_runs_again(
    payer: Payer, queue: Queue
) -> None:
    id_ = queue.enqueue(hold_id=payer.hold_id)
    queue.claim_one(lease=30)
    queue.lapse(id_)
    queue.service.rpc("credit_reap")
    queue.sweep()
    queue.make_due(id_)
    assert queue.claim_one()["attempt"] == 2
    assert payer.hold()["status"] == "active"


def test_a_settled_hold_does_not_stop_the_task_from_being_reported(
    payer: Payer, queue: Queue
) -> None:
    id_ = queue.enqueue(hold_id=payer.hold_id)
    task = queue.claim_one()
    queue.service.rpc("credit_settle", p_hold_id=payer.hold_id, p_amount=25)
    queue.service.rpc("task_renew", p_id=id_, p_lease_token=task["lease_token"], p_lease_seconds=60)
    queue.service.rpc("task_complete", p_id=id_, p_lease_token=task["lease_token"])
    assert payer.balance()["balance"] == payer.start["balance"] - 25


@pytest.mark.parametrize("end", ["fail", "sweep", "cancel"])
def test_a_task_that_will_not_be_done_costs_nothing(end: str, payer: Payer, queue: Queue) -> None:
    id_ = queue.enqueue(hold_id=payer.hold_id, max_attempts=1)
    token = queue.claim_one()["lease_token"]
    assert payer.balance()["held"] == 40
    if end == "fail":
        queue.service.rpc("task_fail", p_id=id_, p_lease_token=token, p_error="x")
    elif end == "sweep":
        queue.lapse(id_)
        queue.sweep()
    else:
        queue.service.rpc("task_cancel", p_id=id_, p_reason="not wanted")
    assert payer.hold()["status"] == "released"
    assert payer.balance() == payer.start


def test_a_dead_task_that_was_paid_for_stays_paid(payer: Payer, queue: Queue) -> None:
    id_ = queue.enqueue(hold_id=payer.hold_id, max_attempts=1)
    token = queue.claim_one()["lease_token"]
    queue.service.rpc("credit_settle", p_hold_id=payer.hold_id, p_amount=25)
    queue.service.rpc("task_fail", p_id=id_, p_lease_token=token, p_error="after the settlement")
    assert queue.row(id_)["status"] == "dead"
    assert payer.hold()["status"] == "settled"
    assert payer.balance()["balance"] == payer.start["balance"] - 25
