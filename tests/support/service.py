"""Calls backend functions through the gateway, as functions/ does, but without its code."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Self

import httpx


class ServiceError(Exception):
    """The database refused: HTTP status, stable code and facts (from DETAIL), message."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        self.status = status
        self.sqlstate = body.get("code")
        self.message = body.get("message")
        try:
            detail = json.loads(body.get("details") or "{}", parse_float=Decimal)
        except ValueError:
            detail = {}
        self.code: str | None = detail.pop("code", None) if isinstance(detail, dict) else None
        self.facts: dict[str, Any] = detail if isinstance(detail, dict) else {}
        super().__init__(f"{status} {self.code or self.sqlstate}: {self.message} {self.facts}")


class Service:
    """PostgREST with the secret key."""

    def __init__(self, supabase_url: str, secret_key: str) -> None:
        self.http = httpx.Client(
            base_url=f"{supabase_url}/rest/v1",
            headers={"apikey": secret_key, "Authorization": f"Bearer {secret_key}"},
            trust_env=False,
            timeout=30,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def rpc(self, name: str, /, *, schema: str = "backend", **arguments: Any) -> Any:
        """Call one function. Numbers come back as int or Decimal. Raises ServiceError."""
        answer = self.http.post(
            f"/rpc/{name}",
            content=json.dumps(arguments, default=str),
            headers={"Content-Profile": schema, "Content-Type": "application/json"},
        )
        if answer.status_code >= 400:
            raise ServiceError(answer.status_code, answer.json())
        return json.loads(answer.content, parse_float=Decimal) if answer.content else None
