"""`quernel credits`, for operators."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Callable
from typing import Any

from functions.core.arguments import amount, identifier, moment, owner, reason
from functions.core.console import count, fields, table
from functions.core.database import Database
from functions.core.json import Json
from functions.core.settings import Settings

GRANT_SOURCES = ("compensation", "promotional", "bonus", "adjustment")
"""What an operator may grant; purchases, plans and refunds come from payments."""


async def grant_credits(options: argparse.Namespace, _: Settings, database: Database) -> Json:
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


async def show_balance(options: argparse.Namespace, _: Settings, database: Database) -> Json:
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


async def show_statement(options: argparse.Namespace, _: Settings, database: Database) -> Json:
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


def add_credit_commands(
    group: Callable[[str, str], Any], add: Callable[..., argparse.ArgumentParser]
) -> None:
    """Add them to the parser of `quernel`."""
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
