"""Request ids end to end: a request, what it queued, the servers it asked, and its rows agree."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from functions.core.database import Database
from functions.core.logging import request_id_is, request_id_var
from functions.core.settings import Settings
from functions.cron.jobs import CronJob, Step
from functions.cron.scheduler import run_now
from local.stack import Stack
from tests.chat.conftest import NewPayer, new_payer, wait_for
from tests.conftest import AsRole
from tests.cron.conftest import Jobs, jobs
from tests.images.conftest import NewPainter, new_painter
from tests.support.service import Service

__all__ = ["NewPayer", "jobs", "new_painter", "new_payer"]

Connect = Callable[[], psycopg.Connection]


@pytest.fixture(params=["rest", "direct"])
async def database(request: pytest.FixtureRequest, stack: Stack) -> AsyncIterator[Database]:
    opened = await Database.open(
        Settings(
            supabase_url=stack.supabase_url,
            supabase_secret_key=stack.keys.secret_key,
            database_url=stack.functions_dsn if request.param == "direct" else None,
        )
    )
    yield opened
    await opened.aclose()


def tasks_of(connection: psycopg.Connection, request_id: str) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "select id::text, kind, status from private.tasks where request_id = %s", [request_id]
        ).fetchall()


def lines(stack: Stack, process: str, text: str) -> list[dict[str, Any]]:
    """The lines of a process's log that contain `text`."""
    log = (stack.logs / f"{process}.log").read_text()
    return [json.loads(line) for line in log.splitlines() if text in line]


def test_a_request_the_work_it_queued_and_the_servers_asked_share_one_id(
    stack: Stack, new_painter: NewPainter, db: Connect, service: Service
) -> None:
    painter = new_painter()
    answer = painter.start("a lighthouse of one request")
    request_id = answer.headers["x-request-id"]
    assert painter.ended(answer.json()["id"])["status"] == "completed"
    connection = db()

    def all_done() -> list[dict[str, Any]]:
        found = tasks_of(connection, request_id)
        # The second was queued by the worker that did the first.
        return found if {"done"} == {row["status"] for row in found} and len(found) > 1 else []

    queued = wait_for(all_done, 30)
    logged = wait_for(lambda: _ended(stack, queued), 10)
    assert {line["request_id"] for line in logged} == {request_id}
    assert [line["message"] for line in lines(stack, "functions", request_id)] == ["request"]

    with httpx.Client(base_url=stack.simulator_url, trust_env=False) as simulator:
        asked = simulator.get("/_requests").json()
    assert any(one["headers"].get("x-request-id") == request_id for one in asked)

    listed = service.rpc("task_list", p_request_id=request_id)
    assert {row["id"] for row in listed} == {row["id"] for row in queued}
    assert {row["request_id"] for row in listed} == {request_id}

    usage = connection.execute(
        "select l.action from public.usage_logs as l where l.request_id = %s", [request_id]
    ).fetchall()
    assert usage == [("image",)]


def _ended(stack: Stack, queued: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [line for row in queued for line in lines(stack, "worker", row["id"])]
    ended = [line for line in found if line["message"] == "task ended"]
    return ended if len(ended) >= len(queued) else []


def test_what_clients_say_in_the_database_is_not_believed(
    new_painter: NewPainter, as_role: AsRole
) -> None:
    painter = new_painter()
    with as_role("authenticated", {"sub": painter.id}) as connection:
        connection.execute(
            "select set_config('request.headers', %s, true)",
            [json.dumps({"x-request-id": str(uuid4())})],
        )
        connection.execute(
            "insert into public.image_generations (model_id, prompt)"
            " values ('flux-schnell', 'a lighthouse')"
        )
        connection.execute("reset role")
        queued = connection.execute(
            "select t.request_id from private.tasks as t"
            " join public.image_generations as g on g.id::text = t.payload ->> 'generation_id'"
            " where g.user_id = %s",
            [painter.id],
        ).fetchall()
    assert queued == [(None,)]


def test_work_that_no_request_asked_for_goes_by_the_id_of_its_task(
    new_painter: NewPainter, db: Connect, stack: Stack
) -> None:
    painter = new_painter()
    row = painter.insert({}).json()[0]
    painter.ended(row["id"])
    (task_id,) = db().execute(
        "select t.id::text from private.tasks as t where t.payload ->> 'generation_id' = %s"
        " and t.request_id is null",
        [row["id"]],
    ).fetchone() or (None,)
    logged = wait_for(lambda: lines(stack, "worker", str(task_id)), 10)
    assert {line["request_id"] for line in logged} == {task_id}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "unusable", ["not-a-uuid", "", "'; drop table x", "00000000-0000-0000-0000-00000000000g"]
)
async def test_what_is_no_id_is_ignored(database: Database, db: Connect, unusable: str) -> None:
    with request_id_is(unusable):
        assert await _seen(database, db) is None


@pytest.mark.anyio
async def test_an_id_lasts_for_one_call(database: Database, db: Connect) -> None:
    request_id = str(uuid4())
    with request_id_is(request_id):
        assert await _seen(database, db) == request_id
    assert request_id_var.get() is None
    assert await _seen(database, db) is None


async def _seen(database: Database, db: Connect) -> str | None:
    """The request of a task that is queued by a call, and called off."""
    connection = db()
    with connection.transaction():
        # Whoever has it queued by now is not asked again: there is one of this key.
        connection.execute("delete from private.tasks where kind = 'stripe_reconcile'")
    await database.rpc("stripe_reconcile_enqueue")
    row = connection.execute(
        "select t.request_id::text from private.tasks as t where t.kind = 'stripe_reconcile'"
        " order by t.id desc limit 1"
    ).fetchone()
    assert row is not None
    found: str | None = row[0]
    return found


@pytest.mark.anyio
async def test_a_cron_run_has_an_id_which_its_tasks_carry_on(
    database: Database, jobs: Jobs, db: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[str | None] = []

    class Noting(Step):
        async def run(self, database: Database) -> int:
            seen.append(request_id_var.get())
            seen.append(await _seen(database, db))
            return 1

    job = CronJob("A test", 60, (Noting("none"),))
    await run_now(database, jobs.name(), worker="test", jobs={jobs.name(): job})
    await run_now(database, jobs.name(), worker="test", jobs={jobs.name(): job})
    assert None not in seen
    assert seen[0] == seen[1] != seen[2] == seen[3]
    assert request_id_var.get() is None
