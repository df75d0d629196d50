"""A request's body without what differs between candidates."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from functions.chat import wire
from functions.chat.schemas import Completion
from functions.core.errors import InvalidRequestError
from functions.core.json import Json

# Ours to decide, or about the person who asks: never sent on as the client wrote them.
_OURS = frozenset(
    {
        "background",
        "credential",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "modalities",
        "model",
        "models",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "route",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "user",
    }
)


class Template:
    """A request's body without what differs between candidates; encoded once for all of them."""

    def __init__(self, request: Completion) -> None:
        """Raises QuernelError 400 when a number in the body cannot be written as JSON."""
        passed = {name: value for name, value in request.payload.items() if name not in _OURS}
        self.passed = passed
        """What the client wrote, without what is ours to decide."""
        self.streams = request.streams
        try:
            self._start = wire.dumps(passed)[:-1]
        except ValueError as error:
            message = "The body holds a number that JSON cannot carry."
            raise InvalidRequestError("invalid_request", message) from error

    def fill(
        self,
        upstream_model: str,
        max_tokens: int | None,
        *,
        continuous_usage: bool = False,
        limit: str = "max_tokens",
        stream_usage: bool = True,
        renamed: Mapping[str, str] = MappingProxyType({}),
    ) -> bytes:
        """The body to send.

        `continuous_usage` asks for figures with every chunk of a stream, not only with the last;
        `limit` is what the server calls its limit of an answer, and `renamed` what it calls other
        members. Without `stream_usage` it is not asked for figures in a stream.
        """
        decided: dict[str, Json] = {"model": upstream_model}
        if max_tokens is not None:
            decided[limit] = max_tokens
        if self.streams and stream_usage:
            options = {"include_usage": True}
            if continuous_usage:
                options["continuous_usage_stats"] = True
            decided["stream_options"] = options
        start = self._start
        if not renamed.keys().isdisjoint(self.passed):
            there = {renamed.get(name, name): value for name, value in self.passed.items()}
            start = wire.dumps(there)[:-1]
        return f"{start},{wire.dumps(decided)[1:]}".encode()
