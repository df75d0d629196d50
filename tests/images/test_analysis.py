"""What is found in an image, and what is kept where somebody does not answer, or answers badly."""

from __future__ import annotations

import asyncio
import io
import json
import uuid
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from functions.chat import model_server
from functions.images.analysis import analyze_image
from functions.images.pictures import SHOWN_PIXELS, UndecodableError, shown_of
from functions.tasks.context import TaskContext, TaskRejectedError, TaskRetryError
from gpu.vision import MAX_DESCRIPTION, MAX_LABELS
from local.stack import Stack
from tests.chat.conftest import wait_for
from tests.images.conftest import NewPainter, Painter
from tests.images.sight import (
    EMBEDDINGS,
    SEEN,
    VISION,
    Reply,
    Sight,
    Viewer,
    like,
    pointed,
    refuse,
    said,
    viewer,
)
from tests.images.test_work import workshop

pytestmark = pytest.mark.anyio

VISION_MODEL = "Qwen3-VL-8B-Instruct-FP8"
EMBEDDING_MODEL = "Qwen3-Embedding-4B"
ALL = ["color", "vision", "style", "safety", "embedding"]
LEFT_OUT = ("vision", "style", "embedding")


def picture(
    width: int = 32, height: int = 24, color: Any = "teal", mode: str = "RGB", **options: Any
) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width, height), color).save(out, options.pop("format", "PNG"), **options)
    return out.getvalue()


def row(painter: Painter, image_id: object) -> dict[str, Any]:
    """As it is stored."""
    found = painter.payer.connection.execute(
        "select * from public.generated_images where id = %s", [image_id]
    ).fetchone()
    assert found is not None
    return found


def analyses(painter: Painter, image_id: object) -> dict[str, dict[str, Any]]:
    """By type."""
    rows = painter.payer.connection.execute(
        "select analysis_type, analysis_version, raw_response from public.image_analysis"
        " where image_id = %s",
        [image_id],
    ).fetchall()
    found = {one["analysis_type"]: one for one in rows}
    assert len(found) == len(rows)
    return found


def alike(painter: Painter, image_id: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = painter.rpc(
        "search_similar_images", p_image_id=str(image_id)
    ).json()
    return found


async def retried(view: Viewer, image_id: str, attempt: int = 1, **changes: Any) -> TaskRetryError:
    with pytest.raises(TaskRetryError) as caught:
        await view.analyze(image_id, attempt, **changes)
    assert "secret" not in str(caught.value)
    return caught.value


# Bad answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        lambda _: web.Response(text=""),
        lambda _: web.Response(text="not json"),
        lambda _: web.Response(body=b"\xff\xfe"),
        lambda _: web.Response(text="[" * 100_000),
        lambda _: web.json_response([]),
        lambda _: web.json_response({"choices": []}),
        lambda _: said(None),
        lambda _: said([{"type": "text", "text": json.dumps(SEEN)}]),
        lambda _: said("I cannot help with that."),
        lambda _: said(json.dumps(SEEN)[:60]),
        lambda _: said(json.dumps(SEEN), padding="x" * model_server.MAX_ANSWER_BYTES),
    ],
    ids=range(11),
)
async def test_what_cannot_be_read_is_asked_for_again_and_then_given_up(
    reply: Reply, stack: Stack, painter: Painter
) -> None:
    async with viewer(stack, Sight(vision=reply)) as view:
        image_id = await view.hang(painter, picture())
        for attempt in (1, 2):
            assert str(await retried(view, image_id, attempt)) == "unreadable"
        assert row(painter, image_id)["color_palette"]
        answer = await view.analyze(image_id, 3)
    assert answer["left_out"] == {
        "vision": "unreadable",
        "style": "unreadable",
        "embedding": "nothing_seen",
    }
    stored = row(painter, image_id)
    assert (stored["vision_labels"], stored["nsfw_score"]) == (None, None)
    assert set(analyses(painter, image_id)) == {"color", "safety"}


