"""Own keys in the database, sealed as the service seals them."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
from pydantic import SecretStr

from functions.core.settings import Settings
from functions.provider_keys.sources import open_master_keys
from functions.provider_keys.vault import Place, Vault


def vault_of(settings: Settings) -> Vault:
    """The vault of a running stack."""
    master_keys = open_master_keys(settings)
    assert master_keys is not None
    return Vault(master_keys)


async def bring_key(
    connection: psycopg.Connection[Any],
    vault: Vault,
    provider: str,
    secret: str,
    *,
    user: str | None = None,
    organization: str | None = None,
    **columns: Any,
) -> str:
    """Store a key of a person or of an organization; its id. `columns` are those of the row."""
    key_id = uuid.uuid4()
    owner_id = uuid.UUID(user or organization)
    place = Place(key_id, "user" if user else "organization", owner_id, provider)
    sealed = await vault.seal(SecretStr(secret), place)
    row = {
        "id": key_id,
        "user_id": user,
        "organization_id": organization,
        "name": f"Key {key_id.hex[:8]}",
        "last_four": secret[-4:],
        "is_valid": True,
    } | columns
    names = psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, row))
    values = psycopg.sql.SQL(", ").join(map(psycopg.sql.Placeholder, row))
    with connection.transaction():
        connection.execute(
            psycopg.sql.SQL(
                "insert into public.provider_keys (provider_id, {}) select p.id, {}"
                " from public.model_providers as p where p.slug = %(provider)s"
            ).format(names, values),
            row | {"provider": provider},
        )
        connection.execute(
            "insert into private.provider_key_secrets"
            " (provider_key_id, kid, wrapped_key, nonce, ciphertext) values (%s, %s, %s, %s, %s)",
            [key_id, sealed.kid, sealed.wrapped_key, sealed.nonce, sealed.ciphertext],
        )
    return str(key_id)
