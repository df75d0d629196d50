"""The vault: seals the key of a customer under a data key of its own, and opens it again.

Envelope encryption with AES-256-GCM (NIST SP 800-38D). Each row has a random data key, which a
master key wraps. Who owns the row, for which provider it is and the row's id are bound into both
layers as associated data: a ciphertext that is moved to another row, owner or provider does not
open, and neither does one in which a single bit was changed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from functions.core.errors import OperatorError
from functions.provider_keys.master_keys import MasterKeys

NONCE_BYTES = 12  # SP 800-38D, section 8.2: 96 bits are used as they are
KEY_BITS = 256
MAX_SECRET_BYTES = 16 * 1024  # a service account's file is about 2.4 kB

_DOMAIN = "quernel.provider-key.1"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a secret belongs. Nothing of it is secret; all of it is authenticated."""

    row_id: UUID
    owner: Literal["user", "organization"]
    owner_id: UUID
    provider: str
    """The provider's slug."""

    def associated_data(self, purpose: str) -> bytes:
        """Bytes that differ whenever any part differs: no part can hold the separator."""
        parts = (_DOMAIN, purpose, self.owner, str(self.owner_id), self.provider, str(self.row_id))
        return "\n".join(parts).encode()


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is stored of a secret."""

    kid: str
    """The master key that wrapped the data key."""

    wrapped_key: bytes
    nonce: bytes
    ciphertext: bytes


class UnreadableSecretError(OperatorError):
    """A stored secret does not open: it was changed, moved, or wrapped by a key of another name."""

    def __init__(self, place: Place) -> None:
        super().__init__(
            "provider_key_unreadable",
            f"The provider key {place.row_id} does not open. It was changed or moved, or its master"
            " key was replaced by another of the same name.",
        )


class Vault:
    """Seals and opens. Plaintext is in a SecretStr from the first line to the last."""

    def __init__(self, master_keys: MasterKeys) -> None:
        self._master_keys = master_keys

    @property
    def current_kid(self) -> str:
        """The master key that wraps from now on."""
        return self._master_keys.current

    async def require_current(self) -> None:
        """Raise QuernelError, as `seal` does, where the current master key cannot be had."""
        await self._master_keys.wrap(bytes(KEY_BITS // 8), b"")

    async def seal(self, secret: SecretStr, place: Place) -> Sealed:
        """Encrypt under a fresh data key, wrapped by the current master key.

        Raises ValueError for a secret that is empty or too long, QuernelError where the master key
        cannot be had.
        """
        plaintext = secret.get_secret_value().encode()
        if not 0 < len(plaintext) <= MAX_SECRET_BYTES:
            raise ValueError(f"A secret has 1 to {MAX_SECRET_BYTES} bytes.")
        data_key = AESGCM.generate_key(KEY_BITS)
        nonce = os.urandom(NONCE_BYTES)
        ciphertext = AESGCM(data_key).encrypt(nonce, plaintext, place.associated_data("secret"))
        kid, wrapped = await self._master_keys.wrap(data_key, place.associated_data("key"))
        return Sealed(kid, wrapped, nonce, ciphertext)

    async def open(self, sealed: Sealed, place: Place) -> SecretStr:
        """Decrypt.

        Raises UnreadableSecretError for anything that was not sealed for this very place,
        OperatorError `master_key_missing` where the master key is not among those configured, and
        UnavailableError where the service that has it does not answer.
        """
        data_key = await self._unwrap(sealed, place)
        try:
            plaintext = AESGCM(data_key).decrypt(
                sealed.nonce, sealed.ciphertext, place.associated_data("secret")
            )
            return SecretStr(plaintext.decode())
        except (InvalidTag, ValueError):
            # ValueError: a nonce or a data key of a length that AES-GCM does not know.
            raise UnreadableSecretError(place) from None

    async def rewrap(self, sealed: Sealed, place: Place) -> Sealed:
        """The same secret with its data key wrapped by the current master key.

        The ciphertext stays as it is, and the plaintext is not opened. Raises as `open`.
        """
        data_key = await self._unwrap(sealed, place)
        kid, wrapped = await self._master_keys.wrap(data_key, place.associated_data("key"))
        return Sealed(kid, wrapped, sealed.nonce, sealed.ciphertext)

    async def _unwrap(self, sealed: Sealed, place: Place) -> bytes:
        try:
            return await self._master_keys.unwrap(
                sealed.kid, sealed.wrapped_key, place.associated_data("key")
            )
        except InvalidTag:
            raise UnreadableSecretError(place) from None