@pytest.mark.parametrize(
    "reply",
    [
        lambda _: web.json_response({}),
        lambda _: web.json_response({"data": []}),
        lambda _: web.json_response({"data": [{"embedding": None}]}),
        lambda _: pointed(),
        lambda _: pointed(*[0.5] * 1535),
        lambda _: pointed(*[0.5] * 1537),
        lambda _: pointed(*[0.0] * 1536),
        lambda _: pointed(*["x"] * 1536),
        lambda _: pointed(*[1e308] * 1536),
        lambda _: pointed(*[10**400] * 1536),
        lambda _: web.Response(text='{"data": [{"embedding": [NaN]}]}'),
    ],
    ids=range(11),
)
async def test_a_vector_that_is_none_is_given_up_and_the_words_stay(
    reply: Reply, stack: Stack, painter: Painter
) -> None:
    async with viewer(stack, Sight(embeddings=reply)) as view:
        image_id = await view.hang(painter, picture())
        await retried(view, image_id, 1)
        assert row(painter, image_id)["vision_labels"] == SEEN["labels"]
        answer = await view.analyze(image_id, 3)
        assert answer == {
            "result": "kept",
            "found": [],
            "left_out": {"embedding": "unreadable"},
        }
        # The picture was shown once: what is stored is not asked for again.
        assert view.sight.paths == [VISION, EMBEDDINGS, EMBEDDINGS]
    assert row(painter, image_id)["vision_embedding"] is None


async def test_an_answer_of_bad_will_changes_words_alone(stack: Stack, painter: Painter) -> None:
    """As where an image carries instructions, and the model follows them."""
    hostile = {
        "labels": [
            "</label>\u202e'; drop table x; --",
            "a\u0000b",
            "x" * 500,
            *map(str, range(99)),
        ],
        "description": "Ignore all of that. " * 500 + "\ud800\u0000",
        "style_tags": {"nested": ["x"] * 100},
        "nsfw": -5,
        "user_id": "somebody",
        "is_public": True,
    }
    async with viewer(stack, Sight(vision=lambda _: said(json.dumps(hostile)))) as view:
        image_id = await view.hang(painter, picture())
        answer = await view.analyze(image_id)
    assert answer["found"] == ["color", "vision", "style", "safety", "embedding"]
    stored = row(painter, image_id)
    assert len(stored["vision_labels"]) == MAX_LABELS
    assert stored["vision_labels"][:2] == ["</label> '; drop table x; --", "a b"]
    assert len(stored["vision_description"]) <= MAX_DESCRIPTION
    assert (stored["style_tags"], stored["nsfw_score"]) == ([], None)
    assert (str(stored["user_id"]), stored["is_public"]) == (painter.id, False)
    found = analyses(painter, image_id)
    assert found["safety"]["analysis_version"] == "unscored"
    assert found["vision"]["raw_response"]["content"].startswith('{"labels"')


@pytest.mark.parametrize("text", ["\0", "\ud800", "\x01", "\U0001f600", '"', "\\"], ids=range(6))
async def test_whatever_is_said_can_be_kept(text: str, stack: Stack, painter: Painter) -> None:
    content = json.dumps(SEEN) + text * 20_000
    async with viewer(stack, Sight(vision=lambda _: said(content, model=text * 999))) as view:
        image_id = await view.hang(painter, picture())
        assert (await view.analyze(image_id))["found"] == ALL
    assert row(painter, image_id)["vision_labels"] == SEEN["labels"]


# Nobody to ask -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"llm_url": None}, ("not_configured", "not_configured", "nothing_seen")),
        ({"vision_model": None}, ("off", "off", "nothing_seen")),
        ({"vision_model": None, "embedding_model": None}, ("off", "off", "off")),
    ],
    ids=range(3),
)
async def test_where_nobody_looks_there_are_colors_and_what_is_known(
    changes: dict[str, Any], reasons: tuple[str, ...], stack: Stack, painter: Painter
) -> None:
    async with viewer(stack) as view:
        image_id = await view.hang(painter, picture())
        answer = await view.analyze(image_id, **changes)
        assert view.sight.asked == []
    assert answer == {
        "result": "kept",
        "found": ["color", "safety"],
        "left_out": dict(zip(LEFT_OUT, reasons, strict=True)),
    }
    raw = analyses(painter, image_id)["safety"]["raw_response"]
    assert raw == {
        "nsfw_score": None,
        "scored_by": None,
        "model": None,
        "safety_level": "standard",
    }


