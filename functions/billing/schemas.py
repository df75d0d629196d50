"""Payloads of the billing routes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

RedirectUrl = Annotated[str, Field(min_length=1, max_length=2048)]
Currency = Annotated[str, Field(pattern="^[A-Za-z]{3}$")]


class CheckoutRequest(BaseModel):
    """What to buy, for whom, and where the buyer's browser goes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True)

    pack: Annotated[str, Field(min_length=1, max_length=50)]
    """Slug of a credit pack on sale (table `credit_packs`)."""

    success_url: RedirectUrl
    """Where to go once paid; of an allowed origin. `{CHECKOUT_SESSION_ID}` is filled in."""

    cancel_url: RedirectUrl
    """Where to go when the buyer turns back; of an allowed origin."""

    organization: Annotated[str | None, Field(min_length=1, max_length=100)] = None
    """Id or slug of an organization the caller administers, to buy for it."""

    currency: Currency | None = None
    """The currency the buyer was shown; 409 `currency_mismatch` when it is sold in another."""


PurchaseStatus = Literal[
    "pending", "paid", "failed", "expired", "partially_refunded", "refunded", "disputed"
]


class Checkout(BaseModel):
    """A purchase and the page on which it is paid."""

    purchase_id: UUID
    """Row of `credit_purchases`, which says what became of it."""

    status: PurchaseStatus
    url: str
    """Stripe's page."""

    expires_at: datetime
    """Until when the page accepts payment."""

    credits: float
    price_minor: int
    """In minor units of the currency."""

    currency: str
    """Lower-case ISO 4217."""


class EventAnswer(BaseModel):
    """What became of an event: nothing else, the sender needs no more."""

    result: Literal["applied", "duplicate", "ignored"]


def body(model: type[BaseModel], sample: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI's description of a body that is read by functions/core/request_body.py."""
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": model.model_json_schema(), "example": sample}
            },
        }
    }


CHECKOUT_REQUEST = body(
    CheckoutRequest,
    {
        "pack": "starter",
        "success_url": "http://localhost:3000/credits?session={CHECKOUT_SESSION_ID}",
        "cancel_url": "http://localhost:3000/credits",
    },
)

EVENT_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {
                    "id": "evt_1PgafyB7WZ01zgkWSjxsAJo3",
                    "object": "event",
                    "type": "checkout.session.completed",
                    "created": 1893456000,
                    "livemode": False,
                    "data": {"object": {"id": "cs_test_a1", "object": "checkout.session"}},
                },
            }
        },
    }
}

CHECKOUT_EXAMPLE: dict[str, Any] = {
    "purchase_id": "0198c0de-7d3a-7c1e-9c39-1f2e3d4c5b6a",
    "status": "pending",
    "url": "https://checkout.stripe.com/c/pay/cs_test_a1",
    "expires_at": "2030-01-02T00:00:00Z",
    "credits": 1000,
    "price_minor": 500,
    "currency": "eur",
}
