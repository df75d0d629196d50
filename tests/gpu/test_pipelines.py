"""What makes pipelines fast is really on, changes nothing that it should not, and makes room."""

from __future__ import annotations

import base64
import dataclasses
import gc
import weakref
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

from gpu import pipelines
from gpu.catalog import IMAGE_MODELS
from gpu.catalog import MODELS as ALL
from gpu.contract import JobError
from gpu.families import FAMILIES, LIGHTNING_SCHEDULE
from gpu.loras import LoraFile
from gpu.pipelines import Hub, Pipeline, Pipelines, open_pipeline, weights_in
from tests.gpu.painting import DEVICE, MODELS, ONE_IN_255, Studio, difference, picture

BACKEND = "inductor" if DEVICE == "cuda" else "eager"
"""Without a card blocks are traced as on one, and only the kernels are not generated."""


@pytest.fixture(scope="module")
def studio(tiny_models: Path) -> Studio:
    return Studio(tiny_models)


def denoiser(studio: Studio, model: str) -> Any:
    pipeline = studio.pipelines.get(model)
    return getattr(pipeline._pipe, pipeline.family.denoiser)


@pytest.mark.parametrize("model", MODELS)
def test_convolutions_are_channels_last(studio: Studio, model: str) -> None:
    pipe = studio.pipelines.get(model)._pipe
    weights = [one for one in pipe.vae.parameters() if one.dim() == 4 and one.shape[2] > 1]
    assert weights
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in weights)


@pytest.mark.parametrize("model", MODELS)
def test_weights_are_bf16_on_a_card_and_whole_on_a_cpu(studio: Studio, model: str) -> None:
    wanted = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    assert {one.dtype for one in denoiser(studio, model).parameters()} == {wanted}
    assert studio.pipelines.get(model).bytes_held > 0


def is_fused(module: Any) -> bool:
    """As FLUX's attention notes it; the UNet's has other processors instead."""
    return type(module).__name__ == "FluxAttention" and module.fused_projections


@pytest.mark.parametrize("model", ["flux-schnell", "flux-dev", "sdxl"])
def test_query_key_and_value_are_one_product_but_with_loras(
    studio: Studio, tmp_path: Path, model: str
) -> None:
    """A LoRA acts on the three, which nobody asks while they are one."""

    def fused() -> int:
        asked = denoiser(studio, model).attn_processors.values()
        by_module = [one for one in denoiser(studio, model).modules() if is_fused(one)]
        return len(by_module) + sum("Fused" in type(one).__name__ for one in asked)

    studio.add_lora(model, "own/fog", tmp_path)
    [plain] = studio.draw(model)
    assert fused() > 0
    [foggy] = studio.draw(model, loras=[{"id": "own/fog"}])
    assert fused() == 0
    assert foggy != plain
    assert studio.draw(model) == [plain]
    assert fused() > 0


