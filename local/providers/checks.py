"""The cheapest endpoint of each provider that needs a key."""

from __future__ import annotations

from aiohttp import web

from local.providers.double import Double, Record, route


@route("openai", "GET", "/models")
@route("mistral", "GET", "/models")
async def _models(_: Double, record: Record) -> web.Response:
    row = {"id": f"{record.provider}-small", "object": "model", "created": 1, "owned_by": "double"}
    return web.json_response({"object": "list", "data": [row]})


@route("google", "GET", "/models")
async def _gemini_models(_: Double, __: Record) -> web.Response:
    return web.json_response({"models": [{"name": "models/gemini-3.8-flash"}]})


@route("anthropic", "GET", "/models")
async def _claude_models(_: Double, __: Record) -> web.Response:
    row = {"type": "model", "id": "claude-sonnet-5-5", "display_name": "Claude Sonnet 5.5"}
    return web.json_response({"data": [row], "has_more": False})


@route("xai", "GET", "/api-key")
async def _api_key(_: Double, __: Record) -> web.Response:
    return web.json_response(
        {
            "name": "double",
            "acls": ["api-key:model:*", "api-key:endpoint:*"],
            "api_key_blocked": False,
            "api_key_disabled": False,
            "team_blocked": False,
        }
    )


@route("openrouter", "GET", "/key")
async def _key(_: Double, __: Record) -> web.Response:
    return web.json_response(
        {"data": {"label": "double", "limit": 10, "limit_remaining": 9.5, "usage": 0.5}}
    )


@route("replicate", "GET", "/account")
async def _account(_: Double, __: Record) -> web.Response:
    return web.json_response({"type": "user", "username": "double", "name": "Double"})


@route("stability", "GET", "/v1/user/balance")
async def _balance(_: Double, __: Record) -> web.Response:
    return web.json_response({"credits": 42.5})
