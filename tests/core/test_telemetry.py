"""Traces and metrics: what reaches a collector, what never does, and nothing while it is off."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pydantic import SecretStr

from functions.app import create_app
from functions.core import telemetry
from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.json import Json
from functions.core.logging import request_id_is
from functions.core.settings import Settings, SettingsError
from functions.core.telemetry_export import plain
from functions.cron.jobs import CronJob, Step
from functions.cron.scheduler import run_now
from functions.tasks.context import TaskContext, TaskKind
from functions.tasks.runner import Runner, tell_of_tasks
from local.stack import Stack
from tests.chat.conftest import NewPayer, mark, new_payer, settings_of
from tests.cron.conftest import Jobs, jobs
from tests.support.http_server import serve

__all__ = ["jobs", "mark", "new_payer"]

pytestmark = pytest.mark.anyio

Connect = Callable[[], psycopg.Connection]
HEADER = "collector-" + "token-0123456789"
CODE = f"telemetry_{uuid4().hex[:12]}"


@dataclass
class Collector:
    """An OTLP receiver over HTTP; keeps what it is sent."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    spans: list[Any] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)

    async def take(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()  # unpacked by aiohttp
        self.bodies.append(body)
        self.keys.add(request.headers.get("x-collector-key"))
        if request.path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        elif request.path == "/v1/metrics":
            for told in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in told.scope_metrics:
                    self.metrics |= {metric.name: metric for metric in scope.metrics}
        return web.Response(body=b"", content_type="application/x-protobuf")

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Any:
        [span] = self.named(name)
        return span

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        metric = self.metrics[name]
        data = getattr(metric, metric.WhichOneof("data"))
        return [(facts(point), point) for point in data.data_points]


def facts(told: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in told.attributes}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    async with serve(collector.take) as url:
        collector.url = url
        yield collector


@pytest.fixture(autouse=True)
def silence_afterwards() -> Iterator[None]:
    yield
    telemetry.stop()


def settings_to(collector: Collector, **changes: Any) -> Settings:
    return Settings(
        telemetry_url=collector.url,
        telemetry_headers={"X-Collector-Key": SecretStr(HEADER)},
        **changes,
    )


async def test_a_trace_goes_from_the_request_to_its_task_and_holds_nothing_private(
    stack: Stack, new_payer: NewPayer, db: Connect, mark: str
) -> None:
    payer = new_payer()
    said = f"{mark} my password is hunter2"
    async with collecting() as collector:
        settings = settings_of(
            stack,
            telemetry_url=collector.url,
            telemetry_headers={"X-Collector-Key": HEADER},
        )
        app = create_app(settings)

        async with app.router.lifespan_context(app):
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://quernel.test"
            ) as client:
                answer = await client.post(
                    "/v1/chat/completions?secret=s3cr3t",
                    json={
                        "model": "Qwen2.5-32B-Instruct-AWQ",
                        "messages": [{"role": "user", "content": said}],
                        "user": "ada@quernel.app",
                    },
                    headers={"Authorization": f"Bearer {payer.token}"},
                )
            assert answer.status_code == 200, answer.text
            request_id = answer.headers["x-request-id"]
            task_id = await _do_a_task(app.state.database, settings, db(), request_id, said)

    request = collector.one("request POST /v1/chat/completions")
    task = collector.one(f"task {CODE}")
    inside = collector.one("rpc task_status")
    start, finish = collector.one("rpc chat_start"), collector.one("rpc chat_finish")
    upstream = collector.one("upstream quernel")
    trace_id = UUID(request_id).bytes
    assert {span.trace_id for span in collector.spans} == {trace_id}
    assert (request.parent_span_id, request.span_id) == (b"", trace_id[8:])
    assert {span.parent_span_id for span in (task, start, finish, upstream)} == {request.span_id}
    assert inside.parent_span_id == task.span_id
    assert facts(request) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
    }
    assert facts(upstream) == {
        "gen_ai.provider.name": "quernel",
        "gen_ai.request.model": "Qwen2.5-32B-Instruct-AWQ",
        "gen_ai.usage.input_tokens": answer.json()["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": answer.json()["usage"]["completion_tokens"],
        "quernel.credential": "platform",
        "quernel.attempt": 1,
        "quernel.outcome": "completed",
    }
    assert facts(task) == {
        "quernel.task.kind": CODE,
        "quernel.task.id": task_id,
        "quernel.attempt": 1,
        "quernel.outcome": "failed",
    }
    assert facts(start) == {"db.stored_procedure.name": "chat_start"}

    everything = b"".join(collector.bodies)
    content = answer.json()["choices"][0]["message"]["content"]
    private = (said, mark, "hunter2", "s3cr3t", content, payer.token, payer.id, "quernel.app")
    for text in (*private, HEADER, stack.keys.secret_key):
        assert text.encode() not in everything
    assert collector.keys == {HEADER}

    (known, requests), *_ = collector.points("http.server.request.duration")
    assert known == facts(request)
    assert requests.count == 1
    points = collector.points("quernel.tokens")
    assert {known["gen_ai.token.type"]: point.as_int for known, point in points} == {
        "input": answer.json()["usage"]["prompt_tokens"],
        "output": answer.json()["usage"]["completion_tokens"],
    }
    [(known, credits_)] = collector.points("quernel.credits.settled")
    assert known == {"db.stored_procedure.name": "chat_finish"}
    assert credits_.as_double == pytest.approx(float(answer.json()["usage"]["credits_charged"]))
    [(known, failed)] = collector.points("quernel.failures")
    assert known == {"quernel.where": "task", "quernel.task.kind": CODE, "error.type": "failed"}
    assert failed.as_int == 1


async def _do_a_task(
    database: Database,
    settings: Settings,
    connection: psycopg.Connection,
    request_id: str,
    said: str,
) -> str:
    """Queue a task on behalf of the request, and have a worker fail at it."""

    async def handler(_: dict[str, Json], context: TaskContext) -> None:
        await context.database.rpc("task_status")
        raise RuntimeError(f"it broke over {said}")

    with connection.transaction():
        connection.execute("select set_config('quernel.request_id', %s, true)", [request_id])
        row = connection.execute(
            "select private.task_enqueue(%s, '{}', p_max_attempts => 1)::text", [CODE]
        ).fetchone()
    assert row is not None
    runner = Runner(settings, database, {CODE: TaskKind(handler, 30)}, name="test")
    assert await runner.claim() == 1
    await runner.stop(grace_seconds=20)
    task_id: str = row[0]
    return task_id


@pytest.fixture
async def database(stack: Stack) -> AsyncIterator[Database]:
    opened = await Database.open(settings_of(stack))
    yield opened
    await opened.aclose()


async def test_a_cron_run_and_the_queue_are_told_of(database: Database, jobs: Jobs) -> None:
    class Work(Step):
        async def run(self, database: Database) -> int:
            await database.rpc("ready")
            return 7

    class Broken(Step):
        async def run(self, _: Database) -> int:
            raise QuernelError("database_timeout", 503, "said with ada@quernel.app")

    good, bad = jobs.name("good"), jobs.name("bad")
    async with collecting() as collector:
        telemetry.start(settings_to(collector), "worker")
        for name, step in ((good, Work("none")), (bad, Broken("none"))):
            job = CronJob("A test", 60, (step,))
            await run_now(database, name, worker="test", jobs={name: job})
        tell_of_tasks({"queued": 4, "due": 3, "running": 2, "lapsed": 1, "dead": 0})
        await asyncio.to_thread(telemetry.stop)

    run = collector.one(f"cron {good}")
    assert facts(run) == {"quernel.cron.job": good, "quernel.rows": 7, "quernel.outcome": "done"}
    assert collector.one("rpc ready").parent_span_id == run.span_id
    assert facts(collector.one(f"cron {bad}"))["quernel.outcome"] == "failed"
    points = collector.points("quernel.tasks")
    lengths = {known["quernel.state"]: point.as_int for known, point in points}
    assert lengths == {"queued": 4, "due": 3, "running": 2, "lapsed": 1, "dead": 0}
    assert [known for known, _ in collector.points("quernel.failures")] == [
        {"quernel.where": "cron", "quernel.cron.job": bad}
    ]
    # What a worker asks between two pieces of work is of no trace.
    assert {span.name.split()[0] for span in collector.spans} == {"cron", "rpc"}


async def test_an_exception_is_told_by_its_kind_and_not_by_what_it_says() -> None:
    async with collecting() as collector:
        telemetry.start(settings_to(collector), "functions")
        with pytest.raises(ValueError, match="hunter2"), telemetry.span("cron", "a"):
            raise ValueError("hunter2")
        with pytest.raises(QuernelError), telemetry.span("cron", "b"):
            raise QuernelError("insufficient_credits", 402, "hunter2")
        await asyncio.to_thread(telemetry.stop)
    broken, refused = collector.one("cron a"), collector.one("cron b")
    assert facts(broken) == {"error.type": "ValueError"}
    assert facts(refused) == {"error.type": "insufficient_credits"}
    assert (broken.status.code, refused.status.code) == (2, 0)
    assert not broken.events
    assert b"hunter2" not in b"".join(collector.bodies)


async def test_a_share_of_traces_is_kept_and_each_of_them_whole() -> None:
    ids = [uuid4() for _ in range(400)]
    async with collecting() as collector:
        telemetry.start(settings_to(collector, telemetry_sample_ratio=0.25), "functions")
        for one in ids:
            with (
                request_id_is(str(one)),
                telemetry.span("request", "GET /x"),
                telemetry.span("rpc", "ready"),
            ):
                pass
        await asyncio.to_thread(telemetry.stop)
    kept = {span.trace_id for span in collector.named("request GET /x")}
    assert kept == {span.trace_id for span in collector.named("rpc ready")}
    assert 40 < len(kept) < 180
    bound = (1 << 48) // 4
    assert kept == {one.bytes for one in ids if one.int & ((1 << 48) - 1) < bound}


async def test_a_collector_that_is_away_stops_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    telemetry.start(Settings(telemetry_url=f"http://127.0.0.1:{port}"), "functions")
    with telemetry.span("cron", "a"):
        telemetry.count("tokens", 1)
    async with asyncio.timeout(30):
        await asyncio.to_thread(telemetry.stop)
    assert not telemetry.is_on()


@pytest.mark.parametrize(
    "told",
    [
        {"prompt": "short"},
        {"model": "tell me about ada"},
        {"model": "ada@quernel.app"},
        {"model": "sk-" + "a" * 30},
        {"model": "x" * 200},
        {"route": None},
        {"error": ["a"]},
        {"rows": {"a": 1}},
    ],
    ids=["unlisted", "words", "address", "key", "long", "nothing", "list", "object"],
)
def test_what_is_not_on_the_list_or_not_plain_is_not_told(told: dict[str, Any]) -> None:
    assert plain(told) == {}


def test_nothing_is_imported_while_it_is_off() -> None:
    code = """
import asyncio, sys
from functions import app, hosted, worker
from functions.core import telemetry
from functions.core.settings import Settings
app.create_app(Settings())
telemetry.start(Settings(), "functions")
with telemetry.span("request", "GET /x") as span:
    span.note(status=200)
telemetry.count("tokens", 1)
assert span is telemetry.UNHEARD
heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "functions.core.telemetry_export")
found = sorted(name for name in sys.modules if name.startswith(heavy))
print(*found)
sys.exit(bool(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_without_the_packages_the_endpoint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "functions.core.telemetry_export", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"quernel\[telemetry\]"):
        telemetry.start(Settings(telemetry_url="http://127.0.0.1:1"), "functions")


@pytest.mark.parametrize(
    ("url", "is_refused"),
    [("http://collector:4318", True), ("http://127.0.0.1:4318", False), ("https://c.de", False)],
)
def test_deployments_send_over_tls_or_to_this_machine(url: str, is_refused: bool) -> None:
    values: dict[str, Any] = {
        "environment": "production",
        "public_url": "https://api.quernel.app",
        "supabase_url": "https://p.supabase.co",
        "supabase_secret_key": "sb_secret_" + "0123456789abcdefghijkl",
        "telemetry_url": url,
    }
    if is_refused:
        with pytest.raises(ValueError, match="QUERNEL_TELEMETRY_URL must be https"):
            Settings(**values)
    else:
        assert Settings(**values).telemetry_url == url
