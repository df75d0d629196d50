"""Runs the queries of sql/checks: as they are, or over chosen accounts only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import psycopg

from local.paths import CHECKS

Finding = tuple[str, str, dict[str, Any]]
"""Name of the check, subject, detail."""

_MINE = "(select ids from mine)::uuid[]"
# The tables that checks of the ledger read, and which of their rows belong to chosen accounts.
_OWNED = {
    "public.credit_accounts": f"id = any({_MINE})",
    "public.credit_lots": f"account_id = any({_MINE})",
    "public.credit_transactions": f"account_id = any({_MINE})",
    "private.credit_holds": f"account_id = any({_MINE})",
    "public.usage_logs": f"account_id = any({_MINE})",
    "public.api_usage": f"account_id = any({_MINE})",
    "private.api_key_states": "api_key_id in (select h.api_key_id from private.credit_holds as h"  # noqa: S608
    f" where h.account_id = any({_MINE}))",
    # Before the conversations, whose choice the text of this one takes up.
    "public.messages": "conversation_id in (select talk.id from public.conversations as talk)",
    "public.conversations": "exists (select from public.credit_accounts as payer"
    f" where payer.id = any({_MINE}) and (payer.organization_id = conversations.organization_id"
    " or (conversations.organization_id is null and payer.user_id = conversations.user_id)))",
    "private.member_spending": "organization_id in (select owner.organization_id"  # noqa: S608
    f" from public.credit_accounts as owner where owner.id = any({_MINE}))",
}


@cache
def check_files() -> dict[str, str]:
    """Name without suffix → query, of every file."""
    return {
        path.stem: path.read_text().rstrip().removesuffix(";")
        for path in sorted(CHECKS.glob("*.sql"))
    }


def data_checks() -> dict[str, str]:
    """The checks of what the tables hold; 0xx look at how the database is made."""
    return {name: query for name, query in check_files().items() if name[0] != "0"}


def ledger_checks() -> dict[str, str]:
    """The checks of the ledger (1xx) and of usage (2xx)."""
    return {name: query for name, query in check_files().items() if name[0] in "12"}


def _of_accounts(query: str) -> str:
    for table, rows in _OWNED.items():
        chosen = f"(select * from {table} where {rows})"  # noqa: S608
        query = re.sub(rf"\b(from|join) {re.escape(table)} as\b", rf"\1 {chosen} as", query)
    return query


@cache
def _over_accounts() -> bytes:
    selects = [
        f"select '{name}' as name, c.subject, c.detail from (\n{_of_accounts(query)}\n) as c"  # noqa: S608
        for name, query in ledger_checks().items()
    ]
    return ("with mine as (select %s::uuid[] as ids)\n" + "\nunion all\n".join(selects)).encode()


def findings(connection: psycopg.Connection, account_ids: Sequence[str]) -> list[Finding]:
    """What the ledger's checks say about these accounts, all in one statement: one snapshot."""
    return connection.execute(_over_accounts(), [list(account_ids)]).fetchall()


def all_findings(connection: psycopg.Connection) -> list[Finding]:
    """What the files of the ledger's checks say about the whole database, as they are."""
    return [
        (name, *row)
        for name, query in ledger_checks().items()
        for row in connection.execute(query.encode()).fetchall()
    ]
