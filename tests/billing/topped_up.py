"""People with an automatic top-up under test, and the worker that buys it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from functions.billing.tasks import buy_automatic_top_up
from functions.tasks.context import TaskContext
from local.stripe_world import StripeObject
from tests.billing.shop import PACK, Shop
from tests.conftest import User

CHARGES = "/v1/payment_intents"
THRESHOLD = 50
"""Under the credits of a sign-up."""


@dataclass
class TopUps:
    """What tests do with automatic top-ups."""

    shop: Shop
    context: TaskContext

    # Setting it up ---------------------------------------------------------------------------

    def customer(self, user: User, organization_id: str | None = None) -> str:
        """The owner's customer at the double."""
        claim = self.shop.service.rpc(
            "customer_claim", p_user_id=user.id, p_organization_id=organization_id
        )
        made = claim["customer_id"] or self.shop.stripe.world.customer()["id"]
        answer = self.shop.service.rpc(
            "customer_attach", p_claim_id=claim["claim_id"], p_customer_id=made
        )
        return str(answer["customer_id"])

    def add_card(self, user: User, organization_id: str | None = None) -> StripeObject:
        """A card of the owner's, told to us."""
        card = self.shop.stripe.world.attach(self.customer(user, organization_id))
        assert self.shop.result(self.shop.event("payment_method.attached", card)) == "applied"
        return dict(card)

    def set(self, user: User, **changes: object) -> dict[str, Any]:
        """public.set_auto_top_up: the starter pack under 50 credits, with parameters replaced."""
        arguments = {"p_threshold": THRESHOLD, "p_pack": PACK} | changes
        answer = user.client.rpc("set_auto_top_up", arguments).execute()
        return dict(answer.data)

    def ready(self, user: User, **changes: object) -> str:
        """A card and a top-up; the owner's account."""
        self.add_card(user, str(changes.get("p_organization_id") or "") or None)
        return str(self.set(user, **changes)["account_id"])

    def low(self, user: User, **changes: object) -> str:
        """As `ready`, and the credits have fallen under the threshold."""
        account_id = self.ready(user, **changes)
        self.shop.spend(user, Decimal(60))
        return account_id

    # The worker ------------------------------------------------------------------------------

    async def buy(self, account_id: str) -> dict[str, Any]:
        """What the worker does with the account's task."""
        return dict(await buy_automatic_top_up({"account_id": account_id}, self.context) or {})

    # What is known ---------------------------------------------------------------------------

    def settings(self, account_id: str) -> dict[str, Any]:
        """The row of auto_top_ups."""
        return self.shop.row("select * from public.auto_top_ups where account_id = %s", account_id)

    def purchases(self, account_id: str) -> list[dict[str, Any]]:
        """Automatic purchases, oldest first."""
        return self.shop.rows(
            "select * from public.credit_purchases where account_id = %s and is_automatic"
            " order by created_at",
            account_id,
        )

    def statuses(self, account_id: str) -> list[str]:
        """Of the automatic purchases, oldest first."""
        return [purchase["status"] for purchase in self.purchases(account_id)]

    def tasks(self, account_id: str) -> list[dict[str, Any]]:
        """The account's tasks."""
        return self.shop.rows(
            "select * from private.tasks where kind = 'auto_top_up' and key = %s", account_id
        )

    def intents(self, user: User) -> list[StripeObject]:
        """Payment intents of the user's customer at the double."""
        customer = self.customer(user)
        found = self.shop.stripe.world.of_type("payment_intent")
        return [intent for intent in found if intent["customer"] == customer]

    def time_passes(self, account_id: str, interval: str) -> None:
        """What was bought or declined was so that much earlier."""
        self.shop.rows(
            "update public.credit_purchases set created_at = created_at - %s::interval,"
            " asked_at = asked_at - %s::interval where account_id = %s and is_automatic",
            interval,
            interval,
            account_id,
        )
        self.shop.rows(
            "update public.auto_top_ups set paused_until = paused_until - %s::interval"
            " where account_id = %s",
            interval,
            account_id,
        )
