"""Stripe's API for subscriptions: their checkout, every change of one, and the customer portal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from stripe import StripeClient
from stripe.params import SubscriptionUpdateParams
from stripe.params.billing_portal import SessionCreateParams as PortalParams
from stripe.params.checkout import SessionCreateParams

from functions.billing.stripe_client import Reading, Session, reading_of
from functions.billing.stripe_errors import provider_error, translated
from functions.core.json import Json

UNSET: Literal[""] = ""
"""How Stripe is told to forget a value."""


BOUNDARY_SECONDS = 600
"""What ends so soon counts as ended: it may have by the time that Stripe does what it is told."""


class SubscriptionGateway:
    """The calls. Each raises QuernelError and nothing else.

    Two facts that only a date decides travel in a subscription's metadata, set by the call that
    makes the change (supabase/migrations/…_billing_subscriptions.sql): `quernel_paid_until`, until
    when what was paid is kept (Unix seconds), and `quernel_paid_plan`, the larger plan kept.
    """

    def __init__(self, client: StripeClient, *, portal_configuration: str | None = None) -> None:
        self._v1 = client.v1
        self._portal_configuration = portal_configuration

    async def create_session(
        self,
        checkout: dict[str, Json],
        *,
        customer_id: str,
    ) -> Session:
        """The page on which a subscription is bought; repeated, the same page.

        All of it is what the checkout says, since Stripe refuses a key with other parameters.
        """
        reference = {
            "quernel_checkout_id": checkout["id"],
            "quernel_plan": checkout["plan"],
        }
        params: SessionCreateParams = {
            "mode": "subscription",
            "customer": customer_id,
            "client_reference_id": checkout["id"],
            "metadata": reference,
            "subscription_data": {"metadata": reference},
            "line_items": [{"quantity": 1, "price": checkout["stripe_price_id"]}],
            # Paid in its price's currency, or the credits could not be counted.
            "adaptive_pricing": {"enabled": False},
            "success_url": checkout["success_url"],
            "cancel_url": checkout["cancel_url"],
        }
        if checkout["trial_days"]:
            params["subscription_data"]["trial_period_days"] = checkout["trial_days"]
        with translated("checkout.sessions.create"):
            session = await self._v1.checkout.sessions.create_async(
                params, {"idempotency_key": f"quernel-subscribe-{checkout['id']}"}
            )
        if session.url is None:
            raise provider_error()
        return Session(
            id=session.id,
            url=session.url,
            expires_at=datetime.fromtimestamp(session.expires_at, UTC),
            amount_total=session.amount_total,
            currency=session.currency,
        )

    async def change(self, change: dict[str, Json], key: str) -> Reading:
        """Change the plan as backend.subscription_change_start decided.

        An upgrade that is not paid at once is kept by Stripe as a pending update and changes
        nothing until it is.
        """
        params: SubscriptionUpdateParams = {
            "items": [{"id": change["stripe_item_id"], "price": change["price_id"]}]
        }
        match change["change"]:
            case "upgrade":
                params["proration_behavior"] = "always_invoice"
                params["payment_behavior"] = "pending_if_incomplete"
            case "downgrade":
                params["proration_behavior"] = "none"
                params["metadata"] = {
                    "quernel_paid_plan": change["plan_before"],
                    "quernel_paid_until": str(change["current_period_end"]),
                }
            case "undo":
                params["proration_behavior"] = "none"
                params["metadata"] = {"quernel_paid_plan": UNSET, "quernel_paid_until": UNSET}
            case _:  # in a trial nothing was paid yet
                params["proration_behavior"] = "none"
        return await self._update(change, params, key)

    async def cancel_at_period_end(self, subscription: dict[str, Json], key: str) -> Reading:
        """Let it end with what is paid."""
        return await self._update(subscription, {"cancel_at_period_end": True}, key)

    async def cancel_now(self, subscription: dict[str, Json], key: str) -> Reading:
        """End it at once, without a refund."""
        with translated("subscriptions.cancel"):
            return reading_of(
                await self._v1.subscriptions.cancel_async(
                    subscription["stripe_subscription_id"],
                    {"invoice_now": False, "prorate": False},
                    {"idempotency_key": key},
                )
            )

    async def pause(self, subscription: dict[str, Json], key: str) -> Reading:
        """Collect nothing from the next period on; what is paid is kept to its end."""
        paid = {"quernel_paid_until": str(subscription["current_period_end"])}
        if not subscription["keeps_plan"]:
            # Stripe merges metadata: the larger plan of a period long past would be back.
            paid["quernel_paid_plan"] = UNSET
        return await self._update(
            subscription, {"pause_collection": {"behavior": "void"}, "metadata": paid}, key
        )

    async def resume(self, subscription: dict[str, Json], now: int, key: str) -> Reading:
        """Take back a cancellation or a pause.

        A pause that outlived what was paid begins a new period, which is charged at once: what was
        not collected is not had. 402 payment_declined when that fails; it stays paused then.
        """
        if subscription["status"] == "paused":
            with translated("subscriptions.resume"):
                return reading_of(
                    await self._v1.subscriptions.resume_async(
                        subscription["stripe_subscription_id"],
                        {"billing_cycle_anchor": {"type": "now"}},
                        {"idempotency_key": key},
                    )
                )
        params: SubscriptionUpdateParams = {}
        if subscription["cancel_at_period_end"]:
            params["cancel_at_period_end"] = False
        if subscription["cancels_on_a_date"]:
            params["cancel_at"] = UNSET
        if subscription["is_paused"]:
            params["pause_collection"] = UNSET
            if not subscription["keeps_plan"]:
                params["metadata"] = {"quernel_paid_plan": UNSET, "quernel_paid_until": UNSET}
            if (subscription["paid_until"] or 0) <= now + BOUNDARY_SECONDS:
                params["billing_cycle_anchor"] = {"type": "now"}
                params["proration_behavior"] = "none"
                params["payment_behavior"] = "error_if_incomplete"
        return await self._update(subscription, params, key)

    async def portal(self, customer_id: str, return_url: str, key: str) -> str:
        """A page on which the customer manages payment methods and sees invoices."""
        params: PortalParams = {"customer": customer_id, "return_url": return_url}
        if self._portal_configuration is not None:
            params["configuration"] = self._portal_configuration
        with translated("billing_portal.sessions.create"):
            session = await self._v1.billing_portal.sessions.create_async(
                params, {"idempotency_key": key}
            )
        return session.url

    async def _update(
        self, subscription: dict[str, Json], params: SubscriptionUpdateParams, key: str
    ) -> Reading:
        with translated("subscriptions.update"):
            return reading_of(
                await self._v1.subscriptions.update_async(
                    subscription["stripe_subscription_id"], params, {"idempotency_key": key}
                )
            )
