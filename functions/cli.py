"""The `quernel` command for operators: status, cron, tasks, credits, bills, plans, keys, libraries.

It works on the database that the environment or `.env` names, else on the stack that `make dev`
runs.

Exit status: 0 done, 1 failed or refused, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import NoReturn, TypeAlias

from functions.billing.reconcile import Reconciler
from functions.billing.stripe_client import StripeGateway, stripe_client
from functions.billing.stripe_lists import StripeLists
from functions.core import json
from functions.core.console import CommandFailedError, count, fields, table, text
from functions.core.database import Database
from functions.core.errors import OperatorError, QuernelError
from functions.core.json import Json
from functions.core.settings import Settings, SettingsError, get_operator_settings, get_settings
from functions.cron.jobs import CRON_JOBS
from functions.cron.scheduler import run_now
from functions.doctor.commands import add_doctor_commands
from functions.libraries.commands import add_library_commands
from functions.provider_keys.commands import add_key_commands
from functions.tasks.worker_name import worker_name

Options: TypeAlias = argparse.Namespace
Rows: TypeAlias = list[dict[str, Json]]
Action: TypeAlias = Callable[[Options, Settings, Database], Awaitable[Json]]
Show: TypeAlias = Callable[[Json], str]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001

PAYMENT_PROVIDERS = ("paypal", "wise", "manual")
"""Whose payments an operator records; Stripe tells of its own."""

GRANT_SOURCES = ("compensation", "promotional", "bonus", "adjustment")
"""What an operator may grant; purchases, plans and refunds come from payments."""


# Status -----------------------------------------------------------------------------------------


async def show_status(_: Options, settings: Settings, database: Database) -> dict[str, Json]:
    """What waits and what runs, and when each cron job last did."""
    tasks, jobs = await asyncio.gather(database.rpc("task_status"), database.rpc("cron_status"))
    return {
        "environment": settings.environment,
        "transport": "direct" if settings.database_url is not None else "rest",
        "tasks": tasks,
        "cron": jobs,
    }


def format_status(status: dict[str, Json]) -> str:
    """Two short tables."""
    return "\n\n".join(
        [
            f"{status['environment']}, database over {status['transport']}",
            fields(status["tasks"]),
            table(status["cron"], "name", "due_at", "last_finished_at", "last_count", "last_error"),
        ]
    )


# Cron -------------------------------------------------------------------------------------------


async def list_jobs(_: Options, __: Settings, ___: Database) -> Rows:
    """The jobs there are."""
    return [
        {"name": name, "every_seconds": job.interval_seconds, "description": job.description}
        for name, job in CRON_JOBS.items()
    ]


def format_jobs(jobs: Rows) -> str:
    """One line per job."""
    return table(jobs, "name", "every_seconds", "description")


async def run_job(options: Options, _: Settings, database: Database) -> dict[str, Json]:
    """Run one job now. Raises CommandFailedError when the job fails."""
    run = await run_now(database, options.name, worker=worker_name())
    if run.error is not None:
        raise CommandFailedError(f"{run.name} failed: {run.error}")
    return {"name": run.name, "count": run.count, "seconds": run.seconds}


def format_run(run: dict[str, Json]) -> str:
    """One sentence."""
    return f"{run['name']}: {run['count']} rows in {run['seconds']:g} s"


# Tasks ------------------------------------------------------------------------------------------


async def list_tasks(options: Options, _: Settings, database: Database) -> Rows:
    """The newest tasks."""
    tasks: Rows = await database.rpc(
        "task_list",
        p_status=options.status,
        p_kind=options.kind,
        p_limit=options.limit,
        p_before=options.before,
        p_request_id=options.request,
    )
    return tasks


def format_tasks(tasks: Rows) -> str:
    """One line per task."""
    return table(tasks, "id", "kind", "key", "status", "attempts", "run_after", "last_error")


async def retry_task(options: Options, _: Settings, database: Database) -> Json:
    """Queue a dead task again."""
    return await database.rpc("task_retry", p_id=options.id)


async def cancel_task(options: Options, _: Settings, database: Database) -> Json:
    """Call a task off."""
    return await database.rpc("task_cancel", p_id=options.id, p_reason=options.reason)


# Credits ----------------------------------------------------------------------------------------


async def grant_credits(options: Options, _: Settings, database: Database) -> Json:
    """Add credits to an account."""
    key = options.key or f"operator:{uuid.uuid4()}"
    granted = await database.rpc(
        "credit_grant",
        **owner(options),
        p_amount=str(options.amount),
        p_source=options.source,
        p_idempotency_key=key,
        p_reason=options.reason,
        p_expires_at=options.expires_at,
        p_actor=options.actor,
    )
    return {**granted, "idempotency_key": key}


async def show_balance(options: Options, _: Settings, database: Database) -> Json:
    """What an account has."""
    return await database.rpc("credit_balance", **owner(options))


def format_balance(account: dict[str, Json]) -> str:
    """What there is to spend, the lots it is spent from in their order, and the rest."""
    now = ("balance", "held", "available", "debt")
    rest = {name: value for name, value in account.items() if name not in (*now, "lots")}
    return "\n\n".join(
        [
            fields({name: account[name] for name in now}),
            table(account["lots"], "lot_id", "source", "amount", "remaining", "expires_at"),
            fields(rest),
        ]
    )


async def show_statement(options: Options, _: Settings, database: Database) -> Json:
    """An account's ledger, newest first."""
    return await database.rpc(
        "credit_statement", **owner(options), p_limit=options.limit, p_before=options.before
    )


