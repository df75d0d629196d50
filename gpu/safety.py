"""How unsafe a picture is, by a classifier of images; and what each safety level lets through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from gpu.contract import Safety

UNSAFE_LABEL = "nsfw"

REFUSED_FROM: Mapping[Safety, float] = {"strict": 0.3, "standard": 0.7, "relaxed": 0.95}
"""Scores from which a picture is refused. Chosen by us; the model's card gives no threshold."""


class SafetyClassifier:
    """The classifier in memory."""

    def __init__(self, folder: Path, device: str) -> None:
        """`folder` is in hub format. Raises OSError, and ValueError for a model without `nsfw`."""
        self._device = device
        self._processor = AutoImageProcessor.from_pretrained(folder)
        self._model = AutoModelForImageClassification.from_pretrained(folder, use_safetensors=True)
        self._model.to(device).eval()
        labels = {label.lower(): index for index, label in self._model.config.id2label.items()}
        if UNSAFE_LABEL not in labels:
            raise ValueError(f"The safety classifier knows no {UNSAFE_LABEL}.")
        self._unsafe = int(labels[UNSAFE_LABEL])

    def scores(self, pictures: Sequence[Image.Image]) -> list[float]:
        """How likely each is unsafe, 0 to 1."""
        seen = self._processor(images=[one.convert("RGB") for one in pictures], return_tensors="pt")
        with torch.inference_mode():
            logits = self._model(pixel_values=seen["pixel_values"].to(self._device)).logits
        # In 32 bits: whoever is refused shall not be so by rounding.
        unsafe: list[float] = logits.float().softmax(-1)[:, self._unsafe].cpu().tolist()
        return unsafe


def is_refused(score: float, level: Safety) -> bool:
    """Whether a picture of this score is kept from whoever asked. NaN is refused."""
    return not score < REFUSED_FROM[level]
