"""Stripe objects that live in memory, what can happen to them, and the events that tell of it.

Objects have the shapes of local/stripe_shapes. Methods named after what a customer, a bank or an
operator does (pay, refund, dispute ...) change them as Stripe would; `event` tells of an object as
it is at that moment, and `signed` makes the delivery.
"""

from __future__ import annotations

import copy
import json
import secrets
import threading
import time
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

import stripe

from functions.core.settings import STRIPE_API_VERSION
from local.paths import ROOT

SHAPES = ROOT / "local" / "stripe_shapes"
SESSION_SECONDS = 24 * 3600  # Stripe's default lifetime of a checkout session

PREFIXES = {
    "checkout.session": "cs_test_",
    "customer": "cus_",
    "charge": "ch_",
    "refund": "re_",
    "dispute": "du_",
    "payment_intent": "pi_",
    "payment_method": "pm_",
    "subscription": "sub_",
    "subscription_item": "si_",
    "invoice": "in_",
    "invoice_payment": "inpay_",
    "line_item": "il_",
    "billing_portal.session": "bps_",
    "event": "evt_",
}

StripeObject = dict[str, Any]


class UnknownPriceError(LookupError):
    """There is no price of that id."""


def new_id(kind: str) -> str:
    """An id as Stripe makes them for objects of this kind."""
    return PREFIXES[kind] + secrets.token_hex(12)


def now() -> int:
    """Stripe's clock: whole seconds."""
    return int(time.time())


