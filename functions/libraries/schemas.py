"""Bodies of the routes of libraries, and examples of their answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from functions.core.json import Json

Organization = Annotated[str | None, Field(min_length=1, max_length=100)]
LibraryId = Annotated[str, Field(min_length=3, max_length=200)]


class ResolveRequest(BaseModel):
    """What a library is called, and what it is wanted for."""

    model_config = ConfigDict(extra="forbid")

    library_name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    query: Annotated[str, Field(max_length=2_000)] | None = None
    limit: Annotated[int, Field(strict=True, ge=1, le=50)] = 10
    organization: Organization = None


class QueryRequest(BaseModel):
    """A question to the documentation of a library."""

    model_config = ConfigDict(extra="forbid")

    query: Annotated[str, Field(min_length=1, max_length=10_000)]
    library_id: LibraryId
    version: Annotated[str, Field(min_length=1, max_length=50)] | None = None
    type: Literal["snippet", "guide", "api_ref"] | None = None
    tokens: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = None
    limit: Annotated[int, Field(strict=True, ge=1, le=100)] = 20
    flagged: Literal["down", "exclude"] = "down"
    organization: Organization = None


RESOLVE_EXAMPLE: Json = {"library_name": "lamp", "query": "turn a beam"}
RESOLVED_EXAMPLE: Json = {
    "matches": [
        {
            "library_id": "/coast/lamp",
            "title": "Lamp",
            "confidence": 0.98,
            "default_version": "1.0",
            "total_chunks": 120,
        }
    ],
    "is_cached": False,
}
QUERY_EXAMPLE: Json = {"library_id": "/coast/lamp", "query": "How do I turn a beam?"}
ANSWER_EXAMPLE: Json = {
    "state": "ready",
    "status": 200,
    "library_id": "/coast/lamp",
    "version": "1.0",
    "tokens": 42,
    "results": [
        {
            "title": "Beams",
            "headings": ["Beams", "Turning a beam"],
            "content": "Call `rotate_beam()` to turn the beam of the lamp.",
            "source_url": "https://lamp.example/docs/beams#turning-a-beam",
            "flags": [],
        }
    ],
    "is_cached": False,
}
