"""Who may answer a request, and who has answered it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """A model that may answer, as chat_start fixed it."""

    id: str
    upstream_model: str
    provider: str
    context_length: int
    max_tokens: int  # per choice; 0 where nothing is generated
    capabilities: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, row: dict[str, Any]) -> Candidate:
        """One of `candidates` of chat_start."""
        return cls(
            row["id"],
            row["upstream_model"],
            row["provider"],
            row["context_length"],
            row.get("max_tokens") or 0,
            row.get("capabilities") or {},
        )


@dataclass(frozen=True)
class Served:
    """Who answers."""

    candidate: Candidate
    provider: str
    credential: str
    attempts: int  # exchanges, the one that answered included

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says about it."""
        return {"x-quernel-provider": self.provider, "x-quernel-credential": self.credential}
