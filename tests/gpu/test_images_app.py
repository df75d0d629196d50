"""The image server's HTTP: lines that begin at once, and a job that ends with its caller."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import uvicorn

from functions.images.gpu_server import GpuServer
from functions.images.request import ImageRequest
from gpu.contract import MAX_BODY_BYTES, Event, ImageJob, JobError
from gpu.images_app import images_app

pytestmark = pytest.mark.anyio

JOB = {"id": "job", "model": "flux-schnell", "prompt": "x", "width": 256, "height": 256, "seed": 1}
IMAGE = {"image": {"index": 0, "seed": 1, "content": "aGk=", "nsfw_score": 0.1}}


class Painter:
    """Does with a job what a test says."""

    def __init__(self, work: Callable[[Callable[[Event], None], Callable[[], bool]], None]) -> None:
        self.held = ["flux-schnell"]
        self.jobs: list[ImageJob] = []
        self._work = work

    def draw(
        self, job: ImageJob, tell: Callable[[Event], None], is_wanted: Callable[[], bool]
    ) -> None:
        self.jobs.append(job)
        self._work(tell, is_wanted)


def good(tell: Callable[[Event], None], _: Callable[[], bool]) -> None:
    tell({"progress": 50})
    tell(IMAGE)
    tell({"done": {"seconds": 0.1, "peak_memory_bytes": 0}})


async def answer(painter: Painter, body: Any, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(images_app(painter, **options))
    async with httpx.AsyncClient(transport=transport, base_url="http://gpu") as http:
        content = body if isinstance(body, bytes) else json.dumps(body)
        return await http.post("/images", content=content)


def events(response: httpx.Response) -> list[Any]:
    return [json.loads(line) for line in response.text.splitlines()]


async def test_a_job_is_answered_line_by_line() -> None:
    painter = Painter(good)
    made = await answer(painter, JOB)
    assert made.headers["content-type"].startswith("application/x-ndjson")
    assert events(made)[:3] == [{"state": "loading"}, {"progress": 50}, IMAGE]
    assert list(events(made)[3]) == ["done"]
    assert painter.jobs[0].seed == 1


async def test_who_waits_is_told_that_somebody_works() -> None:
    def slow(tell: Callable[[Event], None], _: Callable[[], bool]) -> None:
        time.sleep(0.3)
        good(tell, _)

    told = events(await answer(Painter(slow), JOB, beat_seconds=0.05))
    assert told[0] == {"state": "loading"}
    assert told.count({"state": "working"}) >= 3
    assert list(told[-1]) == ["done"]


async def test_what_cannot_be_done_is_the_last_line() -> None:
    def refuse(*_: Any) -> None:
        raise JobError("lora_not_found", "There is no public LoRA a/b.")

    told = events(await answer(Painter(refuse), JOB))
    error = {"code": "lora_not_found", "message": "There is no public LoRA a/b."}
    assert told == [{"state": "loading"}, {"error": error}]


async def test_what_fails_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("at /secret/place")

    told = events(await answer(Painter(fail), JOB))
    assert told[-1]["error"]["code"] == "internal"
    assert "secret" not in json.dumps(told)
    assert "/secret/place" in caplog.text


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "JSON"),
        (b"[]", "object"),
        ({}, "id"),
        (JOB | {"prompt": ""}, "prompt"),
        (JOB | {"prompt": "x" * 20_001}, "prompt"),
        (JOB | {"width": 250}, "width"),
        (JOB | {"height": 10**6}, "height"),
        (JOB | {"steps": 0}, "steps"),
        (JOB | {"outputs": 5}, "outputs"),
        (JOB | {"loras": [{"id": "../../etc/passwd"}]}, "loras.0.id"),
        (JOB | {"loras": [{"id": "a/b", "scale": 3}]}, "loras.0.scale"),
        (JOB | {"loras": [{"id": "a/b"}] * 17}, "loras"),
        (JOB | {"init_image": "not base64"}, "init_image"),
        (JOB | {"prompt_strength": 0}, "prompt_strength"),
        (JOB | {"format": "gif"}, "format"),
        (JOB | {"quality": 101}, "quality"),
        (JOB | {"seed": -1}, "seed"),
        (JOB | {"safety": "off"}, "safety"),
        (JOB | {"unknown": 1}, "unknown"),
    ],
    ids=lambda value: None if isinstance(value, str) else "body",
)
async def test_a_job_that_makes_no_sense_is_400_and_named(body: Any, named: str) -> None:
    painter = Painter(good)
    made = await answer(painter, body)
    assert made.status_code == 400
    assert made.json()["error"]["code"] == "invalid_job"
    assert named in made.json()["error"]["message"]
    assert painter.jobs == []


async def test_a_body_without_end_is_413() -> None:
    painter = Painter(good)
    made = await answer(painter, b" " * (MAX_BODY_BYTES + 1))
    assert made.status_code == 413
    assert painter.jobs == []


async def test_health_says_what_is_warm() -> None:
    transport = httpx.ASGITransport(images_app(Painter(good)))
    async with httpx.AsyncClient(transport=transport, base_url="http://gpu") as http:
        assert (await http.get("/health")).json() == {"models": ["flux-schnell"], "is_warm": True}
        assert (await http.get("/images")).status_code == 405
        assert (await http.get("/docs")).status_code == 404


class Served:
    """The application behind a real server, on loopback."""

    def __init__(self, painter: Painter) -> None:
        config = uvicorn.Config(images_app(painter), port=0, log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> str:
        self._task = asyncio.create_task(self._server.serve())
        while not self._server.started:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        assert self._task is not None
        await self._task


async def test_a_job_whose_caller_leaves_is_stopped() -> None:
    stopped = threading.Event()

    def endless(tell: Callable[[Event], None], is_wanted: Callable[[], bool]) -> None:
        for _ in range(2_000):
            if not is_wanted():
                stopped.set()
                return
            tell({"progress": 1})
            time.sleep(0.005)

    async with Served(Painter(endless)) as url, httpx.AsyncClient() as http:
        async with http.stream("POST", f"{url}/images", json=JOB) as response:
            async for _ in response.aiter_lines():
                break
        assert await asyncio.to_thread(stopped.wait, 5)


async def test_the_worker_of_the_functions_understands_it() -> None:
    told: list[int] = []

    async def tell(percent: int) -> None:
        told.append(percent)

    painter = Painter(good)
    async with Served(painter) as url, httpx.AsyncClient() as http:
        request = ImageRequest("flux-schnell", "x", seed=1, width=256, height=256, steps=4)
        [made] = await GpuServer(http, url, {}).generate("job", request, tell)
    assert (made.content, made.seed, made.nsfw_score) == (b"hi", 1, 0.1)
    assert told == [50]
    assert painter.jobs[0].model_dump(exclude_none=True)["steps"] == 4
