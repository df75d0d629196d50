"""Every option of an image job on tiny pipelines, against what plain diffusers draw."""

from __future__ import annotations

import base64
import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from gpu import images
from gpu.contract import ImageJob, JobError
from gpu.families import EMPTY_PROMPT, FAMILIES, scheduled_steps
from gpu.images import NotWantedError, open_painter
from tests.gpu.painting import DEVICE, MODELS, ONE_IN_255, Studio, difference, opened, picture


@pytest.fixture(scope="module")
def studio(tiny_models: Path) -> Studio:
    return Studio(tiny_models)


def init(content: bytes) -> str:
    return base64.b64encode(content).decode()


def plainly(folder: Path, model: str, *, seed: int = 7, **told: Any) -> Any:
    """What diffusers draw without us."""
    variant = {"variant": "fp16"} if model == "sdxl" else {}
    family = FAMILIES[model]
    name = family.image_to_image if "image" in told else family.text_to_image
    pipe: Any = getattr(diffusers, name).from_pretrained(folder / model, **variant).to(DEVICE)
    pipe.set_progress_bar_config(disable=True)
    chance = torch.Generator("cpu").manual_seed(seed)
    told = {"prompt": "a lighthouse", "generator": chance} | told
    return pipe(**told).images[0]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("flux-schnell", {"num_inference_steps": 4, "max_sequence_length": 256}),
        ("flux-dev", {"num_inference_steps": 3, "guidance_scale": 3.5}),
        (
            "qwen-image",
            {"num_inference_steps": 3, "true_cfg_scale": 4.0, "negative_prompt": EMPTY_PROMPT},
        ),
        ("sdxl", {"num_inference_steps": 3, "guidance_scale": 7.5}),
    ],
)
def test_what_is_drawn_is_what_plain_diffusers_draw(
    studio: Studio, tiny_models: Path, model: str, told: dict[str, Any]
) -> None:
    side = 512 if model == "sdxl" else 256
    plain = plainly(tiny_models, model, width=side, height=side, **told)
    [made] = studio.draw(model)
    assert opened(made).size == (side, side)
    assert difference(made, plain) <= ONE_IN_255


@pytest.mark.parametrize("model", MODELS)
def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(
    studio: Studio, model: str
) -> None:
    first = studio.draw(model)
    assert studio.draw(model, seed=8) != first
    assert studio.draw(model, prompt="a herring") != first
    assert studio.draw(model) == first


@pytest.mark.parametrize("model", ["flux-schnell", "qwen-image"])
def test_outputs_of_one_batch_have_seeds_of_their_own(studio: Studio, model: str) -> None:
    events = studio.events(model, outputs=4)
    made = [one["image"] for one in events if "image" in one]
    assert [one["seed"] for one in made] == [7, 8, 9, 10]
    assert [one["index"] for one in made] == [0, 1, 2, 3]
    batch = [base64.b64decode(one["content"]) for one in made]
    assert len(set(batch)) == 4
    [alone] = studio.draw(model, seed=9)
    # The same chance; sums in a batch are rounded in another order.
    assert difference(batch[2], alone) <= 2 * ONE_IN_255


@pytest.mark.parametrize(
    ("model", "option"),
    [
        ("flux-dev", {"guidance": 9.0}),
        ("flux-dev", {"steps": 5}),
        ("qwen-image", {"guidance": 9.0}),
        ("qwen-image", {"negative_prompt": "How are you today?"}),
        ("sdxl", {"guidance": 1.5}),
        ("sdxl", {"negative_prompt": "How are you today?"}),
        ("sdxl", {"steps": 5}),
        ("sdxl", {"width": 768}),
    ],
)
def test_an_option_changes_what_is_drawn(
    studio: Studio, model: str, option: dict[str, Any]
) -> None:
    [plain], [other] = studio.draw(model), studio.draw(model, **option)
    assert plain != other


