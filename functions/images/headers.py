"""What kind of image some bytes are, and how large: PNG, JPEG and WebP, by their headers alone.

PNG: W3C PNG third edition, section 11.2.1. JPEG: ITU-T T.81, B.2.2. WebP: RFC 9649.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from functions.images.request import GeneratedImage

MAX_SIDE = 16384
"""Pixels. Nobody here makes larger ones; a header that says more is wrong."""

_PNG = b"\x89PNG\r\n\x1a\n"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class NotAnImageError(ValueError):
    """The bytes are no image of a kind that we know, or end too early."""


def looked_at(image: GeneratedImage) -> GeneratedImage:
    """The same with what its bytes say of it. Raises NotAnImageError."""
    try:
        media_type, width, height = _look(image.content)
    except (struct.error, IndexError):
        raise NotAnImageError from None
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise NotAnImageError
    return replace(image, media_type=media_type, width=width, height=height)


def _look(data: bytes) -> tuple[str, int, int]:
    if data.startswith(_PNG):
        if not data.rstrip(b"\0").endswith(b"IEND\xaeB`\x82"):
            raise NotAnImageError
        return ("image/png", *struct.unpack(">II", data[16:24]))
    if data.startswith(b"\xff\xd8"):
        return ("image/jpeg", *_jpeg(data))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        if len(data) < struct.unpack("<I", data[4:8])[0] + 8:
            raise NotAnImageError
        return ("image/webp", *_webp(data))
    raise NotAnImageError


def _jpeg(data: bytes) -> tuple[int, int]:
    place = 2
    while True:
        if data[place] != 0xFF:
            raise NotAnImageError
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker in _START_OF_FRAME:
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
                raise NotAnImageError
            return width, height
        place += 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack("<I", data[21:25])[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return (
            int.from_bytes(data[24:27], "little") + 1,
            int.from_bytes(data[27:30], "little") + 1,
        )
    raise NotAnImageError
