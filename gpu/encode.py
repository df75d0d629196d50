"""Pictures to bytes and back: nothing but the picture goes either way."""

from __future__ import annotations

import io
import warnings

from PIL import ExifTags, Image, ImageOps

from gpu.contract import Format, JobError

MAX_PIXELS = 64 * 1024 * 1024
"""Of the image to begin from: a little more than 8K, as functions/images lets through."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation. ImageOps.exif_transpose writes EXIF anew, and fails where it is bad."""

_NAMES = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


def encode(picture: Image.Image, form: Format, quality: int) -> bytes:
    """The bytes of a picture, without metadata; `quality` is 1 to 100, and not for PNG."""
    out = io.BytesIO()
    options = {} if form == "png" else {"quality": quality}
    picture.convert("RGB").save(out, _NAMES[form], **options)
    return out.getvalue()


def decode(content: bytes, width: int, height: int) -> Image.Image:
    """The image to begin from, upright, cut to the shape of the output and scaled to its size.

    Raises JobError image_refused.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture: Image.Image = Image.open(io.BytesIO(content), formats=list(_NAMES.values()))
            if picture.width * picture.height > MAX_PIXELS:
                raise JobError("image_refused", "The input image has too many pixels.")
            picture.load()
            turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except (OSError, ValueError, SyntaxError, MemoryError, Warning, Image.DecompressionBombError):
        raise JobError(
            "image_refused", "The input image is no PNG, JPEG or WebP that decodes."
        ) from None
    upright = picture if turn is None else picture.transpose(turn)
    shown = upright.convert("RGBA")
    ground = Image.new("RGBA", shown.size, (255, 255, 255, 255))
    ground.alpha_composite(shown)  # where it is transparent, paper is white
    return ImageOps.fit(ground.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
