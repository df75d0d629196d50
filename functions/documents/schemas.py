"""Bodies of the routes of documents, and examples of their answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from functions.core.json import Json

FileName = Annotated[str, Field(min_length=1, max_length=255)]
MOST_DOCUMENTS = 100
"""That a search may be narrowed to."""


class DocumentRequest(BaseModel):
    """A document to be added; its file is uploaded then."""

    model_config = ConfigDict(extra="forbid", strict=True)

    original_filename: FileName
    mime_type: Annotated[str, Field(min_length=1, max_length=100)]
    file_size: Annotated[int, Field(ge=1, le=2**53)]
    """Bytes."""

    name: FileName | None = None
    """For people; the name of the file unless given."""

    metadata: dict[str, Any] = {}
    organization: Annotated[str | None, Field(min_length=1, max_length=100)] = None
    """Id or slug of the one that it is for; an organization's API key needs none."""

    @property
    def values(self) -> dict[str, Json]:
        """What backend.document_add() takes as p_values."""
        return self.model_dump(exclude={"organization"}, exclude_none=True)


class SearchRequest(BaseModel):
    """A question to documents."""

    model_config = ConfigDict(extra="forbid")

    query: Annotated[str, Field(min_length=1, max_length=10_000)]
    document_ids: Annotated[list[UUID], Field(max_length=MOST_DOCUMENTS)] | None = None
    """Narrows it; nothing is found by an id that could not be found without."""

    tokens: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = None
    limit: Annotated[int, Field(strict=True, ge=1, le=100)] = 20
    flagged: Literal["down", "exclude"] = "down"
    organization: Annotated[str | None, Field(min_length=1, max_length=100)] = None
    """Id or slug: that organization's documents alone."""


REQUEST_EXAMPLE: Json = {
    "original_filename": "rules.md",
    "mime_type": "text/markdown",
    "file_size": 5120,
}
DOCUMENT_EXAMPLE: Json = {
    "id": "01999c5e-0000-7000-8000-000000000001",
    "name": "rules.md",
    "original_filename": "rules.md",
    "mime_type": "text/markdown",
    "file_size": 5120,
    "state": "ready",
    "progress": 100,
    "error_code": None,
    "page_count": None,
    "chunk_count": 4,
}
ADDED_EXAMPLE: Json = DOCUMENT_EXAMPLE | {
    "state": "uploading",
    "progress": 0,
    "chunk_count": 0,
    "upload": {
        "method": "PUT",
        "url": "https://project.supabase.co/storage/v1/object/upload/sign/documents/…?token=…",
        "headers": {"content-type": "text/markdown"},
        "bucket": "documents",
        "path": "…/rules.md",
        "token": "…",
        "expires_in": 7200,
        "max_bytes": 52_428_800,
    },
}
SEARCH_EXAMPLE: Json = {"query": "What does a berth cost?"}
FOUND_EXAMPLE: Json = {
    "tokens": 12,
    "results": [
        {
            "document_id": "01999c5e-0000-7000-8000-000000000001",
            "name": "rules.md",
            "pages": [],
            "headings": ["Harbour rules", "Fees"],
            "content": "A berth costs nine coins.",
            "flags": [],
        }
    ],
}
DELETED_EXAMPLE: Json = {"id": "01999c5e-0000-7000-8000-000000000001", "deleted": True}
