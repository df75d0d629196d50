"""OpenAI's chat completions, and what servers that speak it do differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from functions.chat.dialects.base import Object, Reader
from functions.chat.templates import Template


class PlainReader:
    """Events are chunks already; `[DONE]` ends a stream, which is no event."""

    is_over = False

    def take(self, event: Object) -> list[Object]:
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
        return body

    def reader(self) -> Reader:
        return PlainReader()
