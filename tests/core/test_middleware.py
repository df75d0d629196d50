"""Middleware: ids, log lines, body limits and the last resort for errors, at the level of ASGI."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from functions.core.errors import QuernelError
from functions.core.middleware import BodyLimit, ErrorBoundary, RequestScope

pytestmark = pytest.mark.anyio

LIMIT = 1000


class Exchange:
    """Plays the server for one request and keeps what the app sent."""

    def __init__(self, path: str = "/x", body: tuple[bytes, ...] = (), **headers: str) -> None:
        self.scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"token=s3cr3t",
            "headers": [
                (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
            ],
        }
        self._incoming: Iterator[Message] = iter(
            {"type": "http.request", "body": part, "more_body": at < len(body) - 1}
            for at, part in enumerate(body or (b"",))
        )
        self.read = 0
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        message = next(self._incoming, {"type": "http.disconnect"})
        self.read += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def run(self, app: ASGIApp) -> Exchange:
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        (start,) = (m for m in self.sent if m["type"] == "http.response.start")
        return int(start["status"])

    @property
    def headers(self) -> dict[str, str]:
        (start,) = (m for m in self.sent if m["type"] == "http.response.start")
        return {name.decode(): value.decode() for name, value in start["headers"]}

    @property
    def json(self) -> Any:
        return json.loads(b"".join(m.get("body", b"") for m in self.sent))


def stack(app: ASGIApp) -> ASGIApp:
    headers = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
    return RequestScope(ErrorBoundary(BodyLimit(app, LIMIT)), headers)


async def read_all(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def answer(send: Send, status: int = 200, *parts: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    await answer(send, 200, await read_all(receive))


def line(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (record,) = (r for r in caplog.records if r.getMessage() == "request")
    return record.fields  # type: ignore[attr-defined, no-any-return]


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


# Body limit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/billing/checkout"])
async def test_announced_body_over_the_limit_is_not_read(path: str) -> None:
    exchange = await Exchange(path, (b"x" * 5000,), content_length="5000").run(stack(echo))
    assert (exchange.status, exchange.read) == (413, 0)
    error = exchange.json.get("error", exchange.json)
    assert (error["code"], error["max_bytes"]) == ("body_too_large", LIMIT)


async def test_body_that_grows_over_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    exchange = await Exchange("/x", (b"x" * 400,) * 100).run(stack(echo))
    assert exchange.status == 413
    assert exchange.json["code"] == "body_too_large"
    assert exchange.read <= LIMIT + 400
    assert line(caplog)["code"] == "body_too_large"


async def test_a_length_that_lies_is_found_out() -> None:
    exchange = await Exchange("/x", (b"x" * 400,) * 5, content_length="10").run(stack(echo))
    assert exchange.status == 413


@pytest.mark.parametrize("length", ["-1", "1e9", "", "x", "9" * 30])
async def test_lengths_that_are_no_numbers_do_not_get_round_it(length: str) -> None:
    exchange = await Exchange("/x", (b"x" * 5000,), content_length=length).run(stack(echo))
    assert exchange.status == 413


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_whatever_the_app_makes_of_it_the_answer_is_413(status: int) -> None:
    async def swallows(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        try:
            await read_all(receive)
        except Exception:  # noqa: BLE001 - as a framework does
            await answer(send, status, b"oops")

    exchange = await Exchange("/x", (b"x" * 5000,)).run(stack(swallows))
    assert exchange.status == 413
    assert exchange.json["code"] == "body_too_large"


async def test_body_at_the_limit_passes() -> None:
    exchange = await Exchange("/x", (b"x" * LIMIT,), content_length=str(LIMIT)).run(stack(echo))
    assert exchange.status == 200


# Errors -------------------------------------------------------------------------------------------


async def test_unhandled_exception_is_a_500_that_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        raise RuntimeError("s3cr3t")

    for path in ("/v1/models", "/x"):
        caplog.clear()
        exchange = await Exchange(path).run(stack(breaks))
        assert exchange.status == 500
        assert "s3cr3t" not in str(exchange.sent)
        assert exchange.json.get("error", exchange.json)["code"] == "internal_error"
        assert exchange.headers["x-request-id"]
        assert "s3cr3t" in caplog.text
        assert line(caplog)["code"] == "internal_error"


async def test_quernel_errors_are_rendered(caplog: pytest.LogCaptureFixture) -> None:
    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        raise QuernelError("rate_limited", 429, "Slow down.", {"retry_after": 3})

    exchange = await Exchange("/v1/models").run(stack(refuses))
    assert (exchange.status, exchange.headers["retry-after"]) == (429, "3")
    assert line(caplog)["code"] == "rate_limited"
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


async def test_exception_in_mid_stream_is_logged_and_the_answer_stays_unfinished(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def breaks_off(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: 1", "more_body": True})
        raise RuntimeError("s3cr3t")

    exchange = await Exchange().run(stack(breaks_off))
    assert exchange.status == 200
    assert exchange.sent[-1]["more_body"] is True
    assert "unhandled exception" in caplog.text
    assert line(caplog) | {"duration_ms": 0} == {
        "method": "POST",
        "route": "unmatched",
        "status": 200,
        "duration_ms": 0,
        "bytes": 7,
        "disconnected": True,
        "code": "internal_error",
    }


async def test_cancellation_passes_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def waits(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        await asyncio.sleep(60)

    exchange = Exchange()
    task = asyncio.create_task(exchange.run(stack(waits)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert exchange.sent == []
    assert (line(caplog)["status"], line(caplog)["disconnected"]) == (499, True)


# Request id and log line --------------------------------------------------------------------------


async def test_every_answer_has_an_id_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        seen.append(scope["state"]["request_id"])
        await answer(send)

    theirs = "7b8e1f2a-0000-4000-8000-000000000000"
    exchange = await Exchange(x_request_id=theirs).run(stack(app))
    assert exchange.headers["x-request-id"] == seen[0] != theirs
    assert UUID(seen[0])
    assert line(caplog)["client_request_id"] == theirs


@pytest.mark.parametrize("theirs", ["", "a b", "x" * 65, 'a"b', "é", "\x1b[31m", "a\nb"])
async def test_ids_of_clients_that_are_not_plain_are_not_logged(
    caplog: pytest.LogCaptureFixture, theirs: str
) -> None:
    await Exchange(x_request_id=theirs).run(stack(echo))
    assert "client_request_id" not in line(caplog)


async def test_line_tells_the_template_and_never_path_or_query(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Route:
        path_format = "/users/{user_id}"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        scope["route"] = Route
        await answer(send, 201, b"12345")

    await Exchange("/users/ada@quernel.app").run(stack(app))
    fields = line(caplog)
    assert fields.pop("duration_ms") >= 0
    assert fields == {
        "method": "POST",
        "route": "/users/{user_id}",
        "status": 201,
        "bytes": 5,
        "disconnected": False,
    }
    assert "ada" not in caplog.text


async def test_a_client_that_leaves_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    async def streams(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        await read_all(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert (await receive())["type"] == "http.disconnect"
        await answer_rest(send)

    async def answer_rest(send: Send) -> None:
        await send({"type": "http.response.body"})

    await Exchange().run(stack(streams))
    assert line(caplog)["disconnected"] is True


async def test_a_connection_that_breaks_while_sending_is_no_defect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Gone(Exchange):
        async def send(self, message: Message) -> None:
            if message["type"] == "http.response.body":
                raise OSError("broken pipe")
            await super().send(message)

    await Gone().run(stack(echo))
    assert line(caplog)["disconnected"] is True
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


async def test_headers_are_added_and_the_apps_own_win() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        headers = [(b"cache-control", b"max-age=60")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    exchange = await Exchange().run(stack(app))
    assert exchange.headers["x-content-type-options"] == "nosniff"
    assert exchange.headers["cache-control"] == "max-age=60"
    assert len(exchange.sent[0]["headers"]) == 3


async def test_a_stream_passes_piece_by_piece() -> None:
    """No piece waits for the next one: each arrives before the app goes on."""
    exchange = Exchange()

    async def streams(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(5):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            assert len(exchange.sent) == number + 2

    await exchange.run(stack(streams))


async def test_other_protocols_pass_through() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        seen.append(scope["type"])

    exchange = Exchange()
    exchange.scope = {"type": "lifespan"}
    await exchange.run(stack(app))
    assert seen == ["lifespan"]
