"""Master keys: they wrap data keys and nothing else, and none is stored beside what it wraps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from functions.core.errors import OperatorError

MASTER_KEY_BYTES = 32
NONCE_BYTES = 12


class MasterKeyMissingError(OperatorError):
    """A row names a master key that this deployment was not given. No other row suffers."""

    def __init__(self, kid: str) -> None:
        shown = kid[:60]
        super().__init__(
            "master_key_missing",
            f"The master key {shown!r} is not configured, and rows are wrapped by it. Restore"
            " it; other rows go on.",
        )


def unreadable(kid: str, why: str) -> OperatorError:
    """The error for a master key that is configured and cannot be had."""
    return OperatorError(
        "master_key_unreadable", f"The master key {kid[:60]!r} cannot be read: {why}."
    )


class MasterKeys(Protocol):
    """Where master keys are: in the environment, in AWS KMS, or in HashiCorp Vault."""

    @property
    def current(self) -> str:
        """The `kid` that new data keys are wrapped by."""
        ...

    async def wrap(self, data_key: bytes, associated_data: bytes) -> tuple[str, bytes]:
        """Encrypt a data key; the `kid` of the master key, and the result.

        Raises QuernelError where the key cannot be had.
        """
        ...

    async def unwrap(self, kid: str, wrapped: bytes, associated_data: bytes) -> bytes:
        """Decrypt a data key.

        Raises MasterKeyMissingError for a `kid` that is unknown, InvalidTag for what was not
        wrapped by that key with this data, UnavailableError where the key cannot be had now.
        """
        ...


class KeyRing:
    """Master keys of 32 bytes each, held in memory: `kid` → key."""

    def __init__(self, keys: Mapping[str, bytes], current: str) -> None:
        """Raises ValueError for a key that is not 32 bytes, or a current one that is not there."""
        if current not in keys:
            raise ValueError(f"The current master key {current!r} is not among the keys.")
        for kid, key in keys.items():
            if len(key) != MASTER_KEY_BYTES:
                raise ValueError(f"The master key {kid!r} is not {MASTER_KEY_BYTES} bytes.")
        self._ciphers = {kid: AESGCM(key) for kid, key in keys.items()}
        self._current = current

    def __repr__(self) -> str:
        return f"KeyRing({sorted(self._ciphers)}, current={self._current!r})"

    @property
    def current(self) -> str:
        return self._current

    async def wrap(self, data_key: bytes, associated_data: bytes) -> tuple[str, bytes]:
        nonce = os.urandom(NONCE_BYTES)
        wrapped = self._ciphers[self._current].encrypt(
            nonce, data_key, _bound(self._current, associated_data)
        )
        return self._current, nonce + wrapped

    async def unwrap(self, kid: str, wrapped: bytes, associated_data: bytes) -> bytes:
        cipher = self._ciphers.get(kid)
        if cipher is None:
            raise MasterKeyMissingError(kid)
        try:
            return cipher.decrypt(
                wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _bound(kid, associated_data)
            )
        except ValueError:  # shorter than a nonce
            raise InvalidTag from None


def _bound(kid: str, associated_data: bytes) -> bytes:
    """The name of the key is authenticated too: two names for one key are two keys."""
    return associated_data + b"\n" + kid.encode()
