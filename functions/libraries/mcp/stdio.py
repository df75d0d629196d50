"""`quernel-mcp`: the tools for programs on this machine, over standard input and output.

It asks a running Quernel, QUERNEL_URL, with an API key of the scope `libraries`, QUERNEL_API_KEY.
Only the protocol is written to standard output; what goes wrong is said on standard error.

Exit status: 0 done, 1 the server is not reached or refuses, 2 wrong usage.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any


async def serve(url: str, key: str) -> None:
    """Answer until standard input ends. Raises what the SDK's client raises."""
    import mcp_types as types  # noqa: PLC0415
    from mcp import Client, MCPError  # noqa: PLC0415 - an extra
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415
    from mcp.server.lowlevel import Server  # noqa: PLC0415
    from mcp.server.stdio import stdio_server  # noqa: PLC0415
    from mcp.shared._httpx_utils import create_mcp_http_client  # noqa: PLC0415

    headers = {"Authorization": f"Bearer {key}"}
    async with (
        create_mcp_http_client(headers=headers) as http,
        Client(streamable_http_client(f"{url.rstrip('/')}/mcp", http_client=http)) as remote,
    ):
        await remote.list_tools()  # whoever may not ask hears so at once

        async def list_tools(*_: Any) -> Any:  # noqa: ANN401 - of the SDK
            return await remote.list_tools()

        async def call_tool(_: Any, params: Any) -> Any:  # noqa: ANN401
            try:
                return await remote.call_tool(params.name, params.arguments)
            except MCPError as error:  # a limit, say: the model can wait, and the program goes on
                told = [types.TextContent(type="text", text=error.error.message)]
                return types.CallToolResult(content=told, is_error=True)

        server: Any = Server("quernel", on_list_tools=list_tools, on_call_tool=call_tool)
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())


def main() -> int:
    """The command."""
    url, key = os.environ.get("QUERNEL_URL", ""), os.environ.get("QUERNEL_API_KEY", "")
    if not url.startswith(("https://", "http://")) or not key:
        print("Set QUERNEL_URL and QUERNEL_API_KEY.", file=sys.stderr)
        return 2
    try:
        asyncio.run(serve(url, key))
    except ImportError:
        print("MCP needs its SDK: pip install 'quernel[libraries]'.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    except Exception as error:  # noqa: BLE001 - of the SDK, in groups
        # Its own words may hold the address; never the key, which is in no address.
        print(f"Quernel cannot be asked: {_innermost(error)}", file=sys.stderr)
        return 1
    return 0


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
