"""Images: small ones, of the kind and shape that was asked for."""

from __future__ import annotations

import base64
import secrets
import struct
import zlib
from typing import Any

from aiohttp import web

from local.providers.double import FILES_PATH, Double, Record, route

# One pixel of each: encoders are not what is tested here.
_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP//////////////////////////////////////////////////////"
    "////////////////////////////////wgALCAABAAEBAREA/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQABPxD/2Q=="
)
_WEBP = base64.b64decode("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")


def picture(kind: str = "png", width: int = 8, height: int = 8) -> bytes:
    """An image; of the size where it is a PNG."""
    if kind in ("jpeg", "jpg"):
        return _JPEG
    if kind == "webp":
        return _WEBP
    rows = b"".join(b"\0" + bytes((40, 90, 160)) * width for _ in range(height))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        )
    )


@route("openai", "POST", "/images/generations")
async def _openai(_: Double, record: Record) -> web.Response:
    body = record.body
    width, _, height = (body.get("size") or "1024x1024").partition("x")
    made = picture(body.get("output_format", "png"), int(width) // 128, int(height) // 128)
    rows = [{"b64_json": base64.b64encode(made).decode()} for _ in range(body.get("n", 1))]
    usage = {"input_tokens": 5, "output_tokens": 272, "total_tokens": 277}
    return web.json_response({"created": 1767225600, "data": rows, "usage": usage})


@route("xai", "POST", "/images/generations")
async def _xai(_: Double, record: Record) -> web.Response:
    rows = [
        {"b64_json": base64.b64encode(picture()).decode(), "revised_prompt": ""}
        for _ in range(record.body.get("n", 1))
    ]
    return web.json_response({"data": rows})


@route("google", "POST", "/models/*:generateContent")
@route("google-vertex", "POST", "*:generateContent")
async def _gemini(_: Double, record: Record) -> web.Response:
    text = record.body["contents"][0]["parts"][0]["text"]
    if "blocked prompt" in text:
        return web.json_response({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}})
    if "blocked image" in text:
        return web.json_response({"candidates": [{"index": 0, "finishReason": "IMAGE_SAFETY"}]})
    data = {"mimeType": "image/png", "data": base64.b64encode(picture()).decode()}
    content = {"role": "model", "parts": [{"inlineData": data}]}
    candidate = {"index": 0, "content": content, "finishReason": "STOP"}
    return web.json_response({"candidates": [candidate], "modelVersion": "gemini-image"})


@route("google-vertex", "POST", "*:predict")
async def _imagen(_: Double, record: Record) -> web.Response:
    asked = record.body["parameters"]
    row = {
        "bytesBase64Encoded": base64.b64encode(picture()).decode(),
        "mimeType": "image/png",
        "prompt": "a better prompt",
    }
    rows: list[dict[str, Any]] = [row] * asked["sampleCount"]
    prompt = record.body["instances"][0]["prompt"]
    filtered = {"raiFilteredReason": "Filtered for its content, code 58061214."}
    if "blocked image" in prompt:
        rows = [filtered]
    elif "some blocked" in prompt:
        rows[0] = filtered
    return web.json_response({"predictions": rows})


@route("replicate", "POST", "/models/*/predictions")
async def _predict(double: Double, record: Record) -> web.Response:
    asked = record.body["input"]
    prediction_id = secrets.token_hex(8)
    body: dict[str, Any] = {"id": prediction_id, "status": "processing", "output": None}
    if "NSFW" in asked["prompt"]:
        body |= {"status": "failed", "error": "NSFW content detected. Try another prompt."}
    elif "fails" in asked["prompt"]:
        body |= {"status": "failed", "error": "CUDA out of memory"}
    elif "slowly" not in asked["prompt"]:
        body |= {"status": "succeeded", "output": _files(double, asked)}
    else:
        double.files[f"{prediction_id}.input"] = str(asked.get("num_outputs", 1)).encode()
    return web.json_response(body, status=201)


@route("replicate", "GET", "/predictions/*")
async def _prediction(double: Double, record: Record) -> web.Response:
    prediction_id = record.path.rpartition("/")[2]
    count = int(double.files[f"{prediction_id}.input"])
    output = _files(double, {"num_outputs": count})
    return web.json_response({"id": prediction_id, "status": "succeeded", "output": output})


@route("replicate", "POST", "/predictions/*/cancel")
async def _cancel(_: Double, record: Record) -> web.Response:
    return web.json_response({"id": record.path.split("/")[2], "status": "canceled"})


@route("stability", "POST", "/v2beta/stable-image/generate/*")
async def _stability(_: Double, record: Record) -> web.Response:
    form = record.body
    is_filtered = "blocked image" in form["prompt"]
    headers = {
        "finish-reason": "CONTENT_FILTERED" if is_filtered else "SUCCESS",
        "seed": form.get("seed", "343940597"),
    }
    kind = form.get("output_format", "png")
    return web.Response(body=picture(kind), content_type=f"image/{kind}", headers=headers)


async def token(double: Double, request: web.BaseRequest) -> web.Response:
    """Google's token endpoint: the issuer's treatment is that of a key of the same name."""
    import jwt  # noqa: PLC0415 - only where tokens are asked for

    form = await request.post()
    claims = jwt.decode(str(form["assertion"]), options={"verify_signature": False})
    if double.keys.get(claims["iss"]) != "good":
        body = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        return web.json_response(body, status=400)
    access = double.new_key()
    return web.json_response({"access_token": access, "expires_in": 3599, "token_type": "Bearer"})


def _files(double: Double, asked: dict[str, Any]) -> list[str]:
    kind = asked.get("output_format", "png")
    urls = []
    for _ in range(asked.get("num_outputs", 1)):
        name = f"{secrets.token_hex(8)}.{kind}"
        double.files[name] = picture(kind)
        urls.append(f"{double.address}{FILES_PATH}/{name}")
    return urls
