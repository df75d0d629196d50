"""The OpenAPI document: examples for routes, and the error shapes that every route shares."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from functions.core.errors import QuernelError, body, speaks_openai
from functions.core.json import Json

DESCRIPTION = """\
Chat over the OpenAI protocol, paid from prepaid credits.

Paths under `/v1` take and give OpenAI's shapes, errors included. All others answer errors as
`application/problem+json` (RFC 9457). Every error has a stable `code`; every answer has an
`x-request-id`.
"""

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")

_SHARED_MEMBERS: dict[str, Json] = {
    "code": {"type": "string", "description": "Stable, in snake case; see docs/errors.md."},
    "retry_after": {"type": "number", "description": "Seconds until the same request may succeed."},
}

_PROBLEM: dict[str, Json] = {
    "title": "Problem",
    "description": "An error (RFC 9457). Facts of the error are further members.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "For people."},
        **_SHARED_MEMBERS,
    },
}

_OPENAI_ERROR: dict[str, Json] = {
    "title": "OpenAIError",
    "description": "An error in OpenAI's shape. Facts of the error are further members of `error`.",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "For people."},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field at fault."},
                **_SHARED_MEMBERS,
            },
        }
    },
}

_EXAMPLE = QuernelError(
    "insufficient_credits",
    402,
    "Not enough credits for this request.",
    {"limit_source": "balance", "required": 12.5, "available": 3.1, "remedy": "buy_credits"},
)


def example(
    description: str, value: Json, *, status: int = 200, media_type: str = "application/json"
) -> dict[int | str, dict[str, Any]]:
    """The `responses` argument of a route: what it answers, shown by an example."""
    return {status: {"description": description, "content": {media_type: {"example": value}}}}


def body_of(model: type[BaseModel], value: Json = None) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads its body itself; `value` is an example of one."""
    schema = model.model_json_schema()
    content: dict[str, Any] = {"schema": _inlined(schema, schema.get("$defs", {}))}
    if value is not None:
        content["example"] = value
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _inlined(schema: Json, definitions: dict[str, Any]) -> Json:
    """A JSON schema without references, which would not resolve inside an OpenAPI document."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if reference := schema.get("$ref"):
        return _inlined(definitions[reference.rsplit("/", 1)[1]], definitions)
    return {name: _inlined(part, definitions) for name, part in schema.items() if name != "$defs"}


class DocumentedApp(FastAPI):
    """A FastAPI whose OpenAPI document states our errors instead of the framework's."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = _document(self)
        return self.openapi_schema


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = _PROBLEM
    schemas["OpenAIError"] = _OPENAI_ERROR
    for path, operations in document["paths"].items():
        for method in _METHODS:
            if method in operations:
                responses = operations[method]["responses"]
                responses.pop("422", None)
                responses["default"] = _error_response(path)
    return document


def _error_response(path: str) -> dict[str, Json]:
    openai = speaks_openai(path)
    media_type = "application/json" if openai else "application/problem+json"
    schema = {"$ref": f"#/components/schemas/{'OpenAIError' if openai else 'Problem'}"}
    content = {media_type: {"schema": schema, "example": body(_EXAMPLE, path)}}
    return {"description": "An error; `code` says which.", "content": content}
