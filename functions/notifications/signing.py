"""Secrets of webhook endpoints and signatures of messages, as Standard Webhooks defines them.

A secret is HMAC-SHA256 of the master key over the endpoint's id and the version of its secret, so
none is stored: who has the database cannot sign, and a backup holds nothing to rotate.
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from uuid import UUID

SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix, not a secret


def endpoint_secret(master_key: bytes, endpoint_id: UUID, version: int) -> bytes:
    """The 32 bytes that sign for an endpoint."""
    return hmac.new(master_key, f"{endpoint_id}|{version}".encode(), hashlib.sha256).digest()


def shown_secret(secret: bytes) -> str:
    """A secret as its owner and the libraries of Standard Webhooks take it."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def signed_headers(
    secrets: Iterable[bytes], *, message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The headers of a message; `timestamp` is that of the attempt, in Unix seconds.

    With several secrets, a receiver that knows any of them accepts the message.
    """
    content = f"{message_id}.{timestamp}.".encode() + body
    signatures = (hmac.new(secret, content, hashlib.sha256).digest() for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(
            f"v1,{base64.b64encode(signature).decode()}" for signature in signatures
        ),
    }
