"""The web app: puts routers, middleware and error handlers together and decides nothing else."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response

from functions.agents import api as agents
from functions.billing import api as billing
from functions.chat import api as chat
from functions.conversations import api as conversations
from functions.core import api_reference, health
from functions.core.errors import QuernelError, from_status, render
from functions.core.lifespan import lifespan
from functions.core.logging import configure_logging
from functions.core.middleware import BodyLimit, Cors, ErrorBoundary, RequestScope
from functions.core.openapi import DocumentedApp
from functions.core.request_body import invalid_fields
from functions.core.security_headers import security_headers
from functions.core.settings import Settings, get_settings
from functions.documents import api as documents
from functions.images import ad_rewards
from functions.images import api as images
from functions.libraries import api as libraries
from functions.libraries import owners_api as library_owners
from functions.libraries.mcp import discovery as mcp_discovery
from functions.libraries.mcp import server as mcp
from functions.notifications import api as notifications
from functions.privacy import api as privacy
from functions.provider_keys import api as provider_keys

VERSION = "0.1.0"

EXPOSED_HEADERS = (
    "x-request-id",
    "retry-after",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "idempotent-replayed",
    "x-quernel-provider",
    "x-quernel-credential",
    "x-quernel-provider-key",
)
"""Answer headers that scripts of other origins may read."""

ROUTERS = (
    chat.router,
    agents.router,
    conversations.router,
    images.router,
    libraries.router,
    library_owners.router,
    documents.router,
    mcp.router,
    mcp_discovery.router,
    ad_rewards.router,
    billing.router,
    notifications.router,
    provider_keys.router,
    privacy.router,
    health.router,
    api_reference.router,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The app for these settings, or for the environment's; opens nothing until it is started."""
    settings = settings or get_settings()
    configure_logging(settings.log_level, settings.log_form)
    app = DocumentedApp(
        title="Quernel",
        version=VERSION,
        lifespan=lifespan(settings),
        middleware=_middleware(settings),
        # Both pages would load their scripts from another host: see api_reference.
        docs_url=None,
        redoc_url=None,
        # Its exporters would configure themselves from variables that Settings does not know.
        telemetry={"auto_configure": False},
    )
    app.state.settings = settings
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_parameters)
    return app


def _middleware(settings: Settings) -> list[Middleware]:
    """Outermost first. CORS is outside of the error boundary: errors need its headers too."""
    return [
        Middleware(RequestScope, headers=security_headers(settings)),
        Middleware(
            Cors,
            allow_origins=settings.browser_origins,
            allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
            # Clients in browsers add headers of their own; the origin is what is limited.
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
            max_age=3600,
        ),
        Middleware(ErrorBoundary),
        Middleware(BodyLimit, max_bytes=settings.max_body_bytes),
    ]


async def _http_error(request: Request, error: Exception) -> Response:
    """The framework's own errors, such as 404 and 405, in our shape."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for no other
    return _answer(request, from_status(error.status_code, error.headers))


async def _invalid_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for no other
    return _answer(request, invalid_fields(error.errors(), request.url.path))


def _answer(request: Request, error: QuernelError) -> Response:
    request.state.error_code = error.code
    return render(error, request.url.path)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the signature Python asks for
    """`functions.app:app` for uvicorn, made when asked for: importing reads no environment."""
    if name == "app":
        return create_app()
    raise AttributeError(name)
