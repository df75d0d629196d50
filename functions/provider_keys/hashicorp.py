"""Master keys that the transit engine of HashiCorp Vault (or OpenBao) encrypted.

The name of a master key is associated data: one that is stored under another name does not decrypt.
The transit key is of type aes256-gcm96. https://developer.hashicorp.com/vault/api-docs/secret/transit
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from http import HTTPStatus

import httpx

from functions.core.errors import OperatorError, UnavailableError
from functions.core.http_answers import AnswerTooLargeError, asked
from functions.core.http_session import open_client
from functions.core.settings import Settings, SettingsError
from functions.provider_keys.master_keys import MASTER_KEY_BYTES, unreadable

SECONDS = 5.0
"""For the whole of a call."""

MAX_BYTES = 64 * 1024
"""Of an answer; a wrapped key has some hundred."""

_PASSING = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.PRECONDITION_FAILED)
"""412: a standby has not caught up yet."""


class HashicorpTransit:
    """See KeySource."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError where the address, the token or the key's name is missing."""
        url, token, key = (
            settings.hashicorp_url,
            settings.hashicorp_token,
            settings.hashicorp_key_name,
        )
        if url is None or token is None or key is None:
            raise SettingsError(
                "QUERNEL_HASHICORP_URL, QUERNEL_HASHICORP_TOKEN and "
                "QUERNEL_HASHICORP_KEY_NAME belong together"
            )
        self._url = f"{url}/v1/{settings.hashicorp_mount}"
        self._key = key
        self._token = token
        self._namespace = settings.hashicorp_namespace

    async def decrypt(self, kid: str, text: str) -> bytes:
        answer = await self._post("decrypt", kid, {"ciphertext": text})
        try:
            return base64.b64decode(answer["plaintext"], validate=True)
        except (KeyError, TypeError, binascii.Error):
            raise unreadable(kid, "Vault's answer has no plaintext") from None

    async def new(self, kid: str) -> str:
        key = base64.b64encode(os.urandom(MASTER_KEY_BYTES)).decode()
        return (await self._post("encrypt", kid, {"plaintext": key}))["ciphertext"]

    async def _post(self, operation: str, kid: str, body: dict[str, str]) -> dict[str, str]:
        headers = {"X-Vault-Token": self._token.get_secret_value()}
        if self._namespace is not None:
            headers["X-Vault-Namespace"] = self._namespace
        context = base64.b64encode(kid.encode()).decode()
        try:
            async with (
                asyncio.timeout(SECONDS),
                open_client(SECONDS) as http,
            ):
                response = await asked(
                    http,
                    "POST",
                    f"{self._url}/{operation}/{self._key}",
                    max_bytes=MAX_BYTES,
                    json=body | {"associated_data": context},
                    headers=headers,
                )
        except (httpx.HTTPError, AnswerTooLargeError, TimeoutError):
            raise _unavailable() from None
        status = response.status_code
        if status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _unavailable()
        if status == HTTPStatus.FORBIDDEN:
            raise OperatorError(
                "invalid_settings", "Vault does not let the token use the transit key."
            )
        if status != HTTPStatus.OK:
            raise unreadable(kid, f"Vault answers {status}")
        try:
            data: dict[str, str] = response.json()["data"]
        except (ValueError, KeyError, TypeError):
            raise unreadable(kid, "Vault's answer is not one of the transit engine") from None
        return data


def _unavailable() -> UnavailableError:
    return UnavailableError("master_keys_unavailable", "The keys cannot be opened now.", 5)
