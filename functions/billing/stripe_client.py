"""Stripe's API through the official SDK: the calls billing makes, and what their failures mean.

Every write carries an idempotency key, so a call that is repeated, by us or by the SDK's own
retries, happens once. Failures become payment_provider_unavailable (503), payment_provider_error
(502) or idempotency_conflict (409); the cause is logged here and never told.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

import stripe
from stripe import StripeClient, StripeObject
from stripe.params import CustomerCreateParams
from stripe.params.checkout import SessionCreateParams, SessionCreateParamsLineItem

from functions.core.errors import QuernelError, UnavailableError
from functions.core.json import Json
from functions.core.lifespan import open_stripe
from functions.core.logging import log_event
from functions.core.settings import Settings

logger = logging.getLogger(__name__)

LIVE_KEY_PREFIXES = ("sk_live_", "rk_live_")

RETRY_AFTER_SECONDS = 5


@asynccontextmanager
async def stripe_client(settings: Settings) -> AsyncIterator[StripeClient | None]:
    """A client for the length of a block; None without a secret key. The web app has its own."""
    client, connections = open_stripe(settings)
    try:
        yield client
    finally:
        if connections is not None:
            await connections.close_async()  # type: ignore[no-untyped-call]


def expects_livemode(settings: Settings) -> bool:
    """Whether events of this deployment are about real money, which the secret key says."""
    key = settings.stripe_secret_key
    return key is not None and key.get_secret_value().startswith(LIVE_KEY_PREFIXES)


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of an object as it was read."""

    state: dict[str, Json]
    at: datetime | None
    """Stripe's clock at the answer; None when the answer carried no date."""


@dataclass(frozen=True, slots=True)
class Session:
    """A checkout session, as far as billing looks at it."""

    id: str
    url: str
    expires_at: datetime
    amount_total: int | None
    """Minor units."""

    currency: str | None


class StripeGateway:
    """The calls. Each raises QuernelError and nothing else."""

    def __init__(self, client: StripeClient) -> None:
        self._v1 = client.v1
        self._readers: dict[str, Callable[[str], Awaitable[StripeObject]]] = {
            "checkout.session": self._v1.checkout.sessions.retrieve_async,
            "charge": self._read_charge,
            "dispute": self._v1.disputes.retrieve_async,
            "refund": self._v1.refunds.retrieve_async,
        }

    async def create_customer(
        self, claim_id: UUID, *, email: str | None, name: str | None, owner: dict[str, str]
    ) -> str:
        """Create the customer of a claim and return its id; repeated, the same customer."""
        params: CustomerCreateParams = {"metadata": owner}
        if email is not None:
            params["email"] = email
        if name is not None:
            params["name"] = name
        with _translated("customers.create"):
            customer = await self._v1.customers.create_async(
                params, {"idempotency_key": f"quernel-customer-{claim_id}"}
            )
        return customer.id

    async def create_session(
        self,
        purchase: dict[str, Json],
        *,
        customer_id: str,
        success_url: str,
        cancel_url: str,
    ) -> Session:
        """Create the checkout session of a purchase; repeated, the same session."""
        reference = {"quernel_purchase_id": purchase["id"]}
        params: SessionCreateParams = {
            "mode": "payment",
            "customer": customer_id,
            "client_reference_id": purchase["id"],
            "metadata": reference,
            "payment_intent_data": {"metadata": reference},
            "line_items": [_line_item(purchase)],
            # The price is what the purchase says, in its currency, or nothing is granted.
            "adaptive_pricing": {"enabled": False},
            "success_url": success_url,
            "cancel_url": cancel_url,
        }
        with _translated("checkout.sessions.create"):
            session = await self._v1.checkout.sessions.create_async(
                params, {"idempotency_key": f"quernel-checkout-{purchase['id']}"}
            )
        if session.url is None:
            raise _provider_error()
        return Session(
            id=session.id,
            url=session.url,
            expires_at=datetime.fromtimestamp(session.expires_at, UTC),
            amount_total=session.amount_total,
            currency=session.currency,
        )

    async def expire_session(self, session_id: str) -> None:
        """Make sure that a session cannot be paid any more."""
        with _translated("checkout.sessions.expire"):
            await self._v1.checkout.sessions.expire_async(
                session_id, None, {"idempotency_key": f"quernel-expire-{session_id}"}
            )

    async def read(self, object_type: str, object_id: str) -> Reading:
        """Read an object's present state. 502 payment_provider_error for a type nobody reads."""
        reader = self._readers.get(object_type)
        if reader is None:
            raise _provider_error()
        with _translated(f"{object_type}.retrieve"):
            found = await reader(object_id)
        response = found.last_response
        return Reading(found.to_dict(), _date(response.headers.get("date") if response else None))

    async def _read_charge(self, charge_id: str) -> StripeObject:
        # A charge comes without its refunds unless asked; only they say which of them failed.
        return await self._v1.charges.retrieve_async(charge_id, {"expand": ["refunds"]})


def _line_item(purchase: dict[str, Json]) -> SessionCreateParamsLineItem:
    pack = purchase["pack"]
    if pack["stripe_price_id"] is not None:
        return {"quantity": 1, "price": pack["stripe_price_id"]}
    return {
        "quantity": 1,
        "price_data": {
            "currency": purchase["currency"],
            "unit_amount": purchase["price_minor"],
            "product_data": {"name": pack["name"]},
        },
    }


def _date(header: str | None) -> datetime | None:
    try:
        return None if header is None else parsedate_to_datetime(header)
    except ValueError:
        return None


@contextmanager
def _translated(call: str) -> Iterator[None]:
    """Turn the SDK's exceptions into ours; log the cause without its message, which may quote."""
    try:
        yield
    except stripe.StripeError as error:
        fields: dict[str, Any] = {
            "call": call,
            "error": type(error).__name__,
            "status": error.http_status,
            "code": error.code,
            "param": getattr(error, "param", None),
            "stripe_request_id": error.request_id,
        }
        log_event(logger, logging.WARNING, "stripe failure", **fields)
        raise _public_error(error) from None


def _public_error(error: stripe.StripeError) -> QuernelError:
    if isinstance(error, stripe.IdempotencyError):
        return QuernelError(
            "idempotency_conflict",
            409,
            "This idempotency key was already used with other arguments.",
        )
    # APIError is also what the SDK raises for a 5xx.
    if isinstance(error, stripe.APIConnectionError | stripe.RateLimitError | stripe.APIError):
        return UnavailableError(
            "payment_provider_unavailable",
            "The payment provider does not answer. Try again.",
            RETRY_AFTER_SECONDS,
        )
    return _provider_error()


def _provider_error() -> QuernelError:
    return QuernelError("payment_provider_error", 502, "The payment provider refused this request.")
