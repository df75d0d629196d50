"""What a vision model says, from the right answer to whatever a server can send instead."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from gpu import vision
from gpu.vision import SCHEMA, VisionError, parse, text_of, vision_request

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20
WEBP = b"RIFF\x10\0\0\0WEBPVP8 "
SEEN = {
    "labels": ["cat", "sofa"],
    "description": "A cat on a sofa.",
    "style_tags": ["photo"],
    "nsfw": 0.25,
}


def completion(content: object) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


@pytest.mark.parametrize("image", [b"", b"GIF89a", b"<svg/>", b"RIFF\0\0\0\0WAVE", b"\x89PN"])
def test_what_is_no_image_is_not_sent(image: bytes) -> None:
    with pytest.raises(VisionError) as caught:
        vision_request("model", image)
    assert caught.value.code == "image_refused"


def test_an_image_that_is_too_large_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision, "MAX_IMAGE_BYTES", len(PNG) - 1)
    with pytest.raises(VisionError):
        vision_request("model", PNG)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "text",
        {},
        {"choices": []},
        {"choices": {}},
        {"choices": None},
        {"choices": [None]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": "text"}]},
        {"choices": [{"message": {}}]},
    ],
    ids=range(11),
)
def test_an_answer_that_is_no_completion_is_unreadable(answer: object) -> None:
    with pytest.raises(VisionError) as caught:
        text_of(answer)
    assert caught.value.code == "vision_unreadable"


@pytest.mark.parametrize("content", [None, [{"type": "text", "text": "{}"}], 7])
def test_what_is_no_text_says_nothing(content: object) -> None:
    with pytest.raises(VisionError):
        parse(text_of(completion(content)))


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
    assert caught.value.code == "vision_unreadable"


def test_the_image_goes_along_as_data_with_the_schema_of_the_answer() -> None:
    body = vision_request("Qwen/Qwen3-VL-8B-Instruct-FP8", WEBP)
    assert parse(text_of(completion(json.dumps(SEEN)))).model_dump() == SEEN
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


@pytest.mark.parametrize(
    "rating", ["85", "-0.1", "1.01", "1e999", "NaN", "true", "null", '"0.5"', "[0.5]", "1" * 400]
)
def test_a_rating_that_is_no_share_is_none(rating: str) -> None:
    seen = parse(json.dumps(SEEN)[:-5] + rating + "}")
    assert (seen.nsfw, seen.labels) == (None, ["cat", "sofa"])


@pytest.mark.parametrize("rating", ["0", "1", "0.5", "1e-3"])
def test_a_rating_is_a_share(rating: str) -> None:
    assert parse(json.dumps(SEEN)[:-5] + rating + "}").nsfw == float(rating)


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
        "nsfw": None,
    }
    assert set(SCHEMA["required"]) == set(vision.Seen.model_fields)
