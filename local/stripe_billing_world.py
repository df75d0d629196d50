"""Subscriptions of a Stripe account in memory: what customers, cards and the calendar do to them.

An invoice that is paid comes with its payment intent, charge and invoice payment; a card that is
declined leaves it open and the subscription past due. Amounts are minor units, times Unix seconds.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from local.stripe_world import StripeObject, UnknownPriceError, World, new_id, now

SECONDS = {"month": 30 * 24 * 3600, "year": 365 * 24 * 3600}
"""Periods of one length each, so that shares of them are exact."""

TRIAL_DAY = 24 * 3600


class DeclinedError(Exception):
    """The card was declined, and the call was asked to change nothing then."""


@dataclass
class BillingWorld(World):
    """A Stripe account that sells subscriptions too."""

    intervals: dict[str, str] = field(default_factory=dict)
    """Recurring price id → month or year."""

    declining: set[str] = field(default_factory=set)
    """Customers whose card is declined now."""

    slow: set[str] = field(default_factory=set)
    """Customers whose payments take days to arrive."""

    confirming: set[str] = field(default_factory=set)
    """Customers whose bank wants to hear from them."""

    decline_codes: dict[str, str] = field(default_factory=dict)
    """Customer id → why a payment without them is declined; insufficient_funds for the others."""

    def recurring_price(self, price_id: str, amount: int, currency: str, interval: str) -> str:
        """Sell something by the month or year."""
        self.prices[price_id] = (amount, currency)
        self.intervals[price_id] = interval
        return price_id

    def price(self, price_id: str) -> StripeObject:
        """A price, recurring or not. Raises KeyError."""
        made = super().price(price_id)
        if price_id in self.intervals:
            recurring = self._shapes["subscription"]["items"]["data"][0]["price"]["recurring"]
            made["recurring"] = recurring | {"interval": self.intervals[price_id]}
            made["type"] = "recurring"
        return made

    # Payment methods -------------------------------------------------------------------------

    def attach(self, customer_id: str, **card: object) -> StripeObject:
        """A card of the customer's."""
        with self._lock:
            made = self.make("payment_method", customer=customer_id, metadata={})
            return self.change(made["id"], card=made["card"] | card)

    def detach(self, method_id: str) -> StripeObject:
        """Take a card away; Stripe then names no customer."""
        return self.change(method_id, customer=None)

    def choose(self, customer_id: str, method_id: str | None) -> StripeObject:
        """What the customer's invoices are paid with; returns the customer."""
        settings = {
            "custom_fields": None,
            "default_payment_method": method_id,
            "footer": None,
            "rendering_options": None,
        }
        return self.change(customer_id, invoice_settings=settings)

    def delete_customer(self, customer_id: str) -> StripeObject:
        """An operator deletes a customer at Stripe: their subscriptions end, their cards are gone.

        Returns the customer as it was, which is what the event carries.
        """
        with self._lock:
            gone = self.get(customer_id)
            for subscription in self.of_type("subscription"):
                if subscription["customer"] == customer_id and subscription["status"] != "canceled":
                    self.end(subscription["id"])
            for method in self.of_type("payment_method"):
                if method["customer"] == customer_id:
                    self.detach(method["id"])
            self.objects[customer_id] = {"id": customer_id, "object": "customer", "deleted": True}
            return gone

    # Payments without the customer -----------------------------------------------------------

    def charge_off_session(self, params: dict[str, Any]) -> StripeObject:
        """POST /v1/payment_intents, confirmed at once. The intent, paid or declined.

        Raises KeyError for a payment method nobody has, ValueError for one of somebody else.
        """
        with self._lock:
            customer = params["customer"]
            if (params.get("confirm"), params.get("off_session")) != ("true", "true"):
                raise ValueError("Only payments that are confirmed at once are simulated.")
            if int(params["amount"]) <= 0:
                raise ValueError("Invalid positive integer.")
            if self.objects.get(params["payment_method"], {}).get("object") != "payment_method":
                raise KeyError("payment_method")
            if self.objects[params["payment_method"]]["customer"] != customer:
                raise ValueError("The payment method is not attached to this customer.")
            intent = self.make(
                "payment_intent",
                amount=int(params["amount"]),
                currency=params["currency"],
                customer=customer,
                payment_method=params["payment_method"],
                description=params.get("description"),
                metadata=params.get("metadata", {}),
                canceled_at=None,
                last_payment_error=None,
                next_action=None,
                status="processing",
            )
            if customer in self.declining:
                reason = self.decline_codes.get(customer, "insufficient_funds")
                return self.decline(intent["id"], reason)
            if customer in self.confirming:
                return self.confirm_wanted(intent["id"])
            return intent if customer in self.slow else self.arrive(intent["id"])

    def decline(self, intent_id: str, reason: str) -> StripeObject:
        """A bank refuses a payment; returns the payment intent."""
        return self.change(
            intent_id,
            status="requires_payment_method",
            last_payment_error={
                "type": "card_error",
                "code": reason if reason == "authentication_required" else "card_declined",
                "decline_code": reason,
                "message": "Your card was declined.",
            },
        )

    def cancel(self, intent_id: str, cancellation_reason: str | None = None) -> StripeObject:
        """POST /v1/payment_intents/…/cancel; returns the payment intent.

        Raises KeyError for one nobody knows, ValueError for one that is paid or cancelled.
        """
        with self._lock:
            if self.objects[intent_id]["status"] in {"succeeded", "canceled"}:
                raise ValueError("You cannot cancel this PaymentIntent because of its status.")
            return self.change(
                intent_id,
                status="canceled",
                canceled_at=now(),
                cancellation_reason=cancellation_reason,
                next_action=None,
            )

    def confirm_wanted(self, intent_id: str) -> StripeObject:
        """A bank wants its owner to confirm a payment; returns the payment intent."""
        return self.change(
            intent_id,
            status="requires_action",
            last_payment_error=None,
            next_action={"type": "use_stripe_sdk", "use_stripe_sdk": {}},
        )

    def arrive(self, intent_id: str) -> StripeObject:
        """The money of a payment has arrived; returns the payment intent."""
        with self._lock:
            intent = self.get(intent_id)
            self.make(
                "charge",
                amount=intent["amount"],
                amount_captured=intent["amount"],
                amount_refunded=0,
                captured=True,
                currency=intent["currency"],
                customer=intent["customer"],
                metadata=intent["metadata"],
                payment_intent=intent_id,
                refunds=self._refunds([]),
                status="succeeded",
                transfer_data=None,
            )
            return self.change(intent_id, status="succeeded", amount_received=intent["amount"])

    # The life of a subscription --------------------------------------------------------------

    def subscribe(self, session_id: str, at: int | None = None) -> StripeObject:
        """Complete a session of mode subscription; returns the session."""
        with self._lock:
            session = self.get(session_id)
            if session["mode"] != "subscription" or session["status"] != "open":
                raise ValueError(f"the session is {session['mode']} and {session['status']}")
            price_id = session["line_items_asked"][0]["price"]
            data = session["subscription_data_asked"]
            method = self.attach(session["customer"])
            start = now() if at is None else at
            days = int(data.get("trial_period_days", 0))
            subscription = self._new_subscription(
                session["customer"], price_id, start, days, data.get("metadata", {})
            )
            self.change(subscription["id"], default_payment_method=method["id"])
            invoice = self._invoice(
                subscription["id"],
                "subscription_create",
                [self._whole_period(subscription["id"], amount=0 if days else None)],
                start,
            )
            self.change(subscription["id"], latest_invoice=invoice["id"])
            return self.change(
                session_id,
                status="complete",
                payment_status="no_payment_required" if days else "paid",
                subscription=subscription["id"],
                invoice=invoice["id"],
                url=None,
            )

    def settle(self, session_id: str) -> StripeObject:
        """As for any session; one that was asked to makes an invoice of what was paid."""
        with self._lock:
            session = super().settle(session_id)
            asked = session["invoice_creation_asked"]
            if asked.get("enabled") != "true":
                return session
            invoice_id = new_id("invoice")
            at, total = now(), session["amount_total"]
            invoice = self.make(
                "invoice",
                id=invoice_id,
                created=at,
                customer=session["customer"],
                billing_reason="manual",
                currency=session["currency"],
                number=f"DOUBLE-{len(self.of_type('invoice')) + 1:06}-{invoice_id[-6:]}",
                metadata=asked.get("invoice_data", {}).get("metadata", {}),
                lines=self._shapes["invoice"]["lines"] | {"data": [self._pack_line(session)]},
                parent=None,
                period_start=at,
                period_end=at,
                status="paid",
                status_transitions={
                    "finalized_at": at,
                    "marked_uncollectible_at": None,
                    "paid_at": at,
                    "voided_at": None,
                },
                subtotal=total,
                total=total,
                total_excluding_tax=total,
                total_taxes=[],
                amount_due=total,
                amount_paid=total,
                amount_remaining=0,
                attempted=True,
                attempt_count=0,
                due_date=None,
                next_payment_attempt=None,
                hosted_invoice_url=f"https://invoice.stripe.com/i/{invoice_id}",
                invoice_pdf=f"https://pay.stripe.com/invoice/{invoice_id}/pdf",
            )
            self._tie(invoice, self.get(session["payment_intent"]), "paid")
            return self.change(session_id, invoice=invoice_id)

    def _pack_line(self, session: StripeObject) -> StripeObject:
        line = copy.deepcopy(self._shapes["invoice"]["lines"]["data"][0])
        (asked,) = session["line_items_asked"]
        return line | {
            "id": new_id("line_item"),
            "amount": session["amount_total"],
            "currency": session["currency"],
            "description": asked.get("price_data", {}).get("product_data", {}).get("name"),
            "quantity": 1,
            "period": {"start": now(), "end": now()},
            "parent": {
                "type": "invoice_item_details",
                "subscription_item_details": None,
                "invoice_item_details": {
                    "invoice_item": "ii_double",
                    "proration": False,
                    "proration_details": {"credited_items": None},
                    "subscription": None,
                },
            },
            "pricing": {
                "type": "price_details",
                "price_details": {"price": asked.get("price", "price_inline"), "product": "prod"},
                "unit_amount_decimal": str(session["amount_total"]),
            },
        }

    def story_of_pack(self, session_id: str) -> list[StripeObject]:
        """Events that tell of a paid pack beside its session: the payment and its invoice."""
        session = self.get(session_id)
        told = [self.event("payment_intent.succeeded", self.get(session["payment_intent"]))]
        if session["invoice"] is not None:
            ties = self.payments_of(session["invoice"])
            told += [self.event("invoice_payment.paid", tie) for tie in ties]
            told.append(self.event("invoice.paid", self.get(session["invoice"])))
        return told

    def renew(self, subscription_id: str) -> StripeObject:
        """The next period begins and is billed; returns the invoice."""
        with self._lock:
            subscription = self.get(subscription_id)
            item = subscription["items"]["data"][0]
            price_id = item["price"]["id"]
            if subscription["cancel_at_period_end"]:
                raise ValueError("it ends with the period")
            start = item["current_period_end"]
            self._set_period(subscription_id, start, start + SECONDS[self.intervals[price_id]])
            self.change(subscription_id, status="active")
            invoice = self._invoice(
                subscription_id,
                "subscription_cycle",
                [self._whole_period(subscription_id)],
                start,
                voided=subscription["pause_collection"] is not None,
            )
            self.change(subscription_id, latest_invoice=invoice["id"])
            if invoice["status"] == "open":
                self.change(subscription_id, status="past_due")
            return invoice

    def collect(self, invoice_id: str) -> StripeObject:
        """Pay an open invoice; its subscription is active again."""
        with self._lock:
            invoice = self._paid(invoice_id)
            self.change(self._subscription_of(invoice), status="active")
            return invoice

    def settle_pending_update(self, subscription_id: str) -> StripeObject:
        """A larger plan whose payment had failed is paid after all; returns the subscription."""
        with self._lock:
            self._paid(self.get(subscription_id)["latest_invoice"])
            return self._apply_pending_update(subscription_id)

    def expire_pending_update(self, subscription_id: str) -> StripeObject:
        """A larger plan was not paid in time: its invoice is void; returns the subscription."""
        with self._lock:
            invoice = self.get(self.get(subscription_id)["latest_invoice"])
            changed = invoice["status_transitions"] | {"voided_at": now()}
            self.change(
                invoice["id"],
                status="void",
                status_transitions=changed,
                amount_remaining=0,
                next_payment_attempt=None,
            )
            return self.change(subscription_id, pending_update=None)

    def end(self, subscription_id: str, at: int | None = None) -> StripeObject:
        """Cancel now, or let the period run out."""
        at = now() if at is None else at
        return self.change(
            subscription_id, status="canceled", canceled_at=at, ended_at=at, cancel_at=None
        )

    def unpause(self, subscription_id: str) -> StripeObject:
        """POST /v1/subscriptions/{id}/resume, of one that a trial left paused."""
        if self.get(subscription_id)["status"] != "paused":
            raise ValueError("Only paused subscriptions can be resumed.")
        start = now()
        price_id = self.get(subscription_id)["items"]["data"][0]["price"]["id"]
        self._set_period(subscription_id, start, start + SECONDS[self.intervals[price_id]])
        self._invoice(
            subscription_id, "subscription_update", [self._whole_period(subscription_id)], start
        )
        return self.change(subscription_id, status="active")

    def story_of(self, subscription_id: str) -> list[StripeObject]:
        """Events that tell of a new subscription: it, its card, its invoice and the payment."""
        subscription = self.get(subscription_id)
        invoice = self.get(subscription["latest_invoice"])
        told = [
            self.event("customer.subscription.created", subscription),
            self.event("payment_method.attached", self.get(subscription["default_payment_method"])),
        ]
        for tie in self.payments_of(invoice["id"]):
            intent = self.get(tie["payment"]["payment_intent"])
            told.append(self.event("payment_intent.succeeded", intent))
            told.append(self.event("invoice_payment.paid", tie))
        return [*told, self.event("invoice.paid", invoice)]

    def payments_of(self, invoice_id: str) -> list[StripeObject]:
        """Invoice payments of an invoice, oldest first."""
        return [p for p in self.of_type("invoice_payment") if p["invoice"] == invoice_id]

    def charge_of_invoice(self, invoice_id: str) -> StripeObject:
        """The charge that paid an invoice."""
        intent = self.payments_of(invoice_id)[-1]["payment"]["payment_intent"]
        return next(
            c
            for c in self.of_type("charge")
            if c["payment_intent"] == intent and c["status"] == "succeeded"
        )

    # What the API is asked to change ---------------------------------------------------------

    def update_subscription(self, subscription_id: str, params: dict[str, Any]) -> StripeObject:
        """POST /v1/subscriptions/{id}. Raises UnknownPriceError and DeclinedError."""
        with self._lock:
            before = copy.deepcopy(self.objects)
            try:
                return self._update_subscription(subscription_id, params)
            except DeclinedError:
                self.objects = before
                raise

    def _update_subscription(self, subscription_id: str, params: dict[str, Any]) -> StripeObject:
        subscription = self.get(subscription_id)
        if "metadata" in params:
            merged = subscription["metadata"] | params["metadata"]
            kept = {name: value for name, value in merged.items() if value != ""}
            self.change(subscription_id, metadata=kept)
        if "cancel_at_period_end" in params:
            ends = params["cancel_at_period_end"] == "true"
            end = subscription["items"]["data"][0]["current_period_end"]
            self.change(
                subscription_id,
                cancel_at_period_end=ends,
                cancel_at=end if ends else None,
                canceled_at=now() if ends else None,
            )
        if "cancel_at" in params:
            at = int(params["cancel_at"]) if params["cancel_at"] else None
            self.change(
                subscription_id,
                cancel_at=at,
                cancel_at_period_end=False,
                canceled_at=now() if at else None,
            )
        if "pause_collection" in params:
            pause = params["pause_collection"]
            self.change(
                subscription_id,
                pause_collection={"behavior": pause["behavior"], "resumes_at": None}
                if pause
                else None,
            )
        if "items" in params:
            self._change_price(subscription_id, params["items"][0]["price"], params)
        if params.get("billing_cycle_anchor", {}).get("type") == "now":
            price_id = subscription["items"]["data"][0]["price"]["id"]
            start = now()
            self._set_period(subscription_id, start, start + SECONDS[self.intervals[price_id]])
            self._invoice(
                subscription_id,
                "subscription_update",
                [self._whole_period(subscription_id)],
                start,
                must_succeed=params.get("payment_behavior") == "error_if_incomplete",
            )
        return self.get(subscription_id)

    def _change_price(self, subscription_id: str, price_id: str, params: dict[str, Any]) -> None:
        if price_id not in self.intervals:
            raise UnknownPriceError(price_id)
        subscription = self.get(subscription_id)
        item = subscription["items"]["data"][0]
        old = item["price"]["id"]
        at, start, end = now(), item["current_period_start"], item["current_period_end"]
        is_trial = subscription["status"] == "trialing"
        if params.get("proration_behavior") != "always_invoice" or is_trial:
            self._set_price(subscription_id, price_id)
            return
        share = (end - at) / (end - start)
        unused = -round(self.prices[old][0] * share)
        amount, period = self.prices[price_id][0], (at, at + SECONDS[self.intervals[price_id]])
        is_proration = self.intervals[old] == self.intervals[price_id]
        if is_proration:
            amount, period = round(amount * share), (at, end)
        lines = [
            self._line(subscription_id, old, unused, (at, end), proration=True),
            self._line(subscription_id, price_id, amount, period, proration=is_proration),
        ]
        invoice = self._invoice(subscription_id, "subscription_update", lines, at)
        self.change(
            subscription_id,
            latest_invoice=invoice["id"],
            pending_update={
                "expires_at": at + 23 * 3600,
                "subscription_items": [{"id": item["id"], "price": {"id": price_id}}],
            },
        )
        if invoice["status"] == "paid":
            self._apply_pending_update(subscription_id)

    def _apply_pending_update(self, subscription_id: str) -> StripeObject:
        subscription = self.get(subscription_id)
        old = subscription["items"]["data"][0]["price"]["id"]
        price_id = subscription["pending_update"]["subscription_items"][0]["price"]["id"]
        self._set_price(subscription_id, price_id)
        if self.intervals[old] != self.intervals[price_id]:
            at = self.get(subscription["latest_invoice"])["created"]
            self._set_period(subscription_id, at, at + SECONDS[self.intervals[price_id]])
        return self.change(subscription_id, pending_update=None)

    # Parts -----------------------------------------------------------------------------------

    def _new_subscription(
        self, customer_id: str, price_id: str, start: int, trial_days: int, metadata: object
    ) -> StripeObject:
        if price_id not in self.intervals:
            raise UnknownPriceError(price_id)
        length = trial_days * TRIAL_DAY or SECONDS[self.intervals[price_id]]
        made = self.make(
            "subscription",
            customer=customer_id,
            created=start,
            start_date=start,
            billing_cycle_anchor=start,
            cancel_at=None,
            cancel_at_period_end=False,
            canceled_at=None,
            ended_at=None,
            currency=self.prices[price_id][1],
            metadata=metadata,
            pause_collection=None,
            pending_update=None,
            status="trialing" if trial_days else "active",
            trial_start=start if trial_days else None,
            trial_end=start + length if trial_days else None,
        )
        item = made["items"]["data"][0] | {"id": new_id("subscription_item")}
        self.change(
            made["id"], items=made["items"] | {"data": [item | {"subscription": made["id"]}]}
        )
        self._set_price(made["id"], price_id)
        return self._set_period(made["id"], start, start + length)

    def _set_item(self, subscription_id: str, **fields: object) -> StripeObject:
        items = self.get(subscription_id)["items"]
        items["data"][0] |= fields
        return self.change(subscription_id, items=items)

    def _set_period(self, subscription_id: str, start: int, end: int) -> StripeObject:
        return self._set_item(subscription_id, current_period_start=start, current_period_end=end)

    def _set_price(self, subscription_id: str, price_id: str) -> StripeObject:
        return self._set_item(subscription_id, price=self.price(price_id))

    def _whole_period(self, subscription_id: str, amount: int | None = None) -> StripeObject:
        item = self.get(subscription_id)["items"]["data"][0]
        price_id = item["price"]["id"]
        return self._line(
            subscription_id,
            price_id,
            self.prices[price_id][0] if amount is None else amount,
            (item["current_period_start"], item["current_period_end"]),
        )

    def _line(
        self,
        subscription_id: str,
        price_id: str,
        amount: int,
        period: tuple[int, int],
        *,
        proration: bool = False,
    ) -> StripeObject:
        line = copy.deepcopy(self._shapes["invoice"]["lines"]["data"][0])
        item_id = self.get(subscription_id)["items"]["data"][0]["id"]
        return line | {
            "id": new_id("line_item"),
            "amount": amount,
            "currency": self.prices[price_id][1],
            "description": f"{'Change' if proration else '1 x'} {price_id}",
            "period": {"start": period[0], "end": period[1]},
            "parent": {
                "type": "subscription_item_details",
                "invoice_item_details": None,
                "subscription_item_details": {
                    "invoice_item": None,
                    "proration": proration,
                    "proration_details": {"credited_items": None},
                    "subscription": subscription_id,
                    "subscription_item": item_id,
                },
            },
            "pricing": {
                "type": "price_details",
                "price_details": {"price": price_id, "product": "prod_plan"},
                "unit_amount_decimal": str(amount),
            },
        }

    def _invoice(
        self,
        subscription_id: str,
        reason: str,
        lines: list[StripeObject],
        at: int,
        *,
        voided: bool = False,
        must_succeed: bool = False,
    ) -> StripeObject:
        subscription = self.get(subscription_id)
        total = sum(line["amount"] for line in lines)
        due = max(total, 0)
        invoice_id = new_id("invoice")
        made = self.make(
            "invoice",
            id=invoice_id,
            created=at,
            customer=subscription["customer"],
            billing_reason=reason,
            currency=subscription["currency"],
            number=f"DOUBLE-{len(self.of_type('invoice')) + 1:06}-{invoice_id[-6:]}",
            lines=self._shapes["invoice"]["lines"]
            | {"data": [line | {"invoice": invoice_id} for line in lines]},
            parent={
                "type": "subscription_details",
                "quote_details": None,
                "subscription_details": {
                    "metadata": subscription["metadata"],
                    "subscription": subscription_id,
                },
            },
            period_start=at,
            period_end=at,
            status="void" if voided else "open",
            status_transitions={
                "finalized_at": at,
                "marked_uncollectible_at": None,
                "paid_at": None,
                "voided_at": at if voided else None,
            },
            subtotal=total,
            total=total,
            total_excluding_tax=total,
            total_taxes=[],
            amount_due=due,
            amount_paid=0,
            amount_remaining=due,
            due_date=None,
            next_payment_attempt=None,
            hosted_invoice_url=f"https://invoice.stripe.com/i/{invoice_id}",
            invoice_pdf=f"https://pay.stripe.com/invoice/{invoice_id}/pdf",
        )
        if voided:
            return made
        if due and subscription["customer"] in self.declining:
            if must_succeed:
                raise DeclinedError
            return self._refused(invoice_id)
        return self._paid(invoice_id)

    def _intent(self, invoice: StripeObject, **fields: object) -> StripeObject:
        return self.make(
            "payment_intent",
            amount=invoice["amount_due"],
            currency=invoice["currency"],
            customer=invoice["customer"],
            description=f"Payment of {invoice['number']}",
            created=invoice["created"],
            canceled_at=None,
            metadata={},
            **fields,
        )

    def _refused(self, invoice_id: str) -> StripeObject:
        invoice = self.get(invoice_id)
        intent = self._intent(
            invoice,
            status="requires_payment_method",
            last_payment_error={
                "type": "card_error",
                "code": "card_declined",
                "decline_code": "insufficient_funds",
                "message": "Your card has insufficient funds.",
            },
        )
        self._tie(invoice, intent, "open")
        return self.change(
            invoice_id,
            attempted=True,
            attempt_count=invoice["attempt_count"] + 1,
            next_payment_attempt=invoice["created"] + 3 * TRIAL_DAY,
        )

    def _paid(self, invoice_id: str) -> StripeObject:
        invoice = self.get(invoice_id)
        if invoice["amount_due"]:
            open_ties = [p for p in self.payments_of(invoice_id) if p["status"] == "open"]
            if open_ties:
                tie = open_ties[-1]
                intent = self.change(
                    tie["payment"]["payment_intent"],
                    status="succeeded",
                    last_payment_error=None,
                    amount_received=invoice["amount_due"],
                )
                self.change(tie["id"], status="paid", amount_paid=invoice["amount_due"])
            else:
                intent = self._intent(
                    invoice,
                    status="succeeded",
                    last_payment_error=None,
                    amount_received=invoice["amount_due"],
                )
                self._tie(invoice, intent, "paid")
            self.make(
                "charge",
                amount=invoice["amount_due"],
                amount_captured=invoice["amount_due"],
                amount_refunded=0,
                captured=True,
                created=invoice["created"],
                currency=invoice["currency"],
                customer=invoice["customer"],
                metadata={},
                payment_intent=intent["id"],
                refunds=self._refunds([]),
                status="succeeded",
                transfer_data=None,
            )
        return self.change(
            invoice_id,
            status="paid",
            attempted=True,
            attempt_count=max(invoice["attempt_count"], 1) if invoice["amount_due"] else 0,
            amount_paid=invoice["amount_due"],
            amount_remaining=0,
            next_payment_attempt=None,
            status_transitions=invoice["status_transitions"] | {"paid_at": invoice["created"]},
        )

    def _tie(self, invoice: StripeObject, intent: StripeObject, status: str) -> StripeObject:
        return self.make(
            "invoice_payment",
            invoice=invoice["id"],
            amount_paid=invoice["amount_due"] if status == "paid" else None,
            amount_requested=invoice["amount_due"],
            currency=invoice["currency"],
            livemode=False,
            created=invoice["created"],
            payment={"type": "payment_intent", "payment_intent": intent["id"]},
            status=status,
        )

    @staticmethod
    def _subscription_of(invoice: StripeObject) -> str:
        return str(invoice["parent"]["subscription_details"]["subscription"])
