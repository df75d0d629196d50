"""What is asked of a provider of images, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Format = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True)
class ImageRequest:
    """A request in our words; None leaves a choice to the model."""

    model: str
    """What the provider calls it."""
    prompt: str
    outputs: int = 1
    size: str | None = None
    """`WIDTHxHEIGHT` in pixels, for models that are asked for sizes."""
    aspect_ratio: str | None = None
    """`16:9`, for models that are asked for shapes."""
    resolution: str | None = None
    """`1K`, `2K` or `4K`, beside an aspect ratio."""
    quality: str | None = None
    format: Format | None = None
    background: str | None = None
    negative_prompt: str | None = None
    style: str | None = None
    seed: int | None = None
    guidance: float | None = None
    steps: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """What one provider alone understands, by its own names."""

    # For models of our own; outside providers are asked by the members above.
    width: int | None = None
    height: int | None = None
    output_quality: int | None = None
    """1 to 100, of webp and jpeg."""
    loras: tuple[tuple[str, float], ...] = ()
    """Each `owner/name`, and how strongly it acts."""
    input_image: bytes | None = field(default=None, repr=False)
    prompt_strength: float | None = None
    safety: Literal["strict", "standard", "relaxed"] = "standard"


@dataclass(frozen=True)
class GeneratedImage:
    """An image; what kind and how large it is, is known once its bytes have been looked at."""

    content: bytes = field(repr=False)
    media_type: str = ""
    width: int = 0
    height: int = 0
    revised_prompt: str | None = None
    seed: int | None = None
    nsfw_score: float | None = None
    """0 to 1, where whoever made it has looked."""
