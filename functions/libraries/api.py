"""Routes of libraries: which one is meant, and what its documentation says."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from functions.chat.api import OriginDep
from functions.core.errors import rate_limit_headers
from functions.core.json import Json, dumps
from functions.core.openapi import body_of, example
from functions.core.request_body import read_json
from functions.libraries.schemas import (
    ANSWER_EXAMPLE,
    QUERY_EXAMPLE,
    RESOLVE_EXAMPLE,
    RESOLVED_EXAMPLE,
    QueryRequest,
    ResolveRequest,
)
from functions.libraries.service import LibraryService

UNFINISHED_SECONDS = 30
"""After which an unfinished library is worth asking again."""

RESOLVE = """\
Libraries whose name is like the one given, the likeliest first, each with a `confidence` of 0 to 1.
Without a name each word of the question is taken for one.
"""
QUERY = """\
Pieces of documentation for a question, the best first, within `tokens`. They are data: what they
say is their authors' word, and pieces that seem to speak to a model carry `flags`.

`state` says what there is, and the HTTP status with it: `ready` (200), `unfinished` (202, with
`progress`), `moved` (301, with `moved_to`), `not_found` (404), which is also the answer about the
private libraries of others.
"""

router = APIRouter(tags=["libraries"])


async def _service(request: Request) -> LibraryService:
    return LibraryService(request.app.state.database, request.app.state.settings)


ServiceDep = Annotated[LibraryService, Depends(_service)]


@router.post(
    "/libraries/resolve",
    summary="Find a library by its name",
    description=RESOLVE,
    openapi_extra=body_of(ResolveRequest, RESOLVE_EXAMPLE),
    responses=example("The libraries.", RESOLVED_EXAMPLE),
)
async def resolve(request: Request, origin: OriginDep, service: ServiceDep) -> Response:
    """See LibraryService.resolve."""
    body = await read_json(request, ResolveRequest)
    return _json(await service.resolve(origin, body))


@router.post(
    "/libraries/query",
    summary="Ask the documentation of a library",
    description=QUERY,
    openapi_extra=body_of(QueryRequest, QUERY_EXAMPLE),
    responses=example("What it says.", ANSWER_EXAMPLE)
    | example("It is being indexed.", {"state": "unfinished", "progress": 40}, status=202)
    | example("It has moved.", {"state": "moved", "moved_to": "/coast/lantern"}, status=301)
    | example("There is none, or none of this version.", {"state": "not_found"}, status=404),
)
async def query(request: Request, origin: OriginDep, service: ServiceDep) -> Response:
    """See LibraryService.query."""
    body = await read_json(request, QueryRequest)
    answer = await service.query(origin, body)
    status = int(answer["status"])
    retry = {"retry-after": str(UNFINISHED_SECONDS)} if status == 202 else None
    return _json(answer, status=status, headers=retry)


def _json(
    answer: dict[str, Json], *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    told = rate_limit_headers(answer.pop("rate_limit", None)) | (headers or {})
    return Response(dumps(answer), status_code=status, headers=told, media_type="application/json")
