"""Reading a JSON request body strictly, and saying what is wrong with it without repeating it.

Refused before any model sees them: invalid UTF-8, malformed JSON, NaN and infinities, a key given
twice (two readers would see two different requests), nesting deeper than MAX_DEPTH, a body that is
not an object, and text that Postgres cannot store.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from functions.core.errors import InvalidRequestError, QuernelError, speaks_openai
from functions.core.json import Json, UnstorableTextError, check_text, may_hold_unstorable

MAX_DEPTH = 64
"""Levels of arrays and objects; JSON schemas of tools stay far below."""

MAX_REPORTED = 20
"""Field errors listed in one answer."""

MAX_PATH_CHARACTERS = 200

Model = TypeVar("Model", bound=BaseModel)


async def read_json(request: Request, model: type[Model], branches: Collection[str] = ()) -> Model:
    """The body as `model`; `branches` are names of a union's types, which no path shows.

    Raises QuernelError: 400 `invalid_json` or `invalid_text`; `invalid_request` for wrong fields,
    which is 400 under /v1, as OpenAI answers, and 422 elsewhere; 413 `body_too_large`.
    """
    data = parse_json(await request.body())
    try:
        return model.model_validate(data)
    except ValidationError as error:
        listed = error.errors(include_url=False, include_input=False)
        raise invalid_fields(
            [e | {"loc": tuple(x for x in e["loc"] if x not in branches)} for e in listed],
            request.url.path,
        ) from None


def parse_json(raw: bytes) -> dict[str, Json]:
    """The JSON object in `raw`. Raises InvalidRequestError (`invalid_json`, `invalid_text`)."""
    try:
        data = _DECODER.decode(raw.decode())
    except UnicodeDecodeError:
        raise _malformed("The request body is not valid UTF-8.") from None
    except RecursionError:
        raise _malformed(_TOO_DEEP) from None
    except _RefusedError as error:
        raise _malformed(str(error)) from None
    except ValueError:
        # Also an integer of more digits than Python converts.
        raise _malformed("The request body is not valid JSON.") from None
    if not isinstance(data, dict):
        raise _malformed("The request body must be a JSON object.")
    # Counting brackets is much cheaper than walking, and enough for most bodies.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _depth_exceeds(data, MAX_DEPTH):
        raise _malformed(_TOO_DEEP)
    if may_hold_unstorable(raw):
        try:
            check_text(data)
        except UnstorableTextError:
            raise InvalidRequestError(
                "invalid_text", "Text must not contain NUL characters or unpaired surrogates."
            ) from None
    return data


def invalid_fields(errors: Iterable[Mapping[str, Any]], path: str) -> QuernelError:
    """The error for fields that do not fit: where and why, never what was sent.

    `errors` are those of pydantic's ValidationError or of FastAPI's RequestValidationError.
    """
    listed = [
        {"path": _path(error["loc"]), "message": _message(error)}
        for error, _ in zip(errors, range(MAX_REPORTED), strict=False)
    ]
    first = listed[0] if listed else {"path": "", "message": "is not valid"}
    where = first["path"] or "the body"
    return QuernelError(
        "invalid_request",
        400 if speaks_openai(path) else 422,
        f"Invalid request: {where}: {first['message']}.",
        {"param": first["path"] or None, "errors": listed},
    )


class _RefusedError(ValueError):
    """What the parser's hooks refuse; the message is public."""


_TOO_DEEP = f"The request body is nested deeper than {MAX_DEPTH} levels."

# Messages of these quote the input, or part of it.
_QUOTING = {
    "uuid_parsing": "must be a UUID",
    "uuid_type": "must be a UUID",
    "url_parsing": "must be a URL",
    "url_syntax_violation": "must be a URL",
    "datetime_parsing": "must be a date and time",
    "datetime_from_date_parsing": "must be a date and time",
    "date_parsing": "must be a date",
    "date_from_datetime_parsing": "must be a date",
    "time_parsing": "must be a time",
    "time_delta_parsing": "must be a duration",
    "json_invalid": "must be JSON",
    "decimal_parsing": "must be a decimal number",
}


def _message(error: Mapping[str, Any]) -> str:
    kind = str(error["type"])
    if kind in _QUOTING:
        return _QUOTING[kind]
    if kind == "union_tag_invalid":
        expected = error.get("ctx", {}).get("expected_tags", "")
        return f"must be one of {expected}"
    return str(error["msg"]).removeprefix("Value error, ").rstrip(".")


def _path(location: Iterable[int | str]) -> str:
    """`("body", "messages", 0, "role")` as `messages[0].role`."""
    path = ""
    for position, part in enumerate(location):
        if position == 0 and part in ("body", "query", "path", "header"):
            continue
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            # A key of the caller's can end up in a location; it must not smuggle anything.
            name = "".join(c for c in part if c.isprintable())
            path += f".{name}" if path else name
    return path[:MAX_PATH_CHARACTERS]


def _malformed(message: str) -> InvalidRequestError:
    return InvalidRequestError("invalid_json", message)


def _depth_exceeds(value: Json, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _RefusedError("The request body gives a key twice.")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _RefusedError("The request body holds a number that is too large.")
    return number


def _no_constant(_: str) -> NoReturn:
    raise _RefusedError("The request body is not valid JSON: NaN and Infinity are not numbers.")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_finite, parse_constant=_no_constant
)