def test_a_guidance_says_how_far_it_goes_from_the_negative_prompt(
    studio: Studio, tiny_models: Path
) -> None:
    plain = plainly(
        tiny_models,
        "sdxl",
        width=512,
        height=512,
        num_inference_steps=3,
        guidance_scale=4.0,
        negative_prompt="people",
    )
    [made] = studio.draw("sdxl", guidance=4.0, negative_prompt="people")
    assert difference(made, plain) <= ONE_IN_255


@pytest.mark.parametrize("model", MODELS)
def test_an_image_to_begin_from_is_drawn_anew_as_far_as_asked(studio: Studio, model: str) -> None:
    begun = init(picture())
    option = {"steps": 4, "init_image": begun}
    [whole] = studio.draw(model, prompt_strength=1.0, **option)
    [little] = studio.draw(model, prompt_strength=0.25, **option)
    [nothing_like_it] = studio.draw(model, steps=4)
    assert len({whole, little, nothing_like_it}) == 3
    assert studio.draw(model, prompt_strength=0.25, **option) == [little]
    other = init(picture(form="JPEG", quality=90)[:-2] + b"\xff\xd9")
    assert opened(studio.draw(model, steps=4, init_image=other)[0]).size == opened(whole).size


def test_image_to_image_is_that_of_plain_diffusers(studio: Studio, tiny_models: Path) -> None:
    begun = opened(picture(512, 512)).convert("RGB")
    plain = plainly(
        tiny_models,
        "sdxl",
        image=begun,
        strength=0.5,
        num_inference_steps=4,
        guidance_scale=7.5,
    )
    option = {"init_image": init(picture(512, 512)), "prompt_strength": 0.5, "steps": 4}
    [made] = studio.draw("sdxl", **option)
    assert difference(made, plain) <= ONE_IN_255


@pytest.mark.parametrize("strength", [0.1, 0.3, 0.34, 0.5, 1.0])
def test_at_least_one_step_is_left_of_an_image_to_begin_from(
    studio: Studio, strength: float
) -> None:
    option = {"init_image": init(picture()), "prompt_strength": strength, "steps": 1}
    events = studio.events("flux-schnell", **option)
    assert "image" in events[-2]
    job = {"id": "a", "model": "flux-schnell", "prompt": "x", "width": 256, "height": 256}
    assert int(scheduled_steps(ImageJob(**job, seed=1, **option)) * strength) >= 1


