"""Stripe: whether its account sends this deployment what it needs to hear."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from functions.billing.stripe_client import stripe_client
from functions.billing.stripe_endpoints import Endpoint, webhook_endpoints
from functions.core.errors import QuernelError
from functions.core.settings import STRIPE_API_VERSION, Settings
from functions.doctor.database import clock_finding
from functions.doctor.findings import Area, Finding, listed

PAYMENTS = Area("payments")
PATH = "/billing/webhooks/stripe"


async def examine_payments(settings: Settings, wanted: list[str] | None) -> list[Finding]:
    """Ask Stripe. `wanted`: the events that the database applies, if that is known."""
    async with stripe_client(settings) as client:
        if client is None:
            return [PAYMENTS.ok("stripe", "payments are off")]
        try:
            endpoints, at = await webhook_endpoints(client)
        except QuernelError as error:
            return [
                PAYMENTS.wrong(
                    "stripe",
                    f"Stripe does not list the webhook endpoints ({error.code})",
                    "a key that was revoked, or a restricted one without read of webhook endpoints",
                )
            ]
    found = [PAYMENTS.ok("stripe", "Stripe knows the key")]
    if at is not None:
        found.append(clock_finding("stripe_clock", "Stripe", at, datetime.now(UTC)))
    url = f"{settings.public_url}{PATH}"
    ours = [one for one in endpoints if one.url.rstrip("/") == url]
    return [*found, *_endpoint(ours, url, wanted)]


def _endpoint(ours: list[Endpoint], url: str, wanted: list[str] | None) -> Iterator[Finding]:
    enabled = [one for one in ours if one.is_enabled]
    if not enabled:
        yield PAYMENTS.wrong(
            "webhook_endpoint",
            f"{'disabled' if ours else 'none'} for {url}: what is paid grants nothing",
            "docs/stripe.md, Setting up; then set its signing secret and deploy",
        )
        return
    if len(enabled) > 1:
        yield PAYMENTS.warning(
            "webhook_endpoint", "several for the same address", "keep the one whose secret is set"
        )
    one = enabled[0]
    yield PAYMENTS.ok("webhook_endpoint", f"{one.id} sends to {url}")
    if one.api_version != STRIPE_API_VERSION:
        yield PAYMENTS.warning(
            "webhook_version",
            f"it speaks {one.api_version or 'the version of the account'}, not "
            f"{STRIPE_API_VERSION}: every object is asked for again",
            "make a new endpoint with that version; one cannot be changed",
        )
    else:
        yield PAYMENTS.ok("webhook_version", STRIPE_API_VERSION)
    missing = [] if "*" in one.events else sorted(set(wanted or ()) - one.events)
    if missing:
        yield PAYMENTS.wrong(
            "webhook_events",
            f"it does not send {listed(missing, 8)}",
            "add them to the endpoint (docs/stripe.md has the list)",
        )
    elif wanted is not None:
        yield PAYMENTS.ok("webhook_events", f"all {len(wanted)} that are applied")
