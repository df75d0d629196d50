"""Routes of provider keys."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from functions.core.auth import CurrentCaller
from functions.core.dependencies import DatabaseDep, SafeClientDep
from functions.core.errors import UnavailableError
from functions.core.json import Json, dumps
from functions.core.openapi import body_of, example
from functions.core.request_body import read_json
from functions.provider_keys.schemas import (
    CHECK_EXAMPLE,
    DELETED_EXAMPLE,
    KEY_EXAMPLE,
    KEY_REQUEST,
    SECRET_REQUEST,
    USE_EXAMPLE,
    KeyChanges,
    KeyRequest,
    SecretRequest,
    TestRequest,
)
from functions.provider_keys.service import ProviderKeyService

router = APIRouter(prefix="/provider-keys", tags=["provider keys"])

Organization = Annotated[str | None, Query(min_length=1, max_length=100, description="Id or slug.")]


class Page(BaseModel):
    """Which uses to list."""

    model_config = ConfigDict(extra="forbid")

    organization: Annotated[
        str | None,
        Field(min_length=1, max_length=100, description="Id or slug; for its admins."),
    ] = None
    limit: Annotated[int, Field(ge=1, le=100, description="Entries of a page.")] = 50
    after: Annotated[UUID | None, Field(description="The `next` of the page before.")] = None


async def _service(
    request: Request, database: DatabaseDep, client: SafeClientDep
) -> ProviderKeyService:
    if request.app.state.vault is None:
        raise UnavailableError(
            "provider_keys_not_configured", "Own keys are switched off here.", 60
        )
    return ProviderKeyService(
        database, request.app.state.vault, request.app.state.key_checker, client
    )


ServiceDep = Annotated[ProviderKeyService, Depends(_service)]


@router.post(
    "",
    status_code=201,
    summary="Bring a key",
    description=(
        "For the caller, or for an organization they administer. The provider is asked about it "
        "first; one that it rejects is not stored. The secret is never shown again. `base_url` is "
        "where your own server is, for the provider `openai-compatible`."
    ),
    openapi_extra=body_of(KeyRequest, KEY_REQUEST),
    responses=example("The key, masked.", KEY_EXAMPLE, status=201),
)
async def add(request: Request, caller: CurrentCaller, service: ServiceDep) -> Response:
    """See ProviderKeyService.add."""
    body = await read_json(request, KeyRequest)
    return _json(await service.add(caller.user_id, body), status=201)


@router.get(
    "",
    summary="List keys",
    description="Those of the caller, or of an organization they belong to; the next to be tried "
    "first.",
    responses=example("The keys, masked.", [KEY_EXAMPLE]),
)
async def list_(
    caller: CurrentCaller,
    service: ServiceDep,
    organization: Organization = None,
    provider: Annotated[str | None, Query(max_length=63, description="Slug.")] = None,
) -> Response:
    """See ProviderKeyService.list."""
    return _json(await service.list(caller.user_id, organization, provider))


@router.post(
    "/test",
    summary="Try a key without storing it",
    description="Asks the provider and keeps nothing. `is_valid` is null where it did not say.",
    openapi_extra=body_of(TestRequest, {"provider": "openai", "api_key": "sk-..."}),
    responses=example("What the provider said.", CHECK_EXAMPLE),
)
async def test(request: Request, caller: CurrentCaller, service: ServiceDep) -> Response:
    """See ProviderKeyService.test."""
    return _json(await service.test(caller.user_id, await read_json(request, TestRequest)))


@router.get(
    "/uses",
    summary="What keys were used for",
    description="All of the caller's, or of an organization they administer, deleted ones too; "
    "newest first.",
    responses=example("A page.", {"uses": [USE_EXAMPLE], "next": None}),
)
async def all_uses(
    caller: CurrentCaller, service: ServiceDep, page: Annotated[Page, Query()]
) -> Response:
    """See ProviderKeyService.uses."""
    return _json(
        await service.uses(caller.user_id, None, page.organization, page.limit, page.after)
    )


@router.get("/{key_id}", summary="Read a key", responses=example("The key.", KEY_EXAMPLE))
async def read(key_id: UUID, caller: CurrentCaller, service: ServiceDep) -> Response:
    """See ProviderKeyService.read."""
    return _json(await service.read(caller.user_id, key_id))


@router.patch(
    "/{key_id}",
    summary="Rename a key, move it in the order, or have it rest",
    description="The lowest priority is tried first.",
    openapi_extra=body_of(KeyChanges, {"name": "Spare", "priority": 200}),
    responses=example("The key.", KEY_EXAMPLE),
)
async def update(
    key_id: UUID, request: Request, caller: CurrentCaller, service: ServiceDep
) -> Response:
    """See ProviderKeyService.update."""
    changes = await read_json(request, KeyChanges)
    return _json(await service.update(caller.user_id, key_id, changes))


@router.put(
    "/{key_id}/secret",
    summary="Replace a key's secret",
    description="The provider is asked about the new one first; the old one is gone.",
    openapi_extra=body_of(SecretRequest, SECRET_REQUEST),
    responses=example("The key.", KEY_EXAMPLE),
)
async def replace(
    key_id: UUID, request: Request, caller: CurrentCaller, service: ServiceDep
) -> Response:
    """See ProviderKeyService.replace."""
    body = await read_json(request, SecretRequest)
    return _json(await service.replace(caller.user_id, key_id, body))


@router.post(
    "/{key_id}/validate",
    summary="Ask the provider about a stored key",
    responses=example(
        "The key, and what the provider said.", KEY_EXAMPLE | {"check": CHECK_EXAMPLE}
    ),
)
async def validate(key_id: UUID, caller: CurrentCaller, service: ServiceDep) -> Response:
    """See ProviderKeyService.validate."""
    return _json(await service.validate(caller.user_id, key_id))


@router.delete(
    "/{key_id}",
    summary="Delete a key",
    description="With its secret. What it was used for stays recorded.",
    responses=example("It is gone.", DELETED_EXAMPLE),
)
async def delete(key_id: UUID, caller: CurrentCaller, service: ServiceDep) -> Response:
    """See ProviderKeyService.delete."""
    return _json(await service.delete(caller.user_id, key_id))


@router.get(
    "/{key_id}/uses",
    summary="What a key was used for",
    description="Newest first. Of an organization's key: name it, as an admin.",
    responses=example("A page.", {"uses": [USE_EXAMPLE], "next": None}),
)
async def uses(
    key_id: UUID, caller: CurrentCaller, service: ServiceDep, page: Annotated[Page, Query()]
) -> Response:
    """See ProviderKeyService.uses."""
    return _json(
        await service.uses(caller.user_id, key_id, page.organization, page.limit, page.after)
    )


def _json(value: Json, status: int = 200) -> Response:
    return Response(dumps(value), status_code=status, media_type="application/json")
