"""Facts of a notification as words of a text: amounts, numbers and dates as a language writes them.

Facts come from our own SQL, but names, descriptions and links in them were once somebody's input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from functions.core.json import Json
from functions.notifications.texts import Language

TEXT_MAX_CHARACTERS = 100
URL_MAX_CHARACTERS = 2048

_WITHOUT_MINOR_UNITS = frozenset(
    (
        *("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga"),
        *("pyg", "rwf", "ugx", "vnd", "vuv", "xaf", "xof", "xpf"),
    )
)
"""Currencies that Stripe counts in whole units; https://docs.stripe.com/currencies#zero-decimal"""

_WITH_THREE_DECIMALS = frozenset(("bhd", "jod", "kwd", "omr", "tnd"))

_SYMBOLS = {"eur": "€", "usd": "$", "gbp": "£"}

_MONTHS: Mapping[Language, tuple[str, ...]] = {
    "fr": (
        *("janvier", "février", "mars", "avril", "mai", "juin"),
        *("juillet", "août", "septembre", "octobre", "novembre", "décembre"),
    ),
    "en": (
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ),
}
_ROLES: Mapping[Language, Mapping[str, str]] = {
    "fr": {"admin": "administrateur", "member": "membre"},
    "en": {"admin": "admin", "member": "member"},
}
_UNITS: Mapping[Language, Mapping[str, str]] = {
    "fr": {
        "account_budget": "crédits",
        "plan.monthly_tokens": "jetons",
        "plan.requests_per_month": "requêtes",
    },
    "en": {
        "account_budget": "credits",
        "plan.monthly_tokens": "tokens",
        "plan.requests_per_month": "requests",
    },
}
"""What is counted, by the `limit_source` of the limit."""

_NARROW_SPACE = "\u202f"  # never broken at the end of a line
_SPACE = "\u00a0"

_UNPRINTABLE = re.compile(
    r"[\x00-\x20\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]+"
)
"""Controls, line ends, and what changes the direction of writing."""

_LOOKS_LIKE_A_LINK = re.compile(r"(?<=[.:/@])(?=[^\s.])")
_WEB_ADDRESS = re.compile(r"https://[^\s\"'<>\\]+")


def values(facts: Mapping[str, Json], language: Language) -> dict[str, str]:
    """What `{word}` stands for, by word. A fact that is missing, null or nonsense has no word."""
    found = {
        "amount": _amount(facts.get("amount_minor"), facts.get("currency"), language),
        "role": _ROLES[language].get(str(facts.get("role"))),
        "unit": _UNITS[language].get(str(facts.get("limit_source"))),
    }
    for name, write in _WRITERS.items():
        found[name] = write(facts.get(name), language)
    return {name: value for name, value in found.items() if value}


def plain(text: object, _: Language = "en") -> str | None:
    """Somebody's text in one short line in which no mail program finds a link."""
    if not isinstance(text, str):
        return None
    line = _UNPRINTABLE.sub(" ", text).strip()
    if len(line) > TEXT_MAX_CHARACTERS:
        line = line[: TEXT_MAX_CHARACTERS - 1].rstrip() + "…"
    return _LOOKS_LIKE_A_LINK.sub("\u200b", line)  # zero-width space


def web_address(value: object) -> str | None:
    """A link that may stand in an email; None for anything but a plain https address."""
    if (
        isinstance(value, str)
        and len(value) <= URL_MAX_CHARACTERS
        and _WEB_ADDRESS.fullmatch(value)
    ):
        return value
    return None


def _number(value: object, language: Language) -> str | None:
    number = _decimal(value)
    if number is None:
        return None
    number = number.quantize(Decimal("0.01"))
    return _grouped(f"{number:f}".removesuffix(".00"), language)


def _percent(value: object, language: Language) -> str | None:
    text = _number(value, language)
    if text is None:
        return None
    return f"{text}{_NARROW_SPACE}%" if language == "fr" else f"{text}%"


def _amount(minor: object, currency: object, language: Language) -> str | None:
    number = _decimal(minor)
    if number is None or not isinstance(currency, str) or not re.fullmatch("[a-z]{3}", currency):
        return None
    places = 3 if currency in _WITH_THREE_DECIMALS else 0 if currency in _WITHOUT_MINOR_UNITS else 2
    text = _grouped(f"{number.scaleb(-places):.{places}f}", language)
    symbol = _SYMBOLS.get(currency)
    if language == "en" and symbol is not None:
        return f"-{symbol}{text[1:]}" if text.startswith("-") else f"{symbol}{text}"
    return f"{text}{_SPACE}{symbol or currency.upper()}"


def _date(value: object, language: Language) -> str | None:
    """The day, in UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    day = "1er" if (language, moment.day) == ("fr", 1) else str(moment.day)
    return f"{day} {_MONTHS[language][moment.month - 1]} {moment.year}"


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number) < Decimal("1e15") else None


def _grouped(digits: str, language: Language) -> str:
    """`-1234.5` with the separators of the language."""
    whole, point, fraction = digits.partition(".")
    whole = f"{int(whole):,}" if whole not in ("-0", "0") else whole
    if language == "fr":
        whole, point = whole.replace(",", _NARROW_SPACE), point and ","
    return whole + point + fraction


_WRITERS: Mapping[str, Callable[[object, Language], str | None]] = {
    "balance": _number,
    "credits": _number,
    "description": plain,
    "due_at": _date,
    "ends_at": _date,
    "expires_at": _date,
    "host": plain,
    "inviter": plain,
    "last_four": plain,
    "limit": _number,
    "next_attempt_at": _date,
    "number": plain,
    "organization": plain,
    "pack": plain,
    "percent": _percent,
    "plan": plain,
    "provider": plain,
    "switched_off_at": _date,
    "threshold": _number,
    "trial_ends_at": _date,
    "used": _number,
}
