"""Generations from the door to the file: three doors, one way, and what it costs."""

from __future__ import annotations

import base64
import io
import re
import struct
import uuid
import zlib
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from local.providers.images import picture
from local.stack import Stack
from supabase import ClientOptions, create_client
from tests.chat.conftest import wait_for
from tests.images.conftest import NewPainter, Painter


def opened(content: bytes) -> Any:
    return Image.open(io.BytesIO(content))


# Three doors -------------------------------------------------------------------------------------


def test_images_are_made_kept_and_charged(painter: Painter) -> None:
    generation = painter.made(
        num_outputs=2, aspect_ratio="16:9", output_format="png", seed=7, metadata={"mine": 1}
    )
    assert (generation["status"], generation["progress"]) == ("completed", 100)
    assert (generation["width"], generation["height"]) == (1360, 768)
    assert [image["seed"] for image in generation["images"]] == [7, 8]
    # Two images of one begun megapixel, at one credit.
    assert Decimal(str(generation["credits_charged"])) == 2
    assert painter.payer.charges() == [Decimal(2)]
    assert painter.payer.balance == 98
    painter.require_nothing_held()
    [usage] = painter.payer.usage()
    assert (usage["action"], usage["status"], usage["credential"]) == (
        "image",
        "completed",
        "platform",
    )
    assert str(usage["resource_id"]) == generation["id"]

    for image in generation["images"]:
        assert "storage_path" not in image
        assert image["public_url"] is None
        shown = painter.http.get(f"/images/{image['id']}/content")
        assert shown.status_code == 307
        content = httpx.get(shown.headers["location"], trust_env=False).content
        assert (opened(content).format, opened(content).size) == ("PNG", (1360, 768))
        assert len(content) == image["size_bytes"]
        small = painter.http.get(f"/images/{image['id']}/thumbnail")
        thumbnail = opened(httpx.get(small.headers["location"], trust_env=False).content)
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (384, 217))
    rows = painter.images(generation["id"])
    assert [row["access_count"] for row in rows] == [1, 1]


def test_a_client_inserts_with_the_supabase_sdk_and_reads_its_file(
    painter: Painter, stack: Stack
) -> None:
    options = ClientOptions(headers={"Authorization": f"Bearer {painter.payer.token}"})
    client = create_client(stack.supabase_url, stack.keys.publishable_key, options)
    [row] = (
        client.table("image_generations")
        .insert({"model_id": "flux-schnell", "prompt": "a lighthouse", "seed": 7})
        .execute()
        .data
    )
    assert (row["status"], row["progress"], row["steps"]) == ("pending", 0, 4)
    assert painter.ended(row["id"])["status"] == "completed"
    [image] = (
        client.table("generated_images")
        .select("*, image_generations(prompt)")
        .eq("generation_id", row["id"])
        .execute()
        .data
    )
    assert image["image_generations"]["prompt"] == "a lighthouse"
    content = client.storage.from_("images").download(image["storage_path"])
    assert opened(content).size == (1024, 1024)
    signed = client.storage.from_("images").create_signed_url(image["thumbnail_path"], 60)
    assert opened(httpx.get(signed["signedURL"], trust_env=False).content).format == "WEBP"


@pytest.mark.parametrize("shape", ["b64_json", "url"])
def test_openais_client_draws(painter: Painter, shape: Any) -> None:
    client = painter.payer.client()
    answer = client.images.generate(
        model="flux-schnell",
        prompt="a lighthouse",
        n=2,
        size="1024x768",
        output_format="jpeg",
        response_format=shape,
    )
    assert len(answer.data or ()) == 2
    for image in answer.data or ():
        content = (
            httpx.get(image.url or "", trust_env=False).content
            if shape == "url"
            else base64.b64decode(image.b64_json or "")
        )
        assert (opened(content).format, opened(content).size) == ("JPEG", (1024, 768))
    assert painter.payer.charges() == [Decimal(2)]


def test_openais_client_hears_why_not(painter: Painter) -> None:
    client = painter.payer.client()
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(model="flux-schnell", prompt="simulate: refuse=1")
    assert refused.value.code == "content_refused"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.images.generate(model="flux-schnell", prompt="x", size="1000x1000")
    assert (wrong.value.code, wrong.value.param) == ("invalid_argument", "width")
    with pytest.raises(openai.NotFoundError):
        client.images.generate(model="nobody", prompt="x")
    assert painter.payer.charges() == []
    painter.require_nothing_held()


