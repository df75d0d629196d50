"""OpenAI's chat completions, and what servers that speak it do differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal

from functions.chat.dialects.base import Object, Reader
from functions.chat.templates import Template
from functions.chat.upstream_errors import broken

FILTERED = "content_filter"
"""The reason for the end of an answer that was not allowed."""

# Gemini's, whose own words come through at its OpenAI paths too; and Mistral's.
GEMINI_FINISH_REASONS: Mapping[str, str] = {
    "stop": "stop",
    "max_tokens": "length",
    **dict.fromkeys(
        (
            "safety",
            "recitation",
            "blocklist",
            "prohibited_content",
            "spii",
            "image_safety",
            "language",
        ),
        FILTERED,
    ),
}
MISTRAL_FINISH_REASONS: Mapping[str, str] = {"model_length": "length"}


class PlainReader:
    """Events are chunks already; `[DONE]` ends a stream, which is no event."""

    is_over = False

    def take(self, event: Object) -> list[Object]:
        return [event]


class _NamingReader(PlainReader):
    """Events are chunks but for their reasons to end."""

    def __init__(self, finish_reasons: Mapping[str, str]) -> None:
        self._finish_reasons = finish_reasons

    def take(self, event: Object) -> list[Object]:
        _name_reasons(event, self._finish_reasons)
        return [event]


@dataclass(frozen=True)
class OpenAIDialect:
    """The protocol, in the variant of one server."""

    chat_path: str = "/chat/completions"
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls its limit of an answer."""
    stream_usage: bool = True
    """Whether it has to be asked for figures in a stream, by `stream_options`."""
    continuous_usage: bool = False
    """Whether it can send figures with every chunk of a stream, not only with the last."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Members that have another name there."""
    finish_reasons: Mapping[str, str] | None = None
    """Its own reasons to end, in lower case, and OpenAI's; None: it has OpenAI's."""
    refuses_inside: bool = False
    """Whether it refuses in answers of status 200 too, with the status as the error's `code`."""

    def body(self, template: Template, upstream_model: str, max_tokens: int | None) -> bytes:
        return template.fill(
            upstream_model,
            max_tokens,
            continuous_usage=self.continuous_usage,
            limit=self.limit,
            stream_usage=self.stream_usage,
            renamed=self.renamed,
        )

    def answer(self, body: Object) -> Object:
        if self.finish_reasons is not None:
            _name_reasons(body, self.finish_reasons)
        return body

    def reader(self) -> Reader:
        return PlainReader() if self.finish_reasons is None else _NamingReader(self.finish_reasons)

    def status_inside(self, answer: Object) -> int | None:
        error = answer.get("error") if self.refuses_inside else None
        code = error.get("code") if isinstance(error, dict) else None
        is_status = isinstance(code, int) and code >= HTTPStatus.BAD_REQUEST
        return code if is_status else None


def _name_reasons(body: Object, names: Mapping[str, str]) -> None:
    """Give every choice OpenAI's reason. Raises UpstreamError where one ended in an error."""
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        reason = choice.get("finish_reason") if isinstance(choice, dict) else None
        if not isinstance(reason, str):
            continue
        # Gemini has been seen to write "content_filter: RECITATION".
        name = reason.partition(":")[0].lower()
        if name == "error":
            raise broken("The model server failed while it answered.")
        choice["finish_reason"] = names.get(name, name)
