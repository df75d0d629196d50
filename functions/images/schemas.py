"""Bodies of the routes of images, and examples of their answers.

Shapes are checked here; what a value may be is the database's to say, which knows the model and
answers `invalid_argument` or `unsupported_parameter` with the `param`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from functions.core.json import Json

Text = Annotated[str, Field(max_length=32_000)]
Name = Annotated[str, Field(max_length=200)]
Whole = Annotated[int, Field(strict=True, ge=-(2**31), lt=2**31)]
"""What a column of the database holds; which of it is allowed is said there."""

Seed = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Small = Annotated[float, Field(allow_inf_nan=False, gt=-10, le=100)]
Organization = Annotated[str | None, Field(min_length=1, max_length=100)]
Credential = Literal["auto", "own", "platform", "own_first"]


class GenerationRequest(BaseModel):
    """What to draw; the columns of image_generations, by their names."""

    model_config = ConfigDict(extra="forbid")

    model_id: Name
    prompt: Text
    negative_prompt: Text | None = None
    aspect_ratio: Annotated[str, Field(max_length=10)] | None = None
    width: Whole | None = None
    height: Whole | None = None
    steps: Whole | None = None
    guidance_scale: Small | None = None
    prompt_strength: Annotated[float, Field(allow_inf_nan=False, gt=-10, lt=9)] | None = None
    suggestion_id: UUID | None = None
    seed: Seed | None = None
    num_outputs: Whole = 1
    output_format: Annotated[str, Field(max_length=10)] | None = None
    output_quality: Whole | None = None
    safety_checker: StrictBool = True
    hf_loras: Annotated[list[Name], Field(max_length=16)] = []
    lora_scales: Annotated[list[Number], Field(max_length=16)] = []
    input_path: Annotated[str, Field(max_length=500)] | None = None
    parameters: dict[str, Any] = {}
    credential: Credential = "auto"
    is_public: StrictBool = False
    metadata: dict[str, Any] = {}
    organization: Organization = None

    @property
    def values(self) -> dict[str, Any]:
        """What the client named, as the database takes it."""
        return self.model_dump(exclude_unset=True, exclude={"organization"})


class OpenAIImageRequest(BaseModel):
    """The body of OpenAI's images API, with `credential` beside it."""

    model_config = ConfigDict(extra="forbid")

    prompt: Text
    model: Name
    n: Whole | None = 1
    size: Annotated[str, Field(pattern=r"^(auto|[0-9]{2,5}x[0-9]{2,5})$")] | None = None
    quality: Name | None = None
    background: Name | None = None
    style: Name | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Whole | None = None
    response_format: Literal["b64_json", "url"] = "b64_json"
    user: Annotated[str, Field(max_length=1000)] | None = None
    credential: Credential = "auto"

    @property
    def values(self) -> dict[str, Any]:
        """The same as a GenerationRequest has it. `auto` leaves a choice to the model."""
        parameters = {
            name: value
            for name in ("quality", "background", "style")
            if (value := getattr(self, name)) is not None
        }
        if self.output_compression is not None:
            parameters["options"] = {"output_compression": self.output_compression}
        width, _, height = (self.size or "auto").partition("x")
        values = {
            "model_id": self.model,
            "prompt": self.prompt,
            "num_outputs": self.n or 1,
            "width": int(width) if height else None,
            "height": int(height) if height else None,
            "output_format": {"jpeg": "jpg"}.get(self.output_format or "", self.output_format),
            "credential": self.credential,
        }
        named = {name: value for name, value in values.items() if value is not None}
        return named | ({"parameters": parameters} if parameters else {})


class SuggestionRequest(BaseModel):
    """A prompt to make better."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=4_000)]


REQUEST_EXAMPLE: dict[str, Json] = {
    "model_id": "flux-schnell",
    "prompt": "A lighthouse in the fog, oil on canvas",
    "aspect_ratio": "16:9",
    "num_outputs": 2,
}
IMAGE_EXAMPLE: dict[str, Json] = {
    "id": "01999c5e-0000-7000-8000-000000000002",
    "user_id": "7f4df0a4-0000-4000-8000-000000000001",
    "organization_id": None,
    "generation_id": "01999c5e-0000-7000-8000-000000000001",
    "public_url": None,
    "thumbnail_url": None,
    "width": 1360,
    "height": 768,
    "format": "webp",
    "size_bytes": 182_344,
    "seed": 1234,
    "is_public": False,
    "created_at": "2026-01-01T00:00:09Z",
}
GENERATION_EXAMPLE: dict[str, Json] = {
    "id": "01999c5e-0000-7000-8000-000000000001",
    "user_id": "7f4df0a4-0000-4000-8000-000000000001",
    "organization_id": None,
    "model_id": "flux-schnell",
    "prompt": "A lighthouse in the fog, oil on canvas",
    "width": 1360,
    "height": 768,
    "num_outputs": 2,
    "status": "completed",
    "progress": 100,
    "error_code": None,
    "credits_cost": 4,
    "credits_charged": 4,
    "created_at": "2026-01-01T00:00:00Z",
    "completed_at": "2026-01-01T00:00:09Z",
    "images": [IMAGE_EXAMPLE],
}
DELETED_EXAMPLE: dict[str, Json] = {
    "id": "01999c5e-0000-7000-8000-000000000002",
    "deleted": True,
}
SUGGESTION_REQUEST_EXAMPLE: dict[str, Json] = {"prompt": "a lighthouse in the fog"}
SUGGESTION_EXAMPLE: dict[str, Json] = {
    "id": "01999c5e-0000-7000-8000-000000000003",
    "user_id": "7f4df0a4-0000-4000-8000-000000000001",
    "base_prompt": "a lighthouse in the fog",
    "suggested_prompt": "A lone lighthouse in thick fog at dawn, soft light, oil on canvas",
    "source_type": "ai",
    "confidence_score": 0.5,
    "used_count": 0,
    "completed_count": 0,
    "failed_count": 0,
    "success_rate": 0,
    "created_at": "2026-01-01T00:00:00Z",
    "last_used_at": None,
    "metadata": {"model": "Qwen2.5-32B-Instruct-AWQ"},
}
SUGGESTIONS_EXAMPLE: dict[str, Json] = {
    "suggestions": [SUGGESTION_EXAMPLE],
    "similar": [SUGGESTION_EXAMPLE | {"source_type": "history", "distance": 0.12}],
    "usage": {"credits_charged": 0.0231, "credits_remaining": 99.9769},
}
