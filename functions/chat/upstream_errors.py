"""What goes wrong between us and a model server.

    UpstreamError         it failed, or could not be asked; another may well do better
    OwnKeyError           it refused the customer's own key; another key may well do better
    AnswerCutOffError     one of our limits ended an answer

What a model server refuses because of the request is a plain QuernelError: that is no failure.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from functions.chat.candidates import Served
from functions.core.errors import QuernelError
from functions.core.logging import log_event

logger = logging.getLogger(__name__)

OwnKeyOutcome = Literal["rejected", "quota_exceeded", "rate_limited", "failed"]
"""`failed`: the key is good, and does not open this."""


class UpstreamError(QuernelError):
    """The model server failed, or could not be asked; another may well do better.

    What it refuses because of the request is a plain QuernelError: that is no failure.
    """

    def __init__(
        self,
        code: str,
        status: int,
        message: str,
        facts: Mapping[str, Any] | None = None,
        *,
        is_connection: bool = False,
        may_repeat: bool = False,
        busy_seconds: float | None = None,
        was_asked: bool = True,
    ) -> None:
        """What the router and the breaker look at.

        `is_connection`: there was not one byte of an answer, which no request brings about;
        `may_repeat`: and the same may go well at once. `busy_seconds`: it said how long it does not
        want to be asked. `was_asked` is false where a breaker, or the settings, stood before it.
        """
        super().__init__(code, status, message, facts)
        self.is_connection = is_connection
        self.may_repeat = may_repeat
        self.busy_seconds = busy_seconds
        self.was_asked = was_asked


class OwnKeyError(QuernelError):
    """A provider refused the customer's own key, not the request: another key may well do better.

    It says nothing of the provider, so no breaker counts it.
    """

    def __init__(
        self,
        outcome: OwnKeyOutcome,
        retry_after: float | None = None,
    ) -> None:
        """`retry_after`: seconds that the provider asked to wait, where it did."""
        code, status, message = _OWN_KEY_REFUSALS[outcome]
        facts: dict[str, Any] = {"credential": "own"}
        if outcome in _REMEDIES:
            facts["remedy"] = _REMEDIES[outcome]
        elif retry_after is not None:
            facts["retry_after"] = retry_after
        super().__init__(code, status, message, facts)
        self.outcome = outcome


_OWN_KEY_REFUSALS = {
    "rejected": ("provider_key_rejected", 401, "The provider does not accept your own key."),
    "quota_exceeded": (
        "provider_quota_exceeded",
        402,
        "The provider says that your own key has no quota or credit left.",
    ),
    "rate_limited": (
        "provider_rate_limited",
        429,
        "The provider limits how often your own key may ask. Try again later.",
    ),
    "failed": (
        "provider_access_denied",
        403,
        "The provider does not let your own key use this model.",
    ),
}
_REMEDIES = {
    "rejected": "replace_provider_key",
    "quota_exceeded": "pay_provider",
    "failed": "ask_provider",
}


class AnswerCutOffError(QuernelError):
    """One of the limits above ended an answer; the model may have done nothing wrong.

    400, because clients repeat what failed with 5xx on their own, and this would end alike.
    """

    served: Served | None = None
    """Whose answer it was, where that is not known otherwise."""

    def __init__(self, limit: str) -> None:
        """`limit` says what was reached."""
        super().__init__(
            "answer_cut_off",
            400,
            f"The answer went on for more than {limit} and was cut off. Ask for less.",
        )


def broken(message: str, *, is_connection: bool = False, may_repeat: bool = False) -> UpstreamError:
    """The error for an answer that went wrong."""
    return UpstreamError(
        "upstream_error", 502, message, is_connection=is_connection, may_repeat=may_repeat
    )


def malformed() -> UpstreamError:
    """The error for an answer that is not in the protocol."""
    return broken("The model server sent something that is not in OpenAI's protocol.")


def refuse_error_chunk(chunk: dict[str, Any]) -> None:
    """Raise QuernelError 502 when a chunk, or an answer with status 200, is an error object."""
    if chunk.get("error"):
        log_event(logger, logging.WARNING, "upstream failed inside its answer")
        raise broken("The model server failed while it answered.")


def choices_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of an answer or a chunk. Raises UpstreamError 502 where there are none."""
    choices = body.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise malformed()
    return choices
