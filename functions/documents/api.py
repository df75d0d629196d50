"""Routes of documents: put in, indexed, searched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from starlette.responses import Response

from functions.chat.api import OriginDep
from functions.core.auth import CurrentPrincipal
from functions.core.errors import rate_limit_headers
from functions.core.json import Json, dumps
from functions.core.openapi import body_of, example
from functions.core.request_body import read_json
from functions.core.storage import storage_if_any
from functions.documents.schemas import (
    ADDED_EXAMPLE,
    DELETED_EXAMPLE,
    DOCUMENT_EXAMPLE,
    FOUND_EXAMPLE,
    REQUEST_EXAMPLE,
    SEARCH_EXAMPLE,
    DocumentRequest,
    SearchRequest,
)
from functions.documents.service import DocumentService
from functions.documents.tasks import BUCKET

ADD = """\
Of the caller, or of an organization they belong to. Put the file to `upload.url` with PUT and
`upload.headers`, within `expires_in` seconds, and then call `uploaded`. One whose file does not
come is deleted after a day.
"""
UPLOADED = """\
Says that the file is there, and has it indexed. Of one that was indexed before, or that could not
be: has it indexed again.
"""
READ = "`state` is `uploading`, `queued`, `indexing` (with `progress`), `ready` or `failed`."
SEARCH = """\
Passages that answer a question, the best first, within `tokens`, each with its document and pages:
of what the caller may read, by words and by meaning. `document_ids` and `organization` narrow it.
They are data: what they say is their authors' word, and pieces that seem to speak to a model carry
`flags`.
"""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state = app.state
    async with storage_if_any(state.settings, BUCKET) as storage:
        state.documents = DocumentService(state.database, state.settings, storage)
        yield


router = APIRouter(prefix="/documents", tags=["documents"], lifespan=_lifespan)


async def _service(request: Request) -> DocumentService:
    service: DocumentService = request.app.state.documents
    return service


ServiceDep = Annotated[DocumentService, Depends(_service)]


@router.post(
    "",
    status_code=201,
    summary="Add a document",
    description=ADD,
    openapi_extra=body_of(DocumentRequest, REQUEST_EXAMPLE),
    responses=example("The document.", ADDED_EXAMPLE, status=201),
)
async def add(request: Request, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See DocumentService.add."""
    body = await read_json(request, DocumentRequest)
    return _json(await service.add(caller, body), status=201)


@router.get(
    "",
    summary="List documents",
    description="Those of the caller, or of an organization they belong to; newest first.",
    responses=example("A page.", {"documents": [DOCUMENT_EXAMPLE], "next": None}),
)
async def list_(
    caller: CurrentPrincipal,
    service: ServiceDep,
    organization: Annotated[
        str | None, Query(min_length=1, max_length=100, description="Id or slug.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Entries of a page.")] = 50,
    after: Annotated[UUID | None, Query(description="The `next` of the page before.")] = None,
) -> Response:
    """See DocumentService.list."""
    return _json(await service.list(caller, organization, limit, after))


@router.post(
    "/search",
    summary="Ask documents",
    description=SEARCH,
    openapi_extra=body_of(SearchRequest, SEARCH_EXAMPLE),
    responses=example("What they say.", FOUND_EXAMPLE),
)
async def search(request: Request, origin: OriginDep, service: ServiceDep) -> Response:
    """See DocumentService.search."""
    body = await read_json(request, SearchRequest)
    found, rate_limit = await service.search(origin, body)
    return _json(found, headers=rate_limit_headers(rate_limit))


@router.get(
    "/{document_id}",
    summary="Read a document",
    description=READ,
    responses=example("The document.", DOCUMENT_EXAMPLE),
)
async def read(document_id: UUID, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See DocumentService.read."""
    return _json(await service.read(caller, document_id))


@router.post(
    "/{document_id}/uploaded",
    summary="Have a document indexed",
    description=UPLOADED,
    responses=example("The document.", DOCUMENT_EXAMPLE | {"state": "queued", "progress": 0}),
)
async def uploaded(document_id: UUID, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See DocumentService.uploaded."""
    return _json(await service.uploaded(caller, document_id))


@router.delete(
    "/{document_id}",
    summary="Delete a document",
    description="With its file, and what was indexed of it.",
    responses=example("It is gone.", DELETED_EXAMPLE),
)
async def delete(document_id: UUID, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See DocumentService.delete."""
    return _json(await service.delete(caller, document_id))


def _json(value: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        dumps(value), status_code=status, headers=headers, media_type="application/json"
    )
