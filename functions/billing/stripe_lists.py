"""Pages of what a Stripe account holds, newest first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from stripe import StripeClient

from functions.billing.stripe_errors import translated
from functions.core.json import Json

PAGE = 50
"""Objects asked for at once; Stripe allows 100, and each is compared within one statement."""


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list."""

    objects: list[dict[str, Json]]
    has_more: bool


class StripeLists:
    """The calls. Each raises QuernelError and nothing else."""

    def __init__(self, client: StripeClient) -> None:
        v1 = client.v1
        self._lists: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "event": v1.events.list_async,
            "subscription": v1.subscriptions.list_async,
            "payment_intent": v1.payment_intents.list_async,
            "invoice_payment": v1.invoice_payments.list_async,
            "invoice": v1.invoices.list_async,
            "checkout.session": v1.checkout.sessions.list_async,
            "charge": v1.charges.list_async,
            "dispute": v1.disputes.list_async,
        }

    async def page(self, kind: str, *, since: int, after: str | None) -> Page:
        """What was made from `since` (Unix seconds) on, after an object of the page before."""
        params: dict[str, Any] = {"limit": PAGE, "created": {"gte": since}}
        if after is not None:
            params["starting_after"] = after
        if kind == "subscription":
            params["status"] = "all"  # else those that ended are left out
        with translated(f"{kind}.list"):
            found = (await self._lists[kind](params)).to_dict()
        return Page(found["data"], found["has_more"])
