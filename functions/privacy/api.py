"""Routes of privacy: erasure. They are for people who are signed in; no API key opens them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from functions.core.auth import CurrentCaller
from functions.core.dependencies import DatabaseDep
from functions.core.openapi import example
from functions.privacy.schemas import CANCELLED_EXAMPLE, ERASURE_EXAMPLE, Erasure
from functions.privacy.service import PrivacyService

REQUEST = """\
Asks that the caller be erased: their account and everything that says something about them. It is
executed when the grace period is over, and can be cancelled until then. Asked again, the same
request. Refused with 409 `organization_needs_an_owner` while they are the only owner of an
organization that has other members; one without other members goes with them.
"""


router = APIRouter(prefix="/me/erasure", tags=["privacy"])


async def _service(database: DatabaseDep) -> PrivacyService:
    return PrivacyService(database)


ServiceDep = Annotated[PrivacyService, Depends(_service)]


@router.post(
    "",
    status_code=202,
    summary="Ask to be erased",
    description=REQUEST,
    responses=example("The request.", ERASURE_EXAMPLE, status=202),
)
async def request(caller: CurrentCaller, service: ServiceDep) -> Erasure:
    """See PrivacyService.request_erasure."""
    return await service.request_erasure(caller.user_id)


@router.get(
    "",
    summary="Read the request to be erased",
    description="The latest: `requested`, `executing` or `cancelled`.",
    responses=example("The request.", ERASURE_EXAMPLE),
)
async def read(caller: CurrentCaller, service: ServiceDep) -> Erasure:
    """See PrivacyService.erasure."""
    return await service.erasure(caller.user_id)


@router.delete(
    "",
    summary="Cancel the request to be erased",
    description="Within its grace period; everything stays as it is.",
    responses=example("The request.", CANCELLED_EXAMPLE),
)
async def cancel(caller: CurrentCaller, service: ServiceDep) -> Erasure:
    """See PrivacyService.cancel_erasure."""
    return await service.cancel_erasure(caller.user_id)