@pytest.mark.parametrize("model", ["flux-dev", "qwen-image"])
def test_blocks_are_skipped_where_steps_are_many_and_alike(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    # Random weights change more from step to step than trained ones do.
    family = dataclasses.replace(FAMILIES[model], cache_threshold=0.9)
    monkeypatch.setitem(FAMILIES, model, family)
    last = list(denoiser(studio, model).transformer_blocks)[-1]
    calls: list[int] = []
    forward = type(last).forward

    def counted(self: Any, *args: Any, **told: Any) -> Any:
        if self is last:
            calls.append(1)
        return forward(self, *args, **told)

    monkeypatch.setattr(type(last), "forward", counted)
    fresh = Studio(studio.folder)  # its hooks take the forward that is there when they are set
    last = list(denoiser(fresh, model).transformer_blocks)[-1]

    def run(steps: int) -> tuple[bytes, int]:
        calls.clear()
        [made] = fresh.draw(model, steps=steps, guidance=1.0)
        return made, len(calls)

    # Guidance of 1 asks Qwen-Image once a step.
    few, many = run(4), run(40)
    assert few[1] == 4
    assert many[1] < 40
    assert denoiser(fresh, model).is_cache_enabled
    # What one job left behind is not taken for the next one's.
    fresh.draw(model, steps=40, prompt="a herring", guidance=1.0)
    assert run(40) == many
    assert run(4) == few
    assert not denoiser(fresh, model).is_cache_enabled


@pytest.mark.parametrize("model", MODELS)
def test_compiled_blocks_draw_the_same(tiny_models: Path, tmp_path: Path, model: str) -> None:
    plain = Studio(tiny_models)
    fast = Studio(tiny_models, compile_with={"dynamic": True, "backend": BACKEND})
    plain.add_lora(model, "own/fog", tmp_path)
    fast.shelf.files |= plain.shelf.files
    jobs: list[dict[str, Any]] = [{}, {"loras": [{"id": "own/fog"}]}, {}]
    if model == "flux-dev":
        jobs.append({"steps": 12})
    for job in jobs:
        [one], [other] = plain.draw(model, **job), fast.draw(model, **job)
        assert difference(one, other) <= 2 * ONE_IN_255
    compiled = [
        one for one in denoiser(fast, model).modules() if one._compiled_call_impl is not None
    ]
    assert compiled


@pytest.mark.parametrize("model", ["flux-schnell", "sdxl"])
def test_another_lora_of_the_same_shape_is_not_compiled_again(
    tiny_models: Path, tmp_path: Path, model: str
) -> None:
    torch._dynamo.reset()
    studio = Studio(tiny_models, compile_with={"dynamic": True, "backend": "eager"})
    for place, name in enumerate(("fog", "rain", "snow")):
        studio.add_lora(model, f"own/{name}", tmp_path / name, seed=place + 1)
    graphs = []
    for name in ("fog", "rain", "snow"):
        studio.draw(model, loras=[{"id": f"own/{name}", "scale": 0.5 + len(graphs) / 10}])
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs[1] == graphs[2]


@pytest.mark.parametrize("model", ["sdxl", "flux-schnell"])
def test_an_image_that_could_not_be_read_leaves_nothing_behind(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """SDXL's pipeline reads it in 32 bits, and goes back to 16 only where that went well."""
    studio = Studio(tiny_models)
    pipeline = studio.pipelines.get(model)
    loaded = diffusers.DiffusionPipeline.from_pretrained(
        tiny_models / model,
        dtype=torch.bfloat16,
        **({"variant": "fp16"} if model == "sdxl" else {}),
    )
    halved = Pipeline(loaded.to(DEVICE), pipeline.family, None)
    studio.pipelines._held[model] = halved
    [plain] = studio.draw(model)
    begun: dict[str, Any] = {"init_image": base64.b64encode(picture()).decode()}
    [drawn] = studio.draw(model, **begun)  # its weights have been there and back
    encode = type(loaded.vae).encode

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(type(loaded.vae), "encode", fail)
    with pytest.raises(JobError) as refused:
        studio.draw(model, **begun)
    assert refused.value.code == "out_of_memory"
    monkeypatch.setattr(type(loaded.vae), "encode", encode)
    assert studio.draw(model) == [plain]
    assert studio.draw(model, **begun) == [drawn]


def test_a_model_that_does_not_fit_beside_the_others_is_loaded_without_them(
    tiny_models: Path,
) -> None:
    studio = Studio(tiny_models)
    load = studio.pipelines._load

    def small(model_id: str) -> Pipeline:
        if studio.painter.held:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return load(model_id)

    studio.pipelines._load = small
    studio.draw("flux-schnell")
    studio.draw("flux-dev")
    assert studio.painter.held == ["flux-dev"]


def test_the_model_that_was_asked_for_longest_ago_makes_room(tiny_models: Path) -> None:
    sizes = {model: weights_in(tiny_models / model) for model in MODELS}
    room = sizes["flux-schnell"] + sizes["flux-dev"] + sizes["qwen-image"] // 2
    studio = Studio(tiny_models, most_bytes=room)
    studio.draw("flux-schnell")
    studio.draw("flux-dev")
    assert studio.painter.held == ["flux-schnell", "flux-dev"]
    studio.draw("flux-schnell")
    gone = weakref.ref(denoiser(studio, "flux-dev"))
    studio.pipelines.get("flux-schnell")
    studio.draw("qwen-image")
    assert studio.painter.held == ["flux-schnell", "qwen-image"]
    gc.collect()
    assert gone() is None
    assert studio.loads == ["flux-schnell", "flux-dev", "qwen-image"]
    first = studio.draw("flux-dev")
    assert studio.loads[-1] == "flux-dev"
    assert studio.draw("flux-dev") == first


def test_one_model_that_is_larger_than_the_card_is_tried_alone(tiny_models: Path) -> None:
    studio = Studio(tiny_models, most_bytes=1)
    studio.draw("flux-schnell")
    studio.draw("flux-dev")
    assert studio.painter.held == ["flux-dev"]


def test_a_model_that_cannot_be_loaded_leaves_the_others(tiny_models: Path, tmp_path: Path) -> None:
    def load(model_id: str) -> Any:
        folder = tiny_models if model_id == "flux-schnell" else tmp_path
        (folder / model_id).mkdir(exist_ok=True)
        return open_pipeline(folder / model_id, IMAGE_MODELS[model_id], DEVICE, None)

    held = Pipelines(load, lambda _: 0)
    held.get("flux-schnell")
    with pytest.raises(OSError, match="model_index"):
        held.get("sdxl")
    assert held.held == ["flux-schnell"]


def test_a_model_without_a_family_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(JobError):
        open_pipeline(tmp_path, ALL["Qwen3-Embedding-4B"], DEVICE, None)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str, str]]:
    asked: list[tuple[str, str, str]] = []

    def hf_hub_download(hub_id: str, name: str, *, revision: str, cache_dir: Path) -> str:
        asked.append((hub_id, name, revision))
        assert tmp_path in cache_dir.parents
        return str(cache_dir / name)

    monkeypatch.setattr(pipelines, "hf_hub_download", hf_hub_download)
    return asked


