"""Structured logging: one JSON object per line, with the request's id and without secrets."""

from __future__ import annotations

import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from functions.core.json import dumps

request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request being served; every log line written meanwhile carries it."""

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
    """,
    re.VERBOSE,
)


def redact(text: str) -> str:
    """Replace everything that has the shape of a secret."""
    return _SECRET.sub(lambda m: (m["keep"] or m["scheme"] or "") + REDACTED, text)


class JsonFormatter(logging.Formatter):
    """One line per record: time, level, logger, message, request id, the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
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
        # Half a surrogate pair in a message must not cost the line.
        return dumps(_encodable(line)).decode()


def configure_logging(level: str) -> None:
    """Send every logger through one JSON handler.

    Call once per process; repeated calls replace the handler.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
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
