"""/mcp: streamable HTTP without sessions or streams, by the official SDK. One POST, one answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from functions.chat.api import OriginDep
from functions.core.errors import OperatorError, QuernelError, UnauthenticatedError
from functions.libraries.mcp import tools
from functions.libraries.mcp.discovery import ProtectedRoute, say_where, say_which_scope
from functions.libraries.mcp.handing import HEARD, Handed, Heard
from functions.libraries.service import LibraryService

ORIGIN = "quernel.origin"
MAX_BODY_BYTES = 256 * 1024


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the SDK's manager; without the SDK the route says what is missing."""
    async with AsyncExitStack() as stack:
        try:
            manager = _manager(app)
        except ImportError:
            manager = None
        else:
            await stack.enter_async_context(manager.run())
        app.state.mcp = manager
        yield


router = APIRouter(lifespan=_lifespan, route_class=ProtectedRoute)


@router.post("/mcp", include_in_schema=False)
async def mcp(request: Request, origin: OriginDep) -> Response:
    """Answer one message. Nobody is let in without a credential."""
    if request.app.state.mcp is None:
        raise OperatorError("mcp_missing", "MCP needs its SDK: pip install 'quernel[libraries]'.")
    request.scope[ORIGIN] = origin
    request.scope[HEARD] = Heard()
    return Handed(request.app.state.mcp.asgi_app)


def _manager(app: FastAPI) -> Any:  # noqa: ANN401 - of the SDK, which is an extra
    """Raises ImportError."""
    import mcp_types as types  # noqa: PLC0415
    from mcp.server.lowlevel import Server  # noqa: PLC0415
    from mcp.server.streamable_http_manager import (  # noqa: PLC0415
        StreamableHTTPSessionManager,
    )

    reads = types.ToolAnnotations(
        read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    )
    listed = [
        types.Tool(
            name=name, description=text, input_schema=dict(schema), annotations=reads, title=title
        )
        for name, title, text, schema in (
            (tools.RESOLVE, "Find a library", tools.RESOLVE_TEXT, tools.RESOLVE_SCHEMA),
            (tools.QUERY, "Ask documentation", tools.QUERY_TEXT, tools.QUERY_SCHEMA),
        )
    ]

    async def list_tools(*_: Any) -> Any:  # noqa: ANN401
        return types.ListToolsResult(tools=listed)

    async def call_tool(context: Any, params: Any) -> Any:  # noqa: ANN401
        service = LibraryService(app.state.database, app.state.settings)
        scope = context.request.scope
        heard: Heard = scope[HEARD]
        try:
            text, data = await tools.call_tool(
                service, scope[ORIGIN], params.name, params.arguments or {}
            )
        except tools.ToolError as error:
            told = [types.TextContent(type="text", text=str(error))]
            return types.CallToolResult(content=told, is_error=True)
        except QuernelError as error:
            if isinstance(error, UnauthenticatedError):
                say_where(error, app.state.settings)
            elif error.code == tools.INSUFFICIENT_SCOPE:
                say_which_scope(error, app.state.settings)
            heard.refuse(error, context.request_id)  # the answer becomes that
            return types.CallToolResult(content=[], is_error=True)
        heard.rate_limit = data.pop("rate_limit", None)
        told = [types.TextContent(type="text", text=text)]
        return types.CallToolResult(content=told, structured_content=data)

    server: Any = Server("quernel", on_list_tools=list_tools, on_call_tool=call_tool)
    return StreamableHTTPSessionManager(
        server, json_response=True, stateless=True, max_request_body_size=MAX_BODY_BYTES
    )
