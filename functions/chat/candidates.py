"""Who may answer a request, and who has answered it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from functions.chat.own_keys import SealedKey
from functions.core import telemetry


@dataclass(frozen=True)
class Candidate:
    """A model that may answer, as chat_start fixed it."""

    id: str
    upstream_model: str
    provider: str
    context_length: int
    max_tokens: int | None  # per choice; 0 where nothing is generated, None: the server's own limit
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    credentials: tuple[str, ...] = ("platform",)  # who may pay, in the order in which they do
    own_keys: tuple[SealedKey, ...] = ()  # in the order in which they are tried

    @classmethod
    def read(cls, row: dict[str, Any]) -> Candidate:
        """One of `candidates` of chat_start."""
        return cls(
            row["id"],
            row["upstream_model"],
            row["provider"],
            row["context_length"],
            row["max_tokens"],
            row.get("capabilities") or {},
            tuple(row["credentials"]),
            tuple(map(SealedKey.read, row["own_keys"])),
        )


@dataclass(frozen=True)
class Served:
    """Who answers."""

    candidate: Candidate
    provider: str
    credential: str
    attempts: int  # exchanges, the one that answered included
    provider_key: str | None = None  # id of the customer's own key that paid
    span: telemetry.Span = field(default=telemetry.UNHEARD, repr=False, compare=False)

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says about it."""
        said = {"x-quernel-provider": self.provider, "x-quernel-credential": self.credential}
        if self.provider_key is not None:
            said["x-quernel-provider-key"] = self.provider_key
        return said
