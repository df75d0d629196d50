"""Pure ASGI middleware, outermost first: RequestScope, Cors, ErrorBoundary, BodyLimit.

None of them wraps the response in a task or a queue, so a stream passes through chunk by chunk.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from http import HTTPStatus
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from functions.core import telemetry
from functions.core.errors import QuernelError, internal_error, render
from functions.core.logging import log_event, request_id_var

logger = logging.getLogger("quernel.request")

CLIENT_CLOSED = 499
"""Status logged when the client went away before there was one (nginx's number for it)."""

_CORRELATION = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class RequestScope:
    """Gives each request an id, adds it and the security headers to the answer, logs one line.

    The id is always ours, a new UUID. What the client sends as X-Request-Id is logged beside it as
    `client_request_id` when it is short and plain.
    """

    def __init__(self, app: ASGIApp, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._app = app
        self._headers = tuple(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watch = _Watch(scope, receive, send, self._headers)
        token = request_id_var.set(watch.request_id)
        try:
            with telemetry.span("request") as span:
                try:
                    await self._app(scope, watch.receive, watch.send)
                finally:
                    watch.log(span)
        finally:
            request_id_var.reset(token)


class _Watch:
    """What one request did: stands between the server and the app and counts."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: tuple[tuple[bytes, bytes], ...],
    ) -> None:
        self.request_id = str(uuid4())
        scope.setdefault("state", {})["request_id"] = self.request_id
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers = (*headers, (b"x-request-id", self.request_id.encode()))
        self._began = time.perf_counter()
        self._status: int | None = None
        self._bytes = 0
        self._complete = False
        self._disconnected = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._complete:
            self._disconnected = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            present = message.setdefault("headers", [])
            names = {name for name, _ in present}
            message["headers"] = [
                *present,
                *(header for header in self._headers if header[0] not in names),
            ]
        elif message["type"] == "http.response.body":
            self._bytes += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
        try:
            await self._send(message)
        except OSError:
            self._disconnected = True
            raise

    def log(self, span: telemetry.Span) -> None:
        seconds = time.perf_counter() - self._began
        route = self._scope.get("route")
        # Never the raw path: it may hold ids, and queries hold worse.
        fields: dict[str, object] = {
            "method": self._scope["method"],
            "route": getattr(route, "path_format", None) or getattr(route, "path", "unmatched"),
            "status": self._status or CLIENT_CLOSED,
            "duration_ms": round(seconds * 1000, 1),
            "bytes": self._bytes,
            "disconnected": self._disconnected or not self._complete,
        }
        code = self._scope["state"].get("error_code")
        if code is not None:
            fields["code"] = code
        correlation = Headers(scope=self._scope).get("x-request-id")
        if correlation is not None and _CORRELATION.fullmatch(correlation):
            fields["client_request_id"] = correlation
        log_event(logger, logging.INFO, "request", **fields)
        if telemetry.is_on():
            _tell(span, fields, seconds)


def _tell(span: telemetry.Span, fields: dict[str, object], seconds: float) -> None:
    known = {name: fields[name] for name in ("method", "route", "status")}
    code = fields.get("code")
    span.rename(f"{known['method']} {known['route']}")
    span.note(**known, error=code)
    telemetry.measure("request_seconds", seconds, **known)
    if int(str(known["status"])) >= HTTPStatus.INTERNAL_SERVER_ERROR:
        telemetry.count("failures", 1, where="request", error=code)


class Cors(CORSMiddleware):
    """Starlette's, with a refused preflight as an error of ours instead of a line of text."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        return response if response.status_code == HTTPStatus.OK else _RefusedPreflight()


class _RefusedPreflight(Response):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = QuernelError(
            "cors_refused",
            400,
            "Pages of this origin may not send such a request.",
            headers={"Vary": "Origin, Access-Control-Request-Method"},
        )
        scope["state"]["error_code"] = error.code
        await render(error, scope["path"])(scope, receive, send)


class ErrorBoundary:
    """Answers every QuernelError, and 500 `internal_error` for what nobody caught, which it logs.

    Once the answer has begun nothing more can be said: the server then closes the connection,
    because the answer is not complete, and the client sees that it broke off.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception as error:  # noqa: BLE001 - the boundary exists to catch everything
            await self._answer(error, scope, receive, send, started=started)

    @staticmethod
    async def _answer(
        error: Exception, scope: Scope, receive: Receive, send: Send, *, started: bool
    ) -> None:
        if started and isinstance(error, OSError):
            return  # The client is gone; the request line says so.
        answer = error if isinstance(error, QuernelError) else internal_error()
        scope["state"]["error_code"] = answer.code
        if answer is not error:
            logger.error("unhandled exception", exc_info=error)
        if not started:
            await render(answer, scope["path"])(scope, receive, send)


class BodyLimit:
    """Answers 413 `body_too_large` to a body over the limit, announced or found out while reading.

    An announced one is refused before any of it is read. In the other case reading raises, and
    whatever the app makes of that, the answer is the 413.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length")
        if length is not None and length.isdigit() and int(length) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        read = 0
        exceeded = started = False

        async def limited_receive() -> Message:
            nonlocal read, exceeded
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self._max_bytes:
                    exceeded = True
                    raise self._error()
            return message

        async def watched_send(message: Message) -> None:
            nonlocal started
            if exceeded and not started:
                return
            started = True
            await send(message)

        try:
            await self._app(scope, limited_receive, watched_send)
        except QuernelError:
            if not exceeded:
                raise
        if exceeded and not started:
            await self._refuse(scope, receive, send)

    def _error(self) -> QuernelError:
        return QuernelError(
            "body_too_large",
            413,
            f"The request body is larger than {self._max_bytes} bytes.",
            {"max_bytes": self._max_bytes},
        )

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["error_code"] = "body_too_large"
        await render(self._error(), scope["path"])(scope, receive, send)
