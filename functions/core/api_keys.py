"""API keys: recognised by their shape and checksum here, looked up by their hash in the database.

    qk_live_ or qk_test_   43 base62 digits (256 random bits)   6 base62 digits (CRC-32 of the rest)

Whether a key is in force, what it may do and what it may still use is decided in the transaction
that acts, so there is nothing to remember and nothing that could be believed for too long.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from functions.core.errors import UnauthenticatedError

PREFIX = "qk_"
_KEY = re.compile(r"(qk_(?:live|test)_[0-9A-Za-z]{43})([0-9A-Za-z]{6})")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class ApiKeyCaller:
    """A program that has shown a key. Holds the key's digest, never the key."""

    key_hash: str = field(repr=False)
    """SHA-256 of the whole key, in hexadecimal, as private.api_key_hashes has it."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What tells a backend function who is calling."""
        return {"p_key_hash": self.key_hash}


class ApiKeyVerifier:
    """Tells keys from anything else, and typing errors from keys, without asking anybody."""

    def accepts(self, credential: str) -> bool:
        return credential.startswith(PREFIX)

    async def verify(self, credential: str) -> ApiKeyCaller:
        match = _KEY.fullmatch(credential)
        if match is None or checksum(match[1]) != match[2]:
            raise UnauthenticatedError(
                "invalid_api_key", "This is no API key of ours; was it copied whole?"
            )
        return ApiKeyCaller(hashlib.sha256(credential.encode()).hexdigest())


def checksum(key: str) -> str:
    """The last six digits of a key: CRC-32 (as zlib reckons it) of what stands before them."""
    number, digits = crc32(key.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    return digits
