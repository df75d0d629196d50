"""How each kind of image model is asked: pipelines of diffusers, and the names of their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log
from typing import Any, Literal

from gpu.contract import ImageJob

FLUX_TOKENS = {"flux-schnell": 256, "flux-dev": 512}
"""Of a prompt: https://huggingface.co/black-forest-labs, the models' cards."""

EMPTY_PROMPT = " "
"""What Qwen-Image is steered away from where nothing is named, by its card."""

LIGHTNING_SCHEDULE: Mapping[str, Any] = {
    "base_image_seq_len": 256,
    "base_shift": log(3),
    "invert_sigmas": False,
    "max_image_seq_len": 8192,
    "max_shift": log(3),
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
"""What Qwen-Image-Lightning was distilled with: https://github.com/ModelTC/Qwen-Image-Lightning."""


@dataclass(frozen=True)
class Family:
    """Models that are asked alike."""

    text_to_image: str
    """Class of diffusers."""

    image_to_image: str
    denoiser: Literal["transformer", "unet"]
    can_fuse: bool
    """Whether diffusers can make one product of query, key and value (fuse_qkv_projections)."""

    cache_threshold: float | None = None
    """Of the first-block cache: how little the first block must have changed since the last step
    for the rest of them to be skipped. 0.08 is what ParaAttention takes for FLUX.1-dev."""


FLUX = Family("FluxPipeline", "FluxImg2ImgPipeline", "transformer", can_fuse=True)
FLUX_CACHED = Family(
    "FluxPipeline", "FluxImg2ImgPipeline", "transformer", can_fuse=True, cache_threshold=0.08
)
QWEN_IMAGE = Family(
    "QwenImagePipeline",
    "QwenImageImg2ImgPipeline",
    "transformer",
    can_fuse=False,
    cache_threshold=0.08,
)
SDXL = Family(
    "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "unet", can_fuse=True
)

FAMILIES: dict[str, Family] = {
    "flux-schnell": FLUX,  # four steps: none of them is like the one before
    "flux-dev": FLUX_CACHED,
    "qwen-image": QWEN_IMAGE,
    "sdxl": SDXL,
}
"""By the model's id."""

# What is meant where a job says nothing; where the database knows the model it says it all.
_STEPS = {"flux-schnell": 4, "flux-dev": 28, "qwen-image": 8, "sdxl": 28}
_GUIDANCE = {"flux-dev": 3.5, "qwen-image": 4.0, "sdxl": 7.5}


def steps_of(job: ImageJob) -> int:
    """Steps that the schedule is cut into."""
    return job.steps or _STEPS[job.model]


def scheduled_steps(job: ImageJob) -> int:
    """Those that diffusers is asked for, of which it takes the share `prompt_strength`.

    It rounds down, and at least one must be left.
    """
    steps = steps_of(job)
    if job.init_image is None:
        return steps
    return max(steps, ceil(1 / strength_of(job)))


def strength_of(job: ImageJob) -> float:
    """How much is drawn anew."""
    return 0.8 if job.prompt_strength is None else job.prompt_strength


def arguments(job: ImageJob, *, is_distilled: bool) -> dict[str, Any]:
    """What the pipeline is told beside size, steps and chance.

    `is_distilled`: a Lightning LoRA acts, which has learnt to do without guidance.
    """
    guidance = job.guidance if job.guidance is not None else _GUIDANCE.get(job.model)
    if job.model in FLUX_TOKENS:
        told: dict[str, Any] = {"max_sequence_length": FLUX_TOKENS[job.model]}
        return told if guidance is None else told | {"guidance_scale": guidance}
    if job.model == "qwen-image":
        if is_distilled and job.guidance is None:
            return {"true_cfg_scale": 1.0}
        return {"true_cfg_scale": guidance, "negative_prompt": job.negative_prompt or EMPTY_PROMPT}
    return {"guidance_scale": guidance, "negative_prompt": job.negative_prompt}
