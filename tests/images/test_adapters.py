"""Images by outside providers: what is asked, what comes back, and what goes wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from dataclasses import replace
from typing import Any

import openai
import pytest
from aiohttp import web
from pydantic import SecretStr

from functions.chat.credentials import Credential
from functions.chat.upstream_errors import OwnKeyError, UpstreamError
from functions.core.errors import InvalidRequestError, QuernelError
from functions.images import providers
from functions.images.adapters import base, replicate
from functions.images.request import ImageRequest
from local.providers.errors import TREATMENTS
from tests.images.studio import MODELS, SLUGS, draw_at, studio
from tests.support.http_server import serve

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries read proxies from the environment."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


# What is asked -----------------------------------------------------------------------------------


async def test_openai_is_asked_as_its_library_asks(capabilities: dict[str, Any]) -> None:
    async with studio(capabilities) as s:
        key = s.key("openai")
        asked: dict[str, Any] = {
            "size": "1536x1024",
            "quality": "high",
            "background": "opaque",
        }
        images = await s.draw(
            "openai", key=key, outputs=2, format="png", options={"output_compression": 80}, **asked
        )
        mine = s.double.last("openai")
        async with openai.AsyncOpenAI(base_url=s.double.base_url("openai"), api_key=key) as client:
            await client.images.generate(
                model="gpt-image-2",
                prompt="a lighthouse",
                n=2,
                output_format="png",
                output_compression=80,
                **asked,
            )
        theirs = s.double.last("openai")
    assert (mine.path, mine.body) == (theirs.path, theirs.body)
    assert mine.headers["authorization"] == theirs.headers["authorization"] == f"Bearer {key}"
    assert [(one.media_type, one.width, one.height) for one in images] == [("image/png", 12, 8)] * 2


async def test_xai_is_asked_as_its_guide_asks_with_openais_library(
    capabilities: dict[str, Any],
) -> None:
    async with studio(capabilities) as s:
        key = s.key("xai")
        await s.draw("xai", key=key, outputs=2, aspect_ratio="16:9", resolution="2K")
        mine = s.double.last("xai")
        async with openai.AsyncOpenAI(base_url=s.double.base_url("xai"), api_key=key) as client:
            answer = await client.images.generate(
                model="grok-imagine-image",
                prompt="a lighthouse",
                n=2,
                response_format="b64_json",
                extra_body={"aspect_ratio": "16:9", "resolution": "2k"},
            )
        assert len(answer.data or ()) == 2
        theirs = s.double.last("xai")
    assert (mine.path, mine.body) == (theirs.path, theirs.body)
    assert mine.headers["authorization"] == theirs.headers["authorization"]


async def test_gemini_is_asked_by_googles_library(capabilities: dict[str, Any]) -> None:
    async with studio(capabilities) as s:
        key = s.key("google")
        images = await s.draw(
            "google", key=key, outputs=3, aspect_ratio="16:9", resolution="2K", seed=7
        )
        record = s.double.last("google")
        vertex = await s.draw(
            "google-vertex",
            model="gemini-3.1-flash-image",
            aspect_ratio="16:9",
            resolution="2K",
            seed=7,
        )
        cloud = s.double.last("google-vertex")
    assert len(images) == 3
    assert record.headers["x-goog-api-key"] == key
    assert record.path == "/models/gemini-3.1-flash-image:generateContent"
    # What is written out for Vertex agrees, member by member, with what the library writes.
    assert cloud.body == record.body
    assert cloud.path == (
        "/projects/a-project-1/locations/global/publishers/google/models/"
        "gemini-3.1-flash-image:generateContent"
    )
    assert vertex[0].media_type == "image/png"


async def test_imagen_is_asked_with_a_token(capabilities: dict[str, Any]) -> None:
    async with studio(capabilities) as s:
        images = await s.draw(
            "google-vertex",
            outputs=2,
            aspect_ratio="16:9",
            resolution="2K",
            format="png",
            negative_prompt="people",
            seed=7,
            options={"enhancePrompt": True},
        )
        record = s.double.last("google-vertex")
    assert record.path.endswith("/publishers/google/models/imagen-4.0-generate-001:predict")
    assert record.headers["authorization"].startswith("Bearer sk-")
    assert record.body == {
        "instances": [{"prompt": "a lighthouse"}],
        "parameters": {
            "sampleCount": 2,
            "aspectRatio": "16:9",
            "sampleImageSize": "2K",
            "negativePrompt": "people",
            "seed": 7,
            "addWatermark": False,
            "includeRaiReason": True,
            "outputOptions": {"mimeType": "image/png"},
            "enhancePrompt": True,
        },
    }
    assert [one.revised_prompt for one in images] == ["a better prompt"] * 2


async def test_replicate_is_asked_waited_for_and_fetched_from(
    capabilities: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicate, "POLL_SECONDS", 0.01)
    async with studio(capabilities) as s:
        images = await s.draw(
            "replicate",
            prompt="slowly, a lighthouse",
            outputs=2,
            aspect_ratio="16:9",
            format="png",
            seed=7,
            guidance=3.5,
            steps=28,
            options={"go_fast": True},
        )
        begun, polled = s.double.records
    assert begun.path == "/models/black-forest-labs/flux-dev/predictions"
    assert begun.headers["cancel-after"] == "300s"
    assert begun.body == {
        "input": {
            "prompt": "slowly, a lighthouse",
            "num_outputs": 2,
            "aspect_ratio": "16:9",
            "output_format": "png",
            "seed": 7,
            "guidance": 3.5,
            "num_inference_steps": 28,
            "go_fast": True,
        }
    }
    assert polled.path.startswith("/predictions/")
    assert [one.media_type for one in images] == ["image/png"] * 2


async def test_stability_is_sent_a_form(capabilities: dict[str, Any]) -> None:
    async with studio(capabilities) as s:
        images = await s.draw(
            "stability",
            outputs=2,
            aspect_ratio="16:9",
            format="webp",
            negative_prompt="people",
            seed=7,
            style="origami",
        )
        forms = sorted((record.body for record in s.double.records), key=lambda form: form["seed"])
        large = await s.draw("stability", model="sd3/sd3.5-large", guidance=4)
        last = s.double.last("stability")
    assert forms == [
        {
            "prompt": "a lighthouse",
            "aspect_ratio": "16:9",
            "negative_prompt": "people",
            "seed": seed,
            "output_format": "webp",
            "style_preset": "origami",
        }
        for seed in ("7", "8")
    ]
    assert sorted(one.seed or 0 for one in images) == [7, 8]
    assert {one.media_type for one in images} == {"image/webp"}
    assert last.path == "/v2beta/stable-image/generate/sd3"
    assert last.body["model"] == "sd3.5-large"
    assert large[0].seed == 343940597


@pytest.mark.parametrize("slug", SLUGS)
async def test_every_provider_draws_with_nothing_but_a_prompt(
    slug: str, capabilities: dict[str, Any]
) -> None:
    async with studio(capabilities) as s:
        [image] = await s.draw(slug)
    assert image.width > 0
    assert image.media_type == "image/png"


# What goes wrong ----------------------------------------------------------------------------------


OWN = {
    "rejected": (401, "provider_key_rejected"),
    "out of quota": (402, "provider_quota_exceeded"),
    "limited": (429, "provider_rate_limited"),
    "refused": (400, "content_refused"),
    "bad option": (400, "upstream_rejected"),
    "outage": (502, "upstream_error"),
}


@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize("slug", [slug for slug in SLUGS if slug != "google-vertex"])
async def test_what_a_refusal_means(
    slug: str,
    treatment: str,
    capabilities: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with studio(capabilities) as s:
        key = s.key(slug, treatment)
        with pytest.raises(QuernelError) as caught:
            await s.draw(slug, key=key, outputs=2)
    error = caught.value
    assert (error.status, error.code) == OWN[treatment]
    assert isinstance(error, OwnKeyError) == (treatment in ("rejected", "out of quota", "limited"))
    assert isinstance(error, UpstreamError) == (treatment == "outage")
    if treatment == "limited":
        assert error.retry_after == 7
    if treatment == "refused":
        assert error.facts["param"] == "prompt"
    assert key not in str(error) + repr(error.facts) + repr(error.__cause__)
    ours = [record for record in caplog.records if record.name.startswith("functions")]
    assert all(key not in str(vars(record)) for record in ours)


async def test_a_service_account_that_google_does_not_know(capabilities: dict[str, Any]) -> None:
    async with studio(capabilities) as s:
        key = s.key("google-vertex", "rejected")
        with pytest.raises(OwnKeyError) as caught:
            await s.draw("google-vertex", key=key)
        assert caught.value.outcome == "rejected"
        assert s.double.records == []


@pytest.mark.parametrize(
    ("slug", "prompt"),
    [
        ("google", "a blocked prompt"),
        ("google", "a blocked image"),
        ("google-vertex", "a blocked image"),
        ("replicate", "something NSFW"),
        ("stability", "a blocked image"),
    ],
)
async def test_a_success_that_says_no_is_a_refusal_of_the_content(
    slug: str, prompt: str, capabilities: dict[str, Any]
) -> None:
    async with studio(capabilities) as s:
        with pytest.raises(QuernelError) as caught:
            await s.draw(slug, prompt=prompt)
    assert (caught.value.status, caught.value.code) == (400, "content_refused")


async def test_some_of_several_may_be_refused(capabilities: dict[str, Any]) -> None:
    async with studio(capabilities) as s:
        assert len(await s.draw("google-vertex", prompt="some blocked", outputs=3)) == 2


async def test_a_prediction_that_fails_is_the_providers_fault(
    capabilities: dict[str, Any],
) -> None:
    async with studio(capabilities) as s:
        with pytest.raises(UpstreamError) as caught:
            await s.draw("replicate", prompt="it fails")
    assert "CUDA" not in caught.value.message


async def test_whoever_leaves_has_the_prediction_cancelled(
    capabilities: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicate, "POLL_SECONDS", 30)
    async with studio(capabilities) as s:
        drawing = asyncio.create_task(s.draw("replicate", prompt="slowly"))
        await asyncio.sleep(0.3)
        assert len(s.double.records) == 1
        drawing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drawing
        assert s.double.last("replicate").path.endswith("/cancel")


PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x08\x00\x00\x00\x08\x08\x02"


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", PNG_START, b"GIF89a" + bytes(20), b"\xff\xd8\xff\xe0\x00\x10JFIF"],
    ids=["empty", "html", "cut", "gif", "jpeg"],
)
async def test_what_is_no_whole_image_is_no_answer(
    content: bytes, capabilities: dict[str, Any]
) -> None:
    await _expect_nothing(capabilities, json.dumps({"data": [{"b64_json": _text(content)}]}))


@pytest.mark.parametrize(
    "answer", ["{", "[]", "{}", '{"data": []}', '{"data": [{"b64_json": "!"}]}', '{"data": [{}]}']
)
async def test_what_holds_no_image_is_no_answer(answer: str, capabilities: dict[str, Any]) -> None:
    await _expect_nothing(capabilities, answer)


async def test_too_large_an_answer_is_cut_off(
    capabilities: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "MAX_ANSWER_BYTES", 1000)
    await _expect_nothing(capabilities, "x" * 100_000)


async def test_too_large_an_image_is_no_answer(
    capabilities: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "MAX_IMAGE_BYTES", 10)
    async with studio(capabilities) as s:
        with pytest.raises(UpstreamError):
            await s.draw("xai")


async def test_an_image_at_an_address_inside_is_not_fetched(capabilities: dict[str, Any]) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        body = {"id": "abc", "status": "succeeded", "output": ["http://169.254.169.254/x.png"]}
        return web.json_response(body, status=201)

    async with serve(answer) as url:
        with pytest.raises(UpstreamError, match="cannot be fetched"):
            await draw_at(url, "replicate", capabilities["replicate/black-forest-labs/flux-dev"])


@pytest.mark.parametrize("slug", SLUGS)
async def test_nobody_there(slug: str, capabilities: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError) as caught:
        await draw_at("http://127.0.0.1:1", slug, capabilities[f"{slug}/{MODELS[slug]}"])
    assert caught.value.status == 503


async def _expect_nothing(capabilities: dict[str, Any], answer: str) -> None:
    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response(text=answer, content_type="application/json")

    async with serve(handler) as url:
        with pytest.raises(UpstreamError) as caught:
            await draw_at(url, "xai", capabilities["xai/grok-imagine-image"])
    assert caught.value.code == "upstream_error"


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


# What a model can do ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options", "code", "param"),
    [
        ("openai/gpt-image-2", {"size": "1x1"}, "invalid_argument", "size"),
        ("openai/gpt-image-2", {"outputs": 5}, "invalid_argument", "outputs"),
        ("openai/gpt-image-2", {"outputs": 0}, "invalid_argument", "outputs"),
        ("openai/gpt-image-2", {"quality": "hd"}, "invalid_argument", "quality"),
        ("openai/gpt-image-2", {"background": "transparent"}, "invalid_argument", "background"),
        ("openai/gpt-image-2", {"seed": 1}, "unsupported_parameter", "seed"),
        (
            "openai/gpt-image-2",
            {"negative_prompt": "x"},
            "unsupported_parameter",
            "negative_prompt",
        ),
        ("openai/gpt-image-2", {"aspect_ratio": "1:1"}, "unsupported_parameter", "aspect_ratio"),
        ("openai/gpt-image-2", {"options": {"user": "x"}}, "unsupported_parameter", "options.user"),
        (
            "openai/gpt-image-2",
            {"options": {"moderation": "low"}},
            "unsupported_parameter",
            "options.moderation",
        ),
        (
            "openai/gpt-image-2",
            {"options": {"output_compression": 101}},
            "invalid_argument",
            "options.output_compression",
        ),
        (
            "openai/gpt-image-2",
            {"options": {"output_compression": "80"}},
            "invalid_argument",
            "options.output_compression",
        ),
        (
            "replicate/black-forest-labs/flux-dev",
            {"options": {"go_fast": 1}},
            "invalid_argument",
            "options.go_fast",
        ),
        (
            "replicate/black-forest-labs/flux-dev",
            {"options": {"disable_safety_checker": True}},
            "unsupported_parameter",
            "options.disable_safety_checker",
        ),
        ("xai/grok-imagine-image", {"resolution": "8K"}, "invalid_argument", "resolution"),
        ("xai/grok-imagine-image", {"format": "png"}, "unsupported_parameter", "format"),
        ("stability/core", {"style": "cubist"}, "invalid_argument", "style"),
        ("stability/core", {"guidance": 2}, "unsupported_parameter", "guidance"),
        ("stability/sd3/sd3.5-large", {"guidance": 11}, "invalid_argument", "guidance"),
        ("stability/sd3/sd3.5-large", {"format": "webp"}, "invalid_argument", "format"),
        ("replicate/black-forest-labs/flux-schnell", {"steps": 5}, "invalid_argument", "steps"),
        ("xai/grok-imagine-image", {"prompt": " "}, "invalid_argument", "prompt"),
        ("xai/grok-imagine-image", {"prompt": "x" * 8001}, "invalid_argument", "prompt"),
    ],
    ids=range(23),
)
async def test_what_a_model_cannot_do_is_refused_before_the_call(
    model: str, options: dict[str, Any], code: str, param: str, capabilities: dict[str, Any]
) -> None:
    slug, _, name = model.partition("/")
    async with studio(capabilities) as s:
        request = replace(ImageRequest(name, "a lighthouse"), **options)
        with pytest.raises(InvalidRequestError) as caught:
            await s.providers.generate(
                slug, request, capabilities[model], Credential("own", SecretStr(s.key(slug)))
            )
        assert s.double.records == []
    assert (caught.value.code, caught.value.facts["param"]) == (code, param)


async def test_every_model_of_the_catalog_has_an_adapter_and_a_number_of_outputs(
    capabilities: dict[str, Any],
) -> None:
    outside = {model: able for model, able in capabilities.items() if "/" in model}
    assert len(outside) >= 14
    for model, able in outside.items():
        assert model.partition("/")[0] in providers.ADAPTERS
        assert 1 <= able["max_outputs"] <= 4
