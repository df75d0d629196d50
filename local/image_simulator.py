"""A simulated image server: the contract of gpu/ over drawn pictures, with faults on request.

    python -m local.image_simulator --port 8410

It stands in for GPUs where there are none, and never pretends to be them: every picture has
"simulated" written on it, and every answer carries `x-simulated: true`. The same job with the same
seed gives the same bytes, and LoRAs change them.

Faults and timing are chosen inside the prompt:

    simulate: steps=20 step_ms=100

    steps=N        reports of progress (default 4), step_ms=N apart (default 1)
    refuse=N       so many of the images are refused as unsafe
    break=N        so many of the images are no images
    error=CODE     ends with this error; at=N after N reports
    status=N       refuse with this HTTP status
    cut            the connection ends without a last line
    times=N        fail only the first N jobs of the same id

`GET /_stats` counts jobs: open, completed, cancelled (the caller left), failed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from PIL import Image, ImageDraw
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

SIMULATED = {"x-simulated": "true"}
_TOLD = re.compile(r"simulate:([^\n]*)")
_FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
MOST_SIDE = 2048


class ImageSimulator:
    """Draws, and counts what it drew."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter(open=0, completed=0, cancelled=0, failed=0)
        self._tries: Counter[str] = Counter()
        self.jobs: list[dict[str, Any]] = []

    def app(self) -> Starlette:
        """The server."""
        return Starlette(
            routes=[
                Route("/images", self._images, methods=["POST"]),
                Route("/health", self._health),
                Route("/_stats", self._stats),
            ]
        )

    async def _images(self, request: Request) -> Response:
        job = await request.json()
        told = _told(job.get("prompt", ""))
        self.jobs.append(job)
        self._tries[job["id"]] += 1
        is_faulty = self._tries[job["id"]] <= int(told.get("times", 1_000_000))
        if is_faulty and "status" in told:
            self._counts["failed"] += 1
            error = {"error": {"code": "internal", "message": "simulated"}}
            return JSONResponse(error, status_code=int(told["status"]), headers=SIMULATED)
        return StreamingResponse(
            self._lines(job, told, is_faulty=is_faulty),
            media_type="application/x-ndjson",
            headers=SIMULATED,
        )

    async def _lines(
        self, job: dict[str, Any], told: dict[str, str], *, is_faulty: bool
    ) -> AsyncIterator[str]:
        self._counts["open"] += 1
        end = "cancelled"
        try:
            yield _line({"state": "loading"})
            steps = int(told.get("steps", 4))
            for step in range(steps):
                if is_faulty and "error" in told and step == int(told.get("at", 0)):
                    end = "failed"
                    yield _line({"error": {"code": told["error"], "message": "simulated"}})
                    return
                await asyncio.sleep(int(told.get("step_ms", 1)) / 1000)
                yield _line({"progress": 100 * (step + 1) // steps})
            if is_faulty and "cut" in told:
                end = "failed"
                return
            for index in range(job["outputs"]):
                if is_faulty and index < int(told.get("refuse", 0)):
                    yield _line({"refused": {"index": index, "nsfw_score": 0.99}})
                    continue
                content = await asyncio.to_thread(draw, job, index)
                if is_faulty and index < int(told.get("break", 0)):
                    content = content[: len(content) // 2]
                yield _line({"image": _image(job, index, content)})
            end = "completed"
            yield _line({"done": {"seconds": 0.1, "peak_memory_bytes": 0}})
        finally:
            self._counts["open"] -= 1
            self._counts[end] += 1

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"model": "simulated", "is_warm": True}, headers=SIMULATED)

    async def _stats(self, _: Request) -> Response:
        return JSONResponse(dict(self._counts))


def draw(job: dict[str, Any], index: int) -> bytes:
    """A picture that its job decides: colours by prompt, seed and LoRAs."""
    width, height = (min(job[side], MOST_SIDE) for side in ("width", "height"))
    told = json.dumps([job["prompt"], job["seed"] + index, job.get("loras"), job.get("steps")])
    digest = hashlib.sha256(told.encode()).digest()
    small = Image.frombytes("RGB", (3, 3), (digest * 2)[:27])
    picture = small.resize((width, height), Image.Resampling.BICUBIC)
    ImageDraw.Draw(picture).text((8, 8), "simulated", fill=(255, 255, 255))
    out = io.BytesIO()
    picture.save(out, _FORMATS[job["format"]], quality=job["quality"])
    return out.getvalue()


def _image(job: dict[str, Any], index: int, content: bytes) -> dict[str, Any]:
    return {
        "index": index,
        "seed": job["seed"] + index,
        "content": base64.b64encode(content).decode(),
        "width": job["width"],
        "height": job["height"],
        "format": job["format"],
        "nsfw_score": 0.01,
    }


def _told(prompt: str) -> dict[str, str]:
    found = _TOLD.search(prompt)
    if found is None:
        return {}
    pairs = (word.partition("=") for word in found.group(1).split())
    return {name: value for name, _, value in pairs}


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event) + "\n"


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvicorn.run(ImageSimulator().app(), port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