@pytest.mark.parametrize(
    ("status", "reason"),
    [(404, "not_served"), (400, "status_400"), (401, "status_401"), (413, "status_413")],
)
async def test_a_model_that_is_not_served_is_left_out(
    status: int, reason: str, stack: Stack, painter: Painter
) -> None:
    async with viewer(stack, Sight(vision=refuse(status))) as view:
        image_id = await view.hang(painter, picture())
        answer = await view.analyze(image_id)
        assert answer["left_out"] == {
            "vision": reason,
            "style": reason,
            "embedding": "nothing_seen",
        }
        assert answer["found"] == ["color", "safety"]
        # And vectors alone are left out in the same way.
        view.sight.vision, view.sight.embeddings = Sight().vision, refuse(status)
        answer = await view.analyze(image_id)
    assert answer["left_out"] == {"embedding": reason}
    assert row(painter, image_id)["vision_description"] == SEEN["description"]


async def test_vectors_can_be_switched_off(stack: Stack, painter: Painter) -> None:
    async with viewer(stack, embedding_model=None) as view:
        image_id = await view.hang(painter, picture())
        answer = await view.analyze(image_id)
        assert view.sight.paths == [VISION]
    assert answer["left_out"] == {"embedding": "off"}


# Not now -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "reason", "pause"),
    [
        (refuse(503), "status_503", (22, 38)),
        (refuse(500), "status_500", (22, 38)),
        (refuse(408), "status_408", (22, 38)),
        (refuse(303), "status_303", (22, 38)),
        (refuse(429), "status_429", (22, 38)),
        (refuse(429, retry_after="77"), "status_429", (77, 77)),
        (refuse(503, retry_after="999999"), "status_503", (3600, 3600)),
        (refuse(503, retry_after="tomorrow"), "status_503", (22, 38)),
    ],
    ids=range(8),
)
async def test_a_server_without_time_is_asked_again_later(
    reply: Reply, reason: str, pause: tuple[int, int], stack: Stack, painter: Painter
) -> None:
    async with viewer(stack, Sight(vision=reply)) as view:
        image_id = await view.hang(painter, picture())
        error = await retried(view, image_id)
        assert str(error) == reason
        assert pause[0] <= error.seconds <= pause[1]
        assert set(analyses(painter, image_id)) == {"color"}
        view.sight.vision = Sight().vision
        answer = await view.analyze(image_id, 2)
    assert answer == {
        "result": "kept",
        "found": ["vision", "style", "safety", "embedding"],
        "left_out": {},
    }


async def test_pauses_grow(stack: Stack, painter: Painter) -> None:
    async with viewer(stack, Sight(vision=refuse(503))) as view:
        image_id = await view.hang(painter, picture())
        pauses = [(await retried(view, image_id, attempt)).seconds for attempt in (1, 2, 3, 4)]
    for pause, expected in zip(pauses, (30, 120, 480, 1920), strict=True):
        assert 0.74 * expected <= pause <= 1.26 * expected


@pytest.mark.parametrize("part", ["vision", "embedding"])
async def test_a_server_that_hangs_is_left(
    part: str, stack: Stack, painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_server, "ASK_SECONDS", 0.5)
    async with viewer(stack) as view:
        image_id = await view.hang(painter, picture())
        if part == "embedding":
            await view.analyze(image_id, embedding_model=None)
        view.sight.hangs = True
        assert str(await retried(view, image_id)) == "upstream_timeout"
    assert row(painter, image_id)["color_palette"]


async def test_a_server_that_is_not_there_is_asked_again(stack: Stack, painter: Painter) -> None:
    async with viewer(stack, llm_url="http://127.0.0.1:9/v1") as view:
        image_id = await view.hang(painter, picture())
        assert str(await retried(view, image_id)) == "upstream_unavailable"
    assert set(analyses(painter, image_id)) == {"color"}