def format_statement(statement: dict[str, Json]) -> str:
    """One line per transaction."""
    return table(
        statement["entries"],
        "version",
        "created_at",
        "type",
        "amount",
        "balance_after",
        "description",
    )


# Payments and plans -------------------------------------------------------------------------------


async def record_payment(options: Options, _: Settings, database: Database) -> Json:
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


async def record_invoice(options: Options, _: Settings, database: Database) -> Json:
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


async def record_refund(options: Options, _: Settings, database: Database) -> Json:
    """Record how much of a payment was given back in all."""
    return await database.rpc(
        "payment_refund_record",
        p_payment_id=options.id,
        p_amount_refunded_minor=options.total,
        p_reason=options.reason,
        p_actor=options.actor,
    )


async def assign_plan(options: Options, _: Settings, database: Database) -> Json:
    """Give an owner a plan until a date."""
    return await database.rpc(
        "plan_assign",
        **owner(options),
        p_plan=options.plan,
        p_until=options.until,
        p_reason=options.reason,
        p_actor=options.actor,
    )


# Stripe -----------------------------------------------------------------------------------------


async def reconcile(options: Options, settings: Settings, database: Database) -> Json:
    """Compare with Stripe now, and repair. Raises CommandFailedError without payments."""
    async with stripe_client(settings) as client:
        if client is None:
            raise CommandFailedError("payments are not configured")
        reconciler = Reconciler(settings, database, StripeGateway(client), StripeLists(client))
        return await reconciler.run(options.days)


def format_reconciliation(report: dict[str, Json]) -> str:
    """The counts, and one line per finding."""
    counts = {name: value for name, value in report.items() if name != "findings"}
    findings = table(report["findings"], "type", "id", "finding", "outcome", "error")
    return f"{fields(counts)}\n\n{findings}"


def owner(options: Options) -> dict[str, uuid.UUID | None]:
    """Whose account the options name, as arguments of the database functions."""
    return {"p_user_id": options.user, "p_organization_id": options.organization}


# Arguments --------------------------------------------------------------------------------------


def amount(word: str) -> Decimal:
    """A positive number of credits. Raises ArgumentTypeError."""
    try:
        value = Decimal(word)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number") from None
    if not value.is_finite() or value <= 0:
        raise argparse.ArgumentTypeError("must be a positive number of credits")
    return value


def minor_units(word: str) -> int:
    """Money that may be none, in minor units (cents). Raises ArgumentTypeError."""
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number of minor units")
    return int(word)


