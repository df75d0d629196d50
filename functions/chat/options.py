"""What a request asks for beside text, and what a model says that it cannot do.

Looked at before anybody is asked: a provider would refuse it too, in words of its own, or ignore it
in silence. Only what a model's capabilities (docs/models.md) say is false is refused; of what they
say nothing, the provider decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from functions.core.errors import InvalidRequestError

Payload = Mapping[str, Any]


def _given(name: str, *harmless: object) -> Callable[[Payload], bool]:
    """Whether a member says something that makes a difference."""

    def asks(payload: Payload) -> bool:
        value = payload.get(name)
        return value is not None and value not in harmless

    return asks


def _format(kind: str) -> Callable[[Payload], bool]:
    def asks(payload: Payload) -> bool:
        wanted = payload.get("response_format")
        return isinstance(wanted, dict) and wanted.get("type") == kind

    return asks


# The member that is named in the error, the capability, and whether a request needs it.
_NEEDS: tuple[tuple[str, str, Callable[[Payload], bool]], ...] = (
    ("stream", "streaming", _given("stream", False)),
    ("tools", "tools", _given("tools", [])),
    ("reasoning_effort", "reasoning", _given("reasoning_effort", "none")),
    ("response_format", "json_schema", _format("json_schema")),
    ("response_format", "json_object", _format("json_object")),
    ("n", "choices", _given("n", 1)),
    ("logprobs", "logprobs", _given("logprobs", False)),
    ("top_logprobs", "logprobs", _given("top_logprobs", 0)),
    ("logit_bias", "logit_bias", _given("logit_bias", {})),
    ("seed", "seed", _given("seed")),
    ("stop", "stop", _given("stop", [])),
    ("temperature", "sampling", _given("temperature", 1)),
    ("top_p", "sampling", _given("top_p", 1)),
    ("top_k", "sampling", _given("top_k")),
    ("presence_penalty", "penalties", _given("presence_penalty", 0)),
    ("frequency_penalty", "penalties", _given("frequency_penalty", 0)),
)


def unsupported(payload: Payload, capabilities: Mapping[str, Any]) -> InvalidRequestError | None:
    """The error for the first thing that a request asks for and the model cannot do, if any."""
    for member, capability, asks in _NEEDS:
        if capabilities.get(capability) is False and asks(payload):
            return InvalidRequestError(
                "unsupported_parameter", f"This model has no {member}.", {"param": member}
            )
    most, wanted = capabilities.get("max_temperature"), payload.get("temperature")
    if isinstance(most, int | float) and isinstance(wanted, int | float) and wanted > most:
        return InvalidRequestError(
            "invalid_argument",
            "The temperature is too high for this model.",
            {"param": "temperature", "maximum": most},
        )
    return None
