"""Bodies of the routes of provider keys, and examples of their answers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StrictBool, StrictInt

from functions.core.json import Json
from functions.provider_keys.vault import MAX_SECRET_BYTES

Secret = Annotated[SecretStr, Field(min_length=1, max_length=MAX_SECRET_BYTES)]
Slug = Annotated[str, Field(min_length=1, max_length=63)]
Name = Annotated[str, Field(max_length=200)]
BaseUrl = Annotated[str, Field(max_length=2048)]


class SecretRequest(BaseModel):
    """A secret, and where it belongs where the provider does not say that."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    api_key: Secret
    base_url: BaseUrl | None = None


class TestRequest(SecretRequest):
    """A key that is to be tried, and not kept."""

    __test__ = False  # a name that pytest would collect

    provider: Slug


class KeyRequest(TestRequest):
    """A new key; `organization` is the id or slug of the one it is for."""

    name: Name | None = None
    priority: StrictInt | None = None
    organization: Annotated[str | None, Field(min_length=1, max_length=100)] = None


class KeyChanges(BaseModel):
    """What may be changed of a key; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    priority: StrictInt | None = None
    is_enabled: StrictBool | None = None

    @property
    def values_set(self) -> dict[str, Any]:
        """What the client named."""
        return self.model_dump(exclude_unset=True)


KEY_EXAMPLE: dict[str, Json] = {
    "id": "01999c5e-0000-7000-8000-000000000001",
    "user_id": "7f4df0a4-0000-4000-8000-000000000001",
    "organization_id": None,
    "created_by": "7f4df0a4-0000-4000-8000-000000000001",
    "provider": "openai",
    "name": "My OpenAI key",
    "last_four": "x7Qf",
    "priority": 100,
    "base_url": None,
    "models": [],
    "is_enabled": True,
    "is_valid": True,
    "invalid_reason": None,
    "secret_version": 1,
    "last_validated_at": "2026-01-01T00:00:00Z",
    "last_used_at": None,
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
}
KEY_REQUEST: dict[str, Json] = {
    "provider": "openai",
    "api_key": "sk-...",
    "name": "My OpenAI key",
    "priority": 100,
}
SECRET_REQUEST: dict[str, Json] = {"api_key": "sk-..."}
CHECK_EXAMPLE: dict[str, Json] = {
    "outcome": "completed",
    "is_valid": True,
    "error_code": None,
    "models": [],
}
USE_EXAMPLE: dict[str, Json] = {
    "id": "01999c5e-0000-7000-8000-000000000002",
    "provider_key_id": KEY_EXAMPLE["id"],
    "owner_id": KEY_EXAMPLE["user_id"],
    "organization_id": None,
    "user_id": KEY_EXAMPLE["user_id"],
    "api_key_id": None,
    "provider": "openai",
    "action": "chat",
    "model_id": "openai/gpt-5.1",
    "request_id": "01999c5e-0000-7000-8000-000000000003",
    "outcome": "completed",
    "error_code": None,
    "created_at": "2026-01-01T00:00:00Z",
}
DELETED_EXAMPLE: dict[str, Json] = {"id": KEY_EXAMPLE["id"], "deleted": True}
