"""What the worker does with a generation: whose key pays, and what goes wrong."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from aiohttp import web
from psycopg.types.json import Jsonb

from functions.core.database import Database
from functions.core.settings import Settings
from functions.images import tasks
from functions.images.tasks import delete_files, generate_image
from functions.provider_keys.sources import open_vault
from functions.tasks.context import TaskContext, TaskRejectedError, TaskRetryError
from local.providers.double import Double
from local.stack import Stack
from tests.chat.conftest import settings_of, wait_for
from tests.images.conftest import NewPainter, Painter
from tests.support.http_server import serve
from tests.support.provider_keys import bring_key, vault_of
from tests.support.providers import provider_double

pytestmark = pytest.mark.anyio

OPENAI = "openai/gpt-image-2"


@dataclass
class Workshop:
    """A worker of the test's own, with providers that are doubled."""

    stack: Stack
    double: Double
    settings: Settings
    database: Database

    def begin(self, painter: Painter, **values: Any) -> str:
        """A generation that the run's worker leaves alone; its id."""
        body = {"model_id": OPENAI, "prompt": "a lighthouse"} | values
        with psycopg.connect(self.stack.admin_dsn) as connection:
            row = connection.execute(
                "select backend.image_start(%s, p_user_id => %s) #>> '{generation,id}'",
                [Jsonb(body), painter.id],
            ).fetchone()
            assert row is not None
            connection.execute(
                "update private.tasks set run_after = now() + interval '1 hour' where key = %s",
                [row[0]],
            )
        return str(row[0])

    async def work(self, generation_id: str, **changes: Any) -> Any:
        """One attempt."""
        settings = self.settings.model_copy(update=changes)
        context = TaskContext(settings, self.database, uuid.uuid4(), 1, open_vault(self.settings))
        return await generate_image({"generation_id": generation_id}, context)

    async def bring(self, painter: Painter, treatment: str = "good", **columns: Any) -> str:
        """A key of the painter's for OpenAI; its id."""
        secret = self.double.new_key(treatment)
        return await bring_key(
            painter.payer.connection,
            vault_of(self.settings),
            "openai",
            secret,
            user=painter.id,
            **columns,
        )


@asynccontextmanager
async def workshop(stack: Stack, **changes: Any) -> AsyncIterator[Workshop]:
    async with provider_double() as double:
        settings = settings_of(stack, providers=double.settings, **changes)
        database = await Database.open(settings)
        try:
            yield Workshop(stack, double, settings, database)
        finally:
            await database.aclose()


def uses(painter: Painter) -> list[tuple[str, str | None]]:
    rows = painter.payer.connection.execute(
        "select outcome, error_code from public.provider_key_uses where owner_id = %s order by id",
        [painter.id],
    ).fetchall()
    return [(row["outcome"], row["error_code"]) for row in rows]


def sweep(painter: Painter, function: str) -> int:
    row = painter.payer.connection.execute(f"select backend.{function}() as it".encode()).fetchone()
    assert row is not None
    return int(row["it"]["count"])


# Whose key pays ----------------------------------------------------------------------------------


async def test_an_own_key_pays(stack: Stack, painter: Painter) -> None:
    async with workshop(stack) as shop:
        key_id = await shop.bring(painter)
        generation_id = shop.begin(painter, num_outputs=2, width=1536, height=1024)
        assert painter.row(generation_id)["credits_cost"] == 0
        assert await shop.work(generation_id) == {"result": "completed", "count": 2}
        sent = shop.double.last("openai").body
    assert (sent["size"], sent["n"]) == ("1536x1024", 2)
    row = painter.row(generation_id)
    assert (row["status"], row["credits_charged"]) == ("completed", 0)
    assert str(row["provider_key_id"]) == key_id
    assert uses(painter) == [("completed", None)]
    [usage] = painter.payer.usage()
    assert (usage["credential"], usage["credits"]) == ("own", 0)
    # Two images of two begun megapixels at the highest quality, 15.9 credits each megapixel.
    assert usage["cost_estimate"] == Decimal("254.4")
    assert painter.payer.balance == 100


