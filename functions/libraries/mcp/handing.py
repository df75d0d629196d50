"""Between the SDK and the client: what a tool heard becomes the status and headers of the answer.

The SDK answers 200 whatever a tool says. Clients and proxies understand 429 and 401 without reading
what is inside, so an answer that is one of them is replaced before it begins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from functions.core.errors import QuernelError, body, rate_limit_headers, render
from functions.core.json import dumps

HEARD = "quernel.heard"
SERVER_ERROR = -32000
"""JSON-RPC 2.0 leaves -32000 to -32099 to servers."""


@dataclass
class Heard:
    """What a tool was told while it answered."""

    rate_limit: dict[str, Any] | None = None
    refusal: QuernelError | None = None
    request_id: str | int | None = field(default=None)

    def refuse(self, error: QuernelError, request_id: str | int | None) -> None:
        self.refusal = error
        self.request_id = request_id


class Handed(Response):
    """An answer that another application gives, in one piece."""

    def __init__(self, app: Any) -> None:  # noqa: ANN401 - an ASGI application
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        heard: Heard = scope[HEARD]
        is_replaced = False

        async def told(message: Message) -> None:
            nonlocal is_replaced
            if is_replaced:
                return
            if message["type"] == "http.response.start":
                if heard.refusal is not None:
                    is_replaced = True
                    scope["state"]["error_code"] = heard.refusal.code
                    await refusal(heard.refusal, scope["path"], heard.request_id)(
                        scope, receive, send
                    )
                    return
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers.update(rate_limit_headers(heard.rate_limit))
            await send(message)

        await self._app(scope, receive, told)


def refusal(error: QuernelError, path: str, request_id: str | int | None) -> Response:
    """An error with its status and headers, as JSON-RPC tells it."""
    headers = dict(render(error, path).headers)
    for name in ("content-length", "content-type"):
        del headers[name]
    wait = f" Try again in {math.ceil(error.retry_after)} seconds." if error.retry_after else ""
    told = {
        "jsonrpc": "2.0",
        "id": request_id,
        "error": {
            "code": SERVER_ERROR,
            "message": f"{error.message}{wait}",
            "data": body(error, path),
        },
    }
    return Response(dumps(told), error.status, headers, media_type="application/json")
