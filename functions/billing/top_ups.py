"""Automatic top-ups: charges what the database decided to buy, and applies what Stripe answered.

Whatever is repeated, by a retry, by two workers or after a crash, charges once: the purchase is
opened before Stripe is asked, asked about under its own key, and the same one until its answer is
known.
"""

from __future__ import annotations

import logging

from functions.billing.mirror import mirrored
from functions.billing.stripe_client import StripeGateway
from functions.billing.stripe_payments import PaymentGateway
from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.json import Json
from functions.core.logging import log_event

logger = logging.getLogger(__name__)

UNPAID = ("requires_action", "requires_payment_method")
"""States of a payment intent that only its owner could still pay."""


class TopUpService:
    """Buys what an account's owner asked for in advance."""

    def __init__(
        self, database: Database, gateway: StripeGateway, payments: PaymentGateway
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._payments = payments

    async def buy(self, account_id: str) -> dict[str, Json]:
        """Top an account up once, if it needs it; what was done, or the reason for nothing.

        Raises QuernelError, among them payment_provider_unavailable: then a repetition goes on with
        the same purchase. A declined payment is no error.
        """
        start: dict[str, Json] = await self._database.rpc("top_up_start", p_account_id=account_id)
        match start["result"]:
            case "charge":
                attempt = await self._payments.charge(start)
                payment_intent_id, refusal = attempt.payment_intent_id, attempt.refusal
            case "look_up":
                payment_intent_id, refusal = await self._payments.find(start), None
            case _:
                return {"result": "none", "reason": start["reason"]}
        purchase_id = start["purchase_id"]
        if payment_intent_id is None:
            closed = await self._database.rpc(
                "top_up_close", p_purchase_id=purchase_id, p_code=refusal
            )
            return {"result": closed["status"], "purchase_id": purchase_id}
        # Stripe repeats its first answer to a repeated call, and an error may carry an older state.
        state = await mirrored(
            self._database,
            "payment_intent",
            payment_intent_id,
            lambda: self._gateway.read("payment_intent", payment_intent_id),
        )
        if state["status"] in UNPAID:
            await self._abandon(payment_intent_id)
        return {"result": state["status"], "purchase_id": purchase_id}

    async def _abandon(self, payment_intent_id: str) -> None:
        """What was declined has failed here, so it ends at Stripe too; if it is paid, it counts."""
        try:
            await self._payments.cancel(payment_intent_id)
        except QuernelError as error:
            log_event(
                logger,
                logging.WARNING,
                "payment intent not cancelled",
                payment_intent_id=payment_intent_id,
                error=error.code,
            )
