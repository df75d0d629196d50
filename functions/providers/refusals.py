"""What a provider means by a status that is not a success.

One table for chat, images and the checks of keys: providers differ in words, and little in sense.
Sources: the error pages of OpenAI, Anthropic, Google (google.rpc.Status), xAI, Mistral, OpenRouter,
Replicate and Stability, as of November 2026.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from http import HTTPStatus
from math import isnan
from typing import Any

MAX_RETRY_AFTER_SECONDS = 3600
DEFAULT_RETRY_AFTER_SECONDS = 1.0
_DEPTH = 4  # how deep an error object is looked into


class Meaning(Enum):
    """What is behind a refusal."""

    KEY = "key"
    """The key is not known, or not for what we do with it."""
    QUOTA = "quota"
    """The key is known, and its owner has paid for nothing more."""
    RATE = "rate"
    """Too often; later it will do."""
    ACCESS = "access"
    """The key is known, and not allowed this: a model it has no access to, or from where we are."""
    SAFETY = "safety"
    """What was asked for, or would be the answer, is not allowed there."""
    CONTEXT = "context"
    """The prompt is too long."""
    OPTION = "option"
    """The request is wrong in another way."""
    SLOW = "slow"
    """It took too long."""
    OUTAGE = "outage"
    """The provider fails."""


@dataclass(frozen=True)
class Refusal:
    """A refusal, understood."""

    meaning: Meaning
    message: str
    """What the provider said, as it said it: to be cleaned before anybody sees it."""
    retry_after: float | None = None
    """Seconds it asks to wait, where it does."""


_KEY_CODES = frozenset(
    {
        "account_deactivated",
        "api_key_invalid",
        "api_key_service_blocked",
        "authentication_error",
        "invalid_api_key",
        "invalid_authentication",
        "permission_denied",
        "permission_error",
        "unauthenticated",
        "unauthorized",
    }
)
_QUOTA_CODES = frozenset(
    {
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "insufficient_balance",
        "insufficient_credits",
        "insufficient_quota",
        "payment_required",
    }
)
_ACCESS_CODES = frozenset(
    {
        "ip_not_authorized",
        "model_not_found",
        "unsupported_country_region_territory",
    }
)
_SAFETY_CODES = frozenset(
    {
        "content_filter",
        "content_filtered",
        "content_moderation",
        "content_policy_violation",
        "image_generation_user_error",
        "image_safety",
        "moderation_blocked",
        "prohibited_content",
        "safety",
    }
)
_QUOTA_WORDS = re.compile(
    r"credit balance is too low|insufficient (?:credit|funds|balance|quota)"
    r"|(?:no|any|out of|used all|enough|sufficient) (?:available )?credits?|spending limit"
    r"|exceeded your current quota|requires more credits",
    re.IGNORECASE,
)
_SAFETY_WORDS = re.compile(
    r"safety system|guardrail|content (?:policy|moderation|management|filter)|usage guidelines"
    r"|moderation|flagged|responsible ai|prohibited (?:use|content)|NSFW",
    re.IGNORECASE,
)
_ACCESS_WORDS = re.compile(
    r"does not have access to|do(?:es)? not exist or you(?:r \S+ \S+)? (?:do|does) not have access"
    r"|location is not supported|country, region,? or territory",
    re.IGNORECASE,
)
_MODEL_WORDS = re.compile(r"\bmodels?\b|no endpoints", re.IGNORECASE)
_KEY_WORDS = re.compile(
    r"api[ _-]?key (?:not valid|is invalid|not found|expired)|incorrect api[ _-]?key", re.IGNORECASE
)
_CONTEXT_WORDS = re.compile(
    r"context[ _](length|window)|maximum (context|prompt|input)|longer than the model"
    r"|prompt is too long|input token count|too many tokens",
    re.IGNORECASE,
)
_DELAY = re.compile(r"^(\d+(?:\.\d+)?)s$")


def understand(status: int, body: object, headers: Mapping[str, str]) -> Refusal:
    """What an answer with a status that is not 2xx means; `body` is its JSON, or None.

    `headers` have lower-case names.
    """
    told = retry_after(headers.get("retry-after"))
    delay = _retry_delay(body)
    if delay is None and status == HTTPStatus.PAYMENT_REQUIRED:
        delay = told
    said = _Said(status, frozenset(_codes(body)), message_of(body), delay)
    meaning = next((one for one, applies in _RULES if applies(said)), Meaning.OUTAGE)
    wait = None
    if meaning in (Meaning.RATE, Meaning.OUTAGE):
        wait = said.delay if told is None else told
    return Refusal(meaning, said.message, wait)


@dataclass(frozen=True)
class _Said:
    status: int
    codes: frozenset[str]
    message: str
    delay: float | None  # seconds, of google.rpc.RetryInfo, or of a header

    @property
    def is_bad(self) -> bool:
        return self.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)

    @property
    def is_forbidden(self) -> bool:
        return self.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

    @property
    def is_quota(self) -> bool:
        # Google and OpenRouter say so too of what is only too much at once, and then when to come
        # back.
        return (
            (self.status == HTTPStatus.PAYMENT_REQUIRED and self.delay is None)
            or bool(self.codes & _QUOTA_CODES)
            or (self.delay is None and bool(_QUOTA_WORDS.search(self.message)))
        )

    @property
    def is_safety(self) -> bool:
        return (self.is_bad or self.is_forbidden) and (
            bool(self.codes & _SAFETY_CODES) or bool(_SAFETY_WORDS.search(self.message))
        )

    @property
    def is_access(self) -> bool:
        if self.status == HTTPStatus.NOT_FOUND:  # else a wrong address, of the operator's say
            return bool(self.codes & _ACCESS_CODES or _MODEL_WORDS.search(self.message))
        return (self.is_bad or self.is_forbidden) and (
            bool(self.codes & _ACCESS_CODES) or bool(_ACCESS_WORDS.search(self.message))
        )

    @property
    def is_key(self) -> bool:
        return self.is_forbidden or (
            self.is_bad and (bool(self.codes & _KEY_CODES) or bool(_KEY_WORDS.search(self.message)))
        )

    @property
    def is_context(self) -> bool:
        return self.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or (
            self.is_bad and bool(_CONTEXT_WORDS.search(self.message))
        )


# The first that applies. What is refused for its content, or for the model alone, can come as 403,
# so that is looked at before the key.
_RULES: tuple[tuple[Meaning, Callable[[_Said], bool]], ...] = (
    (Meaning.QUOTA, lambda said: said.is_quota),
    (
        Meaning.RATE,
        lambda said: said.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.PAYMENT_REQUIRED),
    ),
    (Meaning.SAFETY, lambda said: said.is_safety),
    (Meaning.ACCESS, lambda said: said.is_access),
    (Meaning.KEY, lambda said: said.is_key),
    (
        Meaning.SLOW,
        lambda said: said.status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT),
    ),
    (Meaning.CONTEXT, lambda said: said.is_context),
    (Meaning.OPTION, lambda said: said.is_bad),
)


def retry_after(header: str | None) -> float | None:
    """Seconds that a server asks to wait: a number, or a date (RFC 9110 section 10.2.3)."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            when = parsedate_to_datetime(header)
        except ValueError:
            return None
        when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        seconds = (when - datetime.now(UTC)).total_seconds()
    if isnan(seconds):
        return None
    return min(max(seconds, DEFAULT_RETRY_AFTER_SECONDS), MAX_RETRY_AFTER_SECONDS)


