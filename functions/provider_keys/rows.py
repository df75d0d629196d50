"""Sealed secrets between the database and the vault."""

from __future__ import annotations

import base64
from typing import Any
from uuid import UUID

from functions.provider_keys.vault import Place, Sealed


def packed(sealed: Sealed) -> dict[str, str]:
    """A sealed secret as the database takes it: base64."""
    parts = {
        "wrapped_key": sealed.wrapped_key,
        "nonce": sealed.nonce,
        "ciphertext": sealed.ciphertext,
    }
    return {"kid": sealed.kid} | {
        name: base64.b64encode(part).decode() for name, part in parts.items()
    }


def sealed_of(row: dict[str, Any]) -> Sealed:
    """A sealed secret as the database gives it."""
    return Sealed(
        row["kid"],
        *(base64.b64decode(row[part]) for part in ("wrapped_key", "nonce", "ciphertext")),
    )


def place_of(row: dict[str, Any]) -> Place:
    """Where a sealed secret of the database belongs."""
    return Place(UUID(row["id"]), row["owner"], UUID(row["owner_id"]), row["provider"])
