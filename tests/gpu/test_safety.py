"""The safety classifier, against what plain transformers say of one picture at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from gpu.contract import Safety
from gpu.safety import REFUSED_FROM, SafetyClassifier, is_refused
from tests.gpu.tiny_pipelines import save_classifier

PICTURES = [
    Image.new("RGB", (64, 48), (200, 30, 30)),
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)),
    Image.effect_noise((40, 90), 80),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("classifier"))


def test_scores_are_those_of_the_model(folder: Path) -> None:
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    expected = []
    for picture in PICTURES:
        with torch.no_grad():
            seen = processor(images=picture.convert("RGB"), return_tensors="pt")
            expected.append(model(**seen).logits.softmax(-1)[0, 1].item())
    scores = SafetyClassifier(folder, "cpu").scores(PICTURES)
    assert scores == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 4) for score in scores}) == 3
    assert all(0 <= score <= 1 for score in scores)


def test_a_model_that_knows_nothing_unsafe_is_no_safety_classifier(
    folder: Path, tmp_path: Path
) -> None:
    model = AutoModelForImageClassification.from_pretrained(folder)
    model.config.id2label = {0: "cat", 1: "dog"}
    model.save_pretrained(tmp_path)
    AutoImageProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="nsfw"):
        SafetyClassifier(tmp_path, "cpu")


@pytest.mark.parametrize("level", ["strict", "standard", "relaxed"])
def test_a_level_refuses_from_its_score_on(level: Safety) -> None:
    limit = REFUSED_FROM[level]
    assert not is_refused(limit - 0.001, level)
    assert is_refused(limit, level)
    assert is_refused(float("nan"), level)
    assert not is_refused(0.0, level)


def test_strict_is_stricter() -> None:
    assert REFUSED_FROM["strict"] < REFUSED_FROM["standard"] < REFUSED_FROM["relaxed"]
