"""The simulator that stands in for a vision model: what it says is in the picture, and parses."""

from __future__ import annotations

import io
import json
import uuid
from typing import Any

import httpx
import pytest
from PIL import Image

from gpu.vision import Seen, parse, text_of, vision_request
from local.stack import Stack


def picture(color: str, size: tuple[int, int] = (64, 48), noise: int = 0) -> bytes:
    image = Image.new("RGB", size, color)
    if noise:
        image = Image.effect_noise(size, noise).convert("RGB")
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def asked(stack: Stack, body: dict[str, Any], **headers: str) -> httpx.Response:
    return httpx.post(
        f"{stack.simulator_url}/v1/chat/completions", json=body, headers=headers, trust_env=False
    )


def seen(stack: Stack, image: bytes) -> Seen:
    answer = asked(stack, vision_request("any", image))
    assert answer.status_code == 200, answer.text
    return parse(text_of(answer.json()))


@pytest.mark.usefixtures("functions_url")
def test_it_names_the_colors_and_says_what_it_is(stack: Stack) -> None:
    red, blue = seen(stack, picture("red")), seen(stack, picture("navy", (48, 48)))
    assert (red.labels, blue.labels[0]) == (["red"], "blue")
    assert red.description.startswith("[simulated]")
    assert red.style_tags == ["simulated", "even", "landscape"]
    assert "square" in blue.style_tags
    assert red == seen(stack, picture("red"))
    assert red.nsfw is not None


@pytest.mark.parametrize(
    "url",
    ["data:image/png;base64,!!!", "data:image/png;base64,AAAA", "https://example.com/a.png", ""],
    ids=range(4),
)
@pytest.mark.usefixtures("functions_url")
def test_it_refuses_what_is_no_image(url: str, stack: Stack) -> None:
    body = vision_request("any", picture("red"))
    body["messages"][0]["content"][0]["image_url"]["url"] = url
    assert asked(stack, body).status_code == 400


@pytest.mark.usefixtures("functions_url")
def test_it_remembers_no_large_picture(stack: Stack) -> None:
    mark = uuid.uuid4().hex
    body = vision_request(mark, picture("red", (512, 512), noise=80))
    size = len(json.dumps(body))
    assert size > 100_000
    assert asked(stack, body).status_code == 200
    kept = httpx.get(
        f"{stack.simulator_url}/_requests", params={"contains": mark}, trust_env=False
    ).json()
    assert len(json.dumps(kept)) < 10_000
    assert kept[0]["state"] == "completed"


@pytest.mark.usefixtures("functions_url")
def test_it_can_be_made_to_fail(stack: Stack) -> None:
    body = vision_request("any", picture("red"))
    answer = asked(stack, body, **{"x-simulate": "status=503"})
    assert answer.status_code == 503
