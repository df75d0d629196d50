"""The webhook endpoints that a Stripe account has: read, never made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from stripe import StripeClient

from functions.billing.stripe_client import reading_of
from functions.billing.stripe_errors import translated

MOST = 100
"""Stripe allows 16 endpoints per account."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where Stripe sends which events."""

    id: str
    url: str
    is_enabled: bool
    api_version: str | None
    """None: the account's own."""

    events: frozenset[str]
    """`*` among them: all."""


async def webhook_endpoints(client: StripeClient) -> tuple[list[Endpoint], datetime | None]:
    """All of them, and Stripe's clock. Raises QuernelError."""
    with translated("webhook_endpoints.list"):
        found = await client.v1.webhook_endpoints.list_async({"limit": MOST})
    reading = reading_of(found)
    endpoints = [
        Endpoint(
            one["id"],
            one["url"],
            one["status"] == "enabled",
            one["api_version"],
            frozenset(one["enabled_events"]),
        )
        for one in reading.state["data"]
    ]
    return endpoints, reading.at
