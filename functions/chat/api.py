"""Routes of chat and embeddings, as OpenAI's clients call them, and the quote."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from time import monotonic
from typing import Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, Header, Request
from starlette.responses import Response

from functions.chat import documentation as docs
from functions.chat.embedding_schemas import parse_embedding
from functions.chat.embeddings import EmbeddingAsk, EmbeddingService
from functions.chat.idempotency import read_key
from functions.chat.metering import ClientGoneError
from functions.chat.providers import open_providers
from functions.chat.routing import Router
from functions.chat.schemas import parse
from functions.chat.service import Ask, ChatService
from functions.chat.streaming import EventResponse, Sink, while_connected
from functions.core.auth import CurrentPrincipal
from functions.core.errors import InvalidRequestError
from functions.core.http import SafeClient
from functions.core.json import Json, dumps
from functions.core.settings import Settings

T = TypeVar("T")

CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that left; nobody reads it but the log
LARGE_BODY_BYTES = 256 * 1024
OWN_SERVER_CONNECTIONS = 1000
MAX_ORGANIZATION = 100  # characters of an id or slug


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the process's ChatService; at the end wait until every hold is closed."""
    settings: Settings = app.state.settings
    async with _own_servers() as client, open_providers(settings, client) as providers:
        router = Router(providers, settings.llm_attempts_timeout_seconds, app.state.vault)
        service = ChatService(app.state.database, router)
        app.state.chat = service
        app.state.embeddings = EmbeddingService(app.state.database, router, service.background)
        try:
            yield
        finally:
            await service.background.drain()


@asynccontextmanager
async def _own_servers() -> AsyncIterator[SafeClient]:
    """A client for customers' own servers alone: one that hangs keeps no webhook waiting."""
    client = SafeClient(max_connections=OWN_SERVER_CONNECTIONS)
    try:
        yield client
    finally:
        await client.aclose()


router = APIRouter(prefix="/v1", tags=["chat"], lifespan=_lifespan)


async def _service(request: Request) -> ChatService:
    service: ChatService = request.app.state.chat
    return service


async def _embeddings(request: Request) -> EmbeddingService:
    service: EmbeddingService = request.app.state.embeddings
    return service


async def _weighed(parse_body: Callable[[bytes], T], body: bytes) -> T:
    """What a body asks; a large one, which takes long to weigh, in a thread of its own."""
    if len(body) < LARGE_BODY_BYTES:
        return parse_body(body)
    return await to_thread.run_sync(parse_body, body)


async def _organization(
    openai_organization: Annotated[str | None, Header(description=docs.ORGANIZATION)] = None,
) -> str | None:
    if openai_organization is not None and len(openai_organization) > MAX_ORGANIZATION:
        raise InvalidRequestError(
            "invalid_request", "OpenAI-Organization is too long.", {"param": "OpenAI-Organization"}
        )
    return openai_organization or None


OrganizationDep = Annotated[str | None, Depends(_organization)]


async def _origin(
    request: Request, caller: CurrentPrincipal, organization: OrganizationDep
) -> dict[str, Any]:
    """Who asks, and where from: what every ask has."""
    return {
        "caller": caller,
        "request_id": request.state.request_id,
        "since": monotonic(),
        "organization": organization,
        "ip": _ip(request),
        "user_agent": request.headers.get("user-agent"),
    }


OriginDep = Annotated[dict[str, Any], Depends(_origin)]


async def _ask(request: Request, origin: OriginDep) -> Ask:
    return Ask(completion=await _weighed(parse, await request.body()), **origin)


async def _embedding_ask(request: Request, origin: OriginDep) -> EmbeddingAsk:
    return EmbeddingAsk(embedding=await _weighed(parse_embedding, await request.body()), **origin)


AskDep = Annotated[Ask, Depends(_ask)]


async def _keyed_ask(
    ask: AskDep,
    idempotency_key: Annotated[str | None, Header(description=docs.IDEMPOTENCY_KEY)] = None,
) -> Ask:
    return replace(ask, idempotency_key=read_key(idempotency_key))


KeyedAskDep = Annotated[Ask, Depends(_keyed_ask)]
ServiceDep = Annotated[ChatService, Depends(_service)]
EmbeddingAskDep = Annotated[EmbeddingAsk, Depends(_embedding_ask)]
EmbeddingServiceDep = Annotated[EmbeddingService, Depends(_embeddings)]


@router.post(
    "/chat/completions",
    summary="Complete a chat, streamed or not",
    description=docs.COMPLETE,
    openapi_extra=docs.REQUEST_BODY,
    responses=docs.COMPLETION_RESPONSES,
)
async def complete(request: Request, ask: KeyedAskDep, service: ServiceDep) -> Response:
    """Answer in one piece, or hand the connection to the stream."""
    if ask.completion.streams:

        async def produce(sink: Sink) -> None:
            await service.stream(ask, sink)

        return EventResponse(produce)
    try:
        text, headers = await while_connected(request.receive, lambda: service.complete(ask))
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return Response(text.encode(), headers=headers, media_type="application/json")


@router.post(
    "/embeddings",
    summary="Turn texts into vectors",
    description=docs.EMBED,
    openapi_extra=docs.EMBEDDING_BODY,
    responses=docs.EMBEDDING_RESPONSES,
)
async def embed(request: Request, ask: EmbeddingAskDep, service: EmbeddingServiceDep) -> Response:
    """One vector for each text."""
    try:
        text, headers = await while_connected(request.receive, lambda: service.embed(ask))
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return Response(text.encode(), headers=headers, media_type="application/json")


@router.post(
    "/quote",
    summary="What a completion would cost at most",
    description=docs.QUOTE,
    openapi_extra=docs.REQUEST_BODY,
    responses=docs.QUOTE_RESPONSES,
)
async def quote(ask: AskDep, service: ServiceDep) -> Response:
    """The worst case, and whether the payer affords it."""
    return _json(await service.quote(ask))


@router.get("/models", summary="List the models", responses=docs.MODELS_RESPONSES)
async def models(
    caller: CurrentPrincipal, service: ServiceDep, organization: OrganizationDep
) -> Response:
    """What can be asked, by kind, and its price."""
    return _json({"object": "list", "data": await service.models(caller, organization)})


@router.get("/models/{model_id:path}", summary="One model", responses=docs.MODEL_RESPONSES)
async def model(
    model_id: str, caller: CurrentPrincipal, service: ServiceDep, organization: OrganizationDep
) -> Response:
    """One of them; ids may hold slashes."""
    return _json(await service.model(caller, model_id, organization))


def _json(value: Json) -> Response:
    return Response(dumps(value), media_type="application/json")


def _ip(request: Request) -> str | None:
    """The peer's address; behind a proxy uvicorn has put the client's there."""
    try:
        return str(ip_address(request.client.host)) if request.client else None
    except ValueError:
        return None
