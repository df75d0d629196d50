"""A shop under test: the functions app, the Stripe double behind it, and the database below."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from local.stripe_double import StripeDouble
from local.stripe_world import StripeObject, now, signed
from tests.conftest import User
from tests.support.service import Service

ORIGIN = "http://localhost:3000"
PACK = "starter"
CREDITS = Decimal(1000)  # of the starter pack
PRICE = 500  # minor units (EUR cents) of the starter pack


@dataclass
class Purchase:
    """A checkout and its session at the double."""

    id: str
    session_id: str
    user: User


@dataclass
class Shop:
    """What tests do with the shop."""

    http: httpx.Client
    stripe: StripeDouble
    secret: str
    service: Service
    connect: Callable[[], psycopg.Connection]

    def __post_init__(self) -> None:
        self._connection: psycopg.Connection | None = None
        # Long past, so that what the double is read at is newer than every event.
        self.clock = now() - 3600

    # Routes ----------------------------------------------------------------------------------

    def checkout(
        self, user: User | None, *, key: str | None = None, **body: object
    ) -> httpx.Response:
        """POST /billing/checkout of the starter pack, with fields replaced or (None) left out."""
        request = {
            "pack": PACK,
            "success_url": f"{ORIGIN}/credits",
            "cancel_url": f"{ORIGIN}/",
        } | body
        headers = (user.headers if user else {}) | ({"Idempotency-Key": key} if key else {})
        return self.http.post(
            "/billing/checkout",
            json={name: value for name, value in request.items() if value is not None},
            headers=headers,
        )

    def buy(self, user: User, **body: object) -> Purchase:
        """Start a checkout; not paid yet."""
        answer = self.checkout(user, **body)
        assert answer.status_code == 200, answer.text
        purchase_id = answer.json()["purchase_id"]
        return Purchase(purchase_id, self.purchase(purchase_id)["stripe_checkout_session_id"], user)

    def post(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """POST to the webhook."""
        return self.http.post("/billing/webhooks/stripe", content=body, headers=headers)

    def deliver(self, event: StripeObject) -> httpx.Response:
        """Deliver an event as Stripe would."""
        return self.post(*signed(event, self.secret))

    def result(self, event: StripeObject) -> str:
        """Deliver an event that must be finished; says how."""
        answer = self.deliver(event)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["result"])

    def open_purchase(self, user: User) -> Purchase:
        """As `buy`, without the route and Stripe's API: for tests that need very many."""
        made = self.row("select backend.checkout_start(%s, %s) as it", user.id, PACK)["it"]
        session = self.stripe.world.session(
            self.stripe.url,
            {
                "mode": "payment",
                "client_reference_id": made["id"],
                "metadata": {"quernel_purchase_id": made["id"]},
                "line_items": [{"price_data": {"currency": "eur", "unit_amount": PRICE}}],
                "success_url": ORIGIN,
            },
        )
        return Purchase(made["id"], session["id"], user)

    def receive(self, event: StripeObject) -> dict[str, Any]:
        """Put an event into the inbox past the route; the database's answer."""
        query = "select backend.stripe_event_receive(%s, false) as it"
        return dict(self.row(query, Jsonb(event))["it"])

    # Stripe ----------------------------------------------------------------------------------

    def event(self, kind: str, about: StripeObject, **fields: object) -> StripeObject:
        """An event one second after the last one."""
        self.clock += 1
        return self.stripe.world.event(kind, about, **({"created": self.clock} | fields))

    def completed(self, purchase: Purchase) -> StripeObject:
        """Pay at the double; the event is not delivered."""
        session = self.stripe.world.pay(purchase.session_id)
        return self.event("checkout.session.completed", session)

    def paid(self, user: User, **body: object) -> Purchase:
        """Buy and pay."""
        purchase = self.buy(user, **body)
        assert self.result(self.completed(purchase)) == "applied"
        return purchase

    def charge(self, purchase: Purchase) -> StripeObject:
        """The charge that paid a purchase."""
        return self.stripe.world.charge_of(purchase.session_id)

    def refunded(self, purchase: Purchase, amount: int) -> StripeObject:
        """Refund `amount` minor units at the double; the event is not delivered."""
        charge = self.stripe.world.refund(self.charge(purchase)["id"], amount)
        return self.event("charge.refunded", charge)

    # The database ----------------------------------------------------------------------------

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Rows of a query as the superuser."""
        if self._connection is None:
            self._connection = self.connect()
        with self._connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def row(self, query: str, *values: object) -> dict[str, Any]:
        """The one row of a query."""
        (row,) = self.rows(query, *values)
        return row

    def purchase(self, purchase_id: str) -> dict[str, Any]:
        """A row of credit_purchases."""
        return self.row("select * from public.credit_purchases where id = %s", purchase_id)

    def inbox(self, event: StripeObject) -> list[dict[str, Any]]:
        """What the inbox holds of an event: no row or one."""
        return self.rows("select * from private.stripe_events where id = %s", event["id"])

    def account(self, user: User) -> dict[str, Any]:
        """The credit account of a user."""
        return self.row(
            "select id, balance, debt, held from public.credit_accounts where user_id = %s", user.id
        )

    def balance(self, user: User) -> Decimal:
        """Credits, debt deducted."""
        return Decimal(self.account(user)["balance"])

    def lots(self, user: User) -> list[dict[str, Any]]:
        """Lots that were bought, oldest first."""
        return self.rows(
            "select l.* from public.credit_lots as l"
            " join public.credit_accounts as a on a.id = l.account_id"
            " where a.user_id = %s and l.source = 'purchase' order by l.created_at",
            user.id,
        )

    def spend(self, user: User, amount: Decimal) -> None:
        """Hold and settle some credits."""
        hold = self.service.rpc(
            "credit_hold",
            p_user_id=user.id,
            p_organization_id=None,
            p_amount=str(amount),
            p_idempotency_key=uuid.uuid4().hex,
            p_action="test",
        )
        self.service.rpc("credit_settle", p_hold_id=hold["hold_id"], p_amount=str(amount))
