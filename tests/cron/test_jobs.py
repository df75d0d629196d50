"""The jobs of the product: each does its work, and running it twice is running it once."""

from __future__ import annotations

import uuid
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import pytest

from functions.core.database import Database
from functions.cron.jobs import CRON_JOBS
from functions.cron.scheduler import run_now
from tests.conftest import NewUser
from tests.cron.conftest import Connect
from tests.support.reconciliation import alone
from tests.support.service import Service

pytestmark = pytest.mark.anyio


async def run_twice(database: Database, name: str) -> None:
    """Past the lease of a scheduler that may be running the same job at this moment."""
    for _ in range(2):
        await CRON_JOBS[name].run(database)


def balance(service: Service, user_id: str) -> dict[str, Decimal]:
    answer = service.rpc("credit_balance", p_user_id=user_id)
    return {name: Decimal(answer[name]) for name in ("balance", "held", "available", "debt")}


def test_every_job_has_a_name_the_table_takes(db: Connect) -> None:
    for name, job in CRON_JOBS.items():
        row = db().execute("select %s ~ '^[a-z][a-z0-9_]{0,62}$'", [name]).fetchone()
        assert row == (True,)
        assert job.interval_seconds > 0
        assert job.steps


@pytest.mark.parametrize("name", CRON_JOBS)
async def test_every_job_succeeds(name: str, database: Database, db: Connect) -> None:
    # The worker takes this one up, and reconciles what other tests may be reconciling.
    with alone(db()) if name == "stripe_reconcile" else nullcontext():
        assert await CRON_JOBS[name].run(database) >= 0


async def test_intervals_are_those_the_product_promises() -> None:
    assert {name: job.interval_seconds for name, job in CRON_JOBS.items()} == {
        "reap_holds": 15,
        "expire_lots": 60,
        "lapse_plans": 300,
        "top_ups": 180,
        "sweep_tasks": 30,
        "ads_reset": 3600,
        "images_expire": 60,
        "insights_refresh": 600,
        "notifications": 3600,
        "purge_idempotency": 3600,
        "conversation_purge": 3600,
        "alerts_scan": 3600,
        "alerts_purge": 86_400,
        "usage_partitions": 86_400,
        "usage_addresses": 3600,
        "libraries_refresh": 600,
        "library_answers_purge": 600,
        "libraries_expire": 3600,
        "documents_expire": 3600,
        "erasures_due": 600,
        "provider_keys_revalidate": 3600,
        "provider_key_uses_purge": 86_400,
        "stripe_reconcile": 86_400,
        "archive": 86_400,
        "prove_invariants": 3600,
        "cron_runs_purge": 86_400,
        "task_purge": 86_400,
    }


async def test_reap_holds_returns_what_was_held_once(
    database: Database, service: Service, new_user: NewUser, db: Connect
) -> None:
    user_id = new_user().id
    grant(service, user_id, 50)
    before = balance(service, user_id)
    hold = service.rpc(
        "credit_hold",
        p_user_id=user_id,
        p_organization_id=None,
        p_amount=20,
        p_idempotency_key=f"test:{uuid.uuid4()}",
        p_action="chat",
        p_seconds=60,
    )
    db().execute(
        "update private.credit_holds set deadline = created_at + interval '1 microsecond'"
        " where id = %s",
        [hold["hold_id"]],
    )
    assert balance(service, user_id)["held"] == 20
    await run_twice(database, "reap_holds")
    assert balance(service, user_id) == before


async def test_expire_lots_takes_an_expired_lot_once(
    database: Database, service: Service, new_user: NewUser, db: Connect
) -> None:
    user_id = new_user().id
    before = balance(service, user_id)
    lot = grant(service, user_id, 50)
    connection = db()
    connection.execute(
        "update public.credit_lots set created_at = now() - interval '2 days',"
        " expires_at = now() - interval '1 day' where id = %s",
        [lot["lot_id"]],
    )
    connection.execute(
        "update public.credit_accounts set next_expiry_at = now() - interval '1 day'"
        " where user_id = %s",
        [user_id],
    )
    await run_twice(database, "expire_lots")
    assert balance(service, user_id) == before
    entries = service.rpc("credit_statement", p_user_id=user_id)["entries"]
    assert [entry["type"] for entry in entries].count("expiry") == 1


