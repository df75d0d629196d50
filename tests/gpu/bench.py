"""Images by our pipelines beside plain diffusers: the same architecture, weights and chance.

    make bench-gpu                     what fits this machine: full size on a card, tiny without one
    make bench-gpu ARGS="sdxl --rounds 5"

Weights are random: what is measured is how fast they are computed, which does not depend on what
they are. The first-block cache is the exception, because it skips what changes little, and trained
weights change less; so it is off here, and its gain comes on top.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from gpu.families import FAMILIES
from gpu.images import COMPILE
from gpu.pipelines import Pipeline, free_memory

HAS_CARD = torch.cuda.is_available()
DEVICE = "cuda" if HAS_CARD else "cpu"
BATCH = 4
GIB = 1024**3


@dataclass(frozen=True)
class Subject:
    """One architecture: how it is made, what its text encoder would give it, and the job."""

    make: Callable[[], Any]
    words: Callable[[int], dict[str, Any]]
    """By the number of images; the text encoders run once a job, and are left out."""

    steps: int
    side: int


def random(*shape: int) -> torch.Tensor:
    dtype = torch.bfloat16 if HAS_CARD else torch.float32
    chance = torch.Generator("cpu").manual_seed(1)
    return torch.randn(shape, generator=chance).to(DEVICE, dtype)


def made(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """With its weights made where they stay: on the host that would take minutes."""
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if HAS_CARD else torch.float32)
    try:
        with torch.device(DEVICE):
            return build().eval()
    finally:
        torch.set_default_dtype(dtype)


def kl(**options: Any) -> torch.nn.Module:
    """The VAE of SDXL and FLUX, which differ in their latents alone."""
    widths = (128, 256, 512, 512) if HAS_CARD else (8, 8, 8, 8)
    return made(
        lambda: AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            norm_num_groups=32 if HAS_CARD else 2,
            **options,
        )
    )


def flux() -> Any:
    """FLUX.1: 12 billion weights."""
    size: dict[str, Any] = {"num_layers": 19, "num_single_layers": 38}
    if not HAS_CARD:
        size = {
            "num_layers": 2,
            "num_single_layers": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "axes_dims_rope": (4, 4, 8),
            "joint_attention_dim": 64,
            "pooled_projection_dim": 64,
        }
    return FluxPipeline(
        transformer=made(lambda: FluxTransformer2DModel(in_channels=64, **size)),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=kl(latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
    )


def flux_words(images: int) -> dict[str, Any]:
    width, pooled = (4096, 768) if HAS_CARD else (64, 64)
    return {
        "prompt_embeds": random(1, 256, width).repeat(images, 1, 1),
        "pooled_prompt_embeds": random(1, pooled).repeat(images, 1),
    }


def qwen_image() -> Any:
    """Qwen-Image: 20 billion weights."""
    size: dict[str, Any] = {"num_layers": 60}
    if not HAS_CARD:
        size = {
            "num_layers": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "axes_dims_rope": (8, 4, 4),
            "joint_attention_dim": 64,
        }
    vae = {"base_dim": 96 if HAS_CARD else 4, "num_res_blocks": 2 if HAS_CARD else 1}
    return QwenImagePipeline(
        transformer=made(lambda: QwenImageTransformer2DModel(in_channels=64, **size)),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=made(lambda: AutoencoderKLQwenImage(z_dim=16, **vae)),
        text_encoder=None,
        tokenizer=None,
    )


def qwen_words(images: int) -> dict[str, Any]:
    width = 3584 if HAS_CARD else 64
    return {
        "prompt_embeds": random(1, 64, width).repeat(images, 1, 1),
        "prompt_embeds_mask": torch.ones(images, 64, dtype=torch.long, device=DEVICE),
        "true_cfg_scale": 1.0,
    }


def sdxl() -> Any:
    """Stable Diffusion XL: 2.6 billion weights."""
    size: dict[str, Any] = {
        "block_out_channels": (320, 640, 1280),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "projection_class_embeddings_input_dim": 2816,
    }
    if not HAS_CARD:
        size = {
            "block_out_channels": (32, 32, 64),
            "cross_attention_dim": 64,
            "attention_head_dim": (2, 2, 4),
            "transformer_layers_per_block": (1, 1, 2),
            "projection_class_embeddings_input_dim": 64 + 6 * 256,
            "norm_num_groups": 8,
        }
    return StableDiffusionXLPipeline(
        unet=made(
            lambda: UNet2DConditionModel(
                sample_size=128,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                **size,
            )
        ),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        vae=kl(latent_channels=4, scaling_factor=0.13025),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
    )


def sdxl_words(images: int) -> dict[str, Any]:
    width, pooled = (2048, 1280) if HAS_CARD else (64, 64)
    told = {"prompt_embeds": random(1, 77, width), "pooled_prompt_embeds": random(1, pooled)}
    repeated = {
        name: tensor.repeat(images, *[1] * (tensor.dim() - 1)) for name, tensor in told.items()
    }
    return repeated | {f"negative_{name}": tensor for name, tensor in repeated.items()}


SIDE = 1024 if HAS_CARD else 256
SUBJECTS = {
    "sdxl": Subject(sdxl, sdxl_words, 28 if HAS_CARD else 4, SIDE),
    "flux-schnell": Subject(flux, flux_words, 4, SIDE),
    "qwen-image": Subject(qwen_image, qwen_words, 8 if HAS_CARD else 4, SIDE),
}


def seconds(pipe: Any, subject: Subject, images: int, rounds: int) -> tuple[float, float]:
    """The median of a job's seconds, and the most memory it took, in bytes."""
    words = subject.words(images)
    taken = []
    for number in range(rounds + 1):  # the first compiles, and finds its kernels
        chance = [torch.Generator("cpu").manual_seed(seed) for seed in range(images)]
        if HAS_CARD:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        began = time.perf_counter()
        with torch.inference_mode():
            pipe(
                **words,
                width=subject.side,
                height=subject.side,
                num_inference_steps=subject.steps,
                generator=chance,
            )
        if HAS_CARD:
            torch.cuda.synchronize()
        if number > 0:
            taken.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() if HAS_CARD else 0
    return statistics.median(taken), peak


