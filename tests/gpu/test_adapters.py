"""LoRAs in a pipeline: each changes what is drawn as strongly as asked, and is gone afterwards."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpu.contract import JobError
from gpu.loras import LoraFile
from tests.gpu.painting import MODELS, Studio, difference
from tests.gpu.tiny_pipelines import save_weights


@pytest.fixture(scope="module")
def studio(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    made = Studio(tiny_models)
    for model in MODELS:
        for place, name in enumerate(("fog", "rain", "snow")):
            folder = tmp_path_factory.mktemp(f"{model}-{name}")
            made.add_lora(model, f"{model}/{name}", folder, seed=place + 1)
    return made


def loras(model: str, **scales: float) -> list[dict[str, Any]]:
    return [{"id": f"{model}/{name}", "scale": scale} for name, scale in scales.items()]


@pytest.mark.parametrize("model", MODELS)
def test_a_lora_changes_what_is_drawn_and_leaves_no_trace(studio: Studio, model: str) -> None:
    [plain] = studio.draw(model)
    [foggy] = studio.draw(model, loras=loras(model, fog=1.0))
    assert difference(plain, foggy) > 0
    assert studio.draw(model, loras=loras(model, fog=1.0)) == [foggy]
    assert studio.draw(model) == [plain]


def test_its_scale_says_how_strongly(studio: Studio) -> None:
    [plain] = studio.draw("sdxl")
    [little] = studio.draw("sdxl", loras=loras("sdxl", fog=0.1))
    [much] = studio.draw("sdxl", loras=loras("sdxl", fog=1.0))
    [against] = studio.draw("sdxl", loras=loras("sdxl", fog=-1.0))
    [none] = studio.draw("sdxl", loras=loras("sdxl", fog=0.0))
    assert 0 < difference(plain, little) < difference(plain, much)
    assert len({plain, little, much, against}) == 4
    assert difference(plain, none) <= 1


def test_any_number_act_together_and_are_swapped(studio: Studio) -> None:
    model = "flux-schnell"
    alone = {
        name: studio.draw(model, loras=loras(model, **{name: 1.0})) for name in ("fog", "rain")
    }
    both = studio.draw(model, loras=loras(model, fog=1.0, rain=1.0))
    every = studio.draw(model, loras=loras(model, fog=1.0, rain=1.0, snow=0.5))
    drawn = [*alone["fog"], *alone["rain"], *both, *every]
    assert len(set(drawn)) == 4
    # Swapped for one that is in memory, for one that is not, and for fewer.
    assert studio.draw(model, loras=loras(model, rain=1.0)) == alone["rain"]
    assert studio.draw(model, loras=loras(model, fog=1.0)) == alone["fog"]
    assert studio.draw(model, loras=loras(model, fog=1.0, rain=1.0)) == both


def test_a_lora_named_twice_acts_once(studio: Studio) -> None:
    once = studio.draw("flux-schnell", loras=loras("flux-schnell", fog=0.5))
    twice = loras("flux-schnell", fog=1.0) + loras("flux-schnell", fog=0.5)
    assert studio.draw("flux-schnell", loras=twice) == once


def parameters(pipe: Any) -> list[tuple[str, int]]:
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return sorted(
        (name, weights.numel()) for part in parts for name, weights in part.named_parameters()
    )


@pytest.mark.parametrize("model", ["flux-schnell", "sdxl"])
def test_swapping_leaks_nothing(studio: Studio, model: str) -> None:
    pipe = studio.pipelines.get(model)._pipe
    studio.draw(model, loras=loras(model, fog=1.0))  # what made the files is gone after it
    studio.draw(model)
    before = parameters(pipe)

    def tensors() -> int:
        gc.collect()
        return sum(1 for one in gc.get_objects() if issubclass(type(one), torch.Tensor))

    counted = []
    for _ in range(3):
        for name in ("fog", "rain", "snow"):
            studio.draw(model, loras=loras(model, **{name: 1.0}))
        studio.draw(model)
        counted.append(tensors())
    assert parameters(pipe) == before
    assert counted[1] == counted[2]
    assert not pipe.get_list_adapters()


def unfit() -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    yield (
        "shape",
        {
            "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(4, 999),
            "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": torch.ones(999, 4),
        },
    )
    yield (
        "names",
        {
            "transformer.nowhere.lora_A.weight": torch.ones(4, 32),
            "transformer.nowhere.lora_B.weight": torch.ones(32, 4),
        },
    )
    fits = {
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(4, 32),
        "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": torch.ones(32, 4),
    }
    layer = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    yield (
        "text",
        fits
        | {
            f"{layer}.lora_A.weight": torch.ones(4, 999),
            f"{layer}.lora_B.weight": torch.ones(999, 4),
        },
    )
    yield "half", {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(4, 32)}


@pytest.mark.parametrize("name", ["shape", "names", "text", "half"])
def test_one_that_does_not_fit_is_refused_and_does_not_stay(
    studio: Studio, tmp_path: Path, name: str
) -> None:
    [plain] = studio.draw("flux-schnell")
    [foggy] = studio.draw("flux-schnell", loras=loras("flux-schnell", fog=1.0))
    path = save_weights(tmp_path / "lora.safetensors", dict(unfit())[name])
    studio.shelf.files["someone/unfit"] = LoraFile(path, "lora_unfit")
    both = [*loras("flux-schnell", fog=1.0), {"id": "someone/unfit", "scale": 1.0}]
    for told in (both, both[1:]):
        with pytest.raises(JobError) as refused:
            studio.draw("flux-schnell", loras=told)
        assert refused.value.code == "lora_refused"
        assert studio.draw("flux-schnell") == [plain]
        assert studio.draw("flux-schnell", loras=loras("flux-schnell", fog=1.0)) == [foggy]
        studio.draw("flux-schnell")


@pytest.mark.parametrize("model", ["flux-schnell", "flux-dev"])
@pytest.mark.parametrize("layer", ["x_embedder", "transformer_blocks.0.attn.to_q"])
def test_one_that_is_wider_than_the_model_does_not_widen_it(
    studio: Studio, tmp_path: Path, model: str, layer: str
) -> None:
    """As FLUX's control LoRAs do, which read an image beside what is drawn."""
    [plain] = studio.draw(model)
    [foggy] = studio.draw(model, loras=loras(model, fog=1.0))
    denoiser = studio.pipelines.get(model)._pipe.transformer
    width = 2 * denoiser.get_submodule(layer).in_features
    wide = {
        f"transformer.{layer}.lora_A.weight": torch.ones(4, width),
        f"transformer.{layer}.lora_B.weight": torch.ones(32, 4),
    }
    path = save_weights(tmp_path / "lora.safetensors", wide)
    studio.shelf.files["someone/wide"] = LoraFile(path, f"lora_wide_{layer}")
    with pytest.raises(JobError) as refused:
        studio.draw(model, loras=[{"id": "someone/wide"}])
    assert refused.value.code == "lora_refused"
    assert studio.draw(model) == [plain]
    assert studio.draw(model, loras=loras(model, fog=1.0)) == [foggy]


