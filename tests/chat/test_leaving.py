"""A client that leaves: the model is stopped at once, what it produced is charged exactly once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import httpx2
import openai
import pytest

from local.paths import ROOT
from local.processes import LOOPBACK, Child, answers, free_port
from local.stack import Stack
from tests.chat.conftest import MODEL, Memory, Payer, body, wait_for

SLOW = "simulate: tokens=200 token_ms=20"


def leave_after(payer: Payer, text: str, chunks: int, base_url: str | None = None) -> str:
    """Read this many chunks of a stream, then hang up; the text that was read."""
    stream = payer.client(base_url).chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": text}], stream=True
    )
    said = ""
    with stream:
        for _, chunk in zip(range(chunks), stream, strict=False):
            said += chunk.choices[0].delta.content or ""
    return said


def test_leaving_a_stream_stops_the_model_and_charges_what_it_produced(
    payer: Payer, upstream: Memory, mark: str
) -> None:
    leave_after(payer, f"{mark} {SLOW}", chunks=6)
    wait_for(lambda: upstream.counts(mark)["cancelled"] == 1, seconds=2)
    [row] = payer.settled_usage()
    assert (row["status"], row["usage_source"]) == ("cancelled", "upstream")
    assert 5 <= row["completion_tokens"] < 60
    assert payer.charges() == [row["credits"]]
    assert row["credits"] > 0
    assert payer.balance == 100 - row["credits"]
    assert payer.account()["held"] == 0


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_before_the_first_token_is_free(
    payer: Payer, upstream: Memory, mark: str, stream: bool
) -> None:
    with pytest.raises(httpx.ReadTimeout):
        payer.http.post(
            "/chat/completions",
            json=body(f"{mark} simulate: first_ms=5000", stream=stream),
            timeout=0.4,
        )
    wait_for(lambda: upstream.counts(mark)["cancelled"] == 1, seconds=2)
    payer.require_free(count=1, code="client_closed_request")


@pytest.mark.anyio
async def test_a_cancelled_task_of_the_async_client_stops_the_model(
    payer: Payer, upstream: Memory, mark: str
) -> None:
    async with openai.AsyncOpenAI(
        base_url=payer.base_url, api_key=payer.token, max_retries=0
    ) as client:

        async def read() -> None:
            stream = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"{mark} {SLOW}"}],
                stream=True,
            )
            async for _ in stream:
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.6)
        task.cancel()
        await asyncio.wait([task])
    wait_for(lambda: upstream.counts(mark)["cancelled"] == 1, seconds=2)
    [row] = payer.settled_usage()
    assert row["status"] == "cancelled"
    assert payer.charges() == [row["credits"]]


def test_a_client_that_reads_to_the_end_is_not_cancelled(
    payer: Payer, upstream: Memory, mark: str
) -> None:
    assert len(leave_after(payer, mark, chunks=1000)) > 20
    [row] = payer.settled_usage()
    assert row["status"] == "completed"
    assert upstream.counts(mark)["completed"] == 1


@pytest.fixture
def extra_app(stack: Stack, functions_url: str, tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """`extra_app(port, NAME=value)`: another functions app beside the run's own."""
    assert functions_url
    children: list[Child] = []

    def start(port: int, **environment: str) -> Child:
        child = Child(
            "functions",
            [
                *(sys.executable, "-m", "uvicorn", "functions.app:app"),
                *(f"--host={LOOPBACK}", f"--port={port}"),
                "--timeout-graceful-shutdown=1",
            ],
            log=tmp_path / f"functions-{port}.log",
            cwd=ROOT,
            env=stack.functions_environment() | environment,
        )
        children.append(child)
        child.wait_until(lambda: answers(f"http://{LOOPBACK}:{port}/health"), seconds=30)
        return child

    yield start
    for child in children:
        child.stop()


def test_a_server_that_stops_charges_the_streams_it_breaks_off(
    payer: Payer, upstream: Memory, mark: str, extra_app: Callable[..., Child]
) -> None:
    port = free_port()
    app = extra_app(port)
    stream = payer.client(f"http://{LOOPBACK}:{port}/v1").chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": f"{mark} {SLOW}"}], stream=True
    )
    chunks = iter(stream)
    for _ in range(3):
        next(chunks)
    os.kill(app.pid, signal.SIGTERM)
    with stream, pytest.raises((openai.APIError, httpx2.HTTPError)):
        list(chunks)
    wait_for(lambda: not app.running)
    [row] = payer.settled_usage()
    assert row["status"] == "cancelled"
    assert payer.charges() == [row["credits"]]
    # The model server is another process, and notices a moment later.
    wait_for(lambda: upstream.counts(mark)["cancelled"] == 1)


def test_silence_of_the_upstream_is_bounded_and_free(
    payer: Payer, upstream: Memory, mark: str, extra_app: Callable[..., Child]
) -> None:
    port = free_port()
    extra_app(port, QUERNEL_LLM_TIMEOUT_SECONDS="0.7")
    completions = payer.client(f"http://{LOOPBACK}:{port}/v1").chat.completions
    began = time.monotonic()
    for text, stream in [
        ("simulate: first_ms=20000", False),
        ("simulate: first_ms=20000", True),
        ("simulate: fault=stall after=0", True),
    ]:
        with pytest.raises(openai.InternalServerError) as caught:
            completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"{mark} {text}"}],
                stream=stream,
            )
        assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")
    broken = completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"{mark} simulate: fault=stall after=3"}],
        stream=True,
    )
    with pytest.raises(openai.APIError) as late:
        list(broken)
    assert late.value.code == "upstream_timeout"
    assert time.monotonic() - began < 15
    payer.require_free(count=4, code="upstream_timeout")
    wait_for(lambda: upstream.counts(mark)["cancelled"] == 4)


def test_an_upstream_that_is_away_is_free(payer: Payer, extra_app: Callable[..., Child]) -> None:
    port = free_port()
    extra_app(port, QUERNEL_LLM_URL=f"http://{LOOPBACK}:{free_port()}/v1")
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            payer.client(f"http://{LOOPBACK}:{port}/v1").chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "x"}], stream=stream
            )
        assert (caught.value.status_code, caught.value.code) == (503, "upstream_unavailable")
        assert "127.0.0.1" not in str(caught.value)
    payer.require_free(count=2, code="upstream_unavailable")
