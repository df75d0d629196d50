"""People draw, call off and delete at once: the books agree at the end, and nothing is left."""

from __future__ import annotations

import asyncio
import random
import uuid
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from functions.core.database import Database
from functions.core.errors import QuernelError
from local.paths import CHECKS
from local.stack import Stack
from tests.chat.conftest import settings_of, wait_for
from tests.images.conftest import ENDED, NewPainter, Painter

pytestmark = pytest.mark.anyio

EACH = 12


def rows_of(painter: Painter) -> list[dict[str, Any]]:
    return painter.payer.connection.execute(
        "select status, credits_charged, free_images, num_outputs, id"
        " from public.image_generations where user_id = %s",
        [painter.id],
    ).fetchall()


async def test_a_storm_leaves_nothing_held_and_nothing_free(
    stack: Stack, new_painter: NewPainter
) -> None:
    painters = [new_painter() for _ in range(3)]
    chance = random.Random(7)  # noqa: S311 - the same storm every time
    database = await Database.open(settings_of(stack))

    async def one(painter: Painter) -> None:
        prompt = chance.choice(
            (
                "a lighthouse",
                "simulate: refuse=1",
                "simulate: break=1",
                "simulate: steps=30 step_ms=20",
                "simulate: error=lora_refused",
            )
        )
        try:
            started = await database.rpc(
                "image_start",
                p_values={
                    "model_id": "flux-schnell",
                    "prompt": prompt,
                    "num_outputs": chance.randint(1, 4),
                    "width": 256,
                    "height": 256,
                },
                p_user_id=painter.id,
                p_idempotency_key=uuid.uuid4().hex if chance.random() < 0.5 else None,
            )
        except QuernelError as error:
            if error.status not in (402, 429):
                raise
            return
        generation_id = started["generation"]["id"]
        await asyncio.sleep(chance.random())
        fate = chance.random()
        try:
            if fate < 0.3:
                await database.rpc("image_cancel", p_id=generation_id, p_user_id=painter.id)
            elif fate < 0.4:
                await asyncio.to_thread(
                    painter.rest.delete, "/image_generations", params={"id": f"eq.{generation_id}"}
                )
        except QuernelError as error:
            if error.code not in ("generation_ended", "generation_not_found"):
                raise

    try:
        await asyncio.gather(*(one(painter) for painter in painters for _ in range(EACH)))
    finally:
        await database.aclose()

    def quiet() -> bool:
        return all(row["status"] in ENDED for painter in painters for row in rows_of(painter))

    assert wait_for(quiet, 60)
    for painter in painters:
        painter.require_nothing_held()
        kept = {str(row["id"]): row for row in rows_of(painter)}
        for generation_id, row in kept.items():
            made = len(painter.images(generation_id))
            assert row["credits_charged"] == (made if row["status"] == "completed" else 0)
            assert (made > 0) == (row["status"] == "completed")
        usage = {str(row["resource_id"]): row for row in painter.payer.usage()}
        for generation_id, row in kept.items():
            assert usage[generation_id]["credits"] == row["credits_charged"]
        assert sum(painter.payer.charges(), Decimal(0)) == 100 - painter.payer.balance
    assert wrong_with(stack, painters) == []


def wrong_with(stack: Stack, painters: list[Painter]) -> list[Any]:
    """What the checks of images find of these people's."""
    mine = [str(row["id"]) for painter in painters for row in rows_of(painter)]
    mine += [
        str(row["id"])
        for painter in painters
        for row in painter.payer.connection.execute(
            "select id from public.generated_images where user_id = %s", [painter.id]
        )
    ]
    found: list[Any] = []
    with psycopg.connect(stack.admin_dsn) as connection:
        for file in sorted(CHECKS.glob("70[134]_*.sql")):
            query = f"select * from ({file.read_text().rstrip().rstrip(chr(59))}) as c"  # noqa: S608
            rows = connection.execute(
                f"{query} where c.subject = any(%s)".encode(), [mine]
            ).fetchall()
            found += [(file.name, *row) for row in rows]
    return found


async def test_whoever_is_erased_while_images_are_made_is_gone(
    stack: Stack, new_painter: NewPainter
) -> None:
    painter = new_painter()
    ids = [
        painter.start("simulate: steps=100 step_ms=50", width=256, height=256).json()["id"]
        for _ in range(3)
    ]
    account = painter.payer.account()["id"]
    with psycopg.connect(stack.admin_dsn, autocommit=True) as connection:
        for attempt in range(5):
            try:
                connection.execute("delete from public.profiles where id = %s", [painter.id])
                break
            except psycopg.errors.DeadlockDetected:
                assert attempt < 4
        row = connection.execute(
            "select held, active_holds, balance from public.credit_accounts where id = %s",
            [account],
        ).fetchone()
        assert row is not None
        assert row[:2] == (0, 0)
        left = connection.execute(
            "select count(*) from public.image_generations where id = any(%s)", [ids]
        ).fetchone()
        assert left == (0,)

        def ended() -> bool:
            busy = connection.execute(
                "select count(*) from private.tasks where key = any(%s)"
                " and status in ('queued', 'running')",
                [ids],
            ).fetchone()
            return busy == (0,)

        assert wait_for(ended, 20)
