"""A painter over tiny models, and what it answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageChops

from gpu.catalog import IMAGE_MODELS
from gpu.contract import JobError
from gpu.images import Painter
from gpu.loras import LoraFile
from gpu.pipelines import Pipeline, Pipelines, open_pipeline, weights_in
from tests.gpu.tiny_pipelines import save_lora

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MODELS = ("flux-schnell", "flux-dev", "qwen-image", "sdxl")
ONE_IN_255 = 1


class Scores:
    """A safety classifier that is told what to find."""

    def __init__(self) -> None:
        self.next: list[float] = []

    def scores(self, pictures: Sequence[Image.Image]) -> list[float]:
        return [self.next.pop(0) if self.next else 0.01 for _ in pictures]


class Shelf:
    """LoRAs by id, without a hub."""

    def __init__(self) -> None:
        self.files: dict[str, LoraFile] = {}

    def get(self, lora_id: str) -> LoraFile:
        if lora_id not in self.files:
            raise JobError("lora_not_found", f"There is no public LoRA {lora_id}.")
        return self.files[lora_id]


class Studio:
    """The painter, and its parts."""

    def __init__(
        self,
        folder: Path,
        *,
        most_bytes: int = 10**9,
        compile_with: Mapping[str, Any] | None = None,
        lightning: Callable[[str, int], LoraFile | None] = lambda _model, _steps: None,
    ) -> None:
        self.folder = folder
        self.loads: list[str] = []
        self.scores = Scores()
        self.shelf = Shelf()

        def load(model_id: str) -> Pipeline:
            self.loads.append(model_id)
            return open_pipeline(folder / model_id, IMAGE_MODELS[model_id], DEVICE, compile_with)

        self.pipelines = Pipelines(
            load, lambda model_id: weights_in(folder / model_id), most_bytes=most_bytes
        )
        loras: Any = self.shelf
        safety: Any = self.scores
        self.painter = Painter(self.pipelines, loras, safety, lightning)

    def events(self, model: str, is_wanted: Callable[[], bool] = lambda: True, **told: Any) -> Any:
        from gpu.contract import ImageJob  # noqa: PLC0415

        side = 512 if model == "sdxl" else 256
        job = {"id": "job", "model": model, "prompt": "a lighthouse", "seed": 7, "format": "png"}
        steps = {} if model == "flux-schnell" else {"steps": 3}
        made = ImageJob.model_validate({"width": side, "height": side} | job | steps | told)
        events: list[dict[str, Any]] = []
        self.painter.draw(made, events.append, is_wanted)
        return events

    def draw(self, model: str, **told: Any) -> list[bytes]:
        """The images' bytes."""
        return contents(self.events(model, **told))

    def add_lora(self, model: str, lora_id: str, folder: Path, *, seed: int = 1) -> None:
        """A LoRA that fits the model."""
        pipe = self.pipelines.get(model)._pipe
        name = "lora_" + lora_id.replace("/", "_")
        self.shelf.files[lora_id] = LoraFile(save_lora(pipe, folder, seed=seed), name)


def contents(events: Sequence[dict[str, Any]]) -> list[bytes]:
    return [base64.b64decode(one["image"]["content"]) for one in events if "image" in one]


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def difference(one: bytes | Image.Image, other: bytes | Image.Image) -> int:
    """The most that any channel of any pixel differs, of 255."""
    first, second = (opened(each) if isinstance(each, bytes) else each for each in (one, other))
    extrema: Any = ImageChops.difference(first.convert("RGB"), second.convert("RGB")).getextrema()
    return max(most for _, most in extrema)


def picture(width: int = 300, height: int = 200, form: str = "PNG", **options: Any) -> bytes:
    """Something to begin from: left red, right blue."""
    image = Image.new("RGB", (width, height), (200, 30, 30))
    image.paste((30, 30, 200), (width // 2, 0, width, height))
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()