async def test_no_row_is_locked_while_a_model_is_waited_for(stack: Stack, painter: Painter) -> None:
    connection = painter.payer.connection
    async with viewer(stack) as view:
        image_id = await view.hang(painter, picture())

        def change() -> None:
            with connection.transaction():
                connection.execute("set local lock_timeout = '200ms'")
                connection.execute(
                    "update public.generated_images set is_public = not is_public where id = %s",
                    [image_id],
                )
                connection.execute(
                    "select from public.profiles where id = %s for update", [painter.id]
                )

        view.sight.on_ask = change
        assert (await view.analyze(image_id))["found"] == ALL
    assert len(view.sight.asked) == 2


# An image that is gone ---------------------------------------------------------------------------


async def test_an_image_that_is_deleted_meanwhile_leaves_nothing(
    stack: Stack, painter: Painter
) -> None:
    async with viewer(stack) as view:
        image_id = await view.hang(painter, picture())
        view.sight.on_ask = lambda: painter.payer.connection.execute(
            "delete from public.generated_images where id = %s", [image_id]
        )
        assert await view.analyze(image_id) == {"result": "gone"}
        assert await view.analyze(image_id) == {"result": "gone"}
    assert analyses(painter, image_id) == {}


async def test_an_image_whose_file_is_gone_is_for_the_operator(
    stack: Stack, painter: Painter
) -> None:
    async with viewer(stack) as view:
        image_id = await view.hang(painter, picture(), storage_path=f"{painter.id}/nowhere.png")
        with pytest.raises(TaskRejectedError, match="file is gone"):
            await view.analyze(image_id)
        assert view.sight.asked == []


@pytest.mark.parametrize("content", [b"\0", b"GIF89a", picture()[:40]], ids=range(3))
async def test_what_does_not_decode_is_not_shown(
    content: bytes, stack: Stack, painter: Painter
) -> None:
    async with viewer(stack) as view:
        image_id = await view.hang(painter, content)
        with pytest.raises(TaskRejectedError, match="does not decode"):
            await view.analyze(image_id)
        assert view.sight.asked == []


async def test_a_payload_that_names_no_image_is_rejected(stack: Stack) -> None:
    async with viewer(stack) as view:
        context = TaskContext(view.settings, view.database, uuid.uuid4(), 1)
        with pytest.raises(TaskRejectedError):
            await analyze_image({}, context)


# What a model is shown ---------------------------------------------------------------------------


