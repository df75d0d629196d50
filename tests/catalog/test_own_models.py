"""The models that we serve ourselves: gpu/catalog.py and the price list say the same."""

from __future__ import annotations

import re

import pytest

from gpu.catalog import IMAGE_MODELS, MODELS, SAFETY_MODEL
from gpu.contract import ImageJob
from gpu.families import FAMILIES, steps_of
from gpu.llm import SERVING

SOLD = [model.id for model in MODELS.values() if model.credits is not None]


def rows(db) -> dict:
    with db() as connection:
        found = connection.execute(
            """
            select m.id, to_jsonb(m) from public.models as m
            join public.model_providers as p on p.id = m.provider_id
            where p.slug = 'quernel' and m.metadata ? 'licence'
            """
        ).fetchall()
    return dict(found)


def test_what_is_sold_is_served_and_the_other_way_round(db):
    assert set(rows(db)) == set(SOLD)


@pytest.mark.parametrize("model_id", SOLD)
def test_the_price_list_agrees(db, model_id):
    row, model = rows(db)[model_id], MODELS[model_id]
    assert row["kind"] == model.kind
    assert row["metadata"]["licence"] == model.licence
    if model.kind == "image":
        assert row["upstream_model"] == model_id  # what the image server is asked for
        assert row["credits_cost"] == model.credits
        able = row["capabilities"]
        assert tuple(able["sides"]) == model.sides
        assert able["max_pixels"] == model.max_pixels
        assert tuple(able["steps"]) == model.steps
        job = ImageJob(id="a", model=model_id, prompt="x", width=512, height=512, seed=0)
        assert able["default_steps"] == steps_of(job)
        return
    assert row["upstream_model"] == model.hub_id
    assert row["context_length"] == model.context
    prices = (row["prompt_price"], row["completion_price"])
    assert prices == (model.credits if isinstance(model.credits, tuple) else (model.credits, None))


def test_a_model_without_a_licence_to_sell_waits_for_the_operator(db):
    assert {model_id: row["platform_allowed"] for model_id, row in rows(db).items()} == {
        model_id: "Non-Commercial" not in MODELS[model_id].licence for model_id in SOLD
    }


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.id)
def test_every_model_is_pinned(model):
    assert re.fullmatch(r"[0-9a-f]{40}", model.revision)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", model.hub_id)
    for file in model.lightning.values():
        assert re.fullmatch(r"[0-9a-f]{40}", file.revision)
        assert file.name.endswith(".safetensors")


def test_a_language_model_reads_as_much_as_the_catalog_says():
    assert {model_id: one.max_model_len for model_id, one in SERVING.items()} == {
        model.id: model.context for model in MODELS.values() if model.kind in ("chat", "vision")
    }


def test_every_image_model_has_a_family_and_the_safety_classifier_is_there():
    assert set(FAMILIES) == set(IMAGE_MODELS)
    assert SAFETY_MODEL.kind == "safety"