def test_the_same_seed_gives_the_same_bytes(painter: Painter) -> None:
    def drawn(**values: Any) -> bytes:
        [image] = painter.made(**values)["images"]
        url = painter.http.get(f"/images/{image['id']}/content").headers["location"]
        return httpx.get(url, trust_env=False).content

    assert drawn(seed=7) == drawn(seed=7) != drawn(seed=8)
    assert drawn(seed=7) != drawn(seed=7, hf_loras=["someone/fog"], lora_scales=[1.0])


# Keys --------------------------------------------------------------------------------------------


def test_the_same_key_is_the_same_generation_over_http(painter: Painter) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = painter.start(headers=key)
    again = painter.start(headers=key)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.headers["idempotent-replayed"] == "true"
    assert first.json()["id"] == again.json()["id"]
    other = painter.start("something else", headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    painter.ended(first.json()["id"])
    assert painter.payer.charges() == [Decimal(1)]


def test_the_same_key_many_times_at_once_is_one_generation(painter: Painter) -> None:
    key = uuid.uuid4().hex

    def ask(number: int) -> httpx.Response:
        if number % 3:
            return painter.start(headers={"Idempotency-Key": key})
        return painter.insert({"idempotency_key": key})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(24)))
    assert {answer.status_code for answer in answers} <= {200, 201, 202, 409}
    rows = painter.payer.connection.execute(
        "select id from public.image_generations where user_id = %s", [painter.id]
    ).fetchall()
    assert len(rows) == 1
    painter.ended(str(rows[0]["id"]))
    assert painter.payer.charges() == [Decimal(1)]


def test_the_same_key_is_refused_to_an_insert(painter: Painter) -> None:
    key = uuid.uuid4().hex
    [first] = painter.insert({"idempotency_key": key}).json()
    again = painter.insert({"idempotency_key": key})
    assert again.status_code == 409
    assert f'"generation_id": "{first["id"]}"' in again.json()["details"]
    assert "generation_exists" in again.json()["details"]
    # Whoever asks by the other door gets the first one, too.
    answer = painter.start(headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["id"]) == (200, first["id"])
    painter.ended(first["id"])
    assert painter.payer.charges() == [Decimal(1)]


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_key_that_was_not_charged_runs_again(end: str, painter: Painter) -> None:
    key = uuid.uuid4().hex
    told = "refuse=1 times=1" if end == "failed" else "steps=200 step_ms=100"
    headers = {"Idempotency-Key": key}
    first = painter.start(f"simulate: {told}", headers=headers).json()["id"]
    if end == "cancelled":
        painter.rpc("cancel_generation", p_id=first)
    assert painter.ended(first)["status"] == end
    again = painter.start(f"simulate: {told}", headers=headers)
    assert again.status_code == 202
    assert again.json()["id"] != first
    # Another request under it is no repetition.
    other = painter.start("something else", headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    painter.rpc("cancel_generation", p_id=again.json()["id"])
    # And an insert may follow just the same.
    painter.ended(again.json()["id"])
    [row] = painter.insert({"prompt": f"simulate: {told}", "idempotency_key": key}).json()
    assert row["id"] not in (first, again.json()["id"])
    painter.rpc("cancel_generation", p_id=row["id"])
    painter.require_nothing_held()


# Money -------------------------------------------------------------------------------------------


def test_only_what_was_made_is_charged(painter: Painter) -> None:
    """One is refused, one does not decode: two of four."""
    generation = painter.made("simulate: refuse=1 break=2", num_outputs=4)
    assert len(generation["images"]) == 2
    assert painter.payer.charges() == [Decimal(2)]
    painter.require_nothing_held()


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ("refuse=4", "content_refused"),
        ("break=4", "upstream_error"),
        ("error=lora_refused", "invalid_argument"),
        ("error=unknown_model", "upstream_not_configured"),
    ],
)
def test_what_cannot_be_made_costs_nothing(painter: Painter, told: str, code: str) -> None:
    answer = painter.start(f"simulate: {told}", num_outputs=1)
    row = painter.ended(answer.json()["id"], 40)
    assert (row["status"], row["error_code"]) == ("failed", code)
    assert row["error_message"]
    painter.payer.require_free(count=1, code=code)


def test_what_failed_for_now_is_tried_again(painter: Painter) -> None:
    generation = painter.start("simulate: error=out_of_memory times=1").json()
    row = painter.ended(generation["id"], 40)
    assert (row["status"], row["attempts"]) == ("completed", 2)
    assert painter.payer.charges() == [Decimal(1)]