async def test_an_own_key_costs_its_fee(stack: Stack, painter: Painter) -> None:
    connection = painter.payer.connection
    async with workshop(stack) as shop:
        await shop.bring(painter)
        with connection.transaction(force_rollback=True):
            connection.execute(
                "update private.settings set value = '10' where name = 'byok_fee_percent'"
            )
            started = connection.execute(
                "select backend.image_start(%s, p_user_id => %s) -> 'generation' as it",
                [
                    Jsonb({"model_id": OPENAI, "prompt": "x", "parameters": {"quality": "low"}}),
                    painter.id,
                ],
            ).fetchone()
    assert started is not None
    # A tenth of 15.9 credits times 0.12.
    assert Decimal(str(started["it"]["credits_cost"])) == Decimal("0.1908")


async def test_a_key_that_is_refused_makes_way_for_the_next(stack: Stack, painter: Painter) -> None:
    async with workshop(stack) as shop:
        bad = await shop.bring(painter, "rejected", priority=1)
        good = await shop.bring(painter, priority=2)
        generation_id = shop.begin(painter)
        assert (await shop.work(generation_id))["result"] == "completed"
    assert str(painter.row(generation_id)["provider_key_id"]) == good
    assert uses(painter) == [("rejected", "provider_key_rejected"), ("completed", None)]
    row = painter.payer.connection.execute(
        "select is_valid from public.provider_keys where id = %s", [bad]
    ).fetchone()
    assert row == {"is_valid": False}


@pytest.mark.parametrize(
    ("treatment", "code"),
    [
        ("rejected", "provider_key_rejected"),
        ("out of quota", "provider_quota_exceeded"),
        ("limited", "provider_rate_limited"),
        ("refused", "content_refused"),
        ("bad option", "upstream_rejected"),
    ],
)
async def test_what_a_provider_refuses_ends_it(
    treatment: str, code: str, stack: Stack, painter: Painter
) -> None:
    async with workshop(stack) as shop:
        await shop.bring(painter, treatment)
        generation_id = shop.begin(painter, credential="own")
        assert await shop.work(generation_id) == {"result": "failed", "code": code}
    row = painter.row(generation_id)
    assert (row["status"], row["error_code"]) == ("failed", code)
    assert len(uses(painter)) == 1
    painter.payer.require_free(count=1, code=code)


@pytest.mark.usefixtures("sold")
async def test_credits_stand_behind_a_key_where_that_was_asked_for(
    stack: Stack, painter: Painter
) -> None:
    async with workshop(stack) as shop:
        await shop.bring(painter, "rejected")
        generation_id = shop.begin(painter, credential="own_first", parameters={"quality": "low"})
        platform = {
            "openai": {
                "url": shop.double.base_url("openai"),
                "api_key": shop.double.new_key("good"),
            }
        }
        answer = await shop.work(generation_id, providers=Settings(providers=platform).providers)  # type: ignore[arg-type]
        assert answer["result"] == "completed"
        assert uses(painter) == [("rejected", "provider_key_rejected")]
    # 15.9 credits times 0.12.
    assert painter.payer.charges() == [Decimal("1.908")]
    [usage] = painter.payer.usage()
    assert usage["credential"] == "platform"


@pytest.fixture
def sold(stack: Stack) -> Any:
    """OpenAI's model is on offer for credits, meanwhile."""
    query = "update public.models set platform_allowed = %s where id = %s"
    with psycopg.connect(stack.admin_dsn, autocommit=True) as connection:
        connection.execute(query, [True, OPENAI])
        yield
        connection.execute(query, [False, OPENAI])


