"""Routes of notifications: webhook endpoints."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request

from functions.core.auth import CurrentCaller
from functions.core.dependencies import DatabaseDep, SafeClientDep, SettingsDep
from functions.core.errors import UnavailableError
from functions.core.openapi import example
from functions.core.request_body import read_json
from functions.notifications.schemas import (
    CHANGES_REQUEST,
    DELETED_EXAMPLE,
    ENDPOINT_EXAMPLE,
    ENDPOINT_REQUEST,
    PING_EXAMPLE,
    SECRET_EXAMPLE,
    DeletedEndpoint,
    Endpoint,
    EndpointChanges,
    EndpointRequest,
    EndpointSecret,
    NewEndpoint,
    Ping,
)
from functions.notifications.service import EndpointService

router = APIRouter(prefix="/notifications/webhooks", tags=["notifications"])


async def _service(
    database: DatabaseDep, client: SafeClientDep, settings: SettingsDep
) -> EndpointService:
    master_key = settings.webhook_master_key
    if master_key is None:
        raise UnavailableError("webhooks_not_configured", "Webhooks are switched off here.", 60)
    return EndpointService(database, client, master_key)


ServiceDep = Annotated[EndpointService, Depends(_service)]


@router.post(
    "",
    status_code=201,
    summary="Make a webhook endpoint",
    description=(
        "For the caller, or for an organization they administer. Events are posted there in the "
        "format of Standard Webhooks, signed with the secret of the answer."
    ),
    openapi_extra=ENDPOINT_REQUEST,
    responses=example(
        "The endpoint and its secret.", ENDPOINT_EXAMPLE | SECRET_EXAMPLE, status=201
    ),
)
async def create(request: Request, caller: CurrentCaller, service: ServiceDep) -> NewEndpoint:
    """See EndpointService.create."""
    return await service.create(caller.user_id, await read_json(request, EndpointRequest))


@router.get(
    "",
    summary="List webhook endpoints",
    description="Those of the caller, or of an organization they administer; oldest first.",
    responses=example("The endpoints.", [ENDPOINT_EXAMPLE]),
)
async def list_(
    caller: CurrentCaller,
    service: ServiceDep,
    organization: Annotated[
        str | None, Query(min_length=1, max_length=100, description="Id or slug.")
    ] = None,
) -> list[Endpoint]:
    """See EndpointService.list."""
    return await service.list(caller.user_id, organization)


@router.get(
    "/{endpoint_id}",
    summary="Read a webhook endpoint",
    responses=example("The endpoint.", ENDPOINT_EXAMPLE),
)
async def read(endpoint_id: UUID, caller: CurrentCaller, service: ServiceDep) -> Endpoint:
    """See EndpointService.read."""
    return await service.read(caller.user_id, endpoint_id)


@router.patch(
    "/{endpoint_id}",
    summary="Change a webhook endpoint",
    description="What is left out stays; `is_active` true switches it on again.",
    openapi_extra=CHANGES_REQUEST,
    responses=example("The endpoint.", ENDPOINT_EXAMPLE),
)
async def update(
    endpoint_id: UUID, request: Request, caller: CurrentCaller, service: ServiceDep
) -> Endpoint:
    """See EndpointService.update."""
    changes = await read_json(request, EndpointChanges)
    return await service.update(caller.user_id, endpoint_id, changes)


@router.delete(
    "/{endpoint_id}",
    summary="Delete a webhook endpoint",
    description="With its deliveries; what was on its way is not sent.",
    responses=example("It is gone.", DELETED_EXAMPLE),
)
async def delete(endpoint_id: UUID, caller: CurrentCaller, service: ServiceDep) -> DeletedEndpoint:
    """See EndpointService.delete."""
    return await service.delete(caller.user_id, endpoint_id)


@router.get(
    "/{endpoint_id}/secret",
    summary="Read the signing secret of a webhook endpoint",
    responses=example("The secret in use.", SECRET_EXAMPLE),
)
async def secret(endpoint_id: UUID, caller: CurrentCaller, service: ServiceDep) -> EndpointSecret:
    """See EndpointService.secret."""
    return await service.secret(caller.user_id, endpoint_id)


@router.post(
    "/{endpoint_id}/rotate-secret",
    summary="Replace the signing secret of a webhook endpoint",
    description="For 24 hours messages carry a signature of the old secret as well.",
    responses=example("The endpoint and its new secret.", ENDPOINT_EXAMPLE | SECRET_EXAMPLE),
)
async def rotate(endpoint_id: UUID, caller: CurrentCaller, service: ServiceDep) -> NewEndpoint:
    """See EndpointService.rotate."""
    return await service.rotate(caller.user_id, endpoint_id)


@router.post(
    "/{endpoint_id}/test",
    status_code=202,
    summary="Send a ping to a webhook endpoint",
    description="An event of type `ping`, whatever types the endpoint asks for.",
    responses=example("The ping is on its way.", PING_EXAMPLE, status=202),
)
async def ping(endpoint_id: UUID, caller: CurrentCaller, service: ServiceDep) -> Ping:
    """See EndpointService.ping."""
    return await service.ping(caller.user_id, endpoint_id)