def test_nobody_draws_beyond_their_credits(new_painter: NewPainter) -> None:
    painter = new_painter()
    answer = painter.start(model_id="sdxl", num_outputs=4, width=1536, height=1360, steps=60)
    assert answer.status_code == 202, answer.text
    # 1.5 credits x 4 images x 2 begun megapixels x 60/28 steps.
    assert Decimal(str(answer.json()["credits_cost"])) == Decimal("25.714288")
    told = painter.rpc(
        "calculate_generation_cost",
        p_model_id="sdxl",
        p_num_outputs=4,
        p_width=1536,
        p_height=1360,
        p_steps=60,
    )
    assert Decimal(str(told.json())) == Decimal("25.714288")
    painter.ended(answer.json()["id"])
    painter.payer.connection.execute(
        "update public.credit_accounts set monthly_credit_budget = 26 where user_id = %s",
        [painter.id],
    )
    refused = painter.start()
    assert (refused.status_code, refused.json()["limit_source"]) == (402, "account_budget")


def test_the_plan_gives_images(new_painter: NewPainter) -> None:
    painter = new_painter("free")
    given = painter.payer.connection.execute(
        "select monthly_free_images as count from public.plans where slug = 'free'"
    ).fetchone()
    assert given is not None
    assert given["count"] >= 2
    painter.payer.connection.execute(
        "update public.credit_accounts set period_free_images = %s where user_id = %s",
        [given["count"] - 2, painter.id],
    )
    # Two left: one of three outputs costs; and what was not made is given back.
    row = painter.row(painter.made("simulate: refuse=2", num_outputs=3)["id"])
    assert (row["free_images"], row["credits_charged"]) == (1, 0)
    row = painter.row(painter.made(num_outputs=3)["id"])
    assert (row["free_images"], row["credits_charged"]) == (1, 2)
    account = painter.payer.connection.execute(
        "select period_free_images as count from public.credit_accounts where user_id = %s",
        [painter.id],
    ).fetchone()
    assert account == given


def test_a_new_month_gives_images_again(new_painter: NewPainter) -> None:
    painter = new_painter("free")
    assert painter.row(painter.made()["id"])["free_images"] == 0
    painter.payer.connection.execute(
        "update public.credit_accounts set period_start = period_start - interval '40 days'"
        " where user_id = %s",
        [painter.id],
    )
    row = painter.row(painter.made(num_outputs=2)["id"])
    assert (row["free_images"], row["credits_charged"]) == (2, 0)


# Waiting and leaving ------------------------------------------------------------------------------


def test_a_generation_is_called_off(painter: Painter) -> None:
    generation = painter.start("simulate: steps=200 step_ms=100").json()
    path = f"/images/generations/{generation['id']}/cancel"
    answer = painter.http.post(path)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert painter.http.post(path).json()["status"] == "cancelled"
    painter.payer.require_free(count=1)
    done = painter.made()
    late = painter.rpc("cancel_generation", p_id=done["id"])
    assert late.status_code == 409
    assert "generation_ended" in late.json()["details"]


