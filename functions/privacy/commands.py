"""`quernel user`, for operators: what a person may ask about themselves, on their behalf."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from functions.core.arguments import days, identifier, reason
from functions.core.database import Database
from functions.core.json import Json
from functions.core.settings import Settings


async def erase(options: argparse.Namespace, _: Settings, database: Database) -> Json:
    """Ask for somebody's erasure; asked again, the same request."""
    return await database.rpc(
        "erasure_request",
        p_user_id=options.id,
        p_actor=options.actor,
        p_reason=options.reason,
        p_grace_days=options.days,
    )


async def keep(options: argparse.Namespace, _: Settings, database: Database) -> Json:
    """Take the request back, within its grace period."""
    return await database.rpc(
        "erasure_cancel", p_user_id=options.id, p_actor=options.actor, p_reason=options.reason
    )


async def show(options: argparse.Namespace, _: Settings, database: Database) -> Json:
    """The latest request, and how far it is."""
    return await database.rpc("erasure_status", p_user_id=options.id)


def add_privacy_commands(
    group: Callable[[str, str], Any], add: Callable[..., argparse.ArgumentParser]
) -> None:
    """Add them to the parser of `quernel`; those that change something leave an audit row."""
    user = group("user", "Erase a person who asked for it, or look how far that is.")
    erasing = add(user, "erase", "Ask for somebody's erasure.", erase)
    keeping = add(user, "keep", "Take a request back, within its grace period.", keep)
    showing = add(user, "erasure", "Show the latest request.", show)
    for command in (erasing, keeping, showing):
        command.add_argument("id", type=identifier, metavar="ID", help="of the user")
    for command in (erasing, keeping):
        command.add_argument("--reason", type=reason, required=True, help="kept for the audit")
        command.add_argument("--actor", type=reason, required=True, help="who decides: your name")
    erasing.add_argument(
        "--days",
        type=days,
        metavar="DAYS",
        help="until it is executed; 0 at once (erasure_grace_days)",
    )
