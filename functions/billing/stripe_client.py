"""Stripe's API through the official SDK: the client, customers, checkouts of packs, and reading.

Every write carries an idempotency key, so a call that is repeated, by us or by the SDK's own
retries, happens once. Failures are those of functions/billing/stripe_errors.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from uuid import UUID

from stripe import StripeClient, StripeObject
from stripe.params import CustomerCreateParams
from stripe.params.checkout import SessionCreateParams, SessionCreateParamsLineItem

from functions.billing.stripe_errors import provider_error, translated
from functions.core.errors import QuernelError
from functions.core.json import Json
from functions.core.lifespan import open_stripe
from functions.core.settings import Settings

LIVE_KEY_PREFIXES = ("sk_live_", "rk_live_")


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
            "customer": self._v1.customers.retrieve_async,
            "dispute": self._v1.disputes.retrieve_async,
            "invoice": self._v1.invoices.retrieve_async,
            "invoice_payment": self._v1.invoice_payments.retrieve_async,
            "payment_intent": self._v1.payment_intents.retrieve_async,
            "payment_method": self._v1.payment_methods.retrieve_async,
            "refund": self._v1.refunds.retrieve_async,
            "subscription": self._v1.subscriptions.retrieve_async,
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
        with translated("customers.create"):
            customer = await self._v1.customers.create_async(
                params, {"idempotency_key": f"quernel-customer-{claim_id}"}
            )
        return customer.id

    async def delete_customer(self, customer_id: str) -> Reading:
        """Delete a customer, which ends subscriptions and detaches cards; repeated, the same.

        Invoices stay: https://docs.stripe.com/api/customers/delete
        """
        try:
            with translated("customers.delete"):
                gone = await self._v1.customers.delete_async(
                    customer_id, {}, {"idempotency_key": f"quernel-erase-{customer_id}"}
                )
                return reading_of(gone)
        except QuernelError as error:
            if error.code != "payment_provider_error":
                raise
            return await self.read("customer", customer_id)

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
            # Whoever pays gets a numbered invoice. It names the purchase, and grants nothing.
            "invoice_creation": {"enabled": True, "invoice_data": {"metadata": reference}},
            "line_items": [_line_item(purchase)],
            # The price is what the purchase says, in its currency, or nothing is granted.
            "adaptive_pricing": {"enabled": False},
            "success_url": success_url,
            "cancel_url": cancel_url,
        }
        with translated("checkout.sessions.create"):
            session = await self._v1.checkout.sessions.create_async(
                params, {"idempotency_key": f"quernel-checkout-{purchase['id']}"}
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

    async def expire_session(self, session_id: str) -> Reading:
        """Make sure that a session cannot be paid any more."""
        with translated("checkout.sessions.expire"):
            return reading_of(
                await self._v1.checkout.sessions.expire_async(
                    session_id, None, {"idempotency_key": f"quernel-expire-{session_id}"}
                )
            )

    async def read(self, object_type: str, object_id: str) -> Reading:
        """Read an object's present state. 502 payment_provider_error for a type nobody reads."""
        reader = self._readers.get(object_type)
        if reader is None:
            raise provider_error()
        with translated(f"{object_type}.retrieve"):
            reading = reading_of(await reader(object_id))
            if object_type == "invoice":
                await self._complete_lines(reading.state)
        return reading

    async def _complete_lines(self, invoice: dict[str, Json]) -> None:
        # An invoice carries its first lines only, and its credits are counted from all of them.
        lines = invoice["lines"]
        while lines["has_more"]:
            page = await self._v1.invoices.line_items.list_async(
                invoice["id"], {"limit": 100, "starting_after": lines["data"][-1]["id"]}
            )
            more = page.to_dict()
            lines["data"] += more["data"]
            lines["has_more"] = more["has_more"]

    async def _read_charge(self, charge_id: str) -> StripeObject:
        # A charge comes without its refunds unless asked; only they say which of them failed.
        return await self._v1.charges.retrieve_async(charge_id, {"expand": ["refunds"]})


def reading_of(found: StripeObject) -> Reading:
    """What Stripe answered, and when."""
    response = found.last_response
    return Reading(found.to_dict(), _date(response.headers.get("date") if response else None))


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
