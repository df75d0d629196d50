"""Routes of conversations and their messages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from ipaddress import ip_address
from time import monotonic
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from starlette.responses import Response

from functions.chat.metering import ClientGoneError, Replay
from functions.chat.streaming import EventResponse, Sink, while_connected
from functions.conversations import documentation as docs
from functions.conversations.answering import Answering, MessageAsk, replay_events, replayed
from functions.conversations.questions import Questions
from functions.conversations.schemas import (
    BRANCHES,
    CONVERSATION_EXAMPLE,
    DELETED_EXAMPLE,
    THREAD_EXAMPLE,
    ConversationChanges,
    ConversationQuery,
    ConversationRequest,
    MessageRequest,
    check_message,
)
from functions.conversations.service import ConversationService, start_arguments
from functions.core.auth import CurrentPrincipal
from functions.core.dependencies import DatabaseDep
from functions.core.json import Json, dumps
from functions.core.openapi import body_of, example
from functions.core.request_body import read_json

CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that left; nobody reads it but the log
REPLAYED = "idempotent-replayed"


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the process's Answering; at the end wait until every answer is charged and kept."""
    settings = app.state.settings
    answering = Answering(
        app.state.database,
        app.state.chat.router,
        Questions(settings),
        settings.abandoned_answer_seconds,
    )
    app.state.answering = answering
    try:
        yield
    finally:
        await answering.aclose()


router = APIRouter(prefix="/conversations", tags=["conversations"], lifespan=_lifespan)


async def _service(database: DatabaseDep) -> ConversationService:
    return ConversationService(database)


async def _answering(request: Request) -> Answering:
    answering: Answering = request.app.state.answering
    return answering


ServiceDep = Annotated[ConversationService, Depends(_service)]
AnsweringDep = Annotated[Answering, Depends(_answering)]


@router.post(
    "",
    status_code=201,
    summary="Begin a conversation",
    description="Everything is optional. `organization` pays, and may read it once it is shared.",
    openapi_extra=body_of(ConversationRequest, {"title": None}),
    responses=example("The conversation.", CONVERSATION_EXAMPLE, status=201),
)
async def create(request: Request, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See ConversationService.create."""
    body = await read_json(request, ConversationRequest, BRANCHES)
    return _json(await service.create(caller, body), status=201)


@router.get(
    "",
    summary="List or search conversations",
    description=docs.LIST,
    responses=example("A page.", {"conversations": [CONVERSATION_EXAMPLE], "next": None}),
)
async def list_(
    caller: CurrentPrincipal,
    service: ServiceDep,
    query: Annotated[ConversationQuery, Query()],
) -> Response:
    """See ConversationService.list."""
    return _json(await service.list(caller, query))


@router.get(
    "/{conversation_id}",
    summary="Read a conversation",
    responses=example("The conversation.", CONVERSATION_EXAMPLE),
)
async def read(conversation_id: UUID, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See ConversationService.read."""
    return _json(await service.read(caller, conversation_id))


@router.patch(
    "/{conversation_id}",
    summary="Change a conversation",
    description=docs.CHANGE,
    openapi_extra=body_of(ConversationChanges, {"title": "The sky"}),
    responses=example("The conversation.", CONVERSATION_EXAMPLE),
)
async def update(
    conversation_id: UUID, request: Request, caller: CurrentPrincipal, service: ServiceDep
) -> Response:
    """See ConversationService.update."""
    changes = await read_json(request, ConversationChanges, BRANCHES)
    return _json(await service.update(caller, conversation_id, changes))


@router.delete(
    "/{conversation_id}",
    summary="Delete a conversation",
    description="At once invisible; it can be restored until it is purged.",
    responses=example("It is deleted.", DELETED_EXAMPLE),
)
async def delete(conversation_id: UUID, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See ConversationService.delete."""
    return _json(await service.delete(caller, conversation_id))


@router.post(
    "/{conversation_id}/restore",
    summary="Restore a deleted conversation",
    responses=example("The conversation.", CONVERSATION_EXAMPLE),
)
async def restore(conversation_id: UUID, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See ConversationService.restore."""
    return _json(await service.restore(caller, conversation_id))


@router.get(
    "/{conversation_id}/messages",
    summary="Read the messages of a conversation",
    description="Those of the branch that is shown, oldest first, page by page from its end.",
    responses=example("A page.", THREAD_EXAMPLE),
)
async def messages(
    conversation_id: UUID,
    caller: CurrentPrincipal,
    service: ServiceDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[UUID | None, Query(description="The `next` of the page before.")] = None,
) -> Response:
    """See ConversationService.messages."""
    return _json(await service.messages(caller, conversation_id, limit, before))


@router.post(
    "/{conversation_id}/messages",
    summary="Send a message",
    description=docs.SEND,
    openapi_extra=body_of(MessageRequest, {"content": "Why is the sky blue?"}),
    responses=docs.SEND_RESPONSES,
)
async def send(
    conversation_id: UUID, request: Request, caller: CurrentPrincipal, answering: AnsweringDep
) -> Response:
    """Subscribe the connection to the answer, or wait for it."""
    since = monotonic()
    message = check_message(await read_json(request, MessageRequest, BRANCHES))
    ask = MessageAsk(
        arguments=start_arguments(
            message,
            caller,
            conversation_id,
            request.state.request_id,
            ip=_ip(request),
            user_agent=request.headers.get("user-agent"),
        ),
        path=request.url.path,
        request_id=request.state.request_id,
        since=since,
    )
    if message.streams:
        return EventResponse(lambda sink: _stream(answering, ask, sink))
    try:
        return await while_connected(request.receive, lambda: _answer(answering, ask))
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _stream(answering: Answering, ask: MessageAsk, sink: Sink) -> None:
    job = await answering.start(ask)
    if isinstance(job, Replay):
        sink.headers[REPLAYED] = "true"
        await sink.write(replay_events(job, ask.request_id))
        return
    sink.headers |= job.meter.headers
    async with aclosing(answering.events(job)) as events:
        async for text in events:
            await sink.write(text)


async def _answer(answering: Answering, ask: MessageAsk) -> Response:
    job = await answering.start(ask)
    if isinstance(job, Replay):
        return _json(replayed(job), headers={REPLAYED: "true"})
    return _json(await answering.result(job), headers=job.meter.headers)


def _json(value: Json, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        dumps(value), status_code=status, headers=headers, media_type="application/json"
    )


def _ip(request: Request) -> str | None:
    """The peer's address; behind a proxy uvicorn has put the client's there."""
    try:
        return str(ip_address(request.client.host)) if request.client else None
    except ValueError:
        return None
