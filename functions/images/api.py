"""Routes of images: our own, and OpenAI's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic, time
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from functions.chat.answers import frame
from functions.chat.api import CLIENT_CLOSED_REQUEST, OrganizationDep, OriginDep
from functions.chat.idempotency import read_key
from functions.chat.metering import ClientGoneError
from functions.chat.streaming import EventResponse, Sink, while_connected
from functions.core.auth import CurrentPrincipal, OptionalPrincipal
from functions.core.json import Json, dumps
from functions.core.openapi import body_of, example
from functions.core.request_body import read_json
from functions.core.settings import Settings
from functions.core.storage import open_storage
from functions.images import documentation as docs
from functions.images.ad_rewards import VerifierKeys
from functions.images.schemas import (
    DELETED_EXAMPLE,
    GENERATION_EXAMPLE,
    REQUEST_EXAMPLE,
    SUGGESTION_REQUEST_EXAMPLE,
    SUGGESTIONS_EXAMPLE,
    GenerationRequest,
    OpenAIImageRequest,
    SuggestionRequest,
)
from functions.images.service import ENDED, ImageService
from functions.images.suggestions import Origin, SuggestionService

BUCKET = "images"
HEARTBEAT_SECONDS = 15.0
"""A stream that says nothing for longer is cut by some proxies."""

REPLAYED = "idempotent-replayed"


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the process's ImageService."""
    settings: Settings = app.state.settings
    app.state.ad_keys = VerifierKeys()
    if settings.supabase_secret_key is None:
        app.state.images = ImageService(app.state.database, None)
        yield
        return
    async with open_storage(settings, BUCKET) as storage:
        app.state.images = ImageService(app.state.database, storage)
        yield


router = APIRouter(tags=["images"], lifespan=_lifespan)


async def _service(request: Request) -> ImageService:
    service: ImageService = request.app.state.images
    return service


async def _key(
    idempotency_key: Annotated[str | None, Header(description=docs.IDEMPOTENCY_KEY)] = None,
) -> str | None:
    return read_key(idempotency_key)


ServiceDep = Annotated[ImageService, Depends(_service)]
KeyDep = Annotated[str | None, Depends(_key)]


@router.post(
    "/images/generations",
    status_code=202,
    summary="Ask for images",
    description=docs.START,
    openapi_extra=body_of(GenerationRequest, REQUEST_EXAMPLE),
    responses=example("The generation.", GENERATION_EXAMPLE, status=202),
)
async def start(
    request: Request, caller: CurrentPrincipal, service: ServiceDep, key: KeyDep
) -> Response:
    """See ImageService.start."""
    body = await read_json(request, GenerationRequest)
    started = await service.start(caller, body, key)
    if started["state"] == "replay":
        return _json(started["generation"], headers={REPLAYED: "true"})
    return _json(started["generation"], status=202)


@router.post(
    "/images/suggestions",
    summary="Have a prompt made better",
    description=docs.SUGGEST,
    openapi_extra=body_of(SuggestionRequest, SUGGESTION_REQUEST_EXAMPLE),
    responses=example("The suggestions, and what they cost.", SUGGESTIONS_EXAMPLE),
)
async def suggest(request: Request, origin: OriginDep, key: KeyDep) -> Response:
    """See SuggestionService.suggest."""
    body = await read_json(request, SuggestionRequest)
    state = request.app.state
    service = SuggestionService(state.database, state.chat, state.embeddings)
    try:
        answer = await while_connected(
            request.receive, lambda: service.suggest(Origin(origin, key), body.prompt)
        )
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return _json(answer)


@router.get(
    "/images/generations",
    summary="List generations",
    description="Those of the caller, or those paid for by an organization; newest first.",
    responses=example("A page.", {"generations": [GENERATION_EXAMPLE], "next": None}),
)
async def list_(
    caller: CurrentPrincipal,
    service: ServiceDep,
    organization: Annotated[
        str | None, Query(min_length=1, max_length=100, description="Id or slug.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Entries of a page.")] = 20,
    before: Annotated[UUID | None, Query(description="The `next` of the page before.")] = None,
) -> Response:
    """See ImageService.list."""
    return _json(await service.list(caller, organization, limit, before))


