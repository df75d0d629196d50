"""Routes of agents."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from functions.agents.schemas import (
    AGENT_EXAMPLE,
    DELETED_EXAMPLE,
    PUBLIC_EXAMPLE,
    REQUEST_EXAMPLE,
    AgentChanges,
    AgentRequest,
)
from functions.agents.service import AgentService
from functions.core.auth import CurrentPrincipal
from functions.core.dependencies import DatabaseDep
from functions.core.json import Json, dumps
from functions.core.openapi import body_of, example
from functions.core.request_body import read_json

router = APIRouter(prefix="/agents", tags=["agents"])

Limit = Annotated[int, Query(ge=1, le=100, description="Entries of a page.")]
After = Annotated[UUID | None, Query(description="The `next` of the page before.")]


async def _service(database: DatabaseDep) -> AgentService:
    return AgentService(database)


ServiceDep = Annotated[AgentService, Depends(_service)]


@router.post(
    "",
    status_code=201,
    summary="Make an agent",
    description="Of the caller, or of an organization they belong to; `name` is required.",
    openapi_extra=body_of(AgentRequest, REQUEST_EXAMPLE),
    responses=example("The agent.", AGENT_EXAMPLE, status=201),
)
async def create(request: Request, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See AgentService.create."""
    body = await read_json(request, AgentRequest)
    return _json(await service.create(caller, body), status=201)


@router.get(
    "",
    summary="List agents",
    description="Those of the caller, or of an organization they belong to; newest first.",
    responses=example("A page.", {"agents": [AGENT_EXAMPLE], "next": None}),
)
async def list_(
    caller: CurrentPrincipal,
    service: ServiceDep,
    organization: Annotated[
        str | None, Query(min_length=1, max_length=100, description="Id or slug.")
    ] = None,
    limit: Limit = 50,
    after: After = None,
) -> Response:
    """See AgentService.list."""
    return _json(await service.list(caller, organization, limit, after))


@router.get(
    "/public",
    summary="Find public agents",
    description="By words of name and description, newest first. Who uses one pays for it.",
    responses=example("A page.", {"agents": [PUBLIC_EXAMPLE], "next": None}),
)
async def find(
    caller: CurrentPrincipal,
    service: ServiceDep,
    query: Annotated[str | None, Query(max_length=400)] = None,
    limit: Limit = 50,
    after: After = None,
) -> Response:
    """See AgentService.find."""
    return _json(await service.find(caller, query, limit, after))


@router.get(
    "/{agent_id}",
    summary="Read an agent",
    description="`system_prompt` is shown to those who may change it, and to nobody else.",
    responses=example("The agent.", AGENT_EXAMPLE),
)
async def read(agent_id: UUID, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See AgentService.read."""
    return _json(await service.read(caller, agent_id))


@router.patch(
    "/{agent_id}",
    summary="Change an agent",
    description="What is left out stays.",
    openapi_extra=body_of(AgentChanges, {"temperature": 0.2}),
    responses=example("The agent.", AGENT_EXAMPLE),
)
async def update(
    agent_id: UUID, request: Request, caller: CurrentPrincipal, service: ServiceDep
) -> Response:
    """See AgentService.update."""
    return _json(await service.update(caller, agent_id, await read_json(request, AgentChanges)))


@router.delete(
    "/{agent_id}",
    summary="Delete an agent",
    description="Its conversations stay, and go on without it.",
    responses=example("It is gone.", DELETED_EXAMPLE),
)
async def delete(agent_id: UUID, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See AgentService.delete."""
    return _json(await service.delete(caller, agent_id))


def _json(value: Json, status: int = 200) -> Response:
    return Response(dumps(value), status_code=status, media_type="application/json")
