"""Arguments of commands: words that become what the database takes, or are refused."""

from __future__ import annotations

import argparse
import uuid
from datetime import datetime
from decimal import Decimal, InvalidOperation


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


def days(word: str) -> int:
    """A number of days, none among them. Raises ArgumentTypeError."""
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number of days")
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


def owner(options: argparse.Namespace) -> dict[str, uuid.UUID | None]:
    """Whose account the options name, as arguments of the database functions."""
    return {"p_user_id": options.user, "p_organization_id": options.organization}