@pytest.mark.parametrize("model", ["flux-schnell", "sdxl"])
def test_one_that_was_trained_with_dropout_draws_without(
    studio: Studio, tmp_path: Path, model: str
) -> None:
    config: dict[str, Any] = {"r": 4, "lora_alpha": 4, "target_modules": ["to_q", "to_k", "to_v"]}
    prefix = "unet" if model == "sdxl" else "transformer"
    made = load_file(studio.shelf.files[f"{model}/fog"].path)
    drawn = []
    for dropout in (0.0, 0.9):
        text = json.dumps(
            {f"{prefix}.{one}": of for one, of in (config | {"lora_dropout": dropout}).items()}
        )
        path = tmp_path / f"{dropout}.safetensors"
        save_file(made, path, metadata={"lora_adapter_metadata": text})
        studio.shelf.files["someone/trained"] = LoraFile(path, f"lora_trained_{dropout}")
        drawn += studio.draw(model, loras=[{"id": "someone/trained"}])
    assert drawn[0] == drawn[1]
    assert drawn[0] != studio.draw(model)[0]


def test_memory_that_does_not_suffice_is_not_the_loras_fault(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other models make room for it, and it is tried once more."""
    [foggy] = studio.draw("flux-schnell", loras=loras("flux-schnell", fog=1.0))
    studio.draw("flux-schnell")
    studio.draw("sdxl")
    studio.pipelines.get("flux-schnell")
    pipe: Any = type(studio.pipelines.get("flux-schnell")._pipe)
    load, tries = pipe.load_lora_weights, []

    def small(self: Any, *args: Any, **told: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        load(self, *args, **told)

    monkeypatch.setattr(pipe, "load_lora_weights", small)
    assert studio.draw("flux-schnell", loras=loras("flux-schnell", fog=1.0)) == [foggy]
    assert studio.painter.held == ["flux-schnell"]
    monkeypatch.setattr(pipe, "load_lora_weights", lambda *_, **__: small(None, tries.clear()))
    studio.draw("flux-schnell")
    with pytest.raises(JobError) as refused:
        studio.draw("flux-schnell", loras=loras("flux-schnell", fog=1.0))
    assert refused.value.code == "out_of_memory"


def test_one_of_another_model_is_refused(studio: Studio) -> None:
    [plain] = studio.draw("qwen-image")
    with pytest.raises(JobError) as refused:
        studio.draw("qwen-image", loras=loras("sdxl", fog=1.0))
    assert refused.value.code == "lora_refused"
    assert studio.draw("qwen-image") == [plain]
