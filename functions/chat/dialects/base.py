"""What a dialect is: between OpenAI's protocol, which clients speak, and what a server speaks."""

from __future__ import annotations

from typing import Any, Protocol

from functions.chat.templates import Template

Object = dict[str, Any]


class Reader(Protocol):
    """Reads one streamed answer."""

    def take(self, event: Object) -> list[Object]:
        """The chunks, in OpenAI's shape, that one event of the server's comes to.

        Raises UpstreamError where the server says that it failed.
        """
        ...

    @property
    def is_over(self) -> bool:
        """Whether the server has said that nothing follows."""
        ...


class Dialect(Protocol):
    """One way to ask for chat. It holds nothing of any request."""

    @property
    def chat_path(self) -> str:
        """Where chat is asked for, below the base URL."""
        ...

    def body(self, template: Template, upstream_model: str, max_tokens: int | None) -> bytes:
        """The body to send. Raises InvalidRequestError for what cannot be said in this dialect."""
        ...

    def answer(self, body: Object) -> Object:
        """An answer in one piece, in OpenAI's shape. Raises UpstreamError."""
        ...

    def reader(self) -> Reader:
        """A reader for one streamed answer."""
        ...

    def status_inside(self, answer: Object) -> int | None:
        """The status that a refusal should have had, which came in an answer or an event of 200."""
        ...