def measure(name: str, rounds: int) -> None:
    """Print a row for each number of images."""
    subject = SUBJECTS[name]
    pipe = subject.make()
    pipe.set_progress_bar_config(disable=True)
    plain = {images: seconds(pipe, subject, images, rounds) for images in (1, BATCH)}
    family = replace(FAMILIES[name], cache_threshold=None)
    ours = Pipeline(pipe, family, COMPILE if HAS_CARD else None)
    fast = ours.ready([], steps=subject.steps, is_distilled=False, image=False)
    for images, (before, before_peak) in plain.items():
        after, after_peak = seconds(fast, subject, images, rounds)
        print(
            f"{name:13} {subject.steps:5} {images:6} {before / images:10.3f} {after / images:8.3f}"
            f" {images / after:8.2f} {before / after:6.2f}"
            f" {before_peak / GIB:9.1f} {after_peak / GIB:8.1f}",
            flush=True,
        )


def main() -> None:
    """Measure each architecture, and let go of it before the next."""
    parser = argparse.ArgumentParser(prog="make bench-gpu", description=__doc__)
    parser.add_argument("only", nargs="?", choices=list(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=3, help="the median of how many")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    card = torch.cuda.get_device_name() if HAS_CARD else "no card: tiny models, nothing compiled"
    print(f"{card}; {SIDE} x {SIDE}, torch {torch.__version__}\n")
    print(
        "                          --- s/image ----  images/s  ratio  --- peak GiB ---\n"
        "model         steps images      plain     ours     ours             plain     ours"
    )
    for name in [options.only] if options.only else SUBJECTS:
        measure(name, options.rounds)
        free_memory()


if __name__ == "__main__":
    main()
