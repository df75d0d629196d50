"""Every model that Quernel serves itself: what it is, at which revision, and on which card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ServedModel:
    """One model of the catalog."""

    id: str
    """As in public.models.id."""

    kind: Literal["chat", "image", "embedding", "vision", "safety"]
    hub_id: str
    revision: str | None
    """40 hex digits."""

    gpu: str
    """Modal's name of the card."""

    licence: str


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
        ),
        ServedModel(
            "Qwen3-30B-A3B-Instruct-2507-FP8",
            "chat",
            "Qwen/Qwen3-30B-A3B-Instruct-2507-FP8",
            "5a5a776300a41aaa681dd7ff0106608ef2bc90db",
            "H100",
            "Apache-2.0",
        ),
        ServedModel(
            "Qwen3-Embedding-4B",
            "embedding",
            "Qwen/Qwen3-Embedding-4B",
            "5cf2132abc99cad020ac570b19d031efec650f2b",
            "L4",
            "Apache-2.0",
        ),
        ServedModel(
            "Qwen3-VL-8B-Instruct-FP8",
            "vision",
            "Qwen/Qwen3-VL-8B-Instruct-FP8",
            "9cdc6310a8cb770ce18efaf4e9935334512aee45",
            "L4",
            "Apache-2.0",
        ),
    )
}
