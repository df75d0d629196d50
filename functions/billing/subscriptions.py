"""Subscriptions: buying one, changing it, and the customer portal."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal
from uuid import UUID, uuid4

from functions.billing.customers import require_customer
from functions.billing.mirror import ended_session, mirrored
from functions.billing.redirects import require_allowed
from functions.billing.stripe_client import Reading, Session, StripeGateway
from functions.billing.stripe_errors import provider_error
from functions.billing.stripe_prices import Price, StripePrices
from functions.billing.stripe_subscriptions import SubscriptionGateway
from functions.billing.subscription_schemas import (
    ChangeRequest,
    Portal,
    PortalRequest,
    SubscribeRequest,
    Subscription,
    SubscriptionCheckout,
)
from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.json import Json
from functions.core.logging import log_event
from functions.core.settings import Settings

logger = logging.getLogger(__name__)

REFUSALS = ("payment_declined", "payment_provider_error")
"""Answers of Stripe after which nothing is under way any more."""

UNWANTED = ("checkout_already_attached", "checkout_not_found", "plan_price_mismatch")
"""Why a page that was just made is not shown to anybody."""

Action = Literal["cancel_now", "cancel_at_period_end", "resume", "pause"]


class SubscriptionService:
    """Sells and changes subscriptions. The database decides; Stripe carries it out."""

    def __init__(
        self,
        database: Database,
        gateway: StripeGateway,
        subscriptions: SubscriptionGateway,
        prices: StripePrices,
        settings: Settings,
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._subscriptions = subscriptions
        self._prices = prices
        self._settings = settings

    async def subscribe(
        self, user_id: UUID, request: SubscribeRequest, idempotency_key: str | None
    ) -> SubscriptionCheckout:
        """Open the page on which a plan is bought; while one is open, the same page.

        Raises QuernelError, among them url_not_allowed, plan_not_found, plan_not_on_sale,
        currency_mismatch, price_not_available, plan_price_mismatch, already_subscribed,
        not_an_admin and idempotency_conflict. Nothing is created at Stripe before the database has
        agreed and the price there is the plan's.
        """
        for param in ("success_url", "cancel_url"):
            require_allowed(getattr(request, param), self._settings.browser_origins, param=param)
        checkout = await self._database.rpc(
            "subscription_checkout_start",
            p_user_id=user_id,
            p_plan=request.plan,
            p_interval=request.interval,
            p_organization=request.organization,
            p_currency=request.currency,
            p_idempotency_key=idempotency_key,
            p_success_url=request.success_url,
            p_cancel_url=request.cancel_url,
        )
        for session_id in checkout["superseded_session_ids"]:
            await self._end_page(session_id)
        if checkout["checkout_session_id"] is None:
            await self._require_price(checkout["stripe_price_id"], checkout)
            session = await self._subscriptions.create_session(
                checkout,
                customer_id=await require_customer(
                    self._database, self._gateway, user_id, checkout["organization_id"]
                ),
            )
            checkout = await self._attach(checkout["id"], session)
        return SubscriptionCheckout.model_validate(
            {
                "checkout_id": checkout["id"],
                "url": checkout["checkout_url"],
                "expires_at": checkout["checkout_expires_at"],
                "interval": checkout["billing_interval"],
            }
            | {
                name: checkout[name]
                for name in ("status", "plan", "amount_minor", "currency", "trial_days")
            }
        )

    async def _require_price(self, price_id: str, offer: dict[str, Json]) -> None:
        await self._prices.require(
            price_id,
            Price(offer["amount_minor"], offer["currency"], offer["billing_interval"]),
            mismatch="plan_price_mismatch",
        )

    async def _attach(self, checkout_id: str, session: Session) -> dict[str, Json]:
        try:
            attached: dict[str, Json] = await self._database.rpc(
                "subscription_checkout_attach",
                p_checkout_id=checkout_id,
                p_session_id=session.id,
                p_url=session.url,
                p_expires_at=session.expires_at,
                p_amount_total=session.amount_total,
                p_currency=session.currency,
            )
        except QuernelError as error:
            if error.code == "plan_price_mismatch":
                log_event(logger, logging.ERROR, "plan price mismatch", checkout_id=checkout_id)
            if error.code in UNWANTED:
                # Nobody has its address yet; unused it would end by itself, only later.
                with suppress(QuernelError):
                    await self._gateway.expire_session(session.id)
            raise
        return attached

    async def _end_page(self, session_id: str) -> None:
        """Make sure that the page of another offer buys nothing. Raises already_subscribed.

        What Stripe answers is applied: a page that was ended is not ended again, and one that could
        not be is with the next request.
        """
        session = await ended_session(self._database, self._gateway, session_id)
        match session["status"]:
            case "complete":  # it was used meanwhile
                raise QuernelError(
                    "already_subscribed",
                    409,
                    "There is a subscription already; change that one.",
                    {"remedy": "change_subscription"},
                )
            case "open":
                raise provider_error()

    async def change(
        self, user_id: UUID, subscription_id: UUID, request: ChangeRequest
    ) -> Subscription:
        """Change the plan: a larger one at once, a smaller one at the end of the period.

        Raises QuernelError, among them subscription_not_found, subscription_not_changeable,
        same_plan, change_pending, interval_not_changeable, price_not_available and
        plan_price_mismatch.
        """
        change = await self._database.rpc(
            "subscription_change_start",
            p_user_id=user_id,
            p_subscription_id=subscription_id,
            p_plan=request.plan,
            p_interval=request.interval,
        )
        await self._require_price(change["price_id"], change)
        return await self._carry_out(change, lambda key: self._subscriptions.change(change, key))

    async def act(self, user_id: UUID, subscription_id: UUID, action: Action) -> Subscription:
        """Cancel, pause or resume.

        Raises QuernelError, among them subscription_not_found, subscription_not_changeable and
        payment_declined.
        """
        subscription = await self._database.rpc(
            "subscription_action_start",
            p_user_id=user_id,
            p_subscription_id=subscription_id,
            p_action=action,
        )

        async def call(key: str) -> Reading:
            match action:
                case "cancel_now":
                    return await self._subscriptions.cancel_now(subscription, key)
                case "cancel_at_period_end":
                    return await self._subscriptions.cancel_at_period_end(subscription, key)
                case "pause":
                    return await self._subscriptions.pause(subscription, key)
                case "resume":
                    return await self._subscriptions.resume(subscription, int(time.time()), key)

        key = None
        if action == "resume":
            # It may charge a period, so it is one call however often it is asked for of one state.
            stripe_id, revision = subscription["stripe_subscription_id"], subscription["revision"]
            key = f"quernel-resume-{stripe_id}-{revision}"
        return await self._carry_out(subscription, call, key)

    async def portal(self, user_id: UUID, request: PortalRequest) -> Portal:
        """Open the customer portal. Raises QuernelError: url_not_allowed, customer_not_found."""
        require_allowed(request.return_url, self._settings.browser_origins, param="return_url")
        owner = await self._database.rpc(
            "portal_start", p_user_id=user_id, p_organization=request.organization
        )
        return Portal(
            url=await self._subscriptions.portal(
                owner["customer_id"], request.return_url, _new_key("portal")
            )
        )

    async def _carry_out(
        self,
        subscription: dict[str, Json],
        call: Callable[[str], Awaitable[Reading]],
        key: str | None = None,
    ) -> Subscription:
        key = key or _new_key("subscription")
        stripe_id = subscription["stripe_subscription_id"]
        try:
            state = await mirrored(self._database, "subscription", stripe_id, lambda: call(key))
        except QuernelError as error:
            if error.code in REFUSALS:
                # Stripe replays a refusal as well. What is read has the next revision, and with
                # it the next attempt has another key.
                with suppress(QuernelError):
                    await mirrored(
                        self._database,
                        "subscription",
                        stripe_id,
                        lambda: self._gateway.read("subscription", stripe_id),
                    )
            raise
        now = await self._database.rpc("subscription_get", p_subscription_id=subscription["id"])
        return Subscription.model_validate(
            {name: now[name] for name in Subscription.model_fields if name in now}
            | {
                "interval": now["billing_interval"],
                "is_payment_pending": state.get("pending_update") is not None,
            }
        )


def _new_key(what: str) -> str:
    """An idempotency key for one call and its repetitions by the SDK.

    Not derived from the request: Stripe replays refusals too, and a change that was declined is
    tried again with another card. Asking for the same change twice changes nothing more; a
    resumption, which would begin a period each time, has a key of its own.
    """
    return f"quernel-{what}-{uuid4()}"
