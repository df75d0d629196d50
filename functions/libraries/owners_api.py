"""Routes of those who own libraries, and of those who want to know what there is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from starlette.responses import Response

from functions.core.auth import CurrentPrincipal
from functions.core.json import Json, dumps
from functions.core.openapi import body_of, example
from functions.core.request_body import read_json
from functions.core.storage import storage_if_any
from functions.libraries.owner_schemas import (
    ADD_EXAMPLE,
    ADDED_EXAMPLE,
    DELETED_EXAMPLE,
    LIBRARY_EXAMPLE,
    LIBRARY_ID,
    MAX_ID,
    NAME,
    READ_EXAMPLE,
    UPLOAD_EXAMPLE,
    LibraryRequest,
)
from functions.libraries.owners import LibraryOwnerService

BUCKET = "libraries"

ADD = """\
Private to an organization, by one of its admins or an API key with the scope `libraries`;
`library_id` begins with the organization's slug. It is crawled at once, but for an archive: put
that to `upload.url` with PUT and `upload.headers`, within `expires_in` seconds, and then call
`uploaded`.
"""
LIST = "By id: those of everybody and of one's organizations, or one organization's own."
READ = """\
`state` says whether it can be asked (`ready`, `unfinished`, `failed`, `moved`), `crawl` how the
latest crawl goes or went, `versions` what there is of it.
"""
UPLOAD = "An address for its archive, in the place of the one that is there."
UPLOADED = "Says that the archive is there, and has it crawled."
REFRESH = """\
Has it crawled again, at most once in some minutes (429 `rate_limited`). What was indexed is
searched until the new is there. One that is being crawled stays as it is.
"""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with storage_if_any(app.state.settings, BUCKET) as storage:
        app.state.library_owners = LibraryOwnerService(app.state.database, storage)
        yield


router = APIRouter(prefix="/libraries", tags=["libraries"], lifespan=_lifespan)


async def _service(request: Request) -> LibraryOwnerService:
    service: LibraryOwnerService = request.app.state.library_owners
    return service


async def _library_id(
    organization: Annotated[str, Path(pattern=NAME, max_length=MAX_ID)],
    project: Annotated[str, Path(pattern=NAME, max_length=MAX_ID)],
) -> str:
    return f"/{organization}/{project}"


ServiceDep = Annotated[LibraryOwnerService, Depends(_service)]
LibraryIdDep = Annotated[str, Depends(_library_id)]


@router.post(
    "",
    status_code=201,
    summary="Add a library",
    description=ADD,
    openapi_extra=body_of(LibraryRequest, ADD_EXAMPLE),
    responses=example("The library.", ADDED_EXAMPLE, status=201),
)
async def add(request: Request, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See LibraryOwnerService.add."""
    body = await read_json(request, LibraryRequest)
    return _json(await service.add(caller, body), status=201)


@router.get(
    "",
    summary="List libraries",
    description=LIST,
    responses=example("A page.", {"libraries": [LIBRARY_EXAMPLE], "next": None}),
)
async def list_(
    caller: CurrentPrincipal,
    service: ServiceDep,
    organization: Annotated[
        str | None, Query(min_length=1, max_length=100, description="Id or slug.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Entries of a page.")] = 50,
    after: Annotated[
        str | None,
        Query(pattern=LIBRARY_ID, max_length=MAX_ID, description="The `next` of the page before."),
    ] = None,
) -> Response:
    """See LibraryOwnerService.list."""
    return _json(await service.list(caller, organization, limit, after))


@router.get(
    "/{organization}/{project}",
    summary="Read a library",
    description=READ,
    responses=example("The library.", READ_EXAMPLE),
)
async def read(library_id: LibraryIdDep, caller: CurrentPrincipal, service: ServiceDep) -> Response:
    """See LibraryOwnerService.read."""
    return _json(await service.read(caller, library_id))


@router.post(
    "/{organization}/{project}/upload",
    summary="Upload the archive of a library anew",
    description=UPLOAD,
    responses=example("Where to.", {"library_id": "/coast/lamp", "upload": UPLOAD_EXAMPLE}),
)
async def upload(
    library_id: LibraryIdDep, caller: CurrentPrincipal, service: ServiceDep
) -> Response:
    """See LibraryOwnerService.upload."""
    return _json(await service.upload(caller, library_id))


@router.post(
    "/{organization}/{project}/uploaded",
    summary="Have an archive crawled that was uploaded",
    description=UPLOADED,
    responses=example("The library.", LIBRARY_EXAMPLE),
)
async def uploaded(
    library_id: LibraryIdDep, caller: CurrentPrincipal, service: ServiceDep
) -> Response:
    """See LibraryOwnerService.uploaded."""
    return _json(await service.uploaded(caller, library_id))


@router.post(
    "/{organization}/{project}/refresh",
    summary="Have a library crawled again",
    description=REFRESH,
    responses=example("The library.", LIBRARY_EXAMPLE),
)
async def refresh(
    library_id: LibraryIdDep, caller: CurrentPrincipal, service: ServiceDep
) -> Response:
    """See LibraryOwnerService.refresh."""
    return _json(await service.refresh(caller, library_id))


@router.delete(
    "/{organization}/{project}",
    summary="Delete a library",
    description="With its versions, its vectors and its archive.",
    responses=example("It is gone.", DELETED_EXAMPLE),
)
async def delete(
    library_id: LibraryIdDep, caller: CurrentPrincipal, service: ServiceDep
) -> Response:
    """See LibraryOwnerService.delete."""
    return _json(await service.delete(caller, library_id))


def _json(value: Json, status: int = 200) -> Response:
    return Response(dumps(value), status_code=status, media_type="application/json")
