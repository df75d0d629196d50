"""Every model that Quernel serves itself: what it is, at which revision, and on which card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class HubFile:
    """One file of a repository of the hub, at a commit."""

    hub_id: str
    revision: str
    """40 hex digits."""

    name: str


@dataclass(frozen=True)
class ServedModel:
    """One model of the catalog. Sizes, steps and prices are those of the database as well."""

    id: str
    """As in public.models.id."""

    kind: Literal["chat", "image", "embedding", "vision", "safety"]
    hub_id: str
    revision: str
    """40 hex digits."""

    gpu: str
    """Modal's name of the card."""

    licence: str
    credits: tuple[float, float] | float | None = None
    """Credits for a million tokens of prompt and of answer, or of text; for an image of a
    megapixel; None for what is not sold."""

    context: int | None = None
    """Tokens that it reads and writes."""

    sides: tuple[int, int] | None = None
    """Pixels, least and most."""

    max_pixels: int | None = None
    steps: tuple[int, int] | None = None
    variant: str = ""
    """Of the files of weights that are fetched: `fp16` for `*.fp16.safetensors`."""

    lightning: Mapping[int, HubFile] = field(default_factory=dict)
    """LoRAs that draw in so many steps."""


MODELS: Mapping[str, ServedModel] = {
    model.id: model
    for model in (
        ServedModel(
            "Qwen2.5-32B-Instruct-AWQ",
            "chat",
            "Qwen/Qwen2.5-32B-Instruct-AWQ",
            "5c7cb76a268fc6cfbb9c4777eb24ba6e27f9ee6c",
            "L40S",
            "Apache-2.0",
            (60, 180),
            context=32_768,
        ),
        ServedModel(
            "Qwen3-30B-A3B-Instruct-2507-FP8",
            "chat",
            "Qwen/Qwen3-30B-A3B-Instruct-2507-FP8",
            "5a5a776300a41aaa681dd7ff0106608ef2bc90db",
            "H100",
            "Apache-2.0",
            (20, 60),
            context=131_072,
        ),
        ServedModel(
            "Qwen3-Embedding-4B",
            "embedding",
            "Qwen/Qwen3-Embedding-4B",
            "5cf2132abc99cad020ac570b19d031efec650f2b",
            "L4",
            "Apache-2.0",
            4,
            context=32_768,
        ),
        ServedModel(
            "Qwen3-VL-8B-Instruct-FP8",
            "vision",
            "Qwen/Qwen3-VL-8B-Instruct-FP8",
            "9cdc6310a8cb770ce18efaf4e9935334512aee45",
            "L4",
            "Apache-2.0",
            None,
            context=16_384,
        ),
        ServedModel(
            "flux-schnell",
            "image",
            "black-forest-labs/FLUX.1-schnell",
            "741f7c3ce8b383c54771c7003378a50191e9efe9",
            "H100",
            "Apache-2.0",
            1,
            sides=(256, 1536),
            max_pixels=2_097_152,
            steps=(1, 8),
        ),
        ServedModel(
            "flux-dev",
            "image",
            "black-forest-labs/FLUX.1-dev",
            "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
            "H100",
            "FLUX.1 [dev] Non-Commercial License",
            7.5,
            sides=(256, 1536),
            max_pixels=2_097_152,
            steps=(1, 50),
        ),
        ServedModel(
            "qwen-image",
            "image",
            "Qwen/Qwen-Image-2512",
            "25468b98e3276ca6700de15c6628e51b7de54a26",
            "H100",
            "Apache-2.0",
            6,
            sides=(256, 1664),
            max_pixels=2_801_664,
            steps=(1, 50),
            lightning={
                steps: HubFile(
                    "lightx2v/Qwen-Image-2512-Lightning",
                    "a52649c9d0f6e1a248bff13f0df33bb8a2abdb52",
                    f"Qwen-Image-2512-Lightning-{steps}steps-V1.0-fp32.safetensors",
                )
                for steps in (4, 8)
            },
        ),
        ServedModel(
            "sdxl",
            "image",
            "stabilityai/stable-diffusion-xl-base-1.0",
            "462165984030d82259a11f4367a4eed129e94a7b",
            "H100",
            "CreativeML Open RAIL++-M",
            1.5,
            sides=(512, 1536),
            max_pixels=2_097_152,
            steps=(1, 60),
            variant="fp16",
        ),
        ServedModel(
            "nsfw-image-detection",
            "safety",
            "Falconsai/nsfw_image_detection",
            "63e0a066bb08d2ae47324b540fba3adfd4536569",
            "H100",  # beside the image models
            "Apache-2.0",
            None,
        ),
    )
}

IMAGE_MODELS: Mapping[str, ServedModel] = {
    id_: model for id_, model in MODELS.items() if model.kind == "image"
}
SAFETY_MODEL = MODELS["nsfw-image-detection"]
