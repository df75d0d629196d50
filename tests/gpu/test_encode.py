"""Pictures that come in, good and bad, and how they go out."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image, ImageOps

from gpu.contract import JobError
from gpu.encode import decode, encode


def content(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def halves(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), (255, 0, 0))
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    return image


@pytest.mark.parametrize("size", [(64, 64), (300, 100), (100, 300), (16, 16)])
def test_it_is_cut_to_the_shape_from_its_middle(size: tuple[int, int]) -> None:
    made = decode(content(halves(*size)), 64, 64)
    assert made.size == (64, 64)
    assert made.getpixel((5, 32)) == (255, 0, 0)
    assert made.getpixel((58, 32)) == (0, 0, 255)


def test_it_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its right side
    made = decode(content(halves(64, 64), "JPEG", exif=exif, quality=95), 64, 64)
    red = made.getpixel((32, 5))
    assert isinstance(red, tuple)
    assert red[0] > 200 > red[2]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_turned_as_pillow_turns_it(form: str, orientation: int) -> None:
    image = halves(64, 64)
    image.paste((0, 255, 0), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = content(image, form, exif=exif, quality=100)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(turned))).convert("RGB")
    assert decode(turned, 64, 64).tobytes() == expected.tobytes()


def test_bad_exif_is_no_matter() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x011A] = 72.0
    # Its resolution is a text, says its type.
    tags = exif.tobytes().replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x02")
    broken = content(halves(64, 64), "PNG", exif=tags)
    with pytest.raises((TypeError, AttributeError, struct.error)):
        ImageOps.exif_transpose(Image.open(io.BytesIO(broken)))
    red = decode(broken, 64, 64).getpixel((32, 5))
    assert red == (255, 0, 0)


def test_where_it_is_transparent_it_is_white() -> None:
    made = decode(content(Image.new("RGBA", (32, 32), (0, 0, 0, 0))), 16, 16)
    assert made.getpixel((8, 8)) == (255, 255, 255)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"not an image",
        content(halves(64, 64))[:100],
        content(halves(64, 64), "GIF"),
        content(halves(64, 64), "TIFF"),
        bomb(50_000, 50_000),
        bomb(9_000, 9_000),
        bomb(0, 10),
    ],
    ids=["empty", "text", "half", "gif", "tiff", "bomb", "large", "no-width"],
)
def test_what_is_no_picture_is_refused(bad: bytes) -> None:
    with pytest.raises(JobError) as refused:
        decode(bad, 64, 64)
    assert refused.value.code == "image_refused"


def test_what_goes_out_says_nothing_of_how_it_was_made() -> None:
    image = halves(32, 32)
    image.info["parameters"] = "a secret prompt"
    image.info["exif"] = b"Exif\0\0secret"
    for form in ("png", "jpeg", "webp"):
        made = encode(image, form, 90)
        assert b"secret" not in made
        assert Image.open(io.BytesIO(made)).size == (32, 32)


def test_png_is_exact() -> None:
    image = halves(32, 32)
    assert Image.open(io.BytesIO(encode(image, "png", 1))).tobytes() == image.tobytes()
