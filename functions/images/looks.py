"""What models are asked about an image: what it shows, and where that lies among all others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from functions.chat.model_server import ModelServer, RefusedError, UnreadableError
from gpu.vision import Seen, VisionError, parse, text_of, vision_request

DIMENSIONS = 1536
"""Of generated_images.vision_embedding."""

MAX_RAW_TEXT = 8_000
"""Characters that are kept of what was said. As JSON they take at most 48 KiB, of 64."""

MAX_RAW_WORD = 200


@dataclass(frozen=True)
class Look:
    """What a vision model sees in an image."""

    seen: Seen
    raw: dict[str, Any]
    """Its answer, as it came."""


async def look(server: ModelServer, model: str, image: bytes) -> Look:
    """Ask what a PNG, JPEG or WebP shows. Raises NoAnswerError."""
    try:
        answer = await server.ask("/chat/completions", vision_request(model, image))
        text = text_of(answer)
        return Look(parse(text), _raw(answer, text))
    except VisionError as error:
        if error.code == "image_refused":
            raise RefusedError(error.code) from None
        raise UnreadableError("unreadable") from None


async def embed(server: ModelServer, model: str, seen: Seen) -> list[float]:
    """A unit vector of what an image shows. Raises NoAnswerError."""
    answer = await server.ask(
        "/embeddings",
        {
            "model": model,
            "input": [document_of(seen)],
            "dimensions": DIMENSIONS,
            "encoding_format": "float",
        },
    )
    try:
        vector = [float(number) for number in answer["data"][0]["embedding"]]
    except (LookupError, TypeError, ValueError, OverflowError):
        raise UnreadableError("unreadable") from None
    length = math.hypot(*vector)
    if len(vector) != DIMENSIONS or not math.isfinite(length) or length == 0:
        raise UnreadableError("unreadable")
    return [number / length for number in vector]


def document_of(seen: Seen) -> str:
    """The text whose vector is an image's."""
    lines = (seen.description, ", ".join(seen.labels), ", ".join(seen.style_tags))
    return "\n".join(line for line in lines if line)


def _raw(answer: dict[str, Any], text: str) -> dict[str, Any]:
    """What was said, and by whom: no more of the envelope, which has no bounds."""
    choice = answer["choices"][0]
    named = {"model": answer.get("model"), "finish_reason": choice.get("finish_reason")}
    kept = {name: value for name, value in named.items() if isinstance(value, str)}
    return {
        "content": _storable(text, MAX_RAW_TEXT),
        **{name: _storable(value, MAX_RAW_WORD) for name, value in kept.items()},
    }


def _storable(text: str, limit: int) -> str:
    """Without what Postgres does not store: NUL, and half a surrogate pair."""
    return text[:limit].encode("utf-8", "replace").decode().replace("\0", "\ufffd")
