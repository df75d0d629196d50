"""Stripe's API for payments that nobody is there to confirm: automatic purchases."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import stripe
from stripe import StripeClient
from stripe.params import PaymentIntentCreateParams

from functions.billing.stripe_errors import translated
from functions.core.json import Json

REFERENCE = "quernel_purchase_id"
"""Names the purchase in a payment intent's metadata, as in a checkout's."""

CLOCKS_APART = timedelta(minutes=5)
"""How far Stripe's clock and the database's may differ."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of an attempt to charge."""

    payment_intent_id: str | None
    """None when Stripe refused before there was one."""

    refusal: str | None
    """Stripe's code; None when nothing was refused."""


class PaymentGateway:
    """The calls. Each raises QuernelError and nothing else."""

    def __init__(self, client: StripeClient) -> None:
        self._v1 = client.v1

    async def charge(self, purchase: dict[str, Json]) -> Attempt:
        """Charge what an automatic purchase costs (backend.top_up_start); repeated, once.

        A refusal of the card or of the request is an answer, not an error: a repetition would be
        refused as well.
        """
        params: PaymentIntentCreateParams = {
            "amount": purchase["amount_minor"],
            "currency": purchase["currency"],
            "customer": purchase["customer_id"],
            "payment_method": purchase["payment_method_id"],
            "description": purchase["description"],
            "metadata": {REFERENCE: purchase["purchase_id"]},
            "off_session": True,
            "confirm": True,
        }
        with translated("payment_intents.create"):
            try:
                made = await self._v1.payment_intents.create_async(
                    params, {"idempotency_key": f"quernel-top-up-{purchase['purchase_id']}"}
                )
            except stripe.CardError as error:
                return Attempt(_payment_intent_of(error), error.code or "card_declined")
            except stripe.InvalidRequestError as error:
                # A method that was detached, a customer that is gone.
                return Attempt(_payment_intent_of(error), error.code or "invalid_request")
        return Attempt(made.id, None)

    async def cancel(self, payment_intent_id: str) -> None:
        """End a payment intent that was not paid, so that nobody can pay it later on."""
        with translated("payment_intents.cancel"):
            try:
                await self._v1.payment_intents.cancel_async(
                    payment_intent_id,
                    {"cancellation_reason": "abandoned"},
                    {"idempotency_key": f"quernel-cancel-{payment_intent_id}"},
                )
            except stripe.InvalidRequestError as error:
                if error.code != "payment_intent_unexpected_state":  # paid or cancelled meanwhile
                    raise

    async def find(self, purchase: dict[str, Json]) -> str | None:
        """The payment intent of a purchase, looked for among its customer's; None for none."""
        begun = datetime.fromisoformat(purchase["begun_at"]) - CLOCKS_APART
        with translated("payment_intents.list"):
            page = await self._v1.payment_intents.list_async(
                {
                    "customer": purchase["customer_id"],
                    "created": {"gte": int(begun.timestamp())},
                    "limit": 100,
                }
            )
            async for found in page.auto_paging_iter():
                state = found.to_dict()
                if (state["metadata"] or {}).get(REFERENCE) == purchase["purchase_id"]:
                    return found.id
        return None


def _payment_intent_of(error: stripe.StripeError) -> str | None:
    if error.error is None or error.error.payment_intent is None:
        return None
    return error.error.payment_intent.id