@dataclass
class World:
    """Everything a Stripe account holds. Safe to use from several threads."""

    objects: dict[str, StripeObject] = field(default_factory=dict)
    prices: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Price id → amount in minor units, and currency."""

    events: list[StripeObject] = field(default_factory=list)
    """What was told, in the order of telling."""

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._shapes = {
            path.name.removesuffix(".json"): json.loads(path.read_text())
            for path in SHAPES.glob("*.json")
        }

    def get(self, object_id: str) -> StripeObject:
        """A copy of an object as it is now. Raises KeyError."""
        with self._lock:
            return copy.deepcopy(self.objects[object_id])

    def has(self, object_id: object) -> bool:
        """Whether there is such an object, and it was not deleted."""
        with self._lock:
            return object_id in self.objects and not self.objects[str(object_id)].get("deleted")

    def of_type(self, kind: str) -> list[StripeObject]:
        """Copies of all objects of one type that were not deleted, oldest first."""
        with self._lock:
            return [
                copy.deepcopy(o)
                for o in self.objects.values()
                if o["object"] == kind and not o.get("deleted")
            ]

    def make(self, kind: str, **fields: object) -> StripeObject:
        """Add an object: the shape of its kind with these fields; returns a copy."""
        with self._lock:
            made = copy.deepcopy(self._shapes[kind]) | {"id": new_id(kind), "created": now()}
            made |= fields
            self.objects[made["id"]] = made
            return copy.deepcopy(made)

    def change(self, object_id: str, **fields: object) -> StripeObject:
        """Change fields of an object; returns a copy. Raises KeyError."""
        with self._lock:
            self.objects[object_id] |= fields
            return self.get(object_id)

    def price(self, price_id: str) -> StripeObject:
        """A price. Raises KeyError."""
        amount, currency = self.prices[price_id]
        shape = copy.deepcopy(self._shapes["subscription"]["items"]["data"][0]["price"])
        made: StripeObject = shape | {
            "id": price_id,
            "currency": currency,
            "type": "one_time",
            "recurring": None,
            "transform_quantity": None,
            "unit_amount": amount,
            "unit_amount_decimal": str(amount),
        }
        return made

    # What the API is asked to make -----------------------------------------------------------

    def customer(self, **fields: object) -> StripeObject:
        """A new customer."""
        return self.make("customer", discount=None, invoice_settings=None, shipping=None, **fields)

    def session(self, host: str, params: dict[str, Any]) -> StripeObject:
        """An open checkout session. Raises UnknownPriceError, and KeyError for what is missing."""
        total, currency = 0, None
        for item in params["line_items"]:
            if "price" in item:
                if item["price"] not in self.prices:
                    raise UnknownPriceError(item["price"])
                amount, currency = self.prices[item["price"]]
            else:
                amount = int(item["price_data"]["unit_amount"])
                currency = item["price_data"]["currency"]
            total += amount * int(item.get("quantity", 1))
        if "trial_period_days" in params.get("subscription_data", {}):
            total = 0
        session_id = new_id("checkout.session")
        return self.make(
            "checkout.session",
            id=session_id,
            mode=params["mode"],
            customer=params.get("customer"),
            client_reference_id=params.get("client_reference_id"),
            metadata=params.get("metadata", {}),
            success_url=params["success_url"],
            cancel_url=params.get("cancel_url"),
            amount_subtotal=total,
            amount_total=total,
            currency=currency,
            line_items_asked=params["line_items"],
            subscription_data_asked=params.get("subscription_data", {}),
            invoice_creation_asked=params.get("invoice_creation", {}),
            subscription=None,
            invoice=None,
            currency_conversion=None,
            expires_at=now() + SESSION_SECONDS,
            payment_intent=None,
            payment_status="unpaid",
            status="open",
            url=f"{host}/c/pay/{session_id}",
        )

    # What people and banks do ----------------------------------------------------------------

    def pay(self, session_id: str, *, settled: bool = True) -> StripeObject:
        """Complete a session. `settled=False`: by a method whose money takes days to arrive."""
        with self._lock:
            session = self.get(session_id)
            if session["status"] != "open":
                raise ValueError(f"the session is {session['status']}")
            intent = self.make(
                "payment_intent",
                amount=session["amount_total"],
                currency=session["currency"],
                customer=session["customer"],
                canceled_at=None,
                last_payment_error=None,
                metadata=session["metadata"],
                status="processing",
            )
            session = self.change(
                session_id, status="complete", payment_intent=intent["id"], url=None
            )
            return self.settle(session_id) if settled else session

    def settle(self, session_id: str) -> StripeObject:
        """The money of a completed session has arrived."""
        with self._lock:
            session = self.change(session_id, payment_status="paid")
            self.change(
                session["payment_intent"],
                status="succeeded",
                amount_received=session["amount_total"],
            )
            self.make(
                "charge",
                amount=session["amount_total"],
                amount_captured=session["amount_total"],
                amount_refunded=0,
                captured=True,
                currency=session["currency"],
                customer=session["customer"],
                metadata=session["metadata"],
                payment_intent=session["payment_intent"],
                refunds=self._refunds([]),
                status="succeeded",
                transfer_data=None,
            )
            return session

    def expire(self, session_id: str) -> StripeObject:
        """A session that can no longer be paid. Raises ValueError when it was."""
        if self.get(session_id)["status"] == "complete":
            raise ValueError("Only open sessions can be expired.")
        return self.change(session_id, status="expired", url=None)

    def charge_of(self, session_id: str) -> StripeObject:
        """The charge that paid a session."""
        intent = self.get(session_id)["payment_intent"]
        return next(c for c in self.of_type("charge") if c["payment_intent"] == intent)

    def refund(self, charge_id: str, amount: int) -> StripeObject:
        """Give `amount` minor units back; returns the charge."""
        with self._lock:
            charge = self.get(charge_id)
            refund = self.make(
                "refund",
                amount=amount,
                charge=charge_id,
                currency=charge["currency"],
                payment_intent=charge["payment_intent"],
                status="succeeded",
            )
            return self._recount(charge_id, [*charge["refunds"]["data"], refund])

    def fail_refund(self, charge_id: str, refund_id: str) -> StripeObject:
        """A bank returns a refund's money; returns the refund."""
        with self._lock:
            refund = self.change(refund_id, status="failed", failure_reason="lost_or_stolen_card")
            data = self.get(charge_id)["refunds"]["data"]
            self._recount(charge_id, [refund if r["id"] == refund_id else r for r in data])
            return refund

    def dispute(self, charge_id: str, *, status: str, amount: int | None = None) -> StripeObject:
        """A dispute of a charge, in whole unless an amount (minor units) is given."""
        charge = self.get(charge_id)
        return self.make(
            "dispute",
            amount=charge["amount"] if amount is None else amount,
            charge=charge_id,
            currency=charge["currency"],
            payment_intent=charge["payment_intent"],
            status=status,
        )

    def _recount(self, charge_id: str, refunds: list[StripeObject]) -> StripeObject:
        given_back = sum(r["amount"] for r in refunds if r["status"] != "failed")
        amount = self.get(charge_id)["amount"]
        return self.change(
            charge_id,
            amount_refunded=given_back,
            refunded=given_back == amount,
            refunds=self._refunds(refunds),
        )

    def _refunds(self, data: list[StripeObject]) -> StripeObject:
        return {"object": "list", "data": data, "has_more": False, "url": "/v1/refunds"}

    # What Stripe tells -----------------------------------------------------------------------

    def event(self, kind: str, about: StripeObject, **fields: object) -> StripeObject:
        """An event of type `kind` about an object as it is given."""
        about = published(about)
        made: StripeObject = (
            self._shapes["event"]
            | {
                "id": new_id("event"),
                "type": kind,
                "api_version": STRIPE_API_VERSION,
                "created": now(),
                "livemode": False,
                "data": {"object": about},
            }
            | fields
        )
        with self._lock:
            self.events.append(made)
        return made

    def listed(self, kind: str, since: int) -> list[StripeObject]:
        """Events or objects of one type made from then on (Unix seconds), newest first."""
        with self._lock:
            held = copy.deepcopy(self.events) if kind == "event" else self.of_type(kind)
        found = [one for one in reversed(held) if one["created"] >= since]
        return sorted(found, key=lambda one: -int(one["created"]))


EXPANDABLE = frozenset({"refunds"})
"""What an object holds only where it is asked for."""


def published(about: StripeObject, expanded: Set[str] = frozenset()) -> StripeObject:
    """An object as others see it: without what the double remembers, and little expanded."""
    hidden = EXPANDABLE - expanded
    return copy.deepcopy(
        {n: v for n, v in about.items() if n not in hidden and not n.endswith("_asked")}
    )


def signed(
    event: StripeObject, secret: str, *, at: int | None = None
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an event's delivery, signed at `at` (Unix seconds; now)."""
    body = json.dumps(event)
    signature = stripe.WebhookSignature.generate_signature_header(body, secret, at)
    return body.encode(), {"Stripe-Signature": signature, "Content-Type": "application/json"}
