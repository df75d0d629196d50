"""The customer's own keys for one request: opened when they are used, and what became of each.

A sealed key comes with the hold and is opened right before the provider is called. What was used
goes back with what closes the hold, so that every use leaves its record without another round trip.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from functions.chat.credentials import Credential
from functions.core.errors import OperatorError
from functions.core.json import Json
from functions.provider_keys.rows import place_of, sealed_of
from functions.provider_keys.vault import Place, Sealed, Vault

Outcome = Literal["completed", "cancelled", "rejected", "quota_exceeded", "rate_limited", "failed"]


class VaultNotConfiguredError(OperatorError):
    """Customers have keys, and this process was given no master key to open them with."""

    def __init__(self) -> None:
        super().__init__(
            "vault_not_configured",
            "There are provider keys, and QUERNEL_MASTER_KEYS is not set: none can be opened.",
        )


@dataclass(frozen=True)
class SealedKey:
    """A key as chat_start hands it out."""

    id: str
    secret_version: int
    base_url: str | None
    place: Place
    sealed: Sealed = field(repr=False)

    @classmethod
    def read(cls, row: dict[str, Any]) -> SealedKey:
        """One of `own_keys` of a candidate."""
        return cls(row["id"], row["secret_version"], row["base_url"], place_of(row), sealed_of(row))

    async def open(self, vault: Vault | None) -> Credential:
        """The key, readable. Raises OperatorError where it cannot be opened, UnavailableError."""
        if vault is None:
            raise VaultNotConfiguredError
        secret = await vault.open(self.sealed, self.place)
        return Credential("own", secret, key_id=self.id, base_url=self.base_url)


@dataclass
class _Use:
    key: SealedKey
    model: str
    outcome: Outcome | None = None
    error_code: str | None = None


class KeyUses:
    """What a request has used, in order. The last use is open until the request is."""

    def __init__(self) -> None:
        self._uses: list[_Use] = []

    def begin(self, key: SealedKey, model: str) -> None:
        """The provider is about to be shown this key."""
        self._uses.append(_Use(key, model))

    def end(self, outcome: Outcome, error_code: str | None) -> None:
        """What became of the use that was begun last, unless that is known; another may follow."""
        if self._uses and self._uses[-1].outcome is None:
            self._uses[-1].outcome = outcome
            self._uses[-1].error_code = error_code

    def closed(self, outcome: Outcome, error_code: str | None = None) -> Json:
        """All of them as the database takes them, the open one with this outcome; None: none."""
        self.end(outcome, error_code)
        return [
            {
                "id": use.key.id,
                "secret_version": use.key.secret_version,
                "model": use.model,
                "outcome": use.outcome,
                "error_code": use.error_code,
            }
            for use in self._uses
        ] or None
