"""`quernel keys`: the master keys of the vault, for operators."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from functions.core.console import CommandFailedError, Progress, count, fields, table
from functions.core.database import Database
from functions.core.json import Json
from functions.core.settings import Settings, SettingsError
from functions.provider_keys.rotation import BATCH, Report, check, rotate
from functions.provider_keys.sources import open_key_source, open_vault
from functions.provider_keys.vault import Vault

SHOWN_FAILURES = 20


async def show_status(
    _: argparse.Namespace, settings: Settings, database: Database
) -> dict[str, Json]:
    """Which master keys are configured, and how many keys each of them wraps."""
    counts: dict[str, int] = await database.rpc("provider_key_kids")
    rows = [
        {
            "kid": kid,
            "is_configured": kid in settings.master_keys,
            "is_current": kid == settings.master_key_current,
            "keys": counts.get(kid, 0),
        }
        for kid in sorted({*counts, *settings.master_keys})
    ]
    return {"source": settings.master_key_source, "master_keys": rows}


def format_status(status: dict[str, Json]) -> str:
    """A line per master key."""
    columns = ("kid", "is_configured", "is_current", "keys")
    return f"from {status['source']}\n\n{table(status['master_keys'], *columns)}"


async def new_master_key(options: argparse.Namespace, settings: Settings) -> dict[str, Json]:
    """A fresh master key, as the settings take it. Nothing is stored."""
    kid = options.kid or f"{datetime.now(UTC):%Y-%m-%d}"
    return {"kid": kid, "value": await open_key_source(settings).new(kid)}


def format_new(made: dict[str, Json]) -> str:
    """What to do with it."""
    return (
        f"Add to QUERNEL_MASTER_KEYS, beside the others:\n\n"
        f'  "{made["kid"]}": "{made["value"]}"\n\n'
        f"Deploy, then set QUERNEL_MASTER_KEY_CURRENT={made['kid']}, deploy again and run "
        f"`quernel keys rotate`."
    )


async def rotate_keys(
    options: argparse.Namespace, settings: Settings, database: Database
) -> dict[str, Json]:
    """Wrap every data key by the current master key. Raises CommandFailedError for some left."""
    vault = _vault(settings)
    counts: dict[str, int] = await database.rpc("provider_key_kids")
    left = sum(number for kid, number in counts.items() if kid != vault.current_kid)
    report = await _followed(
        Progress("rotating", left),
        lambda tell: rotate(database, vault, batch=options.batch, tell=tell),
    )
    return {"kid": vault.current_kid, "rewrapped": report.done, "changed": report.changed}


async def check_keys(
    options: argparse.Namespace, settings: Settings, database: Database
) -> dict[str, Json]:
    """Open every key. Raises CommandFailedError where some do not."""
    counts: dict[str, int] = await database.rpc("provider_key_kids")
    vault = _vault(settings)
    report = await _followed(
        Progress("checking", sum(counts.values())),
        lambda tell: check(database, vault, batch=options.batch, tell=tell),
    )
    return {"opened": report.done}


def add_key_commands(
    group: Callable[[str, str], Any], add: Callable[..., argparse.ArgumentParser]
) -> None:
    """Add them to the parser of `quernel`."""
    keys = group("keys", "Look after the master keys that wrap customers' provider keys.")
    add(keys, "status", "Show which master keys wrap what.", show_status, format_status)
    new = add(keys, "new", "Make a master key for the settings.", new_master_key, format_new)
    new.add_argument("--kid", metavar="NAME", help="what it is called (today's date)")
    new.set_defaults(is_offline=True)
    rotating = add(
        keys,
        "rotate",
        "Wrap every key by the current master key, going on with a run that was cut off.",
        rotate_keys,
        fields,
    )
    checking = add(keys, "check", "Open every key, and say which do not.", check_keys, fields)
    for command in (rotating, checking):
        command.add_argument(
            "--batch", type=count, default=BATCH, help="keys at a time (%(default)s)"
        )


async def _followed(
    progress: Progress, work: Callable[[Callable[[Report], None]], Awaitable[Report]]
) -> Report:
    progress.show(0)
    try:
        report = await work(lambda so_far: progress.show(so_far.seen))
    finally:
        progress.end()
    if report.failures:
        failures = report.failures[:SHOWN_FAILURES]
        shown = ", ".join(f"{one['id']} ({one['code']})" for one in failures)
        more = len(report.failures) - len(failures)
        raise CommandFailedError(
            f"{len(report.failures)} keys do not open, {report.done} were done: {shown}"
            + (f", and {more} more" if more else ""),
            {"failures": report.failures},
        )
    return report


def _vault(settings: Settings) -> Vault:
    vault = open_vault(settings)
    if vault is None:
        raise SettingsError("QUERNEL_MASTER_KEYS is not set: there is no vault here")
    return vault
