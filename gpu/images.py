"""Images by diffusers: one job at a time, with what it asks for and nothing of the job before.

The same job gives the same bytes on the same card: chance comes from the CPU, one generator for
each output, and cuDNN may not try out what is fastest. The outputs of a job are one batch; where
its memory does not suffice they are drawn one after another.
"""

from __future__ import annotations

import logging
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from transformers.utils import logging as transformers_logging

from gpu.catalog import IMAGE_MODELS, SAFETY_MODEL, ServedModel
from gpu.contract import Event, ImageJob, JobError
from gpu.encode import decode, encode
from gpu.families import arguments, scheduled_steps, steps_of, strength_of
from gpu.loras import LoraFile, LoraFolder
from gpu.pipelines import Hub, Pipeline, Pipelines, free_memory, open_pipeline, weights_in
from gpu.safety import SafetyClassifier, is_refused

COMPILE = {"dynamic": True}
"""One program for all sizes."""

WARM_UP_MODEL = "flux-schnell"

T = TypeVar("T")
Tell = Callable[[Event], None]
IsWanted = Callable[[], bool]

logger = logging.getLogger(__name__)


class NotWantedError(Exception):
    """Whoever asked has left."""


@dataclass(frozen=True)
class _Materials:
    """What a job is drawn with, from disk or from the hub."""

    begun_from: Image.Image | None
    loras: list[tuple[LoraFile, float]]
    is_distilled: bool
    """Whether one of them is a Lightning LoRA."""