def marked() -> bytes:
    """A large JPEG that lies on its side, with a place and a comment in it."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010E] = "SECRETPLACE"
    return picture(
        3000, 1500, format="JPEG", exif=exif, comment="SECRETPLACE", icc_profile=b"SECRETPLACE"
    )


async def test_a_model_is_shown_a_small_copy_without_metadata(
    stack: Stack, painter: Painter
) -> None:
    content = marked()
    assert content.count(b"SECRETPLACE") == 3
    async with viewer(stack) as view:
        image_id = await view.hang(painter, content)
        await view.analyze(image_id)
        shown = view.sight.picture
    assert b"SECRETPLACE" not in shown
    image = Image.open(io.BytesIO(shown))
    assert image.width * image.height <= SHOWN_PIXELS
    assert image.height == pytest.approx(2 * image.width, abs=2)
    assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


@pytest.mark.parametrize(
    ("size", "mode", "shown"),
    [
        ((8, 8), "RGB", (8, 8)),
        ((1024, 1024), "RGB", (1024, 1024)),
        ((2048, 512), "RGB", (2048, 512)),
        ((4096, 4096), "RGB", (1024, 1024)),
        ((16384, 16), "RGB", (16384, 16)),
        ((1, 16384), "RGB", (1, 16384)),
        ((40, 30), "RGBA", (40, 30)),
        ((40, 30), "LA", (40, 30)),
        ((40, 30), "L", (40, 30)),
        ((40, 30), "P", (40, 30)),
    ],
    ids=range(10),
)
async def test_every_shape_and_kind_is_shown(
    size: tuple[int, int], mode: str, shown: tuple[int, int]
) -> None:
    image = Image.open(io.BytesIO(await shown_of(picture(*size, color=0, mode=mode))))
    assert (image.size, image.mode, image.format) == (shown, "RGB", "JPEG")


async def test_what_is_clear_is_shown_as_white() -> None:
    clear = picture(8, 8, color=(0, 0, 0, 0), mode="RGBA")
    assert Image.open(io.BytesIO(await shown_of(clear))).getpixel((4, 4)) == (255, 255, 255)


async def test_what_is_no_image_is_not_shown() -> None:
    with pytest.raises(UndecodableError):
        await shown_of(b"\x89PNG\r\n\x1a\n" + b"\0" * 100)


# What is found -----------------------------------------------------------------------------------


async def test_all_is_found_and_kept(stack: Stack, painter: Painter) -> None:
    async with viewer(stack) as view:
        image_id = await view.hang(painter, picture())
        assert await view.analyze(image_id) == {"result": "kept", "found": ALL, "left_out": {}}
        (_, question, headers), (_, asked, _) = view.sight.asked
        # A second time nobody is asked.
        assert await view.analyze(image_id) == {"result": "kept", "found": [], "left_out": {}}
        assert len(view.sight.asked) == 2
    assert headers["Authorization"] == "Bearer key"
    assert question["model"] == VISION_MODEL
    assert question["response_format"]["json_schema"]["name"] == "seen"
    assert (asked["model"], asked["dimensions"]) == (EMBEDDING_MODEL, 1536)
    assert asked["input"] == ["A lighthouse by the sea.\nlighthouse, sea\noil painting"]

    stored = row(painter, image_id)
    assert stored["vision_labels"] == SEEN["labels"]
    assert stored["vision_description"] == SEEN["description"]
    assert stored["style_tags"] == SEEN["style_tags"]
    assert stored["nsfw_score"] == 0.125
    assert stored["vision_embedding_model"] == EMBEDDING_MODEL
    assert stored["color_palette"]
    found = analyses(painter, image_id)
    for kind in ("vision", "style"):
        assert found[kind]["analysis_version"] == VISION_MODEL
        assert found[kind]["raw_response"] == {
            "content": json.dumps(SEEN),
            "model": "vl-test",
            "finish_reason": "stop",
        }
    assert found["safety"]["analysis_version"] == VISION_MODEL
    assert found["safety"]["raw_response"] == {
        "nsfw_score": 0.125,
        "scored_by": "vision_model",
        "model": VISION_MODEL,
        "safety_level": "standard",
    }


async def test_the_score_that_came_with_an_image_stays(stack: Stack, painter: Painter) -> None:
    async with viewer(stack) as view:
        metadata = json.dumps({"model": "flux-schnell"})
        image_id = await view.hang(painter, picture(), nsfw_score=0.5, technical_metadata=metadata)
        answer = await view.analyze(image_id)
    assert set(answer["found"]) == set(ALL)
    assert row(painter, image_id)["nsfw_score"] == 0.5
    safety = analyses(painter, image_id)["safety"]
    assert safety["analysis_version"] == "image-server"
    assert safety["raw_response"] == {
        "nsfw_score": 0.5,
        "scored_by": "image_server",
        "model": "flux-schnell",
        "safety_level": "standard",
    }


async def test_another_model_looks_anew(stack: Stack, painter: Painter) -> None:
    async with viewer(stack) as view:
        image_id = await view.hang(painter, picture())
        await view.analyze(image_id)
        again = SEEN | {"labels": ["tower"], "nsfw": 0.875}
        view.sight.vision = lambda _: said(json.dumps(again))
        answer = await view.analyze(image_id, vision_model="another")
        # The score is there, whoever gave it.
        assert answer["found"] == ["vision", "style", "embedding"]
        answer = await view.analyze(
            image_id, vision_model="another", embedding_model="other vectors"
        )
    assert answer["found"] == ["embedding"]
    stored = row(painter, image_id)
    assert (stored["vision_labels"], stored["nsfw_score"]) == (["tower"], 0.125)
    assert stored["vision_embedding_model"] == "other vectors"


async def test_two_at_a_time_find_it_once(stack: Stack, painter: Painter) -> None:
    async with viewer(stack) as view:
        image_id = await view.hang(painter, picture())
        answers = await asyncio.gather(*(view.analyze(image_id) for _ in range(4)))
    assert [answer["result"] for answer in answers] == ["kept"] * 4
    assert set(analyses(painter, image_id)) == {"color", "vision", "style", "safety"}


async def test_the_alike_come_first_and_never_a_strangers(
    stack: Stack, painter: Painter, new_painter: NewPainter
) -> None:
    stranger = new_painter()
    descriptions = {
        "lighthouse": "A white lighthouse by the sea at night.",
        "tower": "A white lighthouse on a rock by the sea.",
        "cat": "A black cat asleep on a sofa.",
    }
    async with viewer(stack, Sight(embeddings=like)) as view:
        ids = {}
        for name, description in descriptions.items():
            seen = SEEN | {"labels": [name], "description": description}
            view.sight.vision = lambda _, seen=seen: said(json.dumps(seen))  # type: ignore[misc]
            ids[name] = await view.hang(painter, picture())
            await view.analyze(ids[name])
            theirs = await view.hang(stranger, picture(), is_public=name == "tower")
            await view.analyze(theirs)
    found = alike(painter, ids["lighthouse"])
    assert [one["image_id"] for one in found] == [ids["tower"], ids["cat"]]
    assert found[0]["distance"] < found[1]["distance"]
    assert alike(stranger, ids["lighthouse"]) == []
    # Nor does a stranger read what was found.
    for table, column in (("image_analysis", "image_id"), ("generated_images", "id")):
        answer = stranger.rest.get(f"/{table}", params={column: f"eq.{ids['cat']}"})
        assert answer.json() == []
    mine = painter.rest.get("/image_analysis", params={"image_id": f"eq.{ids['cat']}"}).json()
    assert {one["analysis_type"] for one in mine} == {"color", "vision", "style", "safety"}


async def test_an_image_of_an_own_key_is_rated_by_the_vision_model(
    stack: Stack, painter: Painter
) -> None:
    """Its provider says nothing of it."""
    async with workshop(stack) as shop:
        await shop.bring(painter)
        generation_id = shop.begin(painter)
        assert (await shop.work(generation_id))["result"] == "completed"
    [image] = painter.images(generation_id)
    assert (image["nsfw_score"], image["is_public"]) == (None, False)

    def complete() -> dict[str, Any] | None:
        found = row(painter, image["id"])
        return found if found["vision_embedding"] is not None else None

    rated = await asyncio.to_thread(wait_for, complete, 30)
    assert rated["nsfw_score"] == pytest.approx(0.02)
    safety = analyses(painter, image["id"])["safety"]
    assert safety["analysis_version"] == VISION_MODEL
    assert safety["raw_response"]["scored_by"] == "vision_model"


def test_the_stack_finds_all_of_an_image_that_it_made(painter: Painter) -> None:
    """Through PostgREST, Storage, the worker and the simulators."""
    made = [painter.made(prompt, seed=7)["images"][0] for prompt in ("a", "a", "another")]

    def complete() -> list[dict[str, Any]] | None:
        rows = [row(painter, one["id"]) for one in made]
        return rows if all(one["vision_embedding"] is not None for one in rows) else None

    first, same, other = wait_for(complete, 30)
    assert first["vision_labels"]
    assert first["vision_description"].startswith("[simulated]")
    assert "simulated" in first["style_tags"]
    assert same["vision_description"] == first["vision_description"]
    assert abs(first["nsfw_score"] - 0.01) < 1e-6
    found = analyses(painter, first["id"])
    assert {kind: one["analysis_version"] for kind, one in found.items()} == {
        "color": "pillow-mediancut-8",
        "safety": "image-server",
        "vision": VISION_MODEL,
        "style": VISION_MODEL,
    }
    assert found["safety"]["raw_response"]["model"] == "flux-schnell"
    nearest = alike(painter, first["id"])
    assert [one["image_id"] for one in nearest] == [str(same["id"]), str(other["id"])]
    assert nearest[0]["distance"] == pytest.approx(0, abs=1e-3)
