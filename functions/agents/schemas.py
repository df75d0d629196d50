"""Bodies of the routes of agents, and examples of their answers.

Shapes are checked here; what a value may be is the database's to say, which answers
`invalid_argument` with the `param`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from functions.core.json import Json

Text = Annotated[str, Field(max_length=65536)]
Name = Annotated[str, Field(max_length=200)]


class AgentChanges(BaseModel):
    """What may be set of an agent; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    name: Text | None = None
    description: Text | None = None
    avatar_url: Text | None = None
    system_prompt: Text | None = None
    model: Name | None = None
    fallback_models: list[Name] | None = None
    temperature: Annotated[float, Field(strict=True)] | None = None
    max_tokens: Annotated[int, Field(strict=True)] | None = None
    is_public: StrictBool | None = None

    @property
    def values_set(self) -> dict[str, Any]:
        """What the client named, null included."""
        return self.model_dump(exclude_unset=True, exclude={"organization"})


class AgentRequest(AgentChanges):
    """A new agent; `organization` is the id or slug of the one it is for."""

    organization: Annotated[str | None, Field(min_length=1, max_length=100)] = None


AGENT_EXAMPLE: dict[str, Json] = {
    "id": "01999c5e-0000-7000-8000-000000000001",
    "user_id": "7f4df0a4-0000-4000-8000-000000000001",
    "organization_id": None,
    "name": "Editor",
    "description": "Makes sentences shorter.",
    "avatar_url": None,
    "system_prompt": "You shorten what you are given.",
    "model": "Qwen2.5-32B-Instruct-AWQ",
    "fallback_models": [],
    "temperature": 0.7,
    "max_tokens": 2048,
    "is_public": False,
    "is_editable": True,
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
}
REQUEST_EXAMPLE: dict[str, Json] = {
    "name": "Editor",
    "system_prompt": "You shorten what you are given.",
    "organization": "the-team",
}
PUBLIC_EXAMPLE: dict[str, Json] = {
    name: AGENT_EXAMPLE[name]
    for name in ("id", "name", "description", "avatar_url", "model", "created_at")
}
DELETED_EXAMPLE: dict[str, Json] = {"id": AGENT_EXAMPLE["id"], "deleted": True}
