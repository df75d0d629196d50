"""Where the master keys of a deployment come from."""

from __future__ import annotations

import base64
import binascii

from functions.core.settings import Settings, SettingsError
from functions.provider_keys.master_keys import KeyRing, MasterKeys


def open_master_keys(settings: Settings) -> MasterKeys | None:
    """The master keys that the settings name; None while there are none, and no vault.

    Raises SettingsError, which names the variable and the `kid`, never a key.
    """
    if not settings.master_keys:
        return None
    current = settings.master_key_current
    if current is None:
        raise SettingsError("QUERNEL_MASTER_KEY_CURRENT must say which of the master keys wraps")
    keys = {}
    for kid, text in settings.master_keys.items():
        try:
            keys[kid] = base64.b64decode(text.get_secret_value(), validate=True)
        except binascii.Error:
            raise SettingsError(f"QUERNEL_MASTER_KEYS: the key {kid!r} is not base64") from None
    try:
        return KeyRing(keys, current)
    except ValueError as error:
        raise SettingsError(f"QUERNEL_MASTER_KEYS: {error}") from None
