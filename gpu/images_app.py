"""The image server: POST /images takes a job and answers with lines of JSON. Imports no torch.

The answer begins at once, whatever has to be loaded first, and says so every few seconds: whoever
waits sees that somebody works. When the caller leaves, the job stops at its next step.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gpu.contract import MAX_BODY_BYTES, Event, ImageJob, JobError
from gpu.request_body import read_body

BEAT_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Draws(Protocol):
    """What is asked of a Painter."""

    @property
    def held(self) -> list[str]: ...
    def draw(
        self, job: ImageJob, tell: Callable[[Event], None], is_wanted: Callable[[], bool]
    ) -> None: ...


def images_app(painter: Draws, *, beat_seconds: float = BEAT_SECONDS) -> Starlette:
    """The application."""

    async def images(request: Request) -> Response:
        body = await read_body(request, MAX_BODY_BYTES)
        if body is None:
            return _refused(413, "The request is too large.")
        try:
            job = ImageJob.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))[:100]
            return _refused(400, f"{where}: {first['msg']}" if where else first["msg"])
        return StreamingResponse(
            _lines(painter, job, beat_seconds, request.headers.get("x-request-id", "")[:64]),
            media_type="application/x-ndjson",
        )

    def health(_: Request) -> Response:
        held = painter.held
        return JSONResponse({"models": held, "is_warm": bool(held)})

    return Starlette(routes=[Route("/images", images, methods=["POST"]), Route("/health", health)])


async def _lines(
    painter: Draws, job: ImageJob, beat_seconds: float, request_id: str
) -> AsyncIterator[str]:
    events: asyncio.Queue[Event | None] = asyncio.Queue()
    has_left = threading.Event()
    loop = asyncio.get_running_loop()

    def tell(event: Event | None) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    def work() -> None:
        try:
            painter.draw(job, tell, lambda: not has_left.is_set())
        except JobError as error:
            tell(error.event())
        except Exception:
            if not has_left.is_set():
                logger.exception("a job of %s failed, request %r", job.model, request_id)
                tell(JobError("internal", "The image server failed.").event())
        finally:
            tell(None)

    yield _line({"state": "loading"})
    # A thread of its own: one that waits in line must not take one that others need.
    threading.Thread(target=work, name="painter", daemon=True).start()
    try:
        while True:
            try:
                event = await asyncio.wait_for(events.get(), beat_seconds)
            except TimeoutError:
                event = {"state": "working"}
            if event is None:
                return
            yield _line(event)
    finally:
        has_left.set()


def _line(event: Event) -> str:
    return json.dumps(event) + "\n"


def _refused(status: int, message: str) -> Response:
    return JSONResponse(JobError("invalid_job", message).event(), status_code=status)