@dataclass
class _Progress:
    """Steps of a job, which may take several passes."""

    tell: Tell
    is_wanted: IsWanted
    passes: int
    done: int = 0

    def after_step(self, pipe: Any, _step: int, _time: Any, kept: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - as diffusers calls it
        """Called by the pipeline. Raises NotWantedError."""
        if not self.is_wanted():
            raise NotWantedError
        self.done += 1
        steps = self.passes * int(pipe.num_timesteps)
        self.tell({"progress": min(99, 100 * self.done // steps)})
        return kept


class Painter:
    """Draws. Any thread may ask; one job is drawn at a time."""

    def __init__(
        self,
        pipelines: Pipelines,
        loras: LoraFolder,
        safety: SafetyClassifier,
        lightning: Callable[[str, int], LoraFile | None] = lambda _model, _steps: None,
    ) -> None:
        """`lightning` gives a model's own LoRA for so few steps, where it has one."""
        self._pipelines = pipelines
        self._loras = loras
        self._safety = safety
        self._lightning = lightning
        self._lock = threading.Lock()

    @property
    def held(self) -> list[str]:
        """Models in memory, the one that was used last at the end."""
        return self._pipelines.held

    def draw(self, job: ImageJob, tell: Tell, is_wanted: IsWanted = lambda: True) -> None:
        """Do a job; `tell` hears its events, the last of them excepted where it cannot be done.

        Raises JobError, and NotWantedError when `is_wanted` says no between two steps.
        """
        started = time.monotonic()
        model = _able(job)
        # Before its turn: while files are fetched, the card draws for others.
        materials = self._materials(job, model)
        with self._lock:
            if not is_wanted():
                raise NotWantedError
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            pictures = self._pictures(job, materials, tell, is_wanted)
            scores = self._safety.scores(pictures)
            peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        for index, (picture, score) in enumerate(zip(pictures, scores, strict=True)):
            if is_refused(score, job.safety):
                tell({"refused": {"index": index, "nsfw_score": score}})
                continue
            content = encode(picture, job.format, job.quality)
            tell(
                {
                    "image": {
                        "index": index,
                        "seed": job.seed + index,
                        "content": b64encode(content).decode(),
                        "width": picture.width,
                        "height": picture.height,
                        "format": job.format,
                        "nsfw_score": score,
                    }
                }
            )
        seconds = time.monotonic() - started
        tell({"done": {"seconds": round(seconds, 3), "peak_memory_bytes": peak}})

    def warm_up(self) -> None:
        """Have the usual model in memory, and compiled."""
        job = ImageJob(
            id="warm-up",
            model=WARM_UP_MODEL,
            prompt="a lighthouse",
            width=1024,
            height=1024,
            seed=0,
        )
        self.draw(job, lambda _: None)

    def _materials(self, job: ImageJob, model: ServedModel) -> _Materials:
        begun_from = None
        if job.init_image is not None:
            begun_from = decode(job.init_image, job.width, job.height)
        lightning = self._lightning(model.id, steps_of(job))
        loras = [] if lightning is None else [(lightning, 1.0)]
        loras += [(self._loras.get(lora.id), lora.scale) for lora in job.loras]
        return _Materials(begun_from, loras, is_distilled=lightning is not None)

    def _pictures(
        self, job: ImageJob, materials: _Materials, tell: Tell, is_wanted: IsWanted
    ) -> list[Image.Image]:
        begun_from, is_distilled = materials.begun_from, materials.is_distilled
        try:
            pipeline = self._alone(job.model, lambda: self._pipelines.get(job.model))
            pipe = self._alone(
                job.model,
                lambda: pipeline.ready(
                    materials.loras,
                    steps=steps_of(job),
                    is_distilled=is_distilled,
                    image=begun_from is not None,
                ),
            )
            told = _told(job, begun_from) | arguments(job, is_distilled=is_distilled)
            try:
                return self._passes(job, pipe, told, tell, is_wanted)
            finally:
                pipeline.forget()
        except torch.OutOfMemoryError:
            raise JobError("out_of_memory", "The card's memory does not suffice.") from None

    def _alone(self, model_id: str, act: Callable[[], T]) -> T:
        """Do it; where memory does not suffice, once more without the other models."""
        try:
            return act()
        except torch.OutOfMemoryError:
            logger.warning("out of memory while %s is made ready", model_id)
        self._pipelines.drop_others(model_id)
        return act()

    def _passes(
        self,
        job: ImageJob,
        pipe: Any,  # noqa: ANN401 - of diffusers
        told: dict[str, Any],
        tell: Tell,
        is_wanted: IsWanted,
    ) -> list[Image.Image]:
        """All outputs in one pass; one after another where that needs too much memory."""
        seeds = [job.seed + index for index in range(job.outputs)]
        try:
            return _pass(pipe, told, seeds, _Progress(tell, is_wanted, 1))
        except torch.OutOfMemoryError:
            logger.warning("out of memory with %d outputs of %s", job.outputs, job.model)
        # Outside of the handler, which holds the tensors of the pass.
        free_memory()
        self._pipelines.drop_others(job.model)
        progress = _Progress(tell, is_wanted, len(seeds))
        pictures = []
        for seed in seeds:
            pictures += _pass(pipe, told, [seed], progress)
        return pictures


def open_painter(folder: Path, device: str | None = None) -> Painter:
    """The painter of the catalog's models, whose files are kept in `folder`.

    Raises OSError, and what the hub refuses: the safety classifier is fetched at once.
    """
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()  # its warnings tell what of a prompt is not read
    transformers_logging.disable_progress_bar()
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    hub = Hub(folder)

    def load(model_id: str) -> Pipeline:
        model = IMAGE_MODELS[model_id]
        return open_pipeline(hub.model(model), model, where, COMPILE)

    return Painter(
        Pipelines(load, lambda model_id: weights_in(hub.model(IMAGE_MODELS[model_id]))),
        LoraFolder(folder / "loras"),
        SafetyClassifier(hub.model(SAFETY_MODEL), where),
        lambda model_id, steps: hub.lightning(IMAGE_MODELS[model_id], steps),
    )


def _able(job: ImageJob) -> ServedModel:
    """The model, if it can do the job. The database has checked; it may be newer than we are."""
    model = IMAGE_MODELS.get(job.model)
    if model is None or model.sides is None or model.max_pixels is None or model.steps is None:
        raise JobError("unknown_model", "There is no such image model.")
    least, most = model.sides
    if not all(least <= side <= most for side in (job.width, job.height)):
        raise JobError("invalid_job", f"Width and height must be {least} to {most}.")
    if job.width * job.height > model.max_pixels:
        raise JobError("invalid_job", f"There may be {model.max_pixels} pixels.")
    if not model.steps[0] <= steps_of(job) <= model.steps[1]:
        raise JobError("invalid_job", f"There must be {model.steps[0]} to {model.steps[1]} steps.")
    return model


def _told(job: ImageJob, begun_from: Image.Image | None) -> dict[str, Any]:
    told: dict[str, Any] = {"prompt": job.prompt, "num_inference_steps": scheduled_steps(job)}
    if begun_from is None:
        return told | {"width": job.width, "height": job.height}
    # Its size is the output's already, and not every pipeline takes one beside it.
    return told | {"image": begun_from, "strength": strength_of(job)}


def _pass(
    pipe: Any,  # noqa: ANN401 - of diffusers
    told: dict[str, Any],
    seeds: list[int],
    progress: _Progress,
) -> list[Image.Image]:
    # On the CPU, where the same seed is the same chance whatever the card.
    chance = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    with torch.inference_mode():
        pictures: list[Image.Image] = pipe(
            **told,
            num_images_per_prompt=len(seeds),
            generator=chance,
            callback_on_step_end=progress.after_step,
        ).images
    return pictures