SHARDS = [f"-{shard:05}-of-00003" for shard in (1, 2, 3)]
CLIP = [f"tokenizer/{name}" for name in ("merges.txt", "vocab.json", "tokenizer_config.json")]
FILES = {
    "flux-schnell": [
        *CLIP,
        *[f"transformer/diffusion_pytorch_model{shard}.safetensors" for shard in SHARDS],
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "text_encoder/model.safetensors",
        "text_encoder_2/model-00001-of-00002.safetensors",
        "text_encoder_2/model.safetensors.index.json",
        "tokenizer_2/spiece.model",
        "tokenizer_2/tokenizer.json",
        "vae/diffusion_pytorch_model.safetensors",
    ],
    "qwen-image": [
        *CLIP,
        *[f"transformer/diffusion_pytorch_model{shard}.safetensors" for shard in SHARDS],
        "text_encoder/model.safetensors.index.json",
        "text_encoder/generation_config.json",
        "tokenizer/added_tokens.json",
        "vae/config.json",
    ],
    "sdxl": [
        *CLIP,
        "text_encoder/model.fp16.safetensors",
        "text_encoder_2/model.fp16.safetensors",
        "tokenizer_2/special_tokens_map.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ],
    "nsfw-image-detection": ["config.json", "model.safetensors", "preprocessor_config.json"],
}
OTHER_FILES = {
    "flux-schnell": ["flux1-schnell.safetensors", "ae.safetensors", "schnell_grid.jpeg"],
    "qwen-image": ["README.md"],
    "sdxl": [
        "sd_xl_base_1.0.safetensors",
        "sd_xl_base_1.0_0.9vae.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/model.onnx",
        "text_encoder_2/model.onnx_data",
        "text_encoder/openvino_model.bin",
        "unet/diffusion_pytorch_model.safetensors",
        "vae_1_0/diffusion_pytorch_model.fp16.safetensors",
        "vae_decoder/model.onnx",
    ],
    "nsfw-image-detection": ["pytorch_model.bin", "optimizer.pt", "falconsai_yolov9.pt"],
}


@pytest.mark.parametrize("model", list(FILES))
def test_what_a_model_is_read_from_is_fetched_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    asked: list[str] = []

    def snapshot_download(*_: Any, allow_patterns: list[str], **__: Any) -> str:
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(pipelines, "snapshot_download", snapshot_download)
    Hub(tmp_path).model(ALL[model])
    named = FILES[model] + OTHER_FILES[model]
    if ALL[model].kind == "image":
        named += (more := ["model_index.json", "scheduler/scheduler_config.json"])
    else:
        more = []
    assert list(filter_repo_objects(named, allow_patterns=asked)) == FILES[model] + more


@pytest.mark.parametrize(("steps", "most"), [(1, 4), (4, 4), (5, 8), (8, 8), (9, None), (50, None)])
def test_lightning_has_a_lora_for_four_and_for_eight_steps(
    fetched: list[tuple[str, str, str]], tmp_path: Path, steps: int, most: int | None
) -> None:
    file = Hub(tmp_path).lightning(IMAGE_MODELS["qwen-image"], steps)
    if most is None:
        assert (file, fetched) == (None, [])
        return
    assert isinstance(file, LoraFile)
    name = f"Qwen-Image-2512-Lightning-{most}steps-V1.0-fp32.safetensors"
    assert (file.path.name, file.name) == (name, f"lightning_{most}")
    [(hub_id, _, revision)] = fetched
    assert (hub_id, len(revision)) == ("lightx2v/Qwen-Image-2512-Lightning", 40)


def test_lightning_has_the_schedule_that_it_was_distilled_with(studio: Studio) -> None:
    pipeline = studio.pipelines.get("qwen-image")

    def schedule(*, is_distilled: bool) -> dict[str, Any]:
        pipe = pipeline.ready([], steps=4, is_distilled=is_distilled, image=False)
        return dict(pipe.scheduler.config)

    own = dict(pipeline._pipe.scheduler.config)
    distilled = schedule(is_distilled=True)
    assert {name: distilled[name] for name in LIGHTNING_SCHEDULE} == LIGHTNING_SCHEDULE
    assert own["base_shift"] != LIGHTNING_SCHEDULE["base_shift"]
    assert schedule(is_distilled=False) == own


@pytest.mark.parametrize("model", ["flux-schnell", "flux-dev", "sdxl"])
def test_other_models_have_no_lightning(
    fetched: list[tuple[str, str, str]], tmp_path: Path, model: str
) -> None:
    assert Hub(tmp_path).lightning(IMAGE_MODELS[model], 1) is None
    assert fetched == []


@pytest.mark.parametrize("model", MODELS)
def test_weights_are_read_straight_to_the_card(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """The largest have 58 GB, and the host has less."""
    moved: list[Any] = []
    monkeypatch.setattr(diffusers.DiffusionPipeline, "to", lambda self, *_: moved.append(self))
    pipeline = open_pipeline(tiny_models / model, IMAGE_MODELS[model], DEVICE, None)
    parts = [one for one in pipeline._pipe.components.values() if isinstance(one, torch.nn.Module)]
    assert {weights.device.type for one in parts for weights in one.parameters()} == {DEVICE}
    assert moved == []
