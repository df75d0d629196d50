"""docs/deploy.md says what modal_app.py deploys."""

from __future__ import annotations

import re

import pytest

import modal_app
from gpu.catalog import IMAGE_MODELS, MODELS
from local.paths import ROOT

TEXT = (ROOT / "docs/deploy.md").read_text()
PRICES = {"L40S": "0.000542", "H100": "0.001097", "L4": "0.000222"}
"""US dollars a second, as the page says where from."""


@pytest.mark.parametrize("served", [*modal_app.CARDS, modal_app.Images])
def test_the_table_of_costs_has_each_class_with_its_card_and_model(served: object) -> None:
    cls = served._get_user_cls()  # type: ignore[attr-defined]
    models = [MODELS[cls.model_id]] if hasattr(cls, "model_id") else list(IMAGE_MODELS.values())
    [gpu] = {model.gpu for model in models}
    (row,) = re.findall(rf"^\| `{cls.__name__}` \| (.*)$", TEXT, re.MULTILINE)
    assert row.split(",")[0] == gpu
    assert all(model.id in row for model in models)
    per_second, per_hour = (cell.strip() for cell in row.split("|")[1:3])
    assert per_second == PRICES[gpu]
    assert per_hour == f"{float(per_second) * 3600:.2f}"


def test_every_smoke_entrypoint_is_named() -> None:
    named = set(re.findall(r"modal_app\.py::(smoke_\w+)", TEXT))
    assert named == {name for name in vars(modal_app) if name.startswith("smoke_")}


def test_the_secrets_and_what_they_must_hold_are_named() -> None:
    for name in ("quernel", "quernel-gpu", "quernel-hub"):
        assert f"modal secret create {name} " in TEXT
    for name in ("MODAL_PROXY_KEY", "MODAL_PROXY_SECRET", "QUERNEL_LLM_API_KEY", "HF_TOKEN"):
        assert f"{name}=" in TEXT
