"""What failures of Stripe mean to a caller.

They become payment_provider_unavailable (503), payment_provider_error (502), payment_declined (402)
or idempotency_conflict (409); the cause is logged here and never told.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import stripe

from functions.core.errors import QuernelError, UnavailableError
from functions.core.logging import log_event

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5
MAX_RETRY_AFTER_SECONDS = 3600


@contextmanager
def translated(call: str) -> Iterator[None]:
    """Turn the SDK's exceptions into ours; log the cause without its message, which may quote."""
    try:
        yield
    except stripe.StripeError as error:
        fields: dict[str, Any] = {
            "call": call,
            "error": type(error).__name__,
            "status": error.http_status,
            "code": error.code,
            "param": getattr(error, "param", None),
            "stripe_request_id": error.request_id,
        }
        log_event(logger, logging.WARNING, "stripe failure", **fields)
        raise _public_error(error) from None


def _retry_after(error: stripe.StripeError) -> int:
    """Seconds that Stripe asks to wait, within reason."""
    asked = str((error.headers or {}).get("retry-after", ""))
    return min(int(asked), MAX_RETRY_AFTER_SECONDS) if asked.isdecimal() else RETRY_AFTER_SECONDS


def provider_error() -> QuernelError:
    """Stripe answered, and not as it should."""
    return QuernelError("payment_provider_error", 502, "The payment provider refused this request.")


def _public_error(error: stripe.StripeError) -> QuernelError:
    if isinstance(error, stripe.IdempotencyError):
        return QuernelError(
            "idempotency_conflict",
            409,
            "This idempotency key was already used with other arguments.",
        )
    if isinstance(error, stripe.CardError):
        return QuernelError(
            "payment_declined",
            402,
            "The payment was declined. Choose another payment method and try again.",
            {"remedy": "update_payment_method", "reason": error.code},
        )
    # APIError is also what the SDK raises for a 5xx.
    if isinstance(error, stripe.APIConnectionError | stripe.RateLimitError | stripe.APIError):
        return UnavailableError(
            "payment_provider_unavailable",
            "The payment provider does not answer. Try again.",
            _retry_after(error),
        )
    return provider_error()
