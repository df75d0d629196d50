"""Prices at Stripe, looked at before anything is made there: what has drifted is not sold."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import stripe
from stripe import StripeClient

from functions.billing.stripe_errors import translated
from functions.core.errors import QuernelError
from functions.core.logging import log_event

logger = logging.getLogger(__name__)

KNOWN_SECONDS = 300
"""How long a price is believed. Its amount never changes at Stripe; it can be archived."""


@dataclass(frozen=True, slots=True)
class Price:
    """What something costs."""

    amount_minor: int | None
    """Minor units; None where Stripe computes it, which nothing sold here is."""

    currency: str
    """Lower-case ISO 4217."""

    interval: str | None = None
    """month or year; None for what is paid once."""


_known: WeakKeyDictionary[StripeClient, dict[str, tuple[float, Price]]] = WeakKeyDictionary()


class StripePrices:
    """The prices of one account. Each call raises QuernelError and nothing else."""

    def __init__(self, client: StripeClient) -> None:
        self._v1 = client.v1
        self._known = _known.setdefault(client, {})

    async def require(self, price_id: str, expected: Price, *, mismatch: str) -> None:
        """Make sure that a price at Stripe is the catalog's.

        Raises QuernelError: 409 `price_not_available` for one that is unknown or archived, and 409
        with the code `mismatch` for another amount, currency or interval. The database asks again
        once there is a page; here nothing has been made yet.
        """
        found = await self._read(price_id)
        if found == expected:
            return
        message = "This is not for sale right now."
        refusal = (
            QuernelError("price_not_available", 409, message)
            if found is None
            else QuernelError(mismatch, 409, message)
        )
        log_event(logger, logging.ERROR, "price not sold", price_id=price_id, error=refusal.code)
        raise refusal

    async def _read(self, price_id: str) -> Price | None:
        read_at, price = self._known.get(price_id, (0.0, None))
        if price is not None and time.monotonic() - read_at < KNOWN_SECONDS:
            return price
        with translated("prices.retrieve"):
            try:
                found = await self._v1.prices.retrieve_async(price_id)
            except stripe.InvalidRequestError as error:
                if error.code != "resource_missing":
                    raise
                return None
        if not found.active:
            return None
        price = Price(found.unit_amount, found.currency, _interval(found))
        self._known[price_id] = (time.monotonic(), price)
        return price


def _interval(price: stripe.Price) -> str | None:
    if price.recurring is None:
        return None
    count = price.recurring.interval_count
    return price.recurring.interval if count == 1 else f"{count} {price.recurring.interval}s"