@router.get(
    "/images/generations/{generation_id}",
    summary="Read a generation",
    responses=example("The generation.", GENERATION_EXAMPLE),
)
async def read(generation_id: UUID, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See ImageService.read."""
    return _json(await service.read(caller, generation_id))


@router.post(
    "/images/generations/{generation_id}/cancel",
    summary="Call a generation off",
    description="What was held for it comes back. 409 `generation_ended` where it is too late.",
    responses=example("The generation.", GENERATION_EXAMPLE | {"status": "cancelled"}),
)
async def cancel(generation_id: UUID, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See ImageService.cancel."""
    return _json(await service.cancel(caller, generation_id))


@router.get(
    "/images/generations/{generation_id}/events",
    summary="Follow a generation",
    description=docs.EVENTS,
    response_class=StreamingResponse,
    responses=docs.EVENTS_RESPONSES,
)
async def events(generation_id: UUID, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See ImageService.watch."""

    async def produce(sink: Sink) -> None:
        written = monotonic()
        async for generation in service.watch(caller, generation_id):
            if generation is not None:
                status = generation["status"]
                name = status if status in ENDED else "progress"
                await sink.write(f"event: {name}\n{frame(dumps(generation).decode())}")
            elif monotonic() - written > HEARTBEAT_SECONDS:
                await sink.write(": still at it\n\n")
            else:
                continue
            written = monotonic()

    return EventResponse(produce)


@router.get(
    "/images/{image_id}/content",
    status_code=307,
    response_class=RedirectResponse,
    summary="See an image",
    description=docs.CONTENT,
)
async def content(image_id: UUID, caller: OptionalPrincipal, service: ServiceDep) -> Response:
    """See ImageService.url."""
    return _redirect(await service.url(caller, image_id, is_thumbnail=False))


@router.get(
    "/images/{image_id}/thumbnail",
    status_code=307,
    response_class=RedirectResponse,
    summary="See an image, small",
    description=docs.CONTENT,
)
async def thumbnail(image_id: UUID, caller: OptionalPrincipal, service: ServiceDep) -> Response:
    """See ImageService.url."""
    return _redirect(await service.url(caller, image_id, is_thumbnail=True))


@router.delete(
    "/images/{image_id}",
    summary="Delete an image",
    description="With its file, its thumbnail, its analysis and everybody's marks.",
    responses=example("What was deleted.", DELETED_EXAMPLE),
)
async def delete(image_id: UUID, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See ImageService.delete."""
    return _json(await service.delete(caller, image_id))


@router.post(
    "/v1/images/generations",
    summary="Make images, as OpenAI's API does",
    description=docs.OPENAI,
    openapi_extra=body_of(OpenAIImageRequest, docs.OPENAI_REQUEST),
    responses=example("The images.", docs.OPENAI_ANSWER),
)
async def draw(
    request: Request,
    caller: CurrentPrincipal,
    service: ServiceDep,
    organization: OrganizationDep,
    key: KeyDep,
) -> Response:
    """See ImageService.draw."""
    body = await read_json(request, OpenAIImageRequest)

    async def work() -> dict[str, Any]:
        generation = await service.draw(caller, body.values, organization, key)
        rows = []
        for image in generation["images"]:
            if body.response_format == "url":
                shown = {"url": await service.url(caller, UUID(image["id"]), is_thumbnail=False)}
            else:
                shown = {"b64_json": await service.content(caller, image["id"])}
            revised = image["revised_prompt"]
            rows.append(shown | ({"revised_prompt": revised} if revised else {}))
        return {"created": int(time()), "data": rows}

    try:
        return _json(await while_connected(request.receive, work))
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


def _redirect(url: str) -> Response:
    return RedirectResponse(url, headers={"cache-control": "no-store"})


def _json(value: Json, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        dumps(value), status_code=status, headers=headers, media_type="application/json"
    )
