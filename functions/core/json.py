"""JSON as Quernel speaks it: decimals stay exact, and nothing passes that Postgres cannot store.

`loads` keeps numbers with a fraction as Decimal, because they are credits. `dumps` writes Decimal
as a number. `check_text` finds what is legal in JSON and impossible in Postgres: NUL and lone
surrogates.
"""

from __future__ import annotations

import json
import re
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, TypeAlias
from uuid import UUID

from pydantic import BaseModel

Json: TypeAlias = Any
"""A JSON value whose shape nothing has checked yet."""

_SUSPICIOUS_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89abcdefABCDEF])")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class UnstorableTextError(ValueError):
    """A string holds NUL or half of a surrogate pair; Postgres stores neither."""


def loads(data: str | bytes) -> Json:
    """Parse JSON that a trusted party wrote.

    Numbers with a fraction become Decimal. Raises ValueError.
    """
    return _DECODER.decode(data.decode() if isinstance(data, bytes) else data)


def dumps(value: Json) -> bytes:
    """UTF-8 JSON without insignificant space.

    Raises UnstorableTextError (lone surrogate), ValueError (NaN, infinity).
    """
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError:
        raise UnstorableTextError from None


def dumps_storable(value: Json) -> bytes:
    """Like `dumps`, and raises UnstorableTextError for NUL too: what goes to the database."""
    data = dumps(value)
    if _SUSPICIOUS_ESCAPE.search(data):
        check_text(value)
    return data


def may_hold_unstorable(data: bytes) -> bool:
    """Whether JSON text has an escape that could hide NUL or a lone surrogate.

    Cheap, with false positives.
    """
    return _SUSPICIOUS_ESCAPE.search(data) is not None


def check_text(value: Json) -> None:
    """Raise UnstorableTextError if any string or key inside `value` cannot be stored."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if _UNSTORABLE.search(item):
                raise UnstorableTextError
        elif isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)


def _plain(value: Json) -> Json:
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError("Out of range decimal values are not JSON compliant")
        whole = value.to_integral_value()
        return int(whole) if whole == value else float(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not JSON")


# One of each for the process: json.loads() and json.dumps() with any option build a new one on
# every call.
_DECODER = json.JSONDecoder(parse_float=Decimal)
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
)
