"""Verifies that a webhook's body was signed by Stripe, recently, for this endpoint."""

from __future__ import annotations

from pydantic import SecretStr
from stripe import SignatureVerificationError, WebhookSignature

from functions.core.errors import InvalidRequestError
from functions.core.json import Json
from functions.core.request_body import parse_json

TOLERANCE_SECONDS = 300
"""How old a signature may be; Stripe's own default, and it signs each delivery anew."""


def verified_event(body: bytes, signature: str | None, secret: SecretStr) -> dict[str, Json]:
    """The event in a signed body.

    Raises InvalidRequestError: `invalid_signature` (missing, forged, for another secret, or too
    old), then `invalid_json` or `invalid_text`.
    """
    try:
        WebhookSignature.verify_header(
            body, signature, secret.get_secret_value(), tolerance=TOLERANCE_SECONDS
        )
    except (SignatureVerificationError, UnicodeDecodeError):
        raise InvalidRequestError(
            "invalid_signature", "The body was not signed for this endpoint, or too long ago."
        ) from None
    return parse_json(body)
