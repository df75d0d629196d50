"""Structured logging: one JSON object per line, with the request's id and without secrets.

On a terminal of somebody's own machine the same lines are text (QUERNEL_LOG_FORMAT).
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

from functions.core.json import dumps

request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request, cron run or task at hand; every log line written meanwhile carries it.

A task has the id of what queued it: the database keeps it (private.request_id).
"""

REDACTED = "[redacted]"

_SECRET = re.compile(
    r"""
      (?P<keep>://[^/\s:@]*:) [^/\s@]+ (?=@)                             # the password inside a URL
    | (?P<scheme>(?i:bearer|basic)\s+) [A-Za-z0-9._~+/=-]{6,}             # an Authorization header
    | eyJ[A-Za-z0-9_-]{5,} \. [A-Za-z0-9_-]+ (?: \.[A-Za-z0-9_-]* )?      # a JSON Web Token
    # Quernel, Stripe, Supabase
    | (?<![A-Za-z0-9]) (?:qk|sk|rk|pk|whsec|sb_secret|sbp) _ [A-Za-z0-9_-]{6,}
    # model providers, forges
    | (?<![A-Za-z0-9]) (?:sk|gsk|xai|AIza|hf|ghp) [-_]? [A-Za-z0-9_-]{20,}
    # email addresses
    | (?<![A-Za-z0-9._%+-]) [A-Za-z0-9._%+-]{1,64} @ [A-Za-z0-9-]+ (?:\.[A-Za-z0-9-]+)+
    """,
    re.VERBOSE,
)


def redact(text: str) -> str:
    """Replace everything that has the shape of a secret or of an email address."""
    return _SECRET.sub(lambda m: (m["keep"] or m["scheme"] or "") + REDACTED, text)


@contextmanager
def request_id_is(request_id: str) -> Iterator[None]:
    """Everything within is done on behalf of that request."""
    token = request_id_var.set(request_id)
    try:
        yield
    finally:
        request_id_var.reset(token)


class JsonFormatter(logging.Formatter):
    """One line per record: time, level, logger, message, request id, the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        # Half a surrogate pair in a message must not cost the line.
        return dumps(_encodable(self.line(record))).decode()

    def line(self, record: logging.LogRecord) -> dict[str, Any]:
        """What the line says, by name."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        request_id = request_id_var.get()
        if request_id is not None:
            line["request_id"] = request_id
        for name, value in getattr(record, "fields", {}).items():
            line[name] = _loggable(value)
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return line


class TextFormatter(JsonFormatter):
    """The same for people: the time, the level and the message, then name=value."""

    def format(self, record: logging.LogRecord) -> str:
        line = _encodable(self.line(record))
        time, level, message = line.pop("time")[11:23], line.pop("level"), line.pop("message")
        exception = line.pop("exception", None)
        rest = " ".join(f"{name}={value}" for name, value in line.items())
        said = f"{time} {level:<7} {message}  {rest}"
        return said if exception is None else f"{said}\n{exception}"


def configure_logging(level: str, form: Literal["json", "text"] = "json") -> None:
    """Send every logger through one handler, which writes lines of that form.

    Call once per process; repeated calls replace the handler.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if form == "text" else JsonFormatter())
    root = logging.getLogger()
    for old in root.handlers:
        if isinstance(old.formatter, JsonFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # RequestScope writes the access line, with a route template where uvicorn would write the raw
    # path.
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    # These log URLs of every request they make at INFO.
    for name in ("httpx", "httpcore", "stripe", "psycopg.pool"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def log_event(logger: logging.Logger, level: int, event: str, /, **fields: object) -> None:
    """Log `event` (a short constant text) with `fields` as members of the JSON line."""
    if logger.isEnabledFor(level):
        logger.log(level, event, extra={"fields": fields})


def _loggable(value: object) -> bool | int | float | str | None:
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact(value if isinstance(value, str) else str(value))


def _encodable(line: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.encode(errors="replace").decode() if isinstance(value, str) else value
        for name, value in line.items()
    }
