"""Our own image server as the worker sees it: lines of JSON, redirects, and what goes wrong."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from functions.chat.upstream_errors import UpstreamError
from functions.core.errors import InvalidRequestError, QuernelError
from functions.core.http_session import open_client
from functions.core.settings import Settings
from functions.images import gpu_server
from functions.images.gpu_server import GpuServer
from functions.images.request import GeneratedImage, ImageRequest
from local.image_simulator import ImageSimulator, draw
from local.providers.images import picture
from tests.support.http_server import Handler, serve

pytestmark = pytest.mark.anyio

REQUEST = ImageRequest("flux-schnell", "a lighthouse", seed=7, width=64, height=64, steps=4)
HEADERS = {"Modal-Key": "wk-1", "Modal-Secret": "ws-1"}


def image(content: bytes | None = None) -> dict[str, Any]:
    shown = base64.b64encode(picture() if content is None else content).decode()
    return {"image": {"index": 0, "seed": 7, "content": shown, "nsfw_score": 0.25}}


def lines(*events: Any) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


def saying(*events: Any, status: int = 200) -> Handler:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text=lines(*events), status=status)

    return answer


@asynccontextmanager
async def server(
    handler: Handler, headers: dict[str, str] | None = None
) -> AsyncIterator[GpuServer]:
    async with serve(handler) as url, open_client(5) as http:
        yield GpuServer(http, url, headers or {})


async def nobody(_: int) -> None:
    pass


async def drawn(handler: Handler, request: ImageRequest = REQUEST) -> list[GeneratedImage]:
    async with server(handler) as gpu:
        return await gpu.generate("job", request, nobody)


async def test_a_job_is_sent_whole_and_its_progress_told() -> None:
    seen: list[Any] = []
    told: list[int] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append((request.headers.get("Modal-Key"), await request.json()))
        events = ({"state": "loading"}, {"progress": 50}, {"progress": 100}, image(), {"done": {}})
        return web.Response(text=lines(*events))

    async def tell(percent: int) -> None:
        told.append(percent)

    request = ImageRequest(
        "sdxl",
        "a lighthouse",
        outputs=2,
        negative_prompt="people",
        seed=7,
        guidance=7.5,
        steps=28,
        width=1024,
        height=768,
        format="png",
        output_quality=80,
        loras=(("someone/fog", 0.5),),
        input_image=b"x",
        prompt_strength=0.8,
        safety="strict",
    )
    async with server(answer, HEADERS) as gpu:
        [made] = await gpu.generate("job", request, tell)
    assert (made.seed, made.nsfw_score, made.content) == (7, 0.25, picture())
    assert told == [50, 100]
    assert seen == [
        (
            "wk-1",
            {
                "id": "job",
                "model": "sdxl",
                "prompt": "a lighthouse",
                "negative_prompt": "people",
                "width": 1024,
                "height": 768,
                "steps": 28,
                "guidance": 7.5,
                "seed": 7,
                "outputs": 2,
                "loras": [{"id": "someone/fog", "scale": 0.5}],
                "format": "png",
                "quality": 80,
                "init_image": base64.b64encode(b"x").decode(),
                "prompt_strength": 0.8,
                "safety": "strict",
            },
        )
    ]


async def test_without_a_seed_chance_begins_anew() -> None:
    seeds = set()

    async def answer(request: web.BaseRequest) -> web.Response:
        seeds.add((await request.json())["seed"])
        return web.Response(text=lines(image(), {"done": {}}))

    for _ in range(2):
        await drawn(answer, ImageRequest("flux-schnell", "x", width=64, height=64))
    assert len(seeds) == 2


async def test_modals_redirects_are_followed_with_the_headers() -> None:
    """It answers 303 when a call takes longer than 150 seconds."""
    seen: list[tuple[str, str, str | None]] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append((request.method, request.path_qs, request.headers.get("Modal-Secret")))
        if len(seen) < 3:
            return web.Response(status=303, headers={"location": f"/later?call={len(seen)}"})
        return web.Response(text=lines(image(), {"done": {}}))

    async with server(answer, HEADERS) as gpu:
        assert len(await gpu.generate("job", REQUEST, nobody)) == 1
    assert seen == [
        ("POST", "/images", "ws-1"),
        ("GET", "/later?call=1", "ws-1"),
        ("GET", "/later?call=2", "ws-1"),
    ]


async def test_nobody_else_is_shown_the_headers() -> None:
    async def stranger(_: web.BaseRequest) -> web.Response:
        raise AssertionError("it was called")

    async with serve(stranger) as elsewhere:

        async def answer(_: web.BaseRequest) -> web.Response:
            return web.Response(status=303, headers={"location": f"{elsewhere}/images"})

        with pytest.raises(UpstreamError, match="elsewhere"):
            await drawn(answer)


async def test_a_circle_of_redirects_ends() -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=303, headers={"location": "/images"})

    with pytest.raises(UpstreamError) as caught:
        await drawn(answer)
    assert caught.value.code == "upstream_timeout"


@pytest.mark.parametrize(
    ("handler", "code"),
    [
        (saying(image()), "upstream_error"),
        (saying({"done": {}}), "upstream_error"),
        (saying("x"), "upstream_error"),
        (saying({"image": {"content": "!"}}, {"done": {}}), "upstream_error"),
        (saying({"image": None}, {"done": {}}), "upstream_error"),
        (saying({"refused": {}}, {"done": {}}), "content_refused"),
        (saying({"error": {"code": "out_of_memory"}}), "upstream_error"),
        (saying({"error": None}), "upstream_error"),
        (saying({"error": {"code": "unknown_model"}}), "upstream_not_configured"),
        (saying({"error": {"code": "invalid_job"}}, status=400), "invalid_argument"),
        (saying("no", status=401), "upstream_not_configured"),
        (saying("no", status=403), "upstream_not_configured"),
        (saying("no", status=500), "upstream_error"),
    ],
    ids=range(13),
)
async def test_what_goes_wrong_there(handler: Handler, code: str) -> None:
    with pytest.raises(QuernelError) as caught:
        await drawn(handler)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("code", "param"),
    [("lora_not_found", "hf_loras"), ("lora_refused", "hf_loras"), ("image_refused", "input_path")],
)
async def test_what_a_job_cannot_be_names_its_member(code: str, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await drawn(saying({"error": {"code": code, "message": "said"}}))
    assert caught.value.facts["param"] == param


async def test_too_much_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_server, "MAX_ANSWER_BYTES", 1000)
    with pytest.raises(UpstreamError, match="too large"):
        await drawn(saying(*[{"progress": 1}] * 200))


async def test_nobody_there_and_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_client(5) as http:
        with pytest.raises(UpstreamError) as away:
            await GpuServer(http, "http://127.0.0.1:1", {}).generate("job", REQUEST, nobody)
    assert away.value.code == "upstream_unavailable"
    monkeypatch.setattr(gpu_server, "CALL_SECONDS", 0.2)

    async def silence(_: web.BaseRequest) -> web.Response:
        await asyncio.sleep(1)
        return web.Response()

    with pytest.raises(UpstreamError) as silent:
        await drawn(silence)
    assert silent.value.code == "upstream_timeout"


def test_what_its_door_asks_for_is_in_the_settings() -> None:
    settings = Settings(
        images_api_key="key-1",  # type: ignore[arg-type]
        images_proxy_key="wk-1",  # type: ignore[arg-type]
        images_proxy_secret="ws-1",  # type: ignore[arg-type]
    )
    assert settings.images_headers == HEADERS | {"Authorization": "Bearer key-1"}
    assert "ws-1" not in repr(settings)
    assert Settings().images_headers == {}


def test_the_simulator_draws_what_was_asked_and_says_that_it_is_one() -> None:
    job: dict[str, Any] = {
        "prompt": "x",
        "seed": 1,
        "width": 64,
        "height": 32,
        "format": "png",
        "quality": 90,
    }
    assert draw(job, 0) == draw(job, 0) != draw(job, 1)
    assert draw(job, 1) == draw(job | {"seed": 2}, 0)
    assert draw(job, 0) != draw(job | {"loras": [{"id": "a/b", "scale": 1}]}, 0)
    assert ImageSimulator().jobs == []
