"""Images as pixels: decoded once to be sure of them, and made small.

Pillow does it (the extra `images`), in a thread: a large image takes a tenth of a second.
"""

from __future__ import annotations

import asyncio
import io
import math
import struct
import warnings
from typing import Any

from functions.core.errors import OperatorError

MAX_PIXELS = 64 * 1024 * 1024
"""A little more than 8K; what unpacks to more is no image of ours."""

THUMBNAIL_SIDE = 384
"""Pixels of the longer side."""

THUMBNAIL_QUALITY = 80
COLORS = 8
DOMINANT = 3

SHOWN_PIXELS = 1024 * 1024
"""As many as a vision model is shown: more cost it time and tell it little."""

SHOWN_QUALITY = 90


class UndecodableError(ValueError):
    """The bytes are no image that can be shown."""


async def thumbnail_of(content: bytes) -> bytes:
    """A small WebP of an image, which is decoded whole. Raises UndecodableError, OperatorError."""
    return await asyncio.to_thread(_thumbnail, _library(), content)


async def colors_of(content: bytes) -> list[tuple[str, float]]:
    """Colours as `#rrggbb`, and the share of the image that each covers; most of it first.

    Raises UndecodableError, OperatorError.
    """
    return await asyncio.to_thread(_colors, _library(), content)


async def shown_of(content: bytes) -> bytes:
    """What others are shown of an image: a JPEG of at most SHOWN_PIXELS, upright, pixels alone.

    Raises UndecodableError, OperatorError.
    """
    return await asyncio.to_thread(_shown, _library(), content)


def _thumbnail(library: Any, content: bytes) -> bytes:  # noqa: ANN401 - a module
    image = _decoded(library, content)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    out = io.BytesIO()
    image.save(out, "WEBP", quality=THUMBNAIL_QUALITY)
    return out.getvalue()


def _shown(library: Any, content: bytes) -> bytes:  # noqa: ANN401 - a module
    image = _upright(_decoded(library, content))
    scale = min(1.0, math.sqrt(SHOWN_PIXELS / (image.width * image.height)))
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    if size != image.size:
        image = image.resize(size, library.Resampling.LANCZOS, reducing_gap=2.0)
    # A new one, because a copy takes comments and metadata along.
    shown = library.new("RGB", image.size, "white")
    shown.paste(image, mask=image if image.mode == "RGBA" else None)
    out = io.BytesIO()
    shown.save(out, "JPEG", quality=SHOWN_QUALITY)
    return out.getvalue()


def _upright(image: Any) -> Any:  # noqa: ANN401 - an image of the module
    """Turned as its metadata says, which would be lost."""
    from PIL import ImageOps  # noqa: PLC0415 - only where images are handled

    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):
        return image  # metadata of anybody's making


def _colors(library: Any, content: bytes) -> list[tuple[str, float]]:  # noqa: ANN401 - a module
    image = _decoded(library, content).convert("RGB")
    image.thumbnail((128, 128))
    few = image.quantize(colors=COLORS, method=library.Quantize.MEDIANCUT)
    palette = few.getpalette() or []
    counted = sorted(few.getcolors() or [], reverse=True)
    total = image.width * image.height
    return [
        ("#{:02x}{:02x}{:02x}".format(*palette[3 * place : 3 * place + 3]), count / total)
        for count, place in counted
    ]


def _decoded(library: Any, content: bytes) -> Any:  # noqa: ANN401 - an image of the module
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", library.DecompressionBombWarning)
            image = library.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP"))
            if image.width * image.height > MAX_PIXELS:
                raise UndecodableError
            image.load()
    except (OSError, ValueError, SyntaxError, MemoryError, library.DecompressionBombError):
        raise UndecodableError from None
    except Warning:
        raise UndecodableError from None
    return image if image.mode in ("RGB", "RGBA") else image.convert("RGBA")


def _library() -> Any:  # noqa: ANN401 - a module
    try:
        from PIL import Image  # noqa: PLC0415 - only where images are handled
    except ImportError:
        raise OperatorError(
            "pillow_missing", "Images need Pillow: pip install 'quernel[images]'."
        ) from None
    return Image