def message_of(body: object) -> str:
    """What an error says, wherever it says it; empty if nowhere."""
    if isinstance(body, list):
        body = body[0] if body else None
    if not isinstance(body, dict):
        return ""
    error = body.get("error")
    if isinstance(error, dict):
        found = _text(error.get("message"))
        if found:
            return found
    for name in ("error", "message", "detail", "errors", "title"):
        found = _text(body.get(name))
        if found:
            return found
    return ""


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(filter(None, map(_text, value)))
    if isinstance(value, dict):  # Mistral and Replicate say which field is wrong
        return _text(value.get("msg") or value.get("message") or value.get("detail"))
    return ""


def _codes(value: object, depth: int = 0) -> Iterator[str]:
    """Every code, type, status, name and reason of an error object, in lower case."""
    if depth > _DEPTH:
        return
    if isinstance(value, list):
        for item in value[:20]:
            yield from _codes(item, depth + 1)
    elif isinstance(value, dict):
        for name, part in value.items():
            if name in ("code", "type", "status", "name", "reason") and isinstance(part, str):
                yield part.lower()
            elif isinstance(part, dict | list):
                yield from _codes(part, depth + 1)


def _retry_delay(body: object) -> float | None:
    """google.rpc.RetryInfo's retryDelay, which says "17s"."""
    details: Any = body[0] if isinstance(body, list) and body else body
    for name in ("error", "details"):
        details = details.get(name) if isinstance(details, dict) else None
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        matched = _DELAY.match(delay) if isinstance(delay, str) else None
        if matched:
            return min(max(float(matched[1]), 1.0), MAX_RETRY_AFTER_SECONDS)
    return None