async def test_purge_idempotency_deletes_what_is_past_its_time_and_nothing_else(
    database: Database, service: Service, new_user: NewUser, db: Connect
) -> None:
    user_id = new_user().id
    grant(service, user_id, 1000)
    for key in ("old", "young"):
        started = service.rpc(
            "chat_start",
            p_user_id=user_id,
            p_request_id=str(uuid.uuid4()),
            p_model="Qwen2.5-32B-Instruct-AWQ",
            p_prompt_tokens=10,
            p_max_tokens=10,
            p_idempotency_key=key,
            p_fingerprint="f",
        )
        service.rpc(
            "chat_finish",
            p_hold_id=started["hold_id"],
            p_prompt_tokens=1,
            p_completion_tokens=1,
            p_answer={"n": 1},
        )
    connection = db()
    connection.execute(
        "update private.idempotent_requests set expires_at = now() - interval '1 second'"
        " where user_id = %s and idempotency_key = 'old'",
        [user_id],
    )
    await run_twice(database, "purge_idempotency")
    left = connection.execute(
        "select idempotency_key from private.idempotent_requests where user_id = %s", [user_id]
    )
    assert left.fetchall() == [("young",)]


async def test_sweep_tasks_queues_a_lost_task_once(
    database: Database, service: Service, db: Connect
) -> None:
    connection = db()
    kind = f"test_{uuid.uuid4().hex[:12]}"
    connection.execute("select private.task_enqueue(%s, '{}')", [kind])
    service.rpc("task_claim", p_kinds=[kind], p_worker="w", p_limit=1, p_lease_seconds=60)
    connection.execute(
        "update private.tasks set leased_until = now() - interval '1 second' where kind = %s",
        [kind],
    )
    await run_twice(database, "sweep_tasks")
    row = connection.execute(
        "select status, attempts from private.tasks where kind = %s", [kind]
    ).fetchone()
    assert row == ("queued", 1)


async def test_task_purge_deletes_what_is_past_its_retention_and_nothing_else(
    database: Database, service: Service, db: Connect
) -> None:
    connection = db()
    kind = f"test_{uuid.uuid4().hex[:12]}"
    for _ in range(2):
        connection.execute("select private.task_enqueue(%s, '{}')", [kind])
    old, young = service.rpc(
        "task_claim", p_kinds=[kind], p_worker="w", p_limit=2, p_lease_seconds=60
    )
    for task in (old, young):
        service.rpc("task_complete", p_id=task["id"], p_lease_token=task["lease_token"])
    connection.execute(
        "update private.tasks set finished_at = now() - interval '15 days' where id = %s",
        [old["id"]],
    )
    await run_twice(database, "task_purge")
    left = connection.execute("select id::text from private.tasks where kind = %s", [kind])
    assert left.fetchall() == [(young["id"],)]


async def test_usage_partitions_are_there_for_the_months_ahead(
    database: Database, db: Connect
) -> None:
    def count() -> Any:
        return (
            db()
            .execute(
                "select count(*) from pg_inherits where inhparent = 'public.usage_logs'::regclass"
            )
            .fetchone()
        )

    await run_twice(database, "usage_partitions")
    before = count()
    await run_twice(database, "usage_partitions")
    assert count() == before
    assert before[0] >= 12


async def test_a_job_run_by_an_operator_is_recorded(database: Database, service: Service) -> None:
    run = await run_now(database, "purge_idempotency", worker="test")
    assert run.error is None
    recorded = {job["name"]: job for job in service.rpc("cron_status")}["purge_idempotency"]
    assert recorded["last_finished_at"] is not None
    assert recorded["last_error"] is None


def grant(service: Service, user_id: str, amount: int) -> dict[str, Any]:
    return service.rpc(
        "credit_grant",
        p_user_id=user_id,
        p_amount=amount,
        p_source="bonus",
        p_idempotency_key=f"test:{uuid.uuid4()}",
        p_reason="test",
        p_actor="test",
        p_expires_at=None,
    )
