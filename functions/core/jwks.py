"""The public signing keys of the Supabase project, fetched when first needed and kept for a while.

A key id that is not known may be a new key, or an attack: it causes at most one fetch per
MIN_REFRESH_SECONDS, shared by all requests that wait.
"""

from __future__ import annotations

import asyncio
import logging
import time

import httpx
import jwt

from functions.core import json
from functions.core.errors import UnavailableError
from functions.core.logging import log_event

logger = logging.getLogger(__name__)

MAX_AGE_SECONDS = 600.0
"""After this the keys are fetched again; Supabase's own edge caches them as long."""

MAX_STALE_SECONDS = 3600.0
"""Keys older than this are not believed, even when no newer ones can be fetched."""

MIN_REFRESH_SECONDS = 30.0
"""Least time between fetches, successful or not, once there are keys."""

MIN_RETRY_SECONDS = 1.0
"""Least time between fetches while there are no keys at all."""

MAX_KEYS = 100
MAX_BYTES = 256 * 1024
TIMEOUT_SECONDS = 5.0

ALGORITHMS = ("ES256", "RS256")
"""What Supabase signs with; a symmetric key in a public key set is never believed."""


class KeySet:
    """Signing keys by key id. One per process."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self._url = url
        self._client = client
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._lock = asyncio.Lock()

    async def get(self, key_id: str) -> jwt.PyJWK | None:
        """The key, or None when the project has none of that id.

        Raises UnavailableError (`signing_keys_unavailable`) when no keys can be had.
        """
        now = time.monotonic()
        key = self._keys.get(key_id)
        if key is not None and now - self._fetched_at < MAX_AGE_SECONDS:
            return key
        if self._may_fetch(now):
            async with self._lock:
                # Whoever waited for the lock finds that another request has just fetched.
                if self._may_fetch(time.monotonic()):
                    await self._fetch()
        if time.monotonic() - self._fetched_at > MAX_STALE_SECONDS:
            raise UnavailableError(
                "signing_keys_unavailable", "Access tokens cannot be verified right now. Try again."
            )
        return self._keys.get(key_id)

    def _may_fetch(self, now: float) -> bool:
        pause = MIN_REFRESH_SECONDS if self._keys else MIN_RETRY_SECONDS
        return now - self._tried_at >= pause

    async def _fetch(self) -> None:
        self._tried_at = time.monotonic()
        try:
            response = await self._client.get(self._url, timeout=TIMEOUT_SECONDS)
            response.raise_for_status()
            keys = _parse(response.content)
        except (httpx.HTTPError, ValueError) as error:
            log_event(
                logger, logging.WARNING, "signing keys not fetched", cause=type(error).__name__
            )
            return
        self._keys = keys
        self._fetched_at = time.monotonic()


def _parse(content: bytes) -> dict[str, jwt.PyJWK]:
    """The usable keys of a JSON Web Key Set (RFC 7517). Raises ValueError if it is not one."""
    document = json.loads(content) if len(content) <= MAX_BYTES else None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a key set")  # noqa: TRY004 - malformed data, not a programming error
    keys = {}
    for entry in entries[:MAX_KEYS]:
        if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str):
            continue
        if entry.get("kty") not in ("EC", "RSA") or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(entry)
        except (jwt.PyJWTError, ValueError):
            continue
        if key.algorithm_name in ALGORITHMS:
            keys[entry["kid"]] = key
    return keys
