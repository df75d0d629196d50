"""What is asked of the image server, and what it answers: lines of JSON. Imports no torch.

A job's answer is `{"state": "loading"}` at once, `{"progress": per cent}` as it goes on, then for
each output an `image` or, where it is unsafe, `refused`, and last `done` or `error`. The caller is
functions/images/gpu_server.py.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_IMAGE_BYTES = 32 * 1024 * 1024
"""Of the image to begin from; as functions/images lets through."""

MAX_BODY_BYTES = 48 * 1024 * 1024  # that in base64, and the rest
MAX_PROMPT = 20_000  # characters; a model reads fewer (capabilities)
MAX_LORAS = 16  # as public.image_generations
MAX_LORA_SCALE = 2.0
LORA_ID = (
    r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*/[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$"
)
"""`owner/name`: no path, no address, no two dots."""

Format = Literal["png", "jpeg", "webp"]
Safety = Literal["strict", "standard", "relaxed"]
Code = Literal[
    "invalid_job",
    "unknown_model",
    "image_refused",
    "lora_not_found",
    "lora_refused",
    "out_of_memory",
    "internal",
]
Event = dict[str, Any]


class JobError(Exception):
    """A job that cannot be done; `code` says why, the message may be shown to whoever asked."""

    def __init__(self, code: Code, message: str) -> None:
        self.code: Code = code
        super().__init__(message)

    def event(self) -> Event:
        """The last line of the answer."""
        return {"error": {"code": self.code, "message": str(self)}}


def _decoded(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError("must be base64") from None


class Lora(BaseModel):
    """A LoRA of the hub, and how strongly it acts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=LORA_ID, max_length=200)]
    scale: Annotated[float, Field(ge=-MAX_LORA_SCALE, le=MAX_LORA_SCALE, allow_inf_nan=False)] = 1.0


class ImageJob(BaseModel):
    """A job. What a model does not take is refused, and what is left out it decides itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(min_length=1, max_length=100)]
    model: Annotated[str, Field(min_length=1, max_length=100)]
    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]
    negative_prompt: Annotated[str, Field(max_length=MAX_PROMPT)] | None = None
    width: Annotated[int, Field(ge=16, le=4096, multiple_of=16)]
    height: Annotated[int, Field(ge=16, le=4096, multiple_of=16)]
    steps: Annotated[int, Field(ge=1, le=200)] | None = None
    guidance: Annotated[float, Field(ge=0, le=50, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    """Of the first output; the next ones add 1 each."""

    outputs: Annotated[int, Field(ge=1, le=4)] = 1
    loras: Annotated[tuple[Lora, ...], Field(max_length=MAX_LORAS)] = ()
    format: Format = "webp"
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    init_image: (
        Annotated[bytes, BeforeValidator(_decoded), Field(max_length=MAX_IMAGE_BYTES)] | None
    ) = Field(default=None, repr=False)
    prompt_strength: Annotated[float, Field(gt=0, le=1)] | None = None
    """How much of the image to begin from is drawn anew: 1 is all of it."""

    safety: Safety = "standard"
