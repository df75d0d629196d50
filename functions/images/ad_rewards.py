"""Rewarded ads: AdMob's server-side callbacks, verified, and paid for in credits.

https://developers.google.com/admob/android/ssv. Google's keys sign the callbacks of every
publisher, so the database looks at the ad unit as well.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from collections.abc import Mapping
from urllib.parse import parse_qs
from uuid import UUID

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import APIRouter, Request
from starlette.responses import Response

from functions.core.dependencies import DatabaseDep
from functions.core.errors import InvalidRequestError, UnavailableError
from functions.core.http_answers import AnswerTooLargeError, asked
from functions.core.http_session import open_client
from functions.core.json import Json, dumps
from functions.core.openapi import example

KEYS_URL = "https://www.gstatic.com/admob/reward/verifier-keys.json"
MAX_AGE_SECONDS = 6 * 3600.0
"""Google rotates its keys, and says not to keep them longer than a day."""

MIN_REFRESH_SECONDS = 60.0
"""Between two fetches, for key ids that nobody knows."""

MAX_BYTES = 256 * 1024
TIMEOUT_SECONDS = 5.0
MAX_QUERY = 4096  # characters
_SIGNATURE = "&signature="

Keys = Mapping[str, ec.EllipticCurvePublicKey]


class VerifierKeys:
    """Google's public keys by their id. One per process."""

    def __init__(self, url: str = KEYS_URL) -> None:
        self._url = url
        self._keys: Keys = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._lock = asyncio.Lock()

    async def get(self, key_id: str) -> ec.EllipticCurvePublicKey | None:
        """The key; None where Google has none of that id.

        Raises UnavailableError (`signing_keys_unavailable`) while no keys can be had.
        """
        async with self._lock:
            now = time.monotonic()
            is_known = key_id in self._keys and now - self._fetched_at < MAX_AGE_SECONDS
            if not is_known and now - self._tried_at >= MIN_REFRESH_SECONDS:
                self._tried_at = now
                self._keys = await self._fetch()
                self._fetched_at = now
            if now - self._fetched_at >= MAX_AGE_SECONDS:
                raise _unavailable()
            return self._keys.get(key_id)

    async def _fetch(self) -> Keys:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), open_client(TIMEOUT_SECONDS) as http:
                answer = await asked(http, "GET", self._url, max_bytes=MAX_BYTES)
            return _parsed(answer.content)
        except (httpx.HTTPError, AnswerTooLargeError, TimeoutError, ValueError, KeyError):
            raise _unavailable() from None


def signed_by(query: str) -> tuple[str, bytes, str]:
    """What is signed, the signature, and the key's id: the last two members of a query.

    Raises InvalidRequestError where the query has another shape.
    """
    content, found, rest = query.partition(_SIGNATURE)
    signature, _, key = rest.partition("&key_id=")
    if len(query) > MAX_QUERY or not found or not key.isdecimal() or _SIGNATURE in rest:
        raise _unsigned()
    try:
        raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    except (binascii.Error, ValueError):
        raise _unsigned() from None
    return content, raw, key


async def require_google(keys: VerifierKeys, query: str) -> dict[str, str]:
    """The members of a callback that Google has signed.

    Raises InvalidRequestError for a query of another shape, 400 `invalid_signature`
    for what Google has not signed, UnavailableError while its keys cannot be had.
    """
    content, signature, key_id = signed_by(query)
    key = await keys.get(key_id)
    if key is None:
        raise _forged()
    try:
        key.verify(signature, content.encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise _forged() from None
    return {name: values[-1] for name, values in parse_qs(content).items()}


router = APIRouter(prefix="/ads", tags=["ads"])


@router.get(
    "/rewards/admob",
    summary="Receive AdMob's callbacks for rewarded ads",
    description="Called by Google. Set `user_id` of the ad to the person's id, and the URL at "
    "AdMob to this one.",
    responses=example("What became of it.", {"state": "granted", "credits": 1}),
)
async def receive(request: Request, database: DatabaseDep) -> Response:
    """Verify, and pay once."""
    keys: VerifierKeys = request.app.state.ad_keys
    members = await require_google(keys, request.url.query)
    try:
        viewer_id = UUID(members["user_id"])
        transaction_id, ad_unit = members["transaction_id"], members["ad_unit"]
    except (KeyError, ValueError):
        # AdMob's own test of the address has neither a person nor a unit of ours.
        return _json({"state": "refused"})
    answer = await database.rpc(
        "ad_reward",
        p_transaction_id=transaction_id[:200],
        p_ad_unit=ad_unit,
        p_viewer_id=viewer_id,
    )
    # Whatever it is, it is final: any other status would make Google ask again.
    return _json(answer)


def _parsed(raw: bytes) -> Keys:
    """Google's list. Raises ValueError, KeyError."""
    keys: dict[str, ec.EllipticCurvePublicKey] = {}
    for row in json.loads(raw)["keys"]:
        key = serialization.load_pem_public_key(str(row["pem"]).encode())
        if isinstance(key, ec.EllipticCurvePublicKey):
            keys[str(row["keyId"])] = key
    return keys


def _json(value: Json) -> Response:
    return Response(dumps(value), media_type="application/json")


def _unsigned() -> InvalidRequestError:
    return InvalidRequestError(
        "invalid_request", "A callback ends with its signature and the key's id."
    )


def _forged() -> InvalidRequestError:
    return InvalidRequestError("invalid_signature", "This was not signed by AdMob.")


def _unavailable() -> UnavailableError:
    return UnavailableError("signing_keys_unavailable", "AdMob's keys cannot be had now.", 60)
