"""Log lines: JSON, one per record, with the request's id, without secrets."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from functions.core.logging import (
    REDACTED,
    JsonFormatter,
    TextFormatter,
    configure_logging,
    log_event,
    redact,
    request_id_is,
    request_id_var,
)
from functions.core.settings import Settings

# Put together here, so that no scanner of secrets takes the file for a leak.
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxIn0" + ".c2lnbmF0dXJl"
SECRETS = [
    "qk_" + "live0123456789abcdef",
    "sk_" + "test_51Habcdefgh",
    "rk_" + "live_51Habcdefgh",
    "whsec_" + "0123456789abcdef",
    "sb_secret_" + "N7UND0UgjKTVK-Uodkm0Hg",
    "sk-" + "proj-abcdefghijklmnopqrstuvwx",
    JWT,
]


@pytest.fixture
def lines() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("tests.core.logging")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield logger, stream
    logger.removeHandler(handler)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", ["{}", "key={} sent", "\n{}\n", '{{"k":"{}"}}', "Bearer {}"])
def test_redacts(secret: str, around: str) -> None:
    text = redact(around.format(secret))
    assert secret not in text
    assert REDACTED in text


def test_redacts_the_password_of_a_url_and_keeps_the_rest() -> None:
    text = redact("connecting to postgresql://quernel:hunter2@db:5432/postgres")
    assert text == f"connecting to postgresql://quernel:{REDACTED}@db:5432/postgres"


@pytest.mark.parametrize(
    "text",
    ["task_retry", "desk_lamp_on", "a bearer of news", "risk_level_high", "sk_", "3 < 4", "ok"],
)
def test_keeps_ordinary_text(text: str) -> None:
    assert redact(text) == text


def test_secrets_in_messages_fields_and_tracebacks_are_redacted(
    lines: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, stream = lines
    try:
        int(f"refused {SECRETS[0]}")
    except ValueError:
        logger.exception("failed with %s", SECRETS[1], extra={"fields": {"header": SECRETS[4]}})
    written = stream.getvalue()
    assert written.count("\n") == 1
    line = json.loads(written)
    assert "ValueError" in line["exception"]
    assert not any(secret in written for secret in SECRETS)


def test_line_is_one_json_object_whatever_is_logged() -> None:
    # Formatted here and not logged: pytest itself cannot report such a record.
    record = logging.makeLogRecord({"msg": 'line\nbreak " \x00 \ud800 é', "levelname": "INFO"})
    written = JsonFormatter().format(record)
    assert "\n" not in written
    assert json.loads(written)["message"] == 'line\nbreak " \x00 ? é'


def test_fields_and_request_id_are_members(lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = lines
    token = request_id_var.set("4b0c")
    try:
        log_event(logger, logging.WARNING, "slow", duration_ms=12.5, again=True, what=object)
    finally:
        request_id_var.reset(token)
    line = json.loads(stream.getvalue())
    assert (line["message"], line["level"], line["request_id"]) == ("slow", "warning", "4b0c")
    assert (line["duration_ms"], line["again"]) == (12.5, True)


def test_configuring_twice_writes_one_line() -> None:
    root = logging.getLogger()
    before = list(root.handlers)
    level = root.level
    try:
        configure_logging("WARNING")
        configure_logging("WARNING")
        ours = [h for h in root.handlers if isinstance(h.formatter, JsonFormatter)]
        assert len(ours) == 1
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def test_text_for_people_says_the_same() -> None:
    record = logging.LogRecord("quernel", logging.WARNING, "", 0, "task ended", None, None)
    record.fields = {"kind": "send_email", "key": SECRETS[0]}
    with request_id_is("7b8e1f2a"):
        text = TextFormatter().format(record)
    assert text[12:].startswith(" warning task ended  ")
    assert "request_id=7b8e1f2a" in text
    assert "kind=send_email" in text
    assert SECRETS[0] not in text


def test_text_shows_where_it_broke() -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        record = logging.LogRecord("quernel", logging.ERROR, "", 0, "e", None, sys.exc_info())
    assert TextFormatter().format(record).endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize("around", ["{}", "to {}, refused", "<{}>", "user={}&x=1"])
def test_redacts_email_addresses(around: str) -> None:
    assert redact(around.format("ada.l+x@mail.quernel.app")) == around.format(REDACTED)


def test_the_form_of_lines_is_json_unless_somebody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().log_form == "json"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert Settings().log_form == "text"
    assert Settings(environment="test").log_form == "json"
    assert Settings(log_format="json").log_form == "json"
    assert Settings(environment="test", log_format="text").log_form == "text"
