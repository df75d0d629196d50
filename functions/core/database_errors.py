"""What can go wrong in a database call, and what the caller is told about it.

A business error is raised in SQL by private.fail() as SQLSTATE PT<status>, with {"code": ...,
facts...} in DETAIL. All else is a fault of ours or of the infrastructure: its cause is logged here
without argument values, and the caller gets one of three stable codes.
"""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Any

from functions.core import json
from functions.core.errors import (
    InvalidRequestError,
    OperatorError,
    QuernelError,
    UnauthenticatedError,
    UnavailableError,
    internal_error,
)
from functions.core.logging import log_event

logger = logging.getLogger(__name__)

UNREACHABLE = "unreachable"
"""`sqlstate` of a failure in which the connection failed, so that no SQLSTATE arrived."""

KEY_REFUSED = "key_refused"
"""`sqlstate` when the gateway or PostgREST refused the secret key, so that nothing was called."""

_RETRYABLE = frozenset({"40001", "40P01"})
# Postgres rolled these back itself (serialization_failure, deadlock_detected): nothing was
# committed, so the same call may run again. A connection lost in mid-call is not here: it may have
# committed.

_TIMEOUTS = frozenset({"57014", "55P03", "25P03", "25P04", "57P05", "client_timeout"})
# query_canceled, lock_not_available, idle and transaction timeouts

_UNAVAILABLE_CLASSES = ("08", "53", "57P", "58", "PGRST00")
# connection, insufficient resources, operator intervention, system error; PostgREST without a
# database

_UNSTORABLE = frozenset({"22021", "22P05"})
# character_not_in_repertoire, untranslatable_character

_BUSINESS = re.compile(r"PT([45]\d\d)")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")


class DatabaseError(Exception):
    """A call that did not return.

    `sqlstate` is Postgres's, PostgREST's or one of our own words; never shown.
    """

    def __init__(
        self,
        sqlstate: str,
        message: str,
        detail: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(sqlstate, message)
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail
        self.retry_after = retry_after

    @property
    def is_retryable(self) -> bool:
        """Whether it is certain that nothing was committed and that running again can succeed."""
        return self.sqlstate in _RETRYABLE


def translate(failure: DatabaseError, function: str) -> QuernelError:
    """The public error for a failure.

    Logs the private cause of those that are not business errors.
    """
    business = _BUSINESS.fullmatch(failure.sqlstate)
    if business:
        return _business_error(int(business[1]), failure)
    if failure.sqlstate in _UNSTORABLE:
        return InvalidRequestError(
            "invalid_text", "Text must not contain characters that cannot be stored."
        )
    error = _infrastructure_error(failure)
    log_event(
        logger,
        logging.ERROR if error.status == HTTPStatus.INTERNAL_SERVER_ERROR else logging.WARNING,
        "database failure",
        rpc=function,
        sqlstate=failure.sqlstate,
        # Messages of class 22 (data exception) and constraint violations quote the values they
        # complain about.
        cause=_QUOTED.sub("…", failure.message)
        if failure.sqlstate[:2] == "22"
        else failure.message,
    )
    return error


def _infrastructure_error(failure: DatabaseError) -> QuernelError:
    retry_after = failure.retry_after or 1
    if failure.sqlstate in _TIMEOUTS:
        return UnavailableError(
            "database_timeout", "The database did not answer in time. Try again.", retry_after
        )
    if failure.sqlstate in _RETRYABLE:
        return UnavailableError(
            "database_unavailable", "The database is busy. Try again.", retry_after
        )
    if failure.sqlstate == UNREACHABLE or failure.sqlstate.startswith(_UNAVAILABLE_CLASSES):
        return UnavailableError(
            "database_unavailable", "The database cannot be reached. Try again.", retry_after
        )
    if failure.sqlstate == KEY_REFUSED:
        return OperatorError(
            "secret_key_refused", "Supabase refused the secret key (QUERNEL_SUPABASE_SECRET_KEY)."
        )
    return internal_error()


def _business_error(status: int, failure: DatabaseError) -> QuernelError:
    facts = _facts(failure.detail)
    code = facts.pop("code", None)
    if not isinstance(code, str):
        # A bare `raise ... using errcode = 'PT404'` has no code; the status alone is still worth
        # telling.
        log_event(logger, logging.ERROR, "database error without a code", cause=failure.message)
        code = "refused"
    if status == HTTPStatus.UNAUTHORIZED:
        return UnauthenticatedError(code, failure.message)
    return QuernelError(code, status, failure.message, facts)


def _facts(detail: str | None) -> dict[str, Any]:
    try:
        facts = json.loads(detail or "{}")
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}
