"""What the simulated model server says of an image: the names of the colours that cover it.

It sees no more than that, and says in its description that it is a simulator.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections import Counter
from typing import Any

from PIL import Image, UnidentifiedImageError

SIDE = 64  # pixels that are looked at, each way
LABELS = 5
BRIGHT, DARK = 170, 85  # of 255
SQUARE = 0.1  # how far from it still is one
NSFW = 0.02
KEPT = 64 * 1024  # characters of a URL that is remembered as it came
COLORS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "red": (200, 30, 30),
    "orange": (240, 140, 30),
    "yellow": (240, 220, 60),
    "green": (40, 150, 60),
    "cyan": (60, 200, 200),
    "blue": (40, 70, 200),
    "purple": (130, 50, 170),
    "pink": (240, 150, 190),
    "brown": (120, 75, 40),
}


class NoPictureError(Exception):
    """What was sent as an image is none."""


def without_pictures(body: dict[str, Any]) -> dict[str, Any]:
    """A request with digests in the place of large images; the same object where it has none."""
    messages = body["messages"]
    urls = [url for message in messages for url in _images(message)]
    if not any(map(_is_large, urls)):
        return body
    return body | {"messages": [_without_images(message) for message in messages]}


def picture_in(body: dict[str, Any]) -> bytes | None:
    """The image that is asked about as gpu/vision.py does. Raises NoPictureError."""
    form = body.get("response_format")
    schema = form.get("json_schema") if isinstance(form, dict) else None
    if not isinstance(schema, dict) or schema.get("name") != "seen":
        return None
    urls = [url for message in body["messages"] for url in _images(message)]
    if not urls:
        return None
    head, _, data = urls[-1].partition(",")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        raise NoPictureError
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        raise NoPictureError from None


def sight_of(picture: bytes, label: str) -> dict[str, Any]:
    """What is on it, in the members of gpu/vision.py's schema; `label` begins the description.

    Raises NoPictureError.
    """
    try:
        image = Image.open(io.BytesIO(picture)).convert("RGB")
    except (UnidentifiedImageError, OSError):
        raise NoPictureError from None
    width, height = image.size
    raw = image.resize((SIDE, SIDE)).tobytes()
    pixels = [(raw[place], raw[place + 1], raw[place + 2]) for place in range(0, len(raw), 3)]
    counted = Counter(map(_name, pixels))
    names = sorted(counted, key=lambda name: (-counted[name], name))[:LABELS]
    brightness = sum(map(sum, pixels)) / (3 * len(pixels))
    tone = "bright" if brightness > BRIGHT else "dark" if brightness < DARK else "even"
    lean = width / height - 1
    shape = "square" if abs(lean) < SQUARE else "landscape" if lean > 0 else "portrait"
    return {
        "labels": names,
        "description": f"{label} A {tone} picture of {shape} shape, mostly {names[0]}.",
        "style_tags": ["simulated", tone, shape],
        "nsfw": NSFW,
    }


def _name(pixel: tuple[int, int, int]) -> str:
    """The colour that is nearest."""

    def distance(name: str) -> int:
        return sum((one - other) ** 2 for one, other in zip(pixel, COLORS[name], strict=True))

    return min(COLORS, key=distance)


def _images(message: object) -> list[str]:
    content = message.get("content") if isinstance(message, dict) else None
    parts = content if isinstance(content, list) else []
    return [url for part in parts if (url := _url(part)) is not None]


def _url(part: object) -> str | None:
    image = part.get("image_url") if isinstance(part, dict) else None
    url = image.get("url") if isinstance(image, dict) else None
    return url if isinstance(url, str) else None


def _is_large(url: str) -> bool:
    return url.startswith("data:") and len(url) > KEPT


def _without_images(message: object) -> object:
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    return message | {"content": [_without_image(part) for part in message["content"]]}


def _without_image(part: object) -> object:
    url = _url(part)
    if url is None or not _is_large(url) or not isinstance(part, dict):
        return part
    digest = hashlib.sha256(url.encode(errors="replace")).hexdigest()
    return part | {"image_url": {"url": f"{url.partition(',')[0]},{digest}"}}
