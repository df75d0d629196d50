"""Routes of billing: buy credits, subscribe and change that, the portal, and Stripe's webhook."""

from __future__ import annotations

import re
from typing import Annotated
from uuid import UUID

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
from functions.billing.stripe_prices import StripePrices
from functions.billing.stripe_subscriptions import SubscriptionGateway
from functions.billing.subscription_schemas import (
    CANCEL_REQUEST,
    CHANGE_REQUEST,
    PORTAL_EXAMPLE,
    PORTAL_REQUEST,
    SUBSCRIBE_EXAMPLE,
    SUBSCRIBE_REQUEST,
    SUBSCRIPTION_EXAMPLE,
    CancelRequest,
    ChangeRequest,
    Portal,
    PortalRequest,
    SubscribeRequest,
    Subscription,
    SubscriptionCheckout,
)
from functions.billing.subscriptions import SubscriptionService
from functions.billing.webhook import verified_event
from functions.core.auth import Caller, CurrentCaller
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


async def _customer(caller: CurrentCaller, database: DatabaseDep) -> Caller:
    """The caller, within the limit of requests that make us ask Stripe something."""
    await database.rpc("billing_request", p_user_id=caller.user_id)
    return caller


Customer = Annotated[Caller, Depends(_customer)]


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
    caller: Customer,
    database: DatabaseDep,
    client: StripeDep,
    idempotency_key: IdempotencyKeyDep,
) -> Checkout:
    """See CheckoutService.start."""
    wanted = await read_json(request, CheckoutRequest)
    service = CheckoutService(
        database, StripeGateway(client), StripePrices(client), request.app.state.settings
    )
    return await service.start(caller.user_id, wanted, idempotency_key)


def _subscription_service(
    database: DatabaseDep, client: StripeDep, settings: SettingsDep
) -> SubscriptionService:
    subscriptions = SubscriptionGateway(
        client, portal_configuration=settings.stripe_portal_configuration
    )
    return SubscriptionService(
        database, StripeGateway(client), subscriptions, StripePrices(client), settings
    )


SubscriptionsDep = Annotated[SubscriptionService, Depends(_subscription_service)]


@router.post(
    "/subscriptions",
    summary="Subscribe to a plan",
    description=(
        "Answers with the page on which the plan is bought; while a page is open, with the same "
        "one. Plan and credits arrive with Stripe's confirmation; `subscriptions` and "
        "`credit_balance` show them. A first subscription may begin with a free trial."
    ),
    openapi_extra=SUBSCRIBE_REQUEST,
    responses=example("The plan and its page.", SUBSCRIBE_EXAMPLE),
)
async def subscribe(
    request: Request,
    caller: Customer,
    service: SubscriptionsDep,
    idempotency_key: IdempotencyKeyDep,
) -> SubscriptionCheckout:
    """See SubscriptionService.subscribe."""
    wanted = await read_json(request, SubscribeRequest)
    return await service.subscribe(caller.user_id, wanted, idempotency_key)


@router.post(
    "/subscriptions/{subscription_id}/change",
    summary="Change the plan of a subscription",
    description=(
        "A larger plan begins at once and its difference is charged; if that payment does not "
        "succeed, nothing changes until it does (`is_payment_pending`). A smaller plan begins with "
        "the next period, and what is paid is kept until then (`kept_plan`, `kept_until`)."
    ),
    openapi_extra=CHANGE_REQUEST,
    responses=example("The subscription.", SUBSCRIPTION_EXAMPLE | {"plan": "business"}),
)
async def change_subscription(
    request: Request, caller: Customer, service: SubscriptionsDep, subscription_id: UUID
) -> Subscription:
    """See SubscriptionService.change."""
    wanted = await read_json(request, ChangeRequest)
    return await service.change(caller.user_id, subscription_id, wanted)


@router.post(
    "/subscriptions/{subscription_id}/cancel",
    summary="Cancel a subscription",
    description="At the end of the period, or now; now gives nothing back.",
    openapi_extra=CANCEL_REQUEST,
    responses=example("The subscription.", SUBSCRIPTION_EXAMPLE | {"cancel_at_period_end": True}),
)
async def cancel_subscription(
    request: Request, caller: Customer, service: SubscriptionsDep, subscription_id: UUID
) -> Subscription:
    """See SubscriptionService.act."""
    wanted = await read_json(request, CancelRequest)
    return await service.act(
        caller.user_id,
        subscription_id,
        "cancel_now" if wanted.when == "now" else "cancel_at_period_end",
    )


@router.post(
    "/subscriptions/{subscription_id}/pause",
    summary="Pause a subscription",
    description="Nothing is collected from the next period on; what is paid is kept to its end.",
    responses=example("The subscription.", SUBSCRIPTION_EXAMPLE | {"is_paused": True}),
)
async def pause_subscription(
    caller: Customer, service: SubscriptionsDep, subscription_id: UUID
) -> Subscription:
    """See SubscriptionService.act."""
    return await service.act(caller.user_id, subscription_id, "pause")


@router.post(
    "/subscriptions/{subscription_id}/resume",
    summary="Resume a subscription",
    description=(
        "Takes back a cancellation or a pause. A pause that outlived what was paid begins a new "
        "period, which is charged at once; 402 `payment_declined` when that fails."
    ),
    responses=example("The subscription.", SUBSCRIPTION_EXAMPLE),
)
async def resume_subscription(
    caller: Customer, service: SubscriptionsDep, subscription_id: UUID
) -> Subscription:
    """See SubscriptionService.act."""
    return await service.act(caller.user_id, subscription_id, "resume")


@router.post(
    "/portal",
    summary="Open the customer portal",
    description="A page of Stripe's with payment methods and invoices, for one visit.",
    openapi_extra=PORTAL_REQUEST,
    responses=example("The page.", PORTAL_EXAMPLE),
)
async def portal(request: Request, caller: Customer, service: SubscriptionsDep) -> Portal:
    """See SubscriptionService.portal."""
    return await service.portal(caller.user_id, await read_json(request, PortalRequest))


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