def moment(word: str) -> datetime:
    """A date and time with its offset from UTC. Raises ArgumentTypeError."""
    try:
        value = datetime.fromisoformat(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not an ISO 8601 date and time") from None
    if value.tzinfo is None:
        raise argparse.ArgumentTypeError("say which time zone: 2027-01-31T00:00:00Z")
    return value


def identifier(word: str) -> uuid.UUID:
    """A UUID. Raises ArgumentTypeError."""
    try:
        return uuid.UUID(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a UUID") from None


def reason(word: str) -> str:
    """A text that says something. Raises ArgumentTypeError."""
    if not word.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return word


def build_parser() -> argparse.ArgumentParser:
    """Every command with its help."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser = argparse.ArgumentParser(
        prog="quernel",
        description="Operate a Quernel backend: the one that QUERNEL_SUPABASE_URL and "
        "QUERNEL_SUPABASE_SECRET_KEY name, else the stack that `make dev` runs.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        to: Commands,
        name: str,
        help_: str,
        action: Action,
        show: Show = fields,
    ) -> argparse.ArgumentParser:
        command = to.add_parser(name, help=help_, description=help_, parents=[common])
        command.set_defaults(action=action, show=show)
        return command

    def group(name: str, help_: str) -> Commands:
        return commands.add_parser(name, help=help_, description=help_).add_subparsers(
            title="commands", metavar="COMMAND", required=True
        )

    add(commands, "status", "Show what waits, runs and failed.", show_status, format_status)

    add_doctor_commands(partial(add, commands))

    cron = add(commands, "cron", "Run a periodic job now, due or not.", run_job, format_run)
    which = cron.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", choices=CRON_JOBS, metavar="NAME", help="which job")
    which.add_argument("--list", action="store_true", help="list the jobs there are")

    tasks = group("tasks", "Look after queued work.")
    listing = add(tasks, "list", "List tasks, newest first.", list_tasks, format_tasks)
    listing.add_argument(
        "--status", choices=("queued", "running", "done", "dead", "cancelled"), help="only these"
    )
    listing.add_argument("--kind", help="only tasks of this kind")
    listing.add_argument("--limit", type=count, default=50, help="at most so many (%(default)s)")
    listing.add_argument("--before", type=identifier, metavar="ID", help="older than this task")
    listing.add_argument(
        "--request",
        type=identifier,
        metavar="ID",
        help="only what this request (x-request-id) caused",
    )
    retry = add(tasks, "retry", "Queue a dead task again, with all its attempts.", retry_task)
    retry.add_argument("id", type=identifier, metavar="ID")
    cancel = add(tasks, "cancel", "Call a task off; credits held for it return.", cancel_task)
    cancel.add_argument("id", type=identifier, metavar="ID")
    cancel.add_argument("--reason", type=reason, required=True, help="kept with the task")

    credits_ = group("credits", "Look at and add to credit accounts.")
    grant = add(credits_, "grant", "Grant credits.", grant_credits)
    balance = add(credits_, "balance", "Show what an account has.", show_balance, format_balance)
    statement = add(
        credits_, "statement", "Show an account's ledger.", show_statement, format_statement
    )
    for command in (grant, balance, statement):
        account = command.add_mutually_exclusive_group(required=True)
        account.add_argument("--user", type=identifier, metavar="ID", help="a user's account")
        account.add_argument(
            "--organization", type=identifier, metavar="ID", help="an organization's account"
        )
    grant.add_argument("amount", type=amount, metavar="AMOUNT", help="credits, above 0")
    grant.add_argument("--reason", type=reason, required=True, help="what the owner is told")
    grant.add_argument("--actor", type=reason, required=True, help="who decides this: your name")
    grant.add_argument(
        "--source", choices=GRANT_SOURCES, default="compensation", help="why (%(default)s)"
    )
    grant.add_argument(
        "--expires-at", type=moment, metavar="TIME", help="ISO 8601; never if absent"
    )
    grant.add_argument("--key", help="idempotency key: the same one never grants twice")
    statement.add_argument("--limit", type=count, default=50, help="at most so many (%(default)s)")
    statement.add_argument(
        "--before", type=count, metavar="VERSION", help="older than this transaction"
    )
    _add_operator_commands(group, add)
    add_key_commands(group, add)
    add_library_commands(group, add)
    return parser


def _add_operator_commands(
    group: Callable[[str, str], Commands], add: Callable[..., argparse.ArgumentParser]
) -> None:
    """What leaves an audit row: invoices and payments that are not Stripe's, and plans given."""
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


# Running ----------------------------------------------------------------------------------------


async def _carry_out(options: Options) -> Json:
    if getattr(options, "is_offline", False):
        return await options.action(options, get_settings())
    settings = get_operator_settings()
    database = await Database.open(settings)
    try:
        return await options.action(options, settings, database)
    finally:
        await database.aclose()


def _fail(options: Options, code: str, message: str, facts: dict[str, Json] | None = None) -> int:
    if options.json:
        error = {"error": {"code": code, "message": message, **(facts or {})}}
        print(json.dumps(error).decode(), file=sys.stderr)
    else:
        details = "".join(f"\n  {name}: {text(value)}" for name, value in (facts or {}).items())
        print(f"quernel: {message} ({code}){details}", file=sys.stderr)
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Wrong usage ends the process with status 2."""
    options = build_parser().parse_args(arguments)
    if getattr(options, "list", False):
        options.action, options.show = list_jobs, format_jobs
    # What goes wrong is said once, below, and not in log lines as well.
    logging.getLogger("functions").setLevel(logging.CRITICAL)
    try:
        result = asyncio.run(_carry_out(options))
    except SettingsError as error:
        return _fail(options, "invalid_settings", str(error))
    except OperatorError as error:
        return _fail(options, error.operator_code, error.operator_message)
    except QuernelError as error:
        return _fail(options, error.code, error.message, error.facts)
    except CommandFailedError as error:
        return _fail(options, "command_failed", str(error), error.details if options.json else None)
    print(json.dumps(result).decode() if options.json else options.show(result))
    status: int = options.judge(result) if "judge" in options else 0
    return status


def entry() -> NoReturn:
    """For `python -m functions.cli`."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
