"""Bodies of the routes of those who own libraries, and examples of their answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from functions.core.json import Json
from functions.libraries.schemas import Organization

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Of an organization or a project in an id."""

LIBRARY_ID = r"^/[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"
MAX_ID = 100
YEAR_SECONDS = 31_536_000

Alias = Annotated[str, Field(min_length=1, max_length=100)]
WebAddress = Annotated[str, Field(pattern=r"^https?://", max_length=500)]


class LibraryRequest(BaseModel):
    """A library to be added, private to an organization."""

    model_config = ConfigDict(extra="forbid", strict=True)

    library_id: Annotated[str, Field(pattern=LIBRARY_ID, max_length=MAX_ID)]
    """`/organization/project`: it begins with the slug of the organization."""

    title: Annotated[str, Field(min_length=1, max_length=255)]
    source_kind: Literal["git", "site", "archive", "pypi", "npm"]
    source_url: Annotated[str | None, Field(min_length=1, max_length=500)] = None
    """A repository, a site or the name of a package; none for an archive, which is uploaded."""

    description: Annotated[str, Field(max_length=2_000)] = ""
    docs_url: WebAddress | None = None
    aliases: Annotated[list[Alias], Field(max_length=20)] = []
    refresh_seconds: Annotated[int | None, Field(ge=3_600, le=YEAR_SECONDS)] = None
    metadata: dict[str, Any] = {}
    organization: Organization = None
    """Id or slug; an organization's API key needs none."""

    @model_validator(mode="after")
    def _names_its_source(self) -> Self:
        if self.source_kind == "archive":
            if self.source_url is not None:
                raise ValueError("an archive is uploaded, so it has no source_url")
        elif self.source_url is None:
            raise ValueError(f"{self.source_kind} needs a source_url")
        elif self.source_kind in ("git", "site") and not self.source_url.startswith("https://"):
            raise ValueError(f"the source_url of {self.source_kind} begins with https://")
        return self

    @property
    def values(self) -> dict[str, Json]:
        """What backend.library_add() takes as p_values."""
        names = {"description", "docs_url", "aliases", "refresh_seconds", "metadata"}
        return self.model_dump(include=names)


ADD_EXAMPLE: Json = {
    "library_id": "/coast/lamp",
    "title": "Lamp",
    "source_kind": "archive",
    "organization": "coast",
}
LIBRARY_EXAMPLE: Json = {
    "library_id": "/coast/lamp",
    "title": "Lamp",
    "is_public": False,
    "source_kind": "archive",
    "default_version": "latest",
    "total_versions": 1,
    "total_chunks": 120,
    "total_tokens": 34_000,
    "state": "ready",
    "crawl": {"step": "ready", "progress": 100, "error_code": None, "error_message": None},
}
UPLOAD_EXAMPLE: Json = {
    "method": "PUT",
    "url": "https://project.supabase.co/storage/v1/object/upload/sign/libraries/uploads/…?token=…",
    "headers": {"content-type": "application/octet-stream"},
    "bucket": "libraries",
    "path": "uploads/…",
    "token": "…",
    "expires_in": 7200,
    "max_bytes": 268_435_456,
}
ADDED_EXAMPLE: Json = LIBRARY_EXAMPLE | {
    "default_version": None,
    "total_versions": 0,
    "state": "unfinished",
    "step": "uploading",
    "upload": UPLOAD_EXAMPLE,
}
READ_EXAMPLE: Json = LIBRARY_EXAMPLE | {
    "versions": [{"version": "latest", "is_latest": True, "is_searched": True, "total_chunks": 120}]
}
DELETED_EXAMPLE: Json = {"library_id": "/coast/lamp", "deleted": True}
