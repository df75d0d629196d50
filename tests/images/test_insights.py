"""What is alike, what a person draws, and what everybody does: never what is somebody's alone."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from functions.core.database import Database
from functions.images.analysis import refresh_insights
from functions.tasks.context import TaskContext
from local.stack import Stack
from tests.chat.conftest import settings_of
from tests.images.conftest import NewPainter, Painter
from tests.images.gallery import Row, hang, people, refresh
from tests.support.fresh_database import fresh_database


@pytest.fixture(scope="module")
def alone() -> Iterator[psycopg.Connection[Row]]:
    """A database that nobody else draws in."""
    with fresh_database() as connection:
        connection.autocommit = True
        connection.row_factory = dict_row  # type: ignore[assignment]
        yield connection  # type: ignore[misc]


@pytest.fixture
def books(alone: psycopg.Connection[Row]) -> psycopg.Connection[Row]:
    """The same, without images."""
    alone.execute("delete from public.generated_images")
    alone.execute("delete from private.insight_refreshes")
    return alone


def trends(connection: psycopg.Connection[Row]) -> dict[str, Row]:
    rows = connection.execute("select * from private.community_trends").fetchall()
    return {row["subject"]: row for row in rows}


# Trends ------------------------------------------------------------------------------------------


def test_a_trend_is_of_public_images_of_enough_people(books: psycopg.Connection[Row]) -> None:
    users = people(books, 6)
    for user in users:
        for _ in range(2):
            hang(
                books,
                user,
                is_public=True,
                vision_labels=["lighthouse", "lighthouse", "sea"],
                style_tags=["oil"],
                color_palette=["#112233"],
                nsfw_score=0.5,
            )
        # Private, or of one person alone: nobody hears of them.
        hang(books, user, vision_labels=["secret"])
    for _ in range(10):
        hang(books, users[0], is_public=True, vision_labels=["mine"], style_tags=["signature"])
        hang(
            books,
            users[0],
            is_public=True,
            vision_labels=["sea"],
            style_tags=["signature"],
            color_palette=["#c0ffee"],
        )
    for user in users[:5]:
        hang(books, user, is_public=True, vision_labels=["five of them"])
    assert refresh(books) == 2
    found = trends(books)
    assert set(found) == {"lighthouse", "sea"}
    assert (found["lighthouse"]["usage_count"], found["lighthouse"]["avg_nsfw_score"]) == (12, 0.5)
    assert found["lighthouse"]["common_styles"] == ["oil"]
    assert found["lighthouse"]["color_trends"] == ["#112233"]
    # What one person draws, however often, is not the style of everybody.
    assert found["sea"]["common_styles"] == ["oil"]
    assert found["sea"]["color_trends"] == ["#112233"]


def test_a_trend_is_of_these_days(books: psycopg.Connection[Row]) -> None:
    users = people(books, 6)
    old = "private.uuid7_floor(now() - interval '8 days')"
    for place, user in enumerate(users):
        image_id = hang(books, user, is_public=True, vision_labels=["old"])
        books.execute(
            f"update public.generated_images set id = (left({old}::text, 24)"  # noqa: S608
            " || lpad(%s::text, 12, '0'))::uuid where id = %s".encode(),
            [place, image_id],
        )
        hang(books, user, is_public=True, vision_labels=["new"])
    refresh(books)
    assert set(trends(books)) == {"new"}


def test_it_is_refreshed_when_there_is_something_new(books: psycopg.Connection[Row]) -> None:
    [user] = people(books, 1)
    assert refresh(books) == 2
    assert refresh(books) == 0
    image_id = hang(books, user)
    assert refresh(books) == 2
    analyses = Jsonb([{"type": "color", "version": "1", "raw": {}}])
    books.execute("select backend.image_analysed(%s, %s)", [image_id, analyses])
    assert refresh(books) == 2
    assert refresh(books) == 0
    books.execute("update private.insight_refreshes set refreshed_at = now() - interval '25 hours'")
    assert refresh(books) == 2


def test_a_person_sees_what_they_have_drawn(books: psycopg.Connection[Row]) -> None:
    first, second = people(books, 2)
    hang(books, first, vision_labels=["sea", "sky"], style_tags=["oil"], nsfw_score=0.25)
    hang(books, first, vision_labels=["sea"], style_tags=["ink"], nsfw_score=0.75)
    hang(books, first, style_tags=["ink"])
    hang(books, second, vision_labels=["theirs"])
    refresh(books)

    def stats(user: str) -> Any:
        with books.transaction(force_rollback=True):
            books.execute(
                "select set_config('request.jwt.claims', json_build_object('sub', %s::text)::text,"
                " true), set_config('role', 'authenticated', true)",
                [user],
            )
            row = books.execute("select public.user_generation_stats() as it").fetchone()
        assert row is not None
        return row["it"]

    assert stats(first) == {
        "total_prompts": 0,
        "total_images": 3,
        "avg_nsfw_score": 0.5,
        "preferred_styles": ["ink", "oil"],
        "common_subjects": ["sea", "sky"],
    }
    assert stats(second)["common_subjects"] == ["theirs"]
    assert stats(str(uuid.uuid4()))["total_images"] == 0


# Alike -------------------------------------------------------------------------------------------


def vector(angle: float) -> str:
    """A unit vector in the first two dimensions, as pgvector reads it."""
    numbers = [math.cos(angle), math.sin(angle)] + [0.0] * 1534
    return f"[{','.join(f'{number:.6f}' for number in numbers)}]"


def test_alike_are_ones_own_images_nearest_first(painter: Painter, new_painter: NewPainter) -> None:
    connection = painter.payer.connection
    angles = (0.0, 0.1, 0.3, 1.2)
    ids = [hang(connection, painter.id, vision_embedding=vector(angle)) for angle in angles]
    hang(connection, painter.id)  # not looked at yet
    # Vectors of another model lie elsewhere, near by chance alone.
    other = hang(
        connection, painter.id, vision_embedding=vector(0), vision_embedding_model="vectors-2"
    )
    stranger = new_painter()
    nearest = hang(connection, stranger.id, vision_embedding=vector(0.01), is_public=True)

    found = painter.rpc("search_similar_images", p_image_id=ids[0]).json()
    assert [one["image_id"] for one in found] == ids[1:]
    assert [round(one["distance"], 2) for one in found] == [
        round(1 - math.cos(angle), 2) for angle in angles[1:]
    ]
    limited = painter.rpc("search_similar_images", p_image_id=ids[0], p_limit=1).json()
    assert [one["image_id"] for one in limited] == ids[1:2]
    # A stranger's image is nothing to begin from, and is not found.
    assert painter.rpc("search_similar_images", p_image_id=nearest).json() == []
    assert stranger.rpc("search_similar_images", p_image_id=ids[0]).json() == []
    connection.execute(
        "delete from public.generated_images where id = any(%s)", [[*ids, nearest, other]]
    )


@pytest.mark.anyio
async def test_a_worker_reckons_them(stack: Stack, painter: Painter) -> None:
    image_id = hang(painter.payer.connection, painter.id, vision_labels=["lighthouse"])
    database = await Database.open(settings_of(stack))
    try:
        context = TaskContext(settings_of(stack), database, uuid.uuid4(), 1)
        assert (await database.rpc("insights_enqueue"))["count"] >= 1
        await refresh_insights({}, context)
    finally:
        await database.aclose()
    stats = painter.rpc("user_generation_stats").json()
    assert (stats["total_images"], stats["common_subjects"]) == (1, ["lighthouse"])
    painter.payer.connection.execute(
        "delete from public.generated_images where id = %s", [image_id]
    )


def test_trends_are_for_people_who_are_signed_in(painter: Painter) -> None:
    assert isinstance(painter.rpc("community_trends", p_limit=3).json(), list)
    visitor = painter.rest.post(
        "/rpc/community_trends",
        json={},
        headers={"Authorization": f"Bearer {painter.rest.headers['apikey']}"},
    )
    assert visitor.status_code in (401, 403, 404)