@pytest.mark.usefixtures("sold")
async def test_without_a_key_of_the_operators_nothing_is_sold(
    stack: Stack, painter: Painter
) -> None:
    async with workshop(stack) as shop:
        generation_id = shop.begin(painter, parameters={"quality": "low"})
        answer = await shop.work(generation_id, providers={})
    assert answer == {"result": "failed", "code": "upstream_not_configured"}
    painter.payer.require_free(count=1)


async def test_an_outage_is_tried_again_and_its_uses_are_kept(
    stack: Stack, painter: Painter
) -> None:
    async with workshop(stack) as shop:
        await shop.bring(painter, "outage")
        generation_id = shop.begin(painter)
        for _ in range(2):
            with pytest.raises(TaskRetryError):
                await shop.work(generation_id)
        assert (await shop.work(generation_id))["result"] == "failed"
    assert uses(painter) == [("failed", "upstream_error")] * 3
    painter.payer.require_free(count=1)


# What goes wrong ---------------------------------------------------------------------------------


async def test_storage_that_refuses_costs_nothing(stack: Stack, painter: Painter) -> None:
    async def refuse(_: web.BaseRequest) -> web.Response:
        return web.json_response({"error": "no"}, status=500)

    async with workshop(stack) as shop, serve(refuse) as url:
        await shop.bring(painter)
        generation_id = shop.begin(painter)
        for _ in range(2):
            with pytest.raises(TaskRetryError, match="storage_unavailable"):
                await shop.work(generation_id, supabase_url=url)
        answer = await shop.work(generation_id, supabase_url=url)
    assert answer == {"result": "failed", "code": "storage_unavailable"}
    painter.payer.require_free(count=1)


