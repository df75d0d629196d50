"""Routes of billing: start a checkout, and Stripe's webhook."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from pydantic import SecretStr

from functions.billing.schemas import (
    CHECKOUT_EXAMPLE,
    CHECKOUT_REQUEST,
    EVENT_REQUEST,
    Checkout,
    CheckoutRequest,
    EventAnswer,
)
from functions.billing.service import CheckoutService, InboxService
from functions.billing.stripe_client import StripeGateway, expects_livemode
from functions.billing.webhook import verified_event
from functions.core.auth import CurrentCaller
from functions.core.dependencies import DatabaseDep, SettingsDep, StripeDep
from functions.core.errors import InvalidRequestError, NotFoundError
from functions.core.openapi import example
from functions.core.request_body import read_json

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")

router = APIRouter(prefix="/billing", tags=["billing"])


async def _idempotency_key(idempotency_key: Annotated[str | None, Header()] = None) -> str | None:
    if idempotency_key is None or _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        return idempotency_key
    raise InvalidRequestError(
        "invalid_idempotency_key",
        "Idempotency-Key must be 1 to 255 printable ASCII characters.",
        {"param": "Idempotency-Key"},
    )


IdempotencyKeyDep = Annotated[str | None, Depends(_idempotency_key)]


@router.post(
    "/checkout",
    summary="Buy a credit pack",
    description=(
        "Opens a purchase and answers with the page on which it is paid. The credits arrive with "
        "Stripe's confirmation; `credit_purchases` says what became of it. With an "
        "`Idempotency-Key` a repeated request gets the same page, and other arguments under the "
        "same key a 409."
    ),
    openapi_extra=CHECKOUT_REQUEST,
    responses=example("The purchase and its page.", CHECKOUT_EXAMPLE),
)
async def checkout(
    request: Request,
    caller: CurrentCaller,
    database: DatabaseDep,
    client: StripeDep,
    idempotency_key: IdempotencyKeyDep,
) -> Checkout:
    """See CheckoutService.start."""
    wanted = await read_json(request, CheckoutRequest)
    service = CheckoutService(database, StripeGateway(client), request.app.state.settings)
    return await service.start(caller.user_id, wanted, idempotency_key)


@router.post(
    "/webhooks/stripe",
    summary="Stripe's webhook",
    description=(
        "Takes in events signed by Stripe. 2xx: finished. 400: refused, nothing stored. 5xx: "
        "deliver again. 404 where no signing secret is configured."
    ),
    openapi_extra=EVENT_REQUEST,
    responses=example("The event is finished.", {"result": "applied"}),
)
async def stripe_webhook(
    request: Request,
    database: DatabaseDep,
    settings: SettingsDep,
    stripe_signature: Annotated[str | None, Header()] = None,
) -> EventAnswer:
    """See InboxService.receive."""
    client = request.app.state.stripe
    secret: SecretStr | None = settings.stripe_webhook_secret
    if secret is None or client is None:
        raise NotFoundError("not_found", "There is nothing at this address.")
    event = verified_event(await request.body(), stripe_signature, secret)
    inbox = InboxService(database, StripeGateway(client))
    return EventAnswer(result=await inbox.receive(event, livemode=expects_livemode(settings)))
