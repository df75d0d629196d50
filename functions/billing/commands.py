"""`quernel invoices`, `payments`, `plans` and `stripe`, for operators."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from functions.billing.reconcile import WALK, Reconciler
from functions.billing.stripe_client import StripeGateway, stripe_client
from functions.billing.stripe_lists import StripeLists
from functions.core.arguments import amount, identifier, minor_units, moment, owner, reason
from functions.core.console import CommandFailedError, Progress, count, fields, table
from functions.core.database import Database
from functions.core.json import Json
from functions.core.settings import Settings

PAYMENT_PROVIDERS = ("paypal", "wise", "manual")
"""Whose payments an operator records; Stripe tells of its own."""


async def record_payment(options: argparse.Namespace, _: Settings, database: Database) -> Json:
    """Record money that came by another way than Stripe."""
    return await database.rpc(
        "payment_record",
        **owner(options),
        p_provider=options.provider,
        p_transaction_id=options.transaction,
        p_amount_minor=options.amount,
        p_currency=options.currency,
        p_credits=None if options.credits is None else str(options.credits),
        p_description=options.description,
        p_paid_at=options.paid_at,
        p_plan=options.plan,
        p_period_start=options.period_start,
        p_period_end=options.period_end,
        p_invoice_id=options.invoice,
        p_reason=options.reason,
        p_actor=options.actor,
    )


async def record_invoice(options: argparse.Namespace, _: Settings, database: Database) -> Json:
    """Record an invoice that is to be paid by another way than Stripe."""
    return await database.rpc(
        "invoice_record",
        **owner(options),
        p_provider=options.provider,
        p_number=options.number,
        p_amount_minor=options.amount,
        p_tax_minor=options.tax,
        p_currency=options.currency,
        p_plan=options.plan,
        p_period_start=options.period_start,
        p_period_end=options.period_end,
        p_issued_at=options.issued_at,
        p_due_at=options.due_at,
        p_description=options.description,
        p_reason=options.reason,
        p_actor=options.actor,
    )


async def record_refund(options: argparse.Namespace, _: Settings, database: Database) -> Json:
    """Record how much of a payment was given back in all."""
    return await database.rpc(
        "payment_refund_record",
        p_payment_id=options.id,
        p_amount_refunded_minor=options.total,
        p_reason=options.reason,
        p_actor=options.actor,
    )


async def assign_plan(options: argparse.Namespace, _: Settings, database: Database) -> Json:
    """Give an owner a plan until a date."""
    return await database.rpc(
        "plan_assign",
        **owner(options),
        p_plan=options.plan,
        p_until=options.until,
        p_reason=options.reason,
        p_actor=options.actor,
    )


async def reconcile(options: argparse.Namespace, settings: Settings, database: Database) -> Json:
    """Compare with Stripe now, and repair. Raises CommandFailedError without payments."""
    async with stripe_client(settings) as client:
        if client is None:
            raise CommandFailedError("payments are not configured")
        reconciler = Reconciler(settings, database, StripeGateway(client), StripeLists(client))
        progress = Progress("comparing kinds of objects", len(WALK))
        try:
            return await reconciler.run(options.days, progress.show)
        finally:
            progress.end()


def format_reconciliation(report: dict[str, Json]) -> str:
    """The counts, and one line per finding."""
    counts = {name: value for name, value in report.items() if name != "findings"}
    findings = table(report["findings"], "type", "id", "finding", "outcome", "error")
    return f"{fields(counts)}\n\n{findings}"


def add_billing_commands(
    group: Callable[[str, str], Any], add: Callable[..., argparse.ArgumentParser]
) -> None:
    """Add them to the parser of `quernel`; all but the last leave an audit row."""
    invoices = group("invoices", "Record invoices that are not paid through Stripe.")
    billing = add(invoices, "record", "Record an invoice, once.", record_invoice)
    payments = group("payments", "Record payments that did not come through Stripe.")
    record = add(payments, "record", "Record a payment, once.", record_payment)
    refund = add(payments, "refund", "Record what of a payment was given back.", record_refund)
    stripe = group("stripe", "Keep in step with Stripe.")
    reconciling = add(
        stripe,
        "reconcile",
        "Compare with Stripe and repair, going on with a run that was cut off.",
        reconcile,
        format_reconciliation,
    )
    reconciling.add_argument(
        "--days", type=count, help="what was made in the last so many (reconcile_days)"
    )
    plans = group("plans", "Give plans without Stripe.")
    assign = add(plans, "assign", "Give a plan until a date.", assign_plan)
    for command in (billing, record, assign):
        account = command.add_mutually_exclusive_group(required=True)
        account.add_argument("--user", type=identifier, metavar="ID", help="for a user")
        account.add_argument(
            "--organization", type=identifier, metavar="ID", help="for an organization"
        )
    for command in (billing, record, refund, assign):
        command.add_argument("--reason", type=reason, required=True, help="kept for the audit")
        command.add_argument("--actor", type=reason, required=True, help="who decides: your name")
    for command in (billing, record):
        command.add_argument("amount", type=count, metavar="AMOUNT", help="in minor units (cents)")
        command.add_argument("--currency", default="eur", help="ISO 4217, lower case (%(default)s)")
        command.add_argument("--description", help="what the owner is told")
        command.add_argument("--period-start", type=moment, metavar="TIME", help="of the plan")
        command.add_argument("--period-end", type=moment, metavar="TIME", help="of the plan")
    billing.add_argument(
        "--provider", choices=PAYMENT_PROVIDERS, default="manual", help="who takes it (%(default)s)"
    )
    billing.add_argument("--number", type=reason, required=True, help="the invoice's, as printed")
    billing.add_argument("--tax", type=minor_units, default=0, help="within the amount (none)")
    billing.add_argument("--plan", metavar="PLAN", help="slug of the plan it is for")
    billing.add_argument("--issued-at", type=moment, metavar="TIME", help="ISO 8601; now if absent")
    billing.add_argument(
        "--due-at", type=moment, metavar="TIME", help="until when it is to be paid"
    )
    record.add_argument("--provider", choices=PAYMENT_PROVIDERS, required=True, help="who took it")
    paid_for = record.add_mutually_exclusive_group()
    paid_for.add_argument("--plan", metavar="PLAN", help="slug of the plan it paid")
    paid_for.add_argument("--invoice", type=identifier, metavar="ID", help="the invoice it paid")
    record.add_argument(
        "--transaction", type=reason, required=True, metavar="ID", help="its id at the provider"
    )
    record.add_argument("--credits", type=amount, help="credits that it buys; none if absent")
    record.add_argument("--paid-at", type=moment, metavar="TIME", help="ISO 8601; now if absent")
    refund.add_argument("id", type=identifier, metavar="ID", help="of the payment")
    refund.add_argument(
        "total",
        type=minor_units,
        metavar="TOTAL",
        help="given back in all until now, in minor units (cents)",
    )
    assign.add_argument("plan", metavar="PLAN", help="its slug; free takes the one given back")
    assign.add_argument(
        "--until", type=moment, required=True, metavar="TIME", help="ISO 8601, to come"
    )
