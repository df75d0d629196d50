"""Whose key a provider is shown. The answer says which kind it was, because it says who paid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr


@dataclass(frozen=True)
class Credential:
    """A key for one provider; none for a server that asks for none. Its repr shows no secret."""

    kind: Literal["platform", "own"]
    """Whose it is. `platform`: the operator's, so the request is paid in credits; `own`: the
    customer's, who pays the provider.
    """

    secret: SecretStr | None = None

    key_id: str | None = None
    """Which of the customer's own keys."""

    base_url: str | None = None
    """The customer's own server, where it is for one; called through SafeClient alone."""

    @property
    def is_own(self) -> bool:
        return self.kind == "own"

    def strip_from(self, text: str) -> str:
        """What a provider said, without the key."""
        key = "" if self.secret is None else self.secret.get_secret_value()
        return text.replace(key, "[key]") if key else text
