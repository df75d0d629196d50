"""Who may come to /mcp and where they get a token: RFC 9728, and the Origin that is asked for.

https://modelcontextprotocol.io/specification/2025-11-25/basic/authorization and
https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#security-warning
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from functions.core.errors import QuernelError, UnauthenticatedError
from functions.core.json import Json, dumps
from functions.core.settings import Settings

WELL_KNOWN = "/.well-known/oauth-protected-resource"
MCP_PATH = "/mcp"
SCOPE = "libraries"

router = APIRouter()


class ProtectedRoute(APIRoute):
    """A route that no page of a stranger's reaches, and that says where a token is to be had."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            settings: Settings = request.app.state.settings
            check_origin(request.headers.getlist("origin"), settings)
            try:
                return await handle(request)
            except UnauthenticatedError as error:
                say_where(error, settings)
                raise

        return guarded


def say_where(error: UnauthenticatedError, settings: Settings) -> None:
    """Add to a 401 where it is said who gives tokens (RFC 9728, section 5.1)."""
    where = f"{settings.public_url}{WELL_KNOWN}{MCP_PATH}"
    error.headers["WWW-Authenticate"] += f', resource_metadata="{where}"'


def say_which_scope(error: QuernelError, settings: Settings) -> None:
    """Add to a 403 which scope is missing (RFC 6750, section 3.1)."""
    where = f"{settings.public_url}{WELL_KNOWN}{MCP_PATH}"
    error.headers["WWW-Authenticate"] = (
        f'Bearer error="{error.code}", scope="{SCOPE}", resource_metadata="{where}"'
    )


def check_origin(origins: list[str], settings: Settings) -> None:
    """Refuse a page of an origin that may not call: its name may lead here by a trick (rebinding).

    Programs send none. Raises QuernelError (`origin_not_allowed`).
    """
    allowed = {*settings.browser_origins, _origin_of(settings.public_url)}
    if "*" not in allowed and any(origin not in allowed for origin in origins):
        raise QuernelError(
            "origin_not_allowed", 403, "Pages of this origin may not call this address."
        )


@router.get(WELL_KNOWN, include_in_schema=False)
async def resource(request: Request) -> Response:
    """What the whole of this server says of itself."""
    return _metadata(request.app.state.settings, "")


@router.get(f"{WELL_KNOWN}{MCP_PATH}", include_in_schema=False)
async def mcp_resource(request: Request) -> Response:
    """The same of /mcp, which is what clients of MCP ask for first."""
    return _metadata(request.app.state.settings, MCP_PATH)


def _metadata(settings: Settings, path: str) -> Response:
    told: Json = {
        "resource": f"{settings.public_url}{path}",
        "resource_name": "Quernel",
        "authorization_servers": [settings.authorization_server],
        "bearer_methods_supported": ["header"],
    }
    return Response(dumps(told), media_type="application/json")


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
