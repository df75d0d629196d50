"""Whether a provider takes a key: what is asked of it, and what is made of the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import SecretStr

CheckOutcome = Literal["completed", "rejected", "quota_exceeded", "rate_limited", "failed"]


@dataclass(frozen=True)
class KeyCheck:
    """What a provider said of a key, and nothing that it said in words."""

    outcome: CheckOutcome
    """`completed`: it takes the key. `rejected`: it does not know it, or refuses it what it is for.
    `quota_exceeded`: it knows it, and nobody has paid. `rate_limited`: it knows it, and is asked
    too often. `failed`: it could not be asked, which says nothing of the key.
    """

    error_code: str | None = None
    """Ours (docs/errors.md); None where it was completed."""

    models: tuple[str, ...] = ()
    """What a server of the customer's own says it serves."""

    @property
    def is_valid(self) -> bool | None:
        """What it says of the key; None: nothing."""
        if self.outcome in ("completed", "rate_limited"):
            return True
        return False if self.outcome in ("rejected", "quota_exceeded") else None


class KeyChecker(Protocol):
    """Asks providers."""

    async def check(self, provider: str, secret: SecretStr, base_url: str | None) -> KeyCheck:
        """Call the provider's cheapest endpoint that needs the key.

        `base_url` is the customer's own server, for providers without an address of their own; it
        is called through SafeClient. Raises QuernelError `url_refused` for one that is not called,
        InvalidRequestError for a secret that cannot be one of this provider's. Nothing that is
        raised or logged holds the secret.
        """
        ...
