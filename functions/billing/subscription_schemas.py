"""Payloads of the routes about subscriptions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from functions.billing.schemas import Currency, RedirectUrl, body

Slug = Annotated[str, Field(min_length=1, max_length=50)]
Interval = Literal["month", "year"]
Organization = Annotated[str | None, Field(min_length=1, max_length=100)]


class SubscribeRequest(BaseModel):
    """Which plan, how often it is paid, for whom, and where the browser goes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True)

    plan: Slug
    """Slug of a plan on offer (table `plans`)."""

    interval: Interval = "month"
    success_url: RedirectUrl
    """Where to go once subscribed; of an allowed origin. `{CHECKOUT_SESSION_ID}` is filled in."""

    cancel_url: RedirectUrl
    """Where to go when the buyer turns back; of an allowed origin."""

    organization: Organization = None
    """Id or slug of an organization the caller administers, to subscribe it."""

    currency: Currency | None = None
    """The currency the buyer was shown; 409 `currency_mismatch` when it is sold in another."""


class SubscriptionCheckout(BaseModel):
    """A page on which a subscription is bought."""

    checkout_id: UUID
    status: Literal["open", "completed", "expired"]
    url: str
    """Stripe's page."""

    expires_at: datetime
    """Until when the page can be used."""

    plan: str
    interval: Interval
    amount_minor: int
    """What a period costs, in minor units of the currency, before discounts and tax."""

    currency: str
    """Lower-case ISO 4217."""

    trial_days: int


class ChangeRequest(BaseModel):
    """Which plan the subscription changes to."""

    model_config = ConfigDict(extra="forbid", strict=True)

    plan: Slug
    interval: Interval = "month"


class CancelRequest(BaseModel):
    """When a subscription ends."""

    model_config = ConfigDict(extra="forbid", strict=True)

    when: Literal["period_end", "now"] = "period_end"
    """`now` gives nothing back of what is paid."""


class Subscription(BaseModel):
    """A subscription as it is now."""

    id: UUID
    organization_id: UUID | None
    plan: str
    status: Literal[
        "incomplete",
        "incomplete_expired",
        "trialing",
        "active",
        "past_due",
        "canceled",
        "unpaid",
        "paused",
    ]
    interval: Interval | None
    amount_minor: int
    """What a period costs, in minor units of the currency, before discounts and tax."""

    currency: str
    """Lower-case ISO 4217."""

    current_period_start: datetime
    current_period_end: datetime
    trial_end: datetime | None
    cancel_at_period_end: bool
    is_paused: bool
    kept_plan: str | None
    """The larger plan that is paid for and kept until `kept_until`."""

    kept_until: datetime | None
    """Until when a change to a smaller plan, or a pause, leaves what was paid."""

    is_payment_pending: bool
    """A larger plan was asked for and begins once its invoice is paid."""


class PortalRequest(BaseModel):
    """Where the customer comes back to, and for whom the portal is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    return_url: RedirectUrl
    """A page of an allowed origin."""

    organization: Organization = None
    """Id or slug of an organization the caller administers."""


class Portal(BaseModel):
    """A page for one visit."""

    url: str


SUBSCRIBE_REQUEST = body(
    SubscribeRequest,
    {
        "plan": "pro",
        "interval": "month",
        "success_url": "http://localhost:3000/account",
        "cancel_url": "http://localhost:3000/plans",
    },
)
CHANGE_REQUEST = body(ChangeRequest, {"plan": "business", "interval": "month"})
CANCEL_REQUEST = body(CancelRequest, {"when": "period_end"})
PORTAL_REQUEST = body(PortalRequest, {"return_url": "http://localhost:3000/account"})

SUBSCRIBE_EXAMPLE: dict[str, Any] = {
    "checkout_id": "0198c0de-7d3a-7c1e-9c39-1f2e3d4c5b6b",
    "status": "open",
    "url": "https://checkout.stripe.com/c/pay/cs_test_b2",
    "expires_at": "2030-01-02T00:00:00Z",
    "plan": "pro",
    "interval": "month",
    "amount_minor": 2900,
    "currency": "eur",
    "trial_days": 0,
}
SUBSCRIPTION_EXAMPLE: dict[str, Any] = {
    "id": "0198c0de-7d3a-7c1e-9c39-1f2e3d4c5b6c",
    "organization_id": None,
    "plan": "pro",
    "status": "active",
    "interval": "month",
    "amount_minor": 2900,
    "currency": "eur",
    "current_period_start": "2030-01-01T00:00:00Z",
    "current_period_end": "2030-02-01T00:00:00Z",
    "trial_end": None,
    "cancel_at_period_end": False,
    "is_paused": False,
    "kept_plan": None,
    "kept_until": None,
    "is_payment_pending": False,
}
PORTAL_EXAMPLE: dict[str, Any] = {"url": "https://billing.stripe.com/p/session/test_c3"}
