"""The tools of libraries: each is one function of the database, or two with a vector between."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any

from functions.core.database import Database
from functions.core.settings import Settings
from functions.libraries.embedding.queries import embed_query
from functions.libraries.schemas import QueryRequest, ResolveRequest


class LibraryService:
    """For people and for API keys with the scope `libraries`.

    Answers have `rate_limit` where the key has a limit: what RateLimit headers tell.

    Raises QuernelError: insufficient_scope, rate_limited and what any door refuses.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    async def resolve(self, origin: Mapping[str, Any], request: ResolveRequest) -> dict[str, Any]:
        """Libraries whose name is like the one given: {matches, is_cached}, and `rate_limit`."""
        answer: dict[str, Any] = await self._database.rpc(
            "library_resolve",
            p_query=request.query,
            p_library_name=request.library_name,
            p_limit=request.limit,
            **_who(origin, request.organization),
        )
        return answer

    async def query(self, origin: Mapping[str, Any], request: QueryRequest) -> dict[str, Any]:
        """What documentation says: with `state` and the HTTP `status` that says it.

        `ready` with `results`, or why there are none: `not_found`, `moved` with `moved_to`,
        `unfinished` with `progress`.
        """
        asked = {
            "p_query": request.query,
            "p_library_id": request.library_id,
            "p_version": request.version,
            "p_type": request.type,
            "p_tokens": request.tokens,
            "p_flagged": request.flagged,
            "p_limit": request.limit,
            **_who(origin, request.organization),
        }
        answer: dict[str, Any] = await self._database.rpc("library_query_begin", **asked)
        counted = {"rate_limit": answer["rate_limit"]} if "rate_limit" in answer else {}
        if not answer["is_answered"]:
            model = answer.get("embedding_model")
            vector = await embed_query(self._settings, model, request.query)
            answer = await self._database.rpc(
                "library_query",
                **asked | {"p_client": client_of(origin)},
                p_embedding=vector,
                p_embedding_model=None if vector is None else model,
            )
        return {name: value for name, value in answer.items() if name != "is_answered"} | counted


def _who(origin: Mapping[str, Any], organization: str | None) -> dict[str, Any]:
    """Who asks, and where from."""
    arguments: dict[str, Any] = origin["caller"].arguments
    return arguments | {
        "p_organization": organization or origin["organization"],
        "p_client": client_of(origin),
    }


def client_of(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Where a question comes from, and the milliseconds spent on it, for its usage row."""
    client = {
        "ip": origin["ip"],
        "user_agent": origin["user_agent"],
        "spent_ms": round((monotonic() - origin["since"]) * 1000),
    }
    return {name: value for name, value in client.items() if value is not None}