async def test_what_is_called_off_at_the_last_moment_leaves_no_file(
    stack: Stack, painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tasks._Generation._kept

    async def keep_and_cancel(self: Any, images: Any) -> Any:
        stored = await kept(self, images)
        answer = painter.rpc("cancel_generation", p_id=self._job["id"])
        assert answer.status_code == 200, answer.text
        return stored

    monkeypatch.setattr(tasks._Generation, "_kept", keep_and_cancel)
    async with workshop(stack) as shop:
        await shop.bring(painter)
        generation_id = shop.begin(painter)
        assert (await shop.work(generation_id))["result"] == "cancelled"
    left = painter.payer.connection.execute(
        "select name from storage.objects where name like %s", [f"%{generation_id}%"]
    ).fetchall()
    assert left == []
    assert painter.images(generation_id) == []
    painter.require_nothing_held()


async def test_a_worker_stops_where_nobody_waits_any_more(stack: Stack, painter: Painter) -> None:
    async with workshop(stack) as shop:
        prompt = "simulate: steps=600 step_ms=100"  # a minute
        generation_id = shop.begin(painter, model_id="flux-schnell", prompt=prompt)
        working = asyncio.create_task(shop.work(generation_id))
        await asyncio.to_thread(
            wait_for, lambda: painter.row(generation_id)["status"] == "processing"
        )
        answer = await asyncio.to_thread(painter.rpc, "cancel_generation", p_id=generation_id)
        assert answer.status_code == 200, answer.text
        assert await asyncio.wait_for(working, 10) == {"result": "called off"}
    painter.payer.require_free(count=1)


async def test_nothing_is_seen_before_it_is_charged(
    stack: Stack, painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is stored before it is charged, and its path can be guessed: whoever fetched it then
    could call the generation off.
    """
    kept = tasks._Generation._kept
    seen: list[int] = []

    def look(path: str) -> list[int]:
        name = quote(path)
        folder, _, file = path.rpartition("/")
        answers = (
            painter.storage.get(f"/object/images/{name}"),
            painter.storage.get(f"/object/info/images/{name}"),
            painter.storage.post(f"/object/sign/images/{name}", json={"expiresIn": 600}),
        )
        listed = painter.storage.post("/object/list/images", json={"prefix": folder}).json()
        return [answer.status_code for answer in answers] + [
            200 if any(one["name"].endswith(file) for one in listed) else 404
        ]

    async def keep_and_look(self: Any, images: Any) -> Any:
        stored = await kept(self, images)
        for one in stored:
            seen.extend(look(one.path) + look(one.thumbnail_path))
        begun_from = painter.start(input_path=stored[0].path)
        assert (begun_from.status_code, begun_from.json()["param"]) == (400, "input_path")
        return stored

    monkeypatch.setattr(tasks._Generation, "_kept", keep_and_look)
    async with workshop(stack) as shop:
        generation_id = shop.begin(painter, model_id="flux-schnell")
        await shop.work(generation_id)
    assert len(seen) == 8
    assert min(seen) >= 400
    [image] = painter.images(generation_id)
    for path in (image["storage_path"], image["thumbnail_path"]):
        assert look(path) == [200] * 4
    # And it can be begun from, now that it is paid for.
    monkeypatch.undo()
    assert painter.made(input_path=image["storage_path"])["images"]


async def test_a_second_worker_changes_nothing(stack: Stack, painter: Painter) -> None:
    """As after a lease was lost, and both have drawn: whoever comes second is not heard."""
    async with workshop(stack) as shop:
        generation_id = shop.begin(painter, model_id="flux-schnell")
        assert (await shop.work(generation_id))["result"] == "completed"
        [image] = painter.images(generation_id)
        again = await shop.database.rpc(
            "image_finish",
            p_id=generation_id,
            p_images=[
                {"path": "elsewhere", "width": 8, "height": 8, "format": "png", "size_bytes": 9}
            ],
            p_credential="platform",
        )
        assert again == {"state": "completed"}
        failed = await shop.database.rpc(
            "image_fail", p_id=generation_id, p_error_code="late", p_error_message="Late."
        )
        assert failed == {"state": "completed"}
        assert await shop.work(generation_id) == {"result": "over"}
    assert [one["id"] for one in painter.images(generation_id)] == [image["id"]]
    assert painter.payer.charges() == [Decimal(1)]


async def test_whoever_never_comes_back_is_given_up(stack: Stack, painter: Painter) -> None:
    async with workshop(stack) as shop:
        generation_id = shop.begin(painter, model_id="flux-schnell")
        await shop.database.rpc("image_begin", p_id=generation_id, p_functions_url="http://x")
    painter.payer.connection.execute(
        "update public.image_generations set deadline = now() - interval '1 second' where id = %s",
        [generation_id],
    )
    assert sweep(painter, "images_expire") == 1
    row = painter.row(generation_id)
    assert (row["status"], row["error_code"]) == ("failed", "deadline_exceeded")
    assert sweep(painter, "images_expire") == 0
    painter.payer.require_free(count=1)


async def test_a_task_that_dies_ends_its_generation(stack: Stack, painter: Painter) -> None:
    async with workshop(stack) as shop:
        generation_id = shop.begin(painter, model_id="flux-schnell")
    painter.payer.connection.execute(
        "update private.tasks set status = 'running', attempts = max_attempts, started_at = now(),"
        " lease_token = gen_random_uuid(), leased_by = 'gone',"
        " leased_until = now() - interval '1 second' where key = %s",
        [generation_id],
    )
    assert sweep(painter, "task_sweep") >= 1
    row = painter.row(generation_id)
    assert (row["status"], row["error_code"]) == ("failed", "generation_failed")
    painter.payer.require_free(count=1)


async def test_a_hold_that_was_reaped_ends_its_generation(stack: Stack, painter: Painter) -> None:
    async with workshop(stack) as shop:
        generation_id = shop.begin(painter, model_id="flux-schnell")
    connection = painter.payer.connection
    connection.execute(
        "update private.credit_holds set deadline = created_at + interval '1 microsecond'"
        " where id = %s",
        [painter.row(generation_id)["hold_id"]],
    )
    sweep(painter, "credit_reap")
    sweep(painter, "task_bury")
    assert painter.row(generation_id)["status"] == "failed"
    painter.require_nothing_held()
    assert painter.payer.balance == 100


async def test_whoever_is_erased_leaves_no_file(stack: Stack, new_painter: NewPainter) -> None:
    painter = new_painter()
    async with workshop(stack) as shop:
        generation_id = shop.begin(painter, model_id="flux-schnell")
        await shop.work(generation_id)
        [image] = painter.images(generation_id)
        painter.payer.connection.execute("delete from public.profiles where id = %s", [painter.id])
        row = painter.payer.connection.execute(
            "select payload from private.tasks where kind = 'image_files_delete'"
            " and payload -> 'paths' ? %s",
            [image["storage_path"]],
        ).fetchone()
        assert row is not None
        context = TaskContext(shop.settings, shop.database, uuid.uuid4(), 1)
        assert await delete_files(row["payload"], context) == {"count": 2}
        assert await delete_files(row["payload"], context) == {"count": 2}
        with pytest.raises(TaskRejectedError):
            await delete_files({"paths": "all"}, context)
    left = painter.payer.connection.execute(
        "select name from storage.objects where name like %s", [f"{painter.id}/%"]
    ).fetchall()
    assert left == []


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "code", "param"),
    [
        ({"prompt": "x" * 4001}, "invalid_argument", "prompt"),
        ({"width": 1000, "height": 1024}, "invalid_argument", "width"),
        ({"width": 1536, "height": 1536}, "invalid_argument", "width"),
        ({"width": 128, "height": 1024}, "invalid_argument", "width"),
        ({"aspect_ratio": "40:1"}, "invalid_argument", "aspect_ratio"),
        ({"steps": 9}, "invalid_argument", "steps"),
        ({"guidance_scale": 5}, "unsupported_parameter", "guidance_scale"),
        ({"negative_prompt": "people"}, "unsupported_parameter", "negative_prompt"),
        ({"num_outputs": 5}, "invalid_argument", "num_outputs"),
        ({"output_format": "gif"}, "invalid_argument", "output_format"),
        ({"output_quality": 101}, "invalid_argument", "output_quality"),
        ({"prompt_strength": 0.5}, "invalid_argument", "prompt_strength"),
        ({"hf_loras": ["../x"], "lora_scales": [1]}, "invalid_argument", "hf_loras"),
        ({"hf_loras": ["a/b/c"], "lora_scales": [1]}, "invalid_argument", "hf_loras"),
        ({"hf_loras": ["https://x/y"], "lora_scales": [1]}, "invalid_argument", "hf_loras"),
        ({"hf_loras": ["a/b"], "lora_scales": []}, "invalid_argument", "lora_scales"),
        ({"hf_loras": ["a/b"], "lora_scales": [3]}, "invalid_argument", "lora_scales"),
        ({"hf_loras": ["a/b"] * 5, "lora_scales": [1] * 5}, "invalid_argument", "hf_loras"),
        ({"parameters": {"quality": "high"}}, "unsupported_parameter", "quality"),
        ({"parameters": {"secret": 1}}, "unsupported_parameter", "parameters.secret"),
        ({"parameters": {"options": 1}}, "invalid_argument", "parameters.options"),
        ({"parameters": {"options": {"x": 1}}}, "unsupported_parameter", "options.x"),
        ({"model_id": "nobody"}, "model_not_found", "model"),
        ({"model_id": "flux-dev"}, "model_not_found", "model"),
        ({"seed": 2**32}, "invalid_argument", "seed"),
    ],
    ids=range(25),
)
def test_what_cannot_be_is_refused_before_anything_is_held(
    values: dict[str, Any], code: str, param: str, painter: Painter
) -> None:
    answer = painter.start(**values)
    assert answer.status_code in (400, 404)
    assert (answer.json()["code"], answer.json()["param"]) == (code, param)
    # The same way for whoever inserts.
    inserted = painter.insert(values)
    assert inserted.status_code in (400, 404), inserted.text
    assert painter.payer.usage() == []
    painter.require_nothing_held()


def test_a_shape_leads_to_pixels_of_the_model(painter: Painter) -> None:
    rows = painter.insert(
        {"aspect_ratio": "1:1"}, {"aspect_ratio": "16:9"}, {"aspect_ratio": "3:4"}
    ).json()
    assert [(row["width"], row["height"]) for row in rows] == [
        (1024, 1024),
        (1360, 768),
        (880, 1184),
    ]


@pytest.mark.parametrize("model", ["flux-schnell", "sdxl", "qwen-image"])
def test_no_shape_costs_more_than_another(
    model: str, painter: Painter, capabilities: dict[str, dict[str, Any]]
) -> None:
    """What rounding to 16 pixels adds is nobody's to pay."""
    least, most = capabilities[model]["sides"]
    with painter.payer.connection.transaction(force_rollback=True):
        for wide in range(1, 22):
            for high in range(1, 22):
                row = painter.payer.connection.execute(
                    "select d.width, d.height from private.image_dimensions("
                    " jsonb_populate_record(null::public.image_generations,"
                    " jsonb_build_object('aspect_ratio', %s::text)), %s) as d",
                    [f"{wide}:{high}", Jsonb({"sides": [16, 99999], "max_pixels": 10**9})],
                ).fetchone()
                assert row is not None
                assert row["width"] * row["height"] <= 1024 * 1024
                assert row["width"] % 16 == row["height"] % 16 == 0
    assert least < 1024 <= most
    price = painter.rpc("calculate_generation_cost", p_model_id=model).json()
    for shape in ("4:5", "5:4", "3:2", "1:1"):
        started = painter.start(model_id=model, aspect_ratio=shape)
        assert Decimal(str(started.json()["credits_cost"])) == Decimal(str(price)), shape
        painter.ended(started.json()["id"])


def test_many_rows_at_once_are_refused(painter: Painter) -> None:
    answer = painter.insert(*[{} for _ in range(21)])
    assert answer.status_code == 400
    assert "too_many_rows" in answer.json()["details"]
    painter.require_nothing_held()
    assert painter.payer.usage() == []


@pytest.mark.parametrize(
    "column", ["status", "progress", "credits_cost", "hold_id", "user_id", "free_images"]
)
def test_a_client_writes_nothing_that_is_ours(column: str, painter: Painter) -> None:
    value = str(uuid.uuid4()) if column.endswith("_id") else 1
    assert painter.insert({column: value}).status_code == 403


# Organizations and keys --------------------------------------------------------------------------


def test_strangers_spend_nothing_of_an_organizations(painter: Painter) -> None:
    row = painter.payer.connection.execute(
        "insert into public.organizations (name, slug) values ('Other', %s) returning id",
        [f"other-{uuid.uuid4().hex[:8]}"],
    ).fetchone()
    assert row is not None
    inserted = painter.insert({"organization_id": str(row["id"])})
    assert inserted.status_code == 403
    assert "not_a_member" in inserted.json()["details"]
    asked = painter.start(organization=str(row["id"]))
    assert (asked.status_code, asked.json()["code"]) == (403, "not_a_member")


def test_an_api_key_draws_with_its_scope_alone(painter: Painter) -> None:
    def key(*scopes: str) -> dict[str, str]:
        made = painter.rpc(
            "create_api_key", p_name="drawing", p_values={"scopes": list(scopes)}
        ).json()
        return {"Authorization": f"Bearer {made['key']}"}

    refused = painter.start(headers=key("chat"))
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    drawing = key("images")
    answer = painter.start(headers=drawing)
    assert answer.status_code == 202, answer.text
    row = painter.ended(answer.json()["id"])
    assert row["status"] == "completed"
    assert row["api_key_id"] is not None
    listed = painter.http.get("/images/generations", headers=drawing).json()
    assert [one["id"] for one in listed["generations"]] == [str(row["id"])]
