"""The only door to the database: one named `backend.*` function per use case.

    database = await Database.open(settings)
    held = await database.rpc("chat_start", p_user_id=..., p_model=...)

By default the call goes to PostgREST (database_rest.py); when QUERNEL_DATABASE_URL is set, over a
pooled direct connection (database_direct.py). Both send the same JSON arguments, give the same
results and raise the same errors. One call is one transaction.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from decimal import Decimal
from typing import Self

from functions.core import json, telemetry
from functions.core.database_direct import DirectTransport
from functions.core.database_errors import DatabaseError, translate
from functions.core.database_rest import RestTransport
from functions.core.database_transport import Call, Transport
from functions.core.errors import InvalidRequestError
from functions.core.json import Json
from functions.core.logging import log_event
from functions.core.settings import Settings

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Calls per rpc() when Postgres rolled back because of a deadlock or serialization conflict."""

RETRY_BASE_SECONDS = 0.02
"""Upper bound of the random wait before the second attempt; doubles for each further one."""

_JITTER = random.SystemRandom()
_FUNCTION_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_PARAMETER_NAME = re.compile(r"p_[a-z0-9_]{1,61}")


class Database:
    """Calls database functions. One per process, shared by all requests."""

    def __init__(self, transport: Transport, timeout_seconds: float) -> None:
        self._transport = transport
        self._timeout_seconds = timeout_seconds

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Choose the transport and prepare it; does not wait for the database to answer.

        Raises SettingsError when neither QUERNEL_SUPABASE_SECRET_KEY nor QUERNEL_DATABASE_URL is
        set.
        """
        transport: Transport
        if settings.database_url is not None:
            transport = await DirectTransport.open(settings)
        else:
            transport = RestTransport.open(settings)
        return cls(transport, settings.database_timeout_seconds)

    async def aclose(self) -> None:
        """Close every connection; calls in flight fail."""
        await self._transport.aclose()

    async def rpc(self, function: str, /, **arguments: Json) -> Json:
        """Call `backend.<function>` and return its JSON result, numbers with a fraction as Decimal.

        Arguments are named `p_...`; one that is left out takes the default of the SQL function.
        UUID, datetime, Decimal, dict and list are accepted.

        Raises QuernelError: what the function refused, with its own code and status; 400
        `invalid_text` for text that Postgres cannot store; 503 `database_unavailable` or
        `database_timeout`; 500 `internal_error`, as OperatorError where the secret key is wrong.
        """
        return await self._call(_call_of(function, arguments), self._timeout_seconds)

    async def long_rpc(self, function: str, seconds: float, /, **arguments: Json) -> Json:
        """The same for a function that sets a longer statement_timeout: as long as `seconds`."""
        return await self._call(_call_of(function, arguments), seconds)

    async def _call(self, call: Call, seconds: float) -> Json:
        with telemetry.span("rpc", call.function, function=call.function) as span:
            result = await self._attempt(call, seconds, span)
        if telemetry.is_on():
            _count_credits(call.function, result)
        return result

    async def _attempt(self, call: Call, seconds: float, span: telemetry.Span) -> Json:
        attempt = 1
        while True:
            try:
                async with asyncio.timeout(seconds):
                    return await self._transport.call(call)
            except TimeoutError:
                failure = DatabaseError("client_timeout", "no answer in time")
            except DatabaseError as caught:
                failure = caught
            if failure.is_retryable and attempt < MAX_ATTEMPTS:
                log_event(
                    logger,
                    logging.INFO,
                    "database retry",
                    rpc=call.function,
                    sqlstate=failure.sqlstate,
                )
                await asyncio.sleep(_JITTER.uniform(0, RETRY_BASE_SECONDS * 2 ** (attempt - 1)))
                attempt += 1
                span.note(attempt=attempt)
                continue
            raise translate(failure, call.function)


def _count_credits(function: str, result: Json) -> None:
    """What a function charged that ends paid work; one that tells of it again does not count."""
    if function.endswith("_finish") and isinstance(result, dict):
        charged = result.get("credits_charged")
        if isinstance(charged, Decimal | int):
            telemetry.count("credits", float(charged), function=function)


def _call_of(function: str, arguments: dict[str, Json]) -> Call:
    """Raises InvalidRequestError for text that Postgres cannot store; ValueError for a bad name."""
    if not _FUNCTION_NAME.fullmatch(function):
        raise ValueError(f"not a function name: {function!r}")
    for name in arguments:
        if not _PARAMETER_NAME.fullmatch(name):
            raise ValueError(f"not a parameter name: {name!r}")
    # Text is exact where a JSON number might not be; Postgres reads either as numeric.
    exact = {
        name: format(value, "f") if isinstance(value, Decimal) else value
        for name, value in arguments.items()
    }
    try:
        encoded = json.dumps_storable(exact)
    except json.UnstorableTextError:
        raise InvalidRequestError(
            "invalid_text", "Text must not contain NUL characters or unpaired surrogates."
        ) from None
    return Call(function, tuple(arguments), encoded)
