"""The transit engine of HashiCorp Vault, as its API reference describes it: encrypt and decrypt.

https://developer.hashicorp.com/vault/api-docs/secret/transit
"""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.http_server import serve


@dataclass
class TransitDouble:
    """One key of type aes256-gcm96 under one mount, for one token."""

    url: str = ""
    token: str = field(default_factory=lambda: f"hvs.{os.urandom(12).hex()}")
    mount: str = "transit"
    key: str = "quernel"
    calls: list[str] = field(default_factory=list)
    trouble: int | None = None
    """A status that every call is answered with."""
    _cipher: AESGCM = field(default_factory=lambda: AESGCM(os.urandom(32)))

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.calls.append(request.path)
        if self.trouble is not None:
            return self._errors(self.trouble, "trouble")
        if request.headers.get("X-Vault-Token") != self.token:
            return self._errors(403, "permission denied")
        body = await request.json()
        bound = base64.b64decode(body.get("associated_data", ""))
        prefix = f"/v1/{self.mount}"
        if request.path == f"{prefix}/encrypt/{self.key}":
            nonce = os.urandom(12)
            made = nonce + self._cipher.encrypt(nonce, base64.b64decode(body["plaintext"]), bound)
            text = f"vault:v1:{base64.b64encode(made).decode()}"
            return web.json_response({"data": {"ciphertext": text, "key_version": 1}})
        if request.path == f"{prefix}/decrypt/{self.key}":
            try:
                raw = base64.b64decode(body["ciphertext"].removeprefix("vault:v1:"))
                plain = self._cipher.decrypt(raw[:12], raw[12:], bound)
            except (InvalidTag, ValueError):
                return self._errors(400, "cipher: message authentication failed")
            return web.json_response({"data": {"plaintext": base64.b64encode(plain).decode()}})
        return self._errors(404, "no handler for route")

    @staticmethod
    def _errors(status: int, message: str) -> web.Response:
        return web.json_response({"errors": [message]}, status=status)


@asynccontextmanager
async def transit_double() -> AsyncIterator[TransitDouble]:
    """Runs it."""
    double = TransitDouble()
    async with serve(double.answer) as double.url:
        yield double
