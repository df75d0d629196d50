"""Where the master keys of a deployment come from: the environment, AWS KMS or HashiCorp Vault.

The services keep no data keys and see none: each master key of 32 bytes is stored encrypted in the
settings, and decrypted by the service once per process, when it is first needed. So no request
waits for the service, and an outage of it is felt by new processes alone (docs/decisions/0029).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
from time import monotonic
from typing import Protocol

from functions.core.errors import OperatorError, QuernelError
from functions.core.logging import log_event
from functions.core.settings import Settings, SettingsError
from functions.provider_keys.aws_kms import AwsKms
from functions.provider_keys.hashicorp import HashicorpTransit
from functions.provider_keys.master_keys import (
    MASTER_KEY_BYTES,
    KeyRing,
    MasterKeyMissingError,
    MasterKeys,
    unreadable,
)
from functions.provider_keys.vault import Vault

RETRY_SECONDS = 5.0
"""How long a service that did not answer is left alone."""

logger = logging.getLogger(__name__)


class KeySource(Protocol):
    """A service that decrypts master keys."""

    async def decrypt(self, kid: str, text: str) -> bytes:
        """The master key whose encrypted form the settings have.

        Raises OperatorError for one that the service does not decrypt, UnavailableError where it
        does not answer.
        """
        ...

    async def new(self, kid: str) -> str:
        """A fresh master key, encrypted, for the settings. Raises as `decrypt`."""
        ...


class Environment:
    """Master keys as they are, in base64."""

    async def decrypt(self, kid: str, text: str) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error:
            raise unreadable(kid, "it is not base64") from None

    async def new(self, kid: str) -> str:  # noqa: ARG002 - it is the same for every name
        return base64.b64encode(os.urandom(MASTER_KEY_BYTES)).decode()


class FetchedKeyRing:
    """A ring whose keys are decrypted by a service when they are first needed."""

    def __init__(self, source: KeySource, texts: dict[str, str], current: str) -> None:
        """Raises ValueError for a current key that is not there."""
        if current not in texts:
            raise ValueError(f"The current master key {current!r} is not among the keys.")
        self._source = source
        self._texts = texts
        self._current = current
        self._rings: dict[str, KeyRing] = {}
        self._fetching: dict[str, asyncio.Task[KeyRing]] = {}
        self._failures: dict[str, tuple[float, QuernelError]] = {}

    def __repr__(self) -> str:
        return f"FetchedKeyRing({sorted(self._texts)}, current={self._current!r})"

    @property
    def current(self) -> str:
        return self._current

    async def wrap(self, data_key: bytes, associated_data: bytes) -> tuple[str, bytes]:
        return await (await self._ring(self._current)).wrap(data_key, associated_data)

    async def unwrap(self, kid: str, wrapped: bytes, associated_data: bytes) -> bytes:
        if kid not in self._texts:
            raise MasterKeyMissingError(kid)
        return await (await self._ring(kid)).unwrap(kid, wrapped, associated_data)

    async def _ring(self, kid: str) -> KeyRing:
        """One key. Whoever asks while it is fetched waits for the same call."""
        if kid in self._rings:
            return self._rings[kid]
        until, failure = self._failures.get(kid, (0.0, None))
        if failure is not None and monotonic() < until:
            # As it was when it was made, and not with the frames of everybody who met it since.
            raise failure.with_traceback(None)
        if kid not in self._fetching:
            self._fetching[kid] = asyncio.create_task(self._fetch(kid))
        # Whoever leaves does not take it away from the others.
        return await asyncio.shield(self._fetching[kid])

    async def _fetch(self, kid: str) -> KeyRing:
        try:
            key = await self._source.decrypt(kid, self._texts[kid])
            try:
                ring = self._rings[kid] = KeyRing({kid: key}, kid)
            except ValueError:
                raise unreadable(kid, f"it has not {MASTER_KEY_BYTES} bytes") from None
        except QuernelError as error:
            self._failures[kid] = (monotonic() + RETRY_SECONDS, error)
            told = error.operator_code if isinstance(error, OperatorError) else error.code
            log_event(logger, logging.ERROR, "master key not fetched", kid=kid, code=told)
            raise
        else:
            return ring
        finally:
            self._fetching.pop(kid, None)


def open_key_source(settings: Settings) -> KeySource:
    """What decrypts the master keys here. Raises SettingsError for one that is half configured."""
    if settings.master_key_source == "aws-kms":
        return AwsKms(settings)
    if settings.master_key_source == "hashicorp-vault":
        return HashicorpTransit(settings)
    return Environment()


def open_master_keys(settings: Settings) -> MasterKeys | None:
    """The master keys that the settings name; None while there are none, and no vault.

    Raises SettingsError, which names the variable and the `kid`, never a key. Nothing is fetched.
    """
    if not settings.master_keys:
        return None
    current = settings.master_key_current
    if current is None:
        raise SettingsError("QUERNEL_MASTER_KEY_CURRENT must say which of the master keys wraps")
    texts = {kid: text.get_secret_value() for kid, text in settings.master_keys.items()}
    try:
        if settings.master_key_source == "environment":
            return KeyRing({kid: _bytes(kid, text) for kid, text in texts.items()}, current)
        return FetchedKeyRing(open_key_source(settings), texts, current)
    except ValueError as error:
        raise SettingsError(f"QUERNEL_MASTER_KEYS: {error}") from None


def open_vault(settings: Settings) -> Vault | None:
    """The vault of a process; None where there are no master keys. Raises SettingsError."""
    master_keys = open_master_keys(settings)
    return None if master_keys is None else Vault(master_keys)


def _bytes(kid: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError(f"The master key {kid!r} is not base64.") from None