@pytest.mark.parametrize(("form", "name"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_formats_and_quality(studio: Studio, form: str, name: str) -> None:
    [fine] = studio.draw("flux-schnell", format=form, quality=95)
    [coarse] = studio.draw("flux-schnell", format=form, quality=5)
    assert opened(fine).format == name
    assert not opened(fine).getexif()
    assert (len(coarse) < len(fine)) if form != "png" else (coarse == fine)


def test_progress_rises_and_the_end_is_said_last(studio: Studio) -> None:
    events = studio.events("sdxl", steps=5)
    progress = [one["progress"] for one in events if "progress" in one]
    assert progress == [20, 40, 60, 80, 99]
    assert list(events[-1]) == ["done"]
    assert events[-1]["done"]["seconds"] > 0


def test_unsafe_images_are_kept_back_and_the_others_are_not(studio: Studio) -> None:
    studio.scores.next = [0.2, 0.8]
    events = studio.events("flux-schnell", outputs=2)
    assert [next(iter(one)) for one in events[-3:]] == ["image", "refused", "done"]
    assert events[-2]["refused"] == {"index": 1, "nsfw_score": 0.8}
    assert "content" not in str(events[-2])


@pytest.mark.parametrize(
    ("level", "passes"),
    [("strict", [0.29]), ("standard", [0.29, 0.69]), ("relaxed", [0.29, 0.69, 0.94])],
)
def test_a_level_says_what_is_kept_back(studio: Studio, level: str, passes: list[float]) -> None:
    scores = [0.29, 0.69, 0.94, float("nan")]
    studio.scores.next = list(scores)
    events = studio.events("flux-schnell", outputs=4, safety=level)
    shown = [one["image"]["nsfw_score"] for one in events if "image" in one]
    assert shown == passes


@pytest.mark.parametrize(
    ("option", "code"),
    [
        ({"width": 128}, "invalid_job"),
        ({"width": 1536, "height": 1536}, "invalid_job"),
        ({"steps": 9}, "invalid_job"),
        ({"init_image": init(b"GIF89a, or not")}, "image_refused"),
        ({"init_image": init(picture()[:200])}, "image_refused"),
        ({"loras": [{"id": "nobody/nothing"}]}, "lora_not_found"),
    ],
    ids=["side", "pixels", "steps", "no-image", "half-an-image", "no-lora"],
)
def test_what_cannot_be_done_is_said(studio: Studio, option: dict[str, Any], code: str) -> None:
    with pytest.raises(JobError) as refused:
        studio.events("flux-schnell", **option)
    assert refused.value.code == code


@pytest.mark.parametrize("model", ["nothing", "Qwen3-Embedding-4B"])
def test_a_model_that_draws_nothing_is_unknown(studio: Studio, model: str) -> None:
    with pytest.raises(JobError) as refused:
        studio.events(model)
    assert refused.value.code == "unknown_model"


@pytest.mark.parametrize("model", ["flux-dev", "qwen-image"])
def test_a_job_that_is_left_stops_at_its_next_step_and_leaves_nothing_behind(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    # All that the first-block cache has it takes, that of the job before as well.
    family = dataclasses.replace(FAMILIES[model], cache_threshold=1e9)
    monkeypatch.setitem(FAMILIES, model, family)
    studio = Studio(tiny_models)
    steps = 14
    expected = studio.draw(model, steps=steps)
    left = iter([True, True, True])
    with pytest.raises(NotWantedError):
        studio.events(model, is_wanted=lambda: next(left, False), steps=steps, seed=99)
    assert studio.draw(model, steps=steps) == expected


def test_one_job_is_drawn_at_a_time_and_none_for_who_left_the_line(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {seed: studio.draw("flux-schnell", seed=seed) for seed in (1, 2)}
    inside, most = [], []
    draw = studio.painter._pictures

    def watched(job: ImageJob, *rest: Any) -> Any:
        inside.append(job.seed)
        most.append(len(inside))
        try:
            return draw(job, *rest)
        finally:
            inside.remove(job.seed)

    monkeypatch.setattr(studio.painter, "_pictures", watched)
    with ThreadPoolExecutor(3) as threads:
        stays = [threads.submit(studio.draw, "flux-schnell", seed=seed) for seed in (1, 2)]
        leaves = threads.submit(studio.events, "flux-schnell", is_wanted=lambda: False, seed=3)
        drawn = [one.result() for one in stays]
        with pytest.raises(NotWantedError):
            leaves.result()
    assert drawn == [expected[1], expected[2]]
    assert most == [1, 1]


class TooMuch:
    """A pipeline whose card is small."""

    def __init__(self, pipe: Any, most: int) -> None:
        self._pipe = pipe
        self._most = most

    def __call__(self, **told: Any) -> Any:
        if told["num_images_per_prompt"] > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self._pipe(**told)


@pytest.fixture
def small_card(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def outputs(most: int) -> None:
        ready = images.Pipeline.ready
        monkeypatch.setattr(
            images.Pipeline,
            "ready",
            lambda self, *args, **told: TooMuch(ready(self, *args, **told), most),
        )

    return outputs


def test_outputs_are_drawn_one_after_another_where_memory_does_not_suffice(
    studio: Studio, small_card: Callable[[int], None]
) -> None:
    together = studio.draw("flux-schnell", outputs=3)
    studio.draw("qwen-image")
    small_card(1)
    events = studio.events("flux-schnell", outputs=3)
    apart = [base64.b64decode(one["image"]["content"]) for one in events if "image" in one]
    assert len(apart) == 3
    assert all(
        difference(one, other) <= 2 * ONE_IN_255 for one, other in zip(together, apart, strict=True)
    )
    progress = [one["progress"] for one in events if "progress" in one]
    assert progress == sorted(progress)
    assert progress[-1] == 99
    assert studio.painter.held == ["flux-schnell"]  # others made room


def test_out_of_memory_is_said_and_the_next_job_is_drawn(
    studio: Studio, small_card: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_card(0)
    with pytest.raises(JobError) as refused:
        studio.events("flux-schnell")
    assert refused.value.code == "out_of_memory"
    monkeypatch.undo()
    assert len(studio.draw("flux-schnell")) == 1


def test_few_steps_of_qwen_image_are_drawn_with_lightning(
    tiny_models: Path, tmp_path: Path
) -> None:
    asked: list[tuple[str, int]] = []
    made = Studio(tiny_models)
    made.add_lora("qwen-image", "own/lightning", tmp_path)
    file = made.shelf.files["own/lightning"]

    def lightning(model: str, steps: int) -> Any:
        asked.append((model, steps))
        return file if model == "qwen-image" and steps <= 8 else None

    fast = Studio(tiny_models, lightning=lightning)
    distilled = fast.draw("qwen-image", steps=8)
    assert distilled != made.draw("qwen-image", steps=8)
    assert fast.draw("qwen-image", steps=9) == made.draw("qwen-image", steps=9)
    # It has learnt to do without: a negative prompt is not looked at, unless guidance is asked for.
    assert fast.draw("qwen-image", steps=8, negative_prompt="fog") == distilled
    guided = fast.draw("qwen-image", steps=8, negative_prompt="fog", guidance=4.0)
    assert guided != distilled
    assert asked[:2] == [("qwen-image", 8), ("qwen-image", 9)]


def test_the_painter_of_the_catalog_fetches_what_is_pinned(
    tiny_models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from gpu import pipelines  # noqa: PLC0415
    from tests.gpu.tiny_pipelines import save_classifier  # noqa: PLC0415

    asked: list[tuple[str, str]] = []
    folders = {"Falconsai/nsfw_image_detection": save_classifier(tmp_path / "safety")}
    folders["black-forest-labs/FLUX.1-schnell"] = tiny_models / "flux-schnell"

    def snapshot_download(
        hub_id: str, *, revision: str, cache_dir: Path, allow_patterns: Any
    ) -> str:
        asked.append((hub_id, revision))
        assert cache_dir == tmp_path / "huggingface" / "hub"
        assert not [one for one in allow_patterns if ".bin" in one or one == "*"]
        return str(folders[hub_id])

    monkeypatch.setattr(pipelines, "snapshot_download", snapshot_download)
    monkeypatch.setattr(images, "COMPILE", {"backend": "eager"})
    diffusers.utils.logging.set_verbosity_warning()
    painter = open_painter(tmp_path, "cpu")
    events: list[Any] = []
    job = {"id": "a", "model": "flux-schnell", "width": 256, "height": 256}
    job["prompt"] = "a secret " * 200  # more than is read
    painter.draw(ImageJob(**job, seed=1, safety="relaxed"), events.append)
    assert "done" in events[-1]
    assert painter.held == ["flux-schnell"]
    assert "secret" not in caplog.text
    assert asked[0] == (
        "Falconsai/nsfw_image_detection",
        "63e0a066bb08d2ae47324b540fba3adfd4536569",
    )
    assert set(asked[1:]) == {
        ("black-forest-labs/FLUX.1-schnell", "741f7c3ce8b383c54771c7003378a50191e9efe9")
    }


def test_the_card_draws_for_others_while_a_lora_is_fetched(tiny_models: Path) -> None:
    studio = Studio(tiny_models)
    is_fetching, may_come = threading.Event(), threading.Event()

    def get(lora_id: str) -> Any:
        is_fetching.set()
        assert may_come.wait(60)
        raise JobError("lora_not_found", lora_id)

    studio.shelf.get = get  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(studio.draw, "flux-schnell", loras=[{"id": "someone/slow"}])
        assert is_fetching.wait(60)
        assert len(studio.draw("flux-schnell")) == 1
        may_come.set()
        with pytest.raises(JobError):
            waiting.result()
