"""Providers that are slow, talk without end or are left midway; an environment that meddles."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from functions.chat.credentials import Credential
from functions.chat.upstream_errors import UpstreamError
from functions.core.errors import QuernelError
from functions.images import providers
from functions.images.adapters import base, replicate
from functions.images.adapters.base import those_made
from functions.images.request import GeneratedImage, ImageRequest
from tests.images.studio import MODELS, SLUGS, draw_at, studio
from tests.support.http_server import serve
from tests.support.unending import pour, trickle

pytestmark = pytest.mark.anyio

DIRECT = tuple(slug for slug in SLUGS if slug != "google-vertex")  # that asks for a token first


@pytest.mark.parametrize("slug", SLUGS)
async def test_an_answer_that_trickles_is_given_up(
    slug: str, capabilities: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte comes in time; the whole never does."""
    monkeypatch.setattr(providers, "CALL_SECONDS", 0.5)
    monkeypatch.setattr(replicate, "CANCEL_SECONDS", 0.5)

    async with serve(trickle) as url:
        with pytest.raises(UpstreamError) as caught:
            await draw_at(url, slug, capabilities[f"{slug}/{MODELS[slug]}"])
    assert (caught.value.code, caught.value.status) == ("upstream_timeout", 504)


@pytest.mark.parametrize("slug", DIRECT)
async def test_an_answer_without_end_is_cut_off(
    slug: str, capabilities: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (base, providers):
        monkeypatch.setattr(place, "MAX_ANSWER_BYTES", 100_000)
    async with serve(pour) as url:
        with pytest.raises(UpstreamError, match="too large"):
            await draw_at(url, slug, capabilities[f"{slug}/{MODELS[slug]}"])


@pytest.mark.parametrize("slug", DIRECT)
async def test_an_answer_that_swells_is_cut_off(
    slug: str, capabilities: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is what is there after decoding."""
    for place in (base, providers):
        monkeypatch.setattr(place, "MAX_ANSWER_BYTES", 100_000)

    async def swell(_: web.BaseRequest) -> web.Response:
        response = web.Response(body=b" " * 3_000_000, content_type="application/json")
        response.enable_compression(web.ContentCoding.gzip)
        return response

    async with serve(swell) as url:
        with pytest.raises(UpstreamError, match="too large"):
            await draw_at(url, slug, capabilities[f"{slug}/{MODELS[slug]}"])


@pytest.mark.parametrize("slug", SLUGS)
async def test_the_environment_leads_nobody_elsewhere(
    slug: str, capabilities: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither through its proxies, nor to pay from another organization."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-the-operator")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-the-operator")
    monkeypatch.setenv("GOOGLE_API_KEY", "key-of-the-operator")
    async with studio(capabilities) as s:
        assert await s.draw(slug)
        assert "of-the-operator" not in str(s.double.last(slug).headers)


@pytest.mark.parametrize("slug", SLUGS)
async def test_a_platform_key_that_is_refused_is_the_operators_to_mend(
    slug: str, capabilities: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = f"{slug}/{MODELS[slug]}"
    with caplog.at_level(logging.DEBUG):
        async with studio(capabilities) as s:
            key = s.key(slug, "rejected")
            with pytest.raises(UpstreamError) as caught:
                await s.providers.generate(
                    slug,
                    ImageRequest(MODELS[slug], "a lighthouse"),
                    capabilities[model],
                    Credential("platform", SecretStr(key)),
                )
    assert (caught.value.code, caught.value.status) == ("upstream_not_configured", 503)
    # In no logger: not in the libraries' either.
    secret = key.partition("PRIVATE KEY-----")[2][:40] or key
    assert secret not in caplog.text + repr(caught.value)


async def test_whoever_leaves_before_the_first_answer_has_the_prediction_cancelled(
    capabilities: dict[str, Any],
) -> None:
    seen: list[str] = []
    is_begun = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request.path)
        if request.path.endswith("/predictions"):
            is_begun.set()
            await asyncio.sleep(0.3)
        return web.json_response({"id": "abc", "status": "starting"}, status=201)

    async with serve(answer) as url:
        able = capabilities["replicate/black-forest-labs/flux-dev"]
        drawing = asyncio.create_task(draw_at(url, "replicate", able))
        await asyncio.wait_for(is_begun.wait(), 10)
        drawing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drawing
    assert seen == [
        "/v1/models/black-forest-labs/flux-dev/predictions",
        "/v1/predictions/abc/cancel",
    ]


async def test_a_prediction_that_takes_too_long_is_cancelled(
    capabilities: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "CALL_SECONDS", 0.5)
    seen: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request.path)
        return web.json_response({"id": "abc", "status": "starting"}, status=201)

    async with serve(answer) as url:
        with pytest.raises(UpstreamError) as caught:
            await draw_at(url, "replicate", capabilities["replicate/black-forest-labs/flux-dev"])
    assert caught.value.code == "upstream_timeout"
    assert seen[-1] == "/v1/predictions/abc/cancel"


def test_only_what_a_provider_answers_may_be_missing(caplog: pytest.LogCaptureFixture) -> None:
    image = GeneratedImage(b"x")
    refusal = QuernelError("content_refused", 400, "No.")
    with caplog.at_level(logging.WARNING):
        assert those_made([refusal, image]) == [image]
    assert [vars(record)["fields"]["code"] for record in caplog.records] == ["content_refused"]
    with pytest.raises(QuernelError, match="No"):
        those_made([refusal])
    for error in (KeyError("rows"), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            those_made([image, error])
