"""Errors: a stable code, a status, a message for people, and facts a program can act on.

    QuernelError                 anything a caller is told about
    ├── InvalidRequestError      400    the request cannot be understood
    ├── UnauthenticatedError     401    no credential, or not a valid one
    ├── NotFoundError            404    there is no such thing, or not for this caller
    ├── UnavailableError         503    a part we stand on does not answer; has retry_after
    └── OperatorError            500    what only the operator is told; callers see internal_error

Errors of the database arrive as QuernelError with the code the SQL function gave. docs/errors.md
lists every code. Paths under /v1 answer in OpenAI's shape, all others as application/problem+json
(RFC 9457).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from functions.core.json import dumps

PROBLEM_TYPE = "urn:quernel:error:"
"""Prefix of the `type` member of a problem document; the code follows."""

_OPENAI_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_RESERVED = frozenset({"message", "type", "code", "param", "title", "status", "detail", "instance"})


class QuernelError(Exception):
    """An answer that is not a success.

    `code` is stable snake_case, `message` is public and holds no input of the caller, `facts` are
    added to the body. A fact `retry_after` (seconds) also becomes the Retry-After header, a fact
    `param` names the offending field. The private cause is logged where it happens and never
    travels in the exception.
    """

    def __init__(
        self,
        code: str,
        status: int,
        message: str,
        facts: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code, status, message)
        self.code = code
        self.status = status
        self.message = message
        self.facts = dict(facts or {})
        self.headers = dict(headers or {})

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"

    @property
    def is_server_error(self) -> bool:
        """Whether the fault is on this side."""
        return self.status >= HTTPStatus.INTERNAL_SERVER_ERROR

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the same request may succeed; None when waiting does not help."""
        seconds = self.facts.get("retry_after")
        return None if seconds is None else float(seconds)


class InvalidRequestError(QuernelError):
    """400: the request cannot be understood as it is."""

    def __init__(self, code: str, message: str, facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(code, 400, message, facts)


class UnauthenticatedError(QuernelError):
    """401: the credential is missing or not valid. Sets WWW-Authenticate (RFC 6750 section 3)."""

    def __init__(self, code: str, message: str) -> None:
        # RFC 6750: no error attribute when the request carried no credential at all.
        challenge = 'Bearer realm="quernel"'
        if code != "missing_credentials":
            challenge += f', error="invalid_token", error_description="{message}"'
        super().__init__(code, 401, message, headers={"WWW-Authenticate": challenge})


class NotFoundError(QuernelError):
    """404: there is no such thing, or not for this caller."""

    def __init__(self, code: str, message: str, facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(code, 404, message, facts)


class UnavailableError(QuernelError):
    """503: a part Quernel stands on does not answer; try again after `retry_after` seconds."""

    def __init__(self, code: str, message: str, retry_after: float = 1) -> None:
        super().__init__(code, 503, message, {"retry_after": retry_after})


class OperatorError(QuernelError):
    """500: this deployment is not set up right.

    Callers are told `internal_error` and nothing else. `operator_code` and `operator_message` are
    for whoever runs it: the `quernel` command prints them. Neither holds a secret.
    """

    def __init__(self, operator_code: str, operator_message: str) -> None:
        hidden = internal_error()
        super().__init__(hidden.code, hidden.status, hidden.message)
        self.operator_code = operator_code
        self.operator_message = operator_message


def internal_error() -> QuernelError:
    """The answer to a defect: says nothing about it."""
    return QuernelError("internal_error", 500, "Something went wrong on our side.")


def body(error: QuernelError, path: str) -> dict[str, Any]:
    """The JSON body of an error: OpenAI's shape under /v1, a problem document elsewhere."""
    facts = {name: value for name, value in error.facts.items() if name not in _RESERVED}
    param = error.facts.get("param")
    if speaks_openai(path):
        fallback = "server_error" if error.is_server_error else "invalid_request_error"
        kind = _OPENAI_TYPES.get(error.status, fallback)
        described = {"message": error.message, "type": kind, "param": param, "code": error.code}
        return {"error": described | facts}
    problem = {
        "type": PROBLEM_TYPE + error.code,
        "title": _title(error.code),
        "status": error.status,
        "detail": error.message,
        "code": error.code,
    }
    return problem | ({} if param is None else {"param": param}) | facts


def render(error: QuernelError, path: str) -> Response:
    """The HTTP answer to an error, for the request path it happened under."""
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers.setdefault("Retry-After", str(max(0, math.ceil(error.retry_after))))
    headers = rate_limit_headers(error.facts) | headers
    return Response(
        dumps(body(error, path)),
        status_code=error.status,
        headers=headers,
        media_type="application/json" if speaks_openai(path) else "application/problem+json",
    )


def rate_limit_headers(facts: Mapping[str, Any] | None) -> dict[str, str]:
    """RateLimit headers (draft-ietf-httpapi-ratelimit-headers-07, as most clients read them).

    From `limit`, `remaining` and `reset` (seconds until nothing is used); none where they lack.
    """
    names = ("limit", "remaining", "reset")
    if facts is None or not all(isinstance(facts.get(name), int) for name in names):
        return {}
    return {f"RateLimit-{name.capitalize()}": str(facts[name]) for name in names}


def speaks_openai(path: str) -> bool:
    """Whether clients of this path expect OpenAI's shapes."""
    return path == "/v1" or path.startswith("/v1/")


def from_status(status: int, headers: Mapping[str, str] | None = None) -> QuernelError:
    """The error for a bare HTTP status, such as the framework's own 404 and 405."""
    code, message = _BY_STATUS.get(status, (None, None))
    if code is None or message is None:
        phrase = HTTPStatus(status).phrase
        code, message = re.sub("[^a-z]+", "_", phrase.lower()), f"{phrase}."
    return QuernelError(code, status, message, headers=headers)


_BY_STATUS = {
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not accept that method."),
    413: ("body_too_large", "The request body is too large."),
    500: ("internal_error", "Something went wrong on our side."),
}


def _title(code: str) -> str:
    return code.replace("_", " ").capitalize()
