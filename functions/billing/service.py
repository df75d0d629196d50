"""Billing's use cases: sell a credit pack, take in what Stripe says, try again what failed."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Literal
from uuid import UUID

from functions.billing.customers import require_customer
from functions.billing.redirects import require_allowed
from functions.billing.schemas import Checkout, CheckoutRequest
from functions.billing.stripe_client import Session, StripeGateway
from functions.billing.stripe_prices import Price, StripePrices
from functions.core.database import Database
from functions.core.errors import QuernelError, UnavailableError
from functions.core.json import Json
from functions.core.logging import log_event
from functions.core.settings import STRIPE_API_VERSION, Settings

logger = logging.getLogger(__name__)

MAX_READS = 5
"""Objects read from Stripe for one event before the worker is left to it: a refund that failed
takes two, and another event of the same second can make a read stale."""

Result = Literal["applied", "duplicate", "ignored"]


class CheckoutService:
    """Sells credit packs."""

    def __init__(
        self, database: Database, gateway: StripeGateway, prices: StripePrices, settings: Settings
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._prices = prices
        self._settings = settings

    async def start(
        self, user_id: UUID, request: CheckoutRequest, idempotency_key: str | None
    ) -> Checkout:
        """Open a purchase and the page on which it is paid; same key, same page.

        Raises QuernelError, among them url_not_allowed, pack_not_found, not_a_member, not_an_admin,
        currency_mismatch, price_not_available, pack_price_mismatch, idempotency_conflict and
        payment_provider_unavailable. Nothing is created at Stripe before the database has agreed to
        the purchase, and its price there is the pack's.
        """
        for param in ("success_url", "cancel_url"):
            require_allowed(getattr(request, param), self._settings.browser_origins, param=param)
        purchase = await self._database.rpc(
            "checkout_start",
            p_user_id=user_id,
            p_pack=request.pack,
            p_organization=request.organization,
            p_idempotency_key=idempotency_key,
            p_currency=request.currency,
        )
        if purchase["checkout_session_id"] is None:
            if purchase["pack"]["stripe_price_id"] is not None:
                await self._prices.require(
                    purchase["pack"]["stripe_price_id"],
                    Price(purchase["price_minor"], purchase["currency"]),
                    mismatch="pack_price_mismatch",
                )
            session = await self._gateway.create_session(
                purchase,
                customer_id=await require_customer(
                    self._database, self._gateway, user_id, purchase["organization_id"]
                ),
                success_url=request.success_url,
                cancel_url=request.cancel_url,
            )
            purchase = await self._attach(purchase["id"], session)
        return Checkout.model_validate(
            {
                "purchase_id": purchase["id"],
                "url": purchase["checkout_url"],
                "expires_at": purchase["checkout_expires_at"],
            }
            | {name: purchase[name] for name in ("status", "credits", "price_minor", "currency")}
        )

    async def _attach(self, purchase_id: str, session: Session) -> dict[str, Json]:
        try:
            attached: dict[str, Json] = await self._database.rpc(
                "checkout_attach",
                p_purchase_id=purchase_id,
                p_session_id=session.id,
                p_url=session.url,
                p_expires_at=session.expires_at,
                p_amount_total=session.amount_total,
                p_currency=session.currency,
            )
        except QuernelError as error:
            if error.code == "pack_price_mismatch":
                log_event(logger, logging.ERROR, "pack price mismatch", purchase_id=purchase_id)
                # Nobody has its address yet; unpaid it would end by itself, only later.
                with suppress(QuernelError):
                    await self._gateway.expire_session(session.id)
            raise
        return attached


class InboxService:
    """Takes in Stripe's events."""

    def __init__(self, database: Database, gateway: StripeGateway) -> None:
        self._database = database
        self._gateway = gateway

    async def receive(self, event: dict[str, Json], *, livemode: bool) -> Result:
        """Store a verified event and apply it.

        Raises QuernelError: 400 `invalid_event` or `livemode_mismatch` (nothing is stored); 500
        `event_not_applied` or 503 `event_not_settled`, both of which are kept and tried again.
        """
        answer = await self._database.rpc(
            "stripe_event_receive",
            p_event=event,
            p_livemode=livemode,
            p_api_version=STRIPE_API_VERSION,
        )
        return await self._settle(answer)

    async def retry(self, event_id: str) -> Result:
        """Apply a stored event as its next delivery would. Raises as `receive`."""
        answer = await self._database.rpc(
            "stripe_event_retry", p_event_id=event_id, p_api_version=STRIPE_API_VERSION
        )
        return await self._settle(answer)

    async def _settle(self, answer: dict[str, Json]) -> Result:
        """Read what the database asks for until the event is finished."""
        for _ in range(MAX_READS):
            if answer["result"] != "needs_fetch":
                break
            reading = await self._gateway.read(answer["object_type"], answer["object_id"])
            answer = await self._database.rpc(
                "stripe_object_apply",
                p_event_id=answer["event_id"],
                p_object=reading.state,
                p_fetched_at=reading.at,
            )
        result: str = answer["result"]
        log_event(logger, logging.INFO, "stripe event", event_id=answer["event_id"], result=result)
        match result:
            case "applied" | "duplicate" | "ignored":
                return result
            case "needs_fetch":
                raise UnavailableError(
                    "event_not_settled", "Other events of the same object are being applied.", 5
                )
            case _:
                raise QuernelError("event_not_applied", 500, "The event was kept but not applied.")
