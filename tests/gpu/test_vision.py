"""What a vision model says, from the right answer to whatever a server can send instead."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gpu import vision
from gpu.vision import SCHEMA, Seen, VisionError, look, parse, vision_request

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20
WEBP = b"RIFF\x10\0\0\0WEBPVP8 "
SEEN = {"labels": ["cat", "sofa"], "description": "A cat on a sofa.", "style_tags": ["photo"]}

Answer = Callable[[dict[str, Any]], Response]


def completion(content: object) -> Response:
    return JSONResponse({"choices": [{"message": {"role": "assistant", "content": content}}]})


def ask(answer: Answer, image: bytes = PNG) -> tuple[Seen, list[dict[str, Any]]]:
    """`look` at a chat server on loopback that answers so; with what it was asked."""
    asked: list[dict[str, Any]] = []

    async def respond(request: Request) -> Response:
        asked.append(await request.json())
        return answer(asked[-1])

    return asyncio.run(_asked(respond, image)), asked


async def _asked(respond: Callable[[Request], Awaitable[Response]], image: bytes) -> Seen:
    app = Starlette(routes=[Route("/v1/chat/completions", respond, methods=["POST"])])
    listener = socket.create_server(("127.0.0.1", 0))  # holds the request until it is served
    port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve([listener]))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            return await look(http, "Qwen/Qwen3-VL-8B-Instruct-FP8", image)
    finally:
        server.should_exit = True
        await task
        listener.close()


def refusal(answer: Answer) -> VisionError:
    with pytest.raises(VisionError) as caught:
        ask(answer)
    return caught.value


@pytest.mark.parametrize("image", [b"", b"GIF89a", b"<svg/>", b"RIFF\0\0\0\0WAVE", b"\x89PN"])
def test_what_is_no_image_is_not_sent(image: bytes) -> None:
    with pytest.raises(VisionError) as caught:
        vision_request("model", image)
    assert (caught.value.code, caught.value.may_repeat) == ("image_refused", False)


def test_an_image_that_is_too_large_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision, "MAX_IMAGE_BYTES", len(PNG) - 1)
    with pytest.raises(VisionError):
        vision_request("model", PNG)


@pytest.mark.parametrize(("status", "code"), [(400, "vision_refused"), (404, "vision_refused")])
def test_a_refusal_is_final(status: int, code: str) -> None:
    error = refusal(lambda _: JSONResponse({}, status_code=status))
    assert (error.code, error.may_repeat) == (code, False)


@pytest.mark.parametrize("status", [303, 408, 429, 500, 503])
def test_a_server_that_fails_may_be_asked_again(status: int) -> None:
    error = refusal(lambda _: JSONResponse({}, status_code=status))
    assert (error.code, error.may_repeat) == ("vision_unavailable", True)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    async def nobody() -> None:
        async with httpx.AsyncClient(base_url="http://127.0.0.1:9", trust_env=False) as http:
            await look(http, "model", PNG)

    with pytest.raises(VisionError) as caught:
        asyncio.run(nobody())
    assert caught.value.code == "vision_unavailable"


@pytest.mark.parametrize(
    "answer",
    [
        Response(b""),
        Response(b"not json"),
        Response(b"\xff"),
        JSONResponse([]),
        JSONResponse({"choices": []}),
        JSONResponse({"choices": [{"message": None}]}),
        completion(None),
        completion([{"type": "text", "text": json.dumps(SEEN)}]),
        completion(""),
    ],
)
def test_an_answer_that_is_no_completion_is_unreadable(answer: Response) -> None:
    assert refusal(lambda _: answer).code == "vision_unreadable"


def test_an_answer_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision, "MAX_ANSWER_BYTES", 100)
    assert refusal(lambda _: Response(b"x" * 200)).code == "vision_unreadable"


@pytest.mark.parametrize(
    "text",
    [
        "I cannot help with that.",
        '{"labels": ["cat"], "descr',
        '{"labels": ["cat"]}',
        '{"description": ""}',
        '{"description": " \\u0000 "}',
        '{"description": 7}',
        "{" * 5000,
        '{"a":' * 5000,
        "[]",
    ],
)
def test_a_text_that_says_nothing_is_unreadable(text: str) -> None:
    with pytest.raises(VisionError) as caught:
        parse(text)
    assert (caught.value.code, caught.value.may_repeat) == ("vision_unreadable", True)


def test_the_image_goes_along_as_data_with_the_schema_of_the_answer() -> None:
    seen, (body,) = ask(lambda _: completion(json.dumps(SEEN)), WEBP)
    assert seen.model_dump() == SEEN
    image, text = body["messages"][0]["content"]
    kind, data = image["image_url"]["url"].split(",")
    assert kind == "data:image/webp;base64"
    assert base64.b64decode(data) == WEBP
    assert "JSON" in text["text"]
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert body["temperature"] == 0
    assert body["max_tokens"] == vision.MAX_OUTPUT_TOKENS


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(SEEN),
        f"```json\n{json.dumps(SEEN, indent=2)}\n```",
        f"<think>{{maybe a dog?}} {{}}</think>\nHere you are: {json.dumps(SEEN)} Anything else?",
        f'{{"labels": ["dog"]}}\n{json.dumps(SEEN)}',
        json.dumps(SEEN | {"confidence": 0.9}),
    ],
)
def test_what_stands_around_the_object_does_not_matter(text: str) -> None:
    assert parse(text).model_dump() == SEEN


def test_words_are_cleaned_counted_and_kept_once() -> None:
    labels = [" Cat ", "cat", "", "\u202etac", "a\nb", 7, None, "x" * 200, *map(str, range(50))]
    seen = parse(json.dumps(SEEN | {"labels": labels, "style_tags": "Photo, warm light,photo"}))
    assert seen.labels[:3] == ["cat", "tac", "a b"]
    assert len(seen.labels) == vision.MAX_LABELS
    assert max(map(len, seen.labels)) <= vision.MAX_WORD
    assert seen.style_tags == ["photo", "warm light"]


def test_lists_that_are_none_are_empty() -> None:
    seen = parse(json.dumps({"description": "A cat.", "labels": {"a": 1}, "style_tags": None}))
    assert (seen.labels, seen.style_tags) == ([], [])


def test_a_long_description_is_cut_at_a_word() -> None:
    seen = parse(json.dumps(SEEN | {"description": "many words " * 500}))
    assert len(seen.description) <= vision.MAX_DESCRIPTION
    assert seen.description.split()[-1] in ("many", "words")


def test_the_bounds_of_the_schema_are_those_of_what_is_read() -> None:
    limits = {name: SCHEMA["properties"][name].get("maxItems") for name in SCHEMA["properties"]}
    assert limits == {
        "labels": vision.MAX_LABELS,
        "description": None,
        "style_tags": vision.MAX_STYLE_TAGS,
    }
    assert set(SCHEMA["required"]) == set(Seen.model_fields)
