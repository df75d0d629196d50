"""Payloads of the routes of notifications."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from functions.core.http import URL_MAX_CHARACTERS

EndpointUrl = Annotated[str, Field(min_length=1, max_length=URL_MAX_CHARACTERS)]
Description = Annotated[str, Field(max_length=200)]
EventTypes = Annotated[list[str], Field(min_length=1, max_length=50)]


class EndpointRequest(BaseModel):
    """A webhook endpoint to be made."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: EndpointUrl
    """Where events are posted: https, on port 443, with a public host."""

    description: Description | None = None
    event_types: EventTypes | None = None
    """Which events; null for all."""

    organization: Annotated[str | None, Field(min_length=1, max_length=100)] = None
    """Id or slug of an organization the caller administers, to make it for that."""


class EndpointChanges(BaseModel):
    """What is to be changed; what is left out stays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: EndpointUrl = ""
    description: Description | None = None
    event_types: EventTypes | None = None
    """Which events; null for all."""

    is_active: bool = True
    """True also switches an endpoint on again that was switched off because it did not answer."""


class Endpoint(BaseModel):
    """A webhook endpoint. Its secret is told apart."""

    id: UUID
    user_id: UUID | None
    organization_id: UUID | None
    url: str
    description: str | None
    event_types: list[str] | None
    is_active: bool
    secret_version: int
    secret_rotated_at: datetime | None
    consecutive_failures: int
    """Events given up since the last that was delivered."""

    disabled_at: datetime | None
    disabled_reason: Literal["gone", "failing"] | None
    created_at: datetime
    updated_at: datetime


class EndpointSecret(BaseModel):
    """What verifies the signatures of an endpoint's messages."""

    secret: Annotated[str, Field(repr=False)]
    """For the libraries of Standard Webhooks: `whsec_` and base64."""


class NewEndpoint(Endpoint, EndpointSecret):
    """An endpoint with its secret: just made, or with a new secret."""


class DeletedEndpoint(BaseModel):
    """An endpoint that is gone."""

    id: UUID


class Ping(BaseModel):
    """A ping on its way."""

    delivery_id: UUID
    """Row of `webhook_deliveries`, which says what became of it."""


ENDPOINT_EXAMPLE: dict[str, Any] = {
    "id": "0198c0de-7d3a-7c1e-9c39-1f2e3d4c5b6a",
    "user_id": None,
    "organization_id": "5f8c9a3e-2f1b-4c67-8a90-6e1d2c3b4a59",
    "url": "https://hooks.quernel.app/in",
    "description": "Accounting",
    "event_types": ["receipt", "payment_failed"],
    "is_active": True,
    "secret_version": 1,
    "secret_rotated_at": None,
    "consecutive_failures": 0,
    "disabled_at": None,
    "disabled_reason": None,
    "created_at": "2030-01-01T00:00:00Z",
    "updated_at": "2030-01-01T00:00:00Z",
}
SECRET_EXAMPLE: dict[str, Any] = {"secret": "whsec_" + "0" * 43 + "="}
DELETED_EXAMPLE: dict[str, Any] = {"id": "0198c0de-7d3a-7c1e-9c39-1f2e3d4c5b6a"}
PING_EXAMPLE: dict[str, Any] = {"delivery_id": "0198c0de-7d3a-7c1e-9c39-1f2e3d4c5b6b"}


def _body(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": model.model_json_schema(), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


ENDPOINT_REQUEST = _body(
    EndpointRequest,
    {
        "url": "https://hooks.quernel.app/in",
        "description": "Accounting",
        "event_types": ["receipt", "payment_failed"],
        "organization": "the-team",
    },
)
CHANGES_REQUEST = _body(EndpointChanges, {"event_types": None, "is_active": True})