def test_progress_is_streamed(painter: Painter) -> None:
    generation = painter.start("simulate: steps=6 step_ms=700").json()
    events: list[str] = []
    with painter.http.stream(
        "GET", f"/images/generations/{generation['id']}/events", timeout=30
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events.extend(line[7:] for line in answer.iter_lines() if line.startswith("event: "))
    assert events[-1] == "completed"
    assert events.count("progress") >= 3


def test_a_deleted_generation_is_called_off(painter: Painter) -> None:
    [row] = painter.insert({"prompt": "simulate: steps=200 step_ms=100"}).json()
    gone = painter.rest.delete("/image_generations", params={"id": f"eq.{row['id']}"})
    assert gone.status_code in (200, 204)
    painter.require_nothing_held()
    painter.payer.require_free(count=1)


# Files -------------------------------------------------------------------------------------------


def test_a_deleted_image_takes_its_files_with_it(painter: Painter) -> None:
    [image] = painter.images(painter.made()["id"])
    assert painter.http.delete(f"/images/{image['id']}").json()["deleted"] is True
    assert painter.http.delete(f"/images/{image['id']}").status_code == 404

    def left() -> int:
        row = painter.payer.connection.execute(
            "select count(*) as count from storage.objects where name = any (%s)",
            [[image["storage_path"], image["thumbnail_path"]]],
        ).fetchone()
        assert row is not None
        return int(row["count"])

    assert wait_for(lambda: left() == 0)


def test_a_public_image_is_shown_to_everybody(painter: Painter, functions_url: str) -> None:
    [image] = painter.made(is_public=True)["images"]
    assert image["public_url"] == f"{functions_url}/images/{image['id']}/content"
    stranger = httpx.Client(trust_env=False, follow_redirects=True)
    with stranger:
        assert opened(stranger.get(image["public_url"]).content).size == (1024, 1024)
        hidden = painter.rest.patch(
            "/generated_images", params={"id": f"eq.{image['id']}"}, json={"is_public": False}
        )
        assert hidden.status_code in (200, 204), hidden.text
        assert stranger.get(image["public_url"]).status_code == 404
    [row] = painter.images(painter.row(image["generation_id"])["id"])
    assert row["public_url"] is None


def test_strangers_see_nothing(painter: Painter, new_painter: NewPainter) -> None:
    generation = painter.made()
    [image] = painter.images(generation["id"])
    stranger = new_painter()
    assert stranger.http.get(f"/images/generations/{generation['id']}").status_code == 404
    assert stranger.http.get(f"/images/{image['id']}/content").status_code == 404
    assert stranger.http.delete(f"/images/{image['id']}").status_code == 404
    assert stranger.http.post(f"/images/generations/{generation['id']}/cancel").status_code == 404
    for table in ("image_generations", "generated_images"):
        assert stranger.rest.get(f"/{table}").json() == []
    file = f"/object/images/{image['storage_path']}"
    assert painter.storage.get(file).status_code == 200
    assert stranger.storage.get(file).status_code >= 400
    assert stranger.storage.delete(file).status_code >= 400
    assert painter.storage.delete(file).status_code >= 400
    assert painter.storage.get(file).status_code == 200
    marked = stranger.rest.post("/user_favorites", json={"image_id": str(image["id"])})
    assert marked.status_code == 404


def test_an_image_is_looked_at_afterwards(painter: Painter) -> None:
    [image] = painter.made(seed=7)["images"]

    def found() -> dict[str, Any] | None:
        row = painter.rest.get("/generated_images", params={"id": f"eq.{image['id']}"}).json()[0]
        return row if row["color_palette"] else None

    row = wait_for(found)
    assert 1 <= len(row["color_palette"]) <= 8
    assert row["dominant_colors"] == row["color_palette"][:3]
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in row["color_palette"])
    [analysis] = painter.rest.get(
        "/image_analysis", params={"image_id": f"eq.{image['id']}", "analysis_type": "eq.color"}
    ).json()
    shares = [one["share"] for one in analysis["raw_response"]["colors"]]
    assert shares == sorted(shares, reverse=True)
    assert abs(sum(shares) - 1) < 0.01


def test_an_input_image_is_begun_from(painter: Painter) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    path = f"{painter.id}/inputs/red.png"
    put = painter.storage.post(
        f"/object/images/{path}",
        content=buffer.getvalue(),
        headers={"content-type": "image/png"},
    )
    assert put.status_code == 200, put.text
    row = painter.row(painter.made(input_path=path)["id"])
    assert float(row["prompt_strength"]) == 0.8
    # Elsewhere nobody may put anything.
    for folder in (f"{uuid.uuid4()}/inputs", f"{painter.id}/{row['id']}"):
        refused = painter.storage.post(
            f"/object/images/{folder}/x.png",
            content=buffer.getvalue(),
            headers={"content-type": "image/png"},
        )
        assert refused.status_code >= 400
    missing = painter.start(input_path=f"{painter.id}/inputs/absent.png").json()
    ended = painter.ended(missing["id"])
    assert (ended["status"], ended["error_code"]) == ("failed", "invalid_argument")
    foreign = painter.start(input_path=f"{uuid.uuid4()}/inputs/x.png")
    assert (foreign.status_code, foreign.json()["param"]) == (400, "input_path")


def bomb() -> bytes:
    """A PNG that says it has 2.5 billion pixels, and begins."""
    rows = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (
            (b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)),
            (b"IDAT", rows),
            (b"IEND", b""),
        )
    )


@pytest.mark.parametrize(
    "content",
    [b"hello", picture(width=200, height=200)[:-40], bomb(), b"\x89PNG\r\n\x1a\n", b""],
    ids=["text", "cut", "bomb", "hollow", "empty"],
)
def test_what_is_no_image_is_not_begun_from(painter: Painter, content: bytes) -> None:
    path = f"{painter.id}/inputs/red.png"
    put = painter.storage.post(
        f"/object/images/{path}", content=content, headers={"content-type": "image/png"}
    )
    assert put.status_code == 200, put.text
    ended = painter.ended(painter.start(input_path=path).json()["id"])
    assert (ended["status"], ended["error_code"]) == ("failed", "invalid_argument")
    assert painter.payer.charges() == []
    painter.require_nothing_held()
