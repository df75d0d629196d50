"""The chat route beside the same upstream asked directly: requests, added latency, streams."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import psycopg

from local.paths import ROOT
from local.processes import Child, answers, free_port
from local.stack import Stack
from tests.bench.books import report_books
from tests.bench.load import Load, StreamLoad, post_many, stream_many

MODEL = "Qwen2.5-32B-Instruct-AWQ"
REQUESTS = int(os.environ.get("QUERNEL_BENCH_REQUESTS", "1500"))
ROUNDS = 2  # A B A B
CONCURRENCY = (1, 16, 64)
FRAMES = 66  # of one stream, the last and [DONE] included
FIRST_TOKENS = 200  # streams whose first token is timed, at concurrency 1
STREAMS = (32, 64, 128, 192, 256)
PACE_MS = 20

T = TypeVar("T", Load, StreamLoad)


@dataclass
class Bench:
    """One stack, what it was sent, and what of it was answered with 200."""

    quernel: str
    upstream: str
    headers: dict[str, str]
    functions: psutil.Process
    answered: int = 0
    sent: int = 0
    cpu: float = 0.0  # seconds that the functions app took for the last load

    def body(self, **options: Any) -> bytes:
        message = {"role": "user", "content": "Say something static."}
        return json.dumps(
            {"model": MODEL, "max_tokens": 64, "messages": [message]} | options
        ).encode()

    def post(self, url: str, *, requests: int, connections: int) -> Load:
        return self._run(
            url,
            post_many(
                f"{url}/chat/completions",
                self.body(),
                self.headers,
                requests=requests,
                connections=connections,
            ),
        )

    def stream(
        self, url: str, streams: int, *, pace_ms: int, one_by_one: bool = False
    ) -> StreamLoad:
        return self._run(
            url,
            stream_many(
                f"{url}/chat/completions",
                self.body(stream=True, pace_ms=pace_ms),
                self.headers,
                streams=streams,
                pace_ms=pace_ms,
                one_by_one=one_by_one,
            ),
        )

    def _run(self, url: str, work: Coroutine[Any, Any, T]) -> T:
        before = self.functions.cpu_times()
        load = asyncio.run(work)
        after = self.functions.cpu_times()
        if url == self.quernel:
            self.cpu = after.user + after.system - before.user - before.system
            self.answered += load.answered
            self.sent += load.answered + load.refused
        return load


def bench_chat(state: Path, transport: str) -> int:
    """Print the tables of one transport; how many books disagree afterwards."""
    upstream_port = free_port()
    upstream = Child(
        "Static upstream",
        [sys.executable, "-m", "tests.bench.upstream", str(upstream_port)],
        log=state / "logs" / "upstream.log",
        cwd=ROOT,
        env=dict(os.environ),
    )
    upstream_url = f"http://127.0.0.1:{upstream_port}/v1"
    try:
        upstream.wait_until(lambda: answers(upstream_url), seconds=10)
        stack = Stack(
            state=state / transport,
            rebuild=True,
            transport=transport,  # type: ignore[arg-type]
            environment={"QUERNEL_LLM_URL": upstream_url, "QUERNEL_LOG_LEVEL": "WARNING"},
        )
        try:
            with stack:
                headers = {
                    "content-type": "application/json",
                    "authorization": f"Bearer {rich_user(stack)}",
                }
                processes = json.loads((stack.state / "stack.json").read_text())["children"]
                bench = Bench(
                    f"{stack.functions_url}/v1",
                    upstream_url,
                    headers,
                    psutil.Process(processes["Functions"]),
                )
                bench.post(bench.quernel, requests=100, connections=4)  # warm
                print(f"\nChat: one uvicorn worker, database over {transport}, static upstream")
                measure_requests(bench)
                measure_first_token(bench)
                measure_streams(bench)
                print(f"\n  {bench.sent} sent")
                return report_books(stack, bench.answered)
        finally:
            stack.postgres.destroy()
    finally:
        upstream.stop()


def measure_requests(bench: Bench) -> None:
    """Requests per second, and what is added to the latency of the upstream asked directly."""
    print(
        f"\n  {'concurrency':>11} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8} "
        f"{'added p50':>10} {'added p99':>10} {'cpu ms':>7} {'upstream/s':>11} {'of upstream':>12}"
    )
    for connections in CONCURRENCY:
        requests = REQUESTS // 3 if connections == 1 else REQUESTS

        def run(url: str, requests: int = requests, connections: int = connections) -> Load:
            return bench.post(url, requests=requests, connections=connections)

        load, bare = middle(bench, run, key=lambda one: one.rate)
        cpu = bench.cpu / requests * 1000
        print(
            f"  {connections:>11} {load.rate:>11,.0f} {load.p50_ms:>8.1f} {load.p99_ms:>8.1f} "
            f"{load.p50_ms - bare.p50_ms:>10.1f} {load.p99_ms - bare.p99_ms:>10.1f} {cpu:>7.2f} "
            f"{bare.rate:>11,.0f} {load.rate / bare.rate:>12.1%}"
        )


def measure_first_token(bench: Bench) -> None:
    """Milliseconds until the first token of a stream, one stream after the other."""

    def run(url: str) -> StreamLoad:
        return bench.stream(url, FIRST_TOKENS, pace_ms=0, one_by_one=True)

    load, bare = middle(bench, run, key=lambda one: -one.first_p50_ms)
    added = load.first_p50_ms - bare.first_p50_ms, load.first_p99_ms - bare.first_p99_ms
    print(
        f"\n  first token at concurrency 1: p50 {load.first_p50_ms:.1f} ms, p99 "
        f"{load.first_p99_ms:.1f} ms; added p50 {added[0]:.1f} ms, p99 {added[1]:.1f} ms"
    )


def measure_streams(bench: Bench) -> None:
    """How many streams at once go on without a stalled frame."""
    print(
        f"\n  Streams at once, 64 deltas at {PACE_MS} ms; a frame is stalled that comes more than "
        f"{StreamLoad.STALL_MS:.0f} ms after the one before\n"
    )
    print(
        f"  {'streams':>11} {'stalled':>8} {'p99 gap ms':>11} {'longest gap':>12} "
        f"{'first p50':>10} {'first p99':>10} {'cpu µs a frame':>15} {'directly, longest':>18}"
    )
    sustained, has_stalled = 0, False
    for streams in STREAMS:
        load = bench.stream(bench.quernel, streams, pace_ms=PACE_MS)
        cpu = bench.cpu / streams / FRAMES * 1_000_000
        bare = bench.stream(bench.upstream, streams, pace_ms=PACE_MS)
        print(
            f"  {streams:>11} {load.stalled:>8} {load.gap_p99_ms:>11.1f} "
            f"{load.longest_gap_ms:>12.1f} {load.first_p50_ms:>10.1f} {load.first_p99_ms:>10.1f} "
            f"{cpu:>15.0f} {bare.longest_gap_ms:>18.1f}"
        )
        has_stalled = has_stalled or bool(load.stalled or load.refused)
        sustained = sustained if has_stalled else streams
    print(f"\n  {sustained} streams sustained without a stalled frame")


def middle(bench: Bench, run: Callable[[str], Any], key: Callable[[Any], float]) -> tuple[Any, Any]:
    """The better half of several rounds in turns: through Quernel, and directly."""
    loads, bare = [], []
    for _ in range(ROUNDS):
        loads.append(run(bench.quernel))
        bare.append(run(bench.upstream))
    return sorted(loads, key=key)[ROUNDS // 2], sorted(bare, key=key)[ROUNDS // 2]


def rich_user(stack: Stack) -> str:
    """Sign somebody up, on the plan without limits, with credits; their access token."""
    answer = httpx.post(
        f"{stack.supabase_url}/auth/v1/signup",
        headers={"apikey": stack.keys.publishable_key},
        json={"email": f"{uuid.uuid4().hex}@example.com", "password": uuid.uuid4().hex},
        trust_env=False,
        timeout=30,
    ).raise_for_status()
    session = answer.json()
    with psycopg.connect(stack.admin_dsn, autocommit=True) as connection:
        connection.execute(
            "update public.profiles set plan_id = "
            "(select id from public.plans where slug = 'enterprise') where id = %s",
            [session["user"]["id"]],
        )
        connection.execute(
            "select backend.credit_grant(p_user_id => %s, p_amount => 1000000, "
            "p_source => 'adjustment', p_idempotency_key => 'bench', p_actor => 'bench', "
            "p_reason => 'Benchmark')",
            [session["user"]["id"]],
        )
    return session["access_token"]
