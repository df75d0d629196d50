"""The hold of one answer in a conversation: a completion's, with what is kept beside it."""

from __future__ import annotations

from decimal import Decimal
from http import HTTPStatus
from typing import Any

from functions.chat.counting import PromptSize
from functions.chat.metering import Background, Meter
from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.json import Json


class MessageMeter(Meter):
    """Opened by message_start, closed exactly once by message_finish or message_fail."""

    def __init__(
        self, database: Database, background: Background, started: dict[str, Any], since: float
    ) -> None:
        super().__init__(database, background, started, since)
        self.ids: dict[str, Any] = {
            name: started[name]
            for name in ("conversation_id", "user_message_id", "message_id", "title")
        }
        self.messages: list[dict[str, Any]] = started["messages"]
        self.citations: list[dict[str, Any]] = started["citations"]
        # The model server is sent plain numbers, not decimals.
        self.parameters: dict[str, Any] = {
            name: float(value) if isinstance(value, Decimal) else value
            for name, value in started["parameters"].items()
        }
        self.size = PromptSize(started["prompt_bound"], started["prompt_estimate"])

    async def kept(self) -> dict[str, Any] | None:
        """The message as it was stored; None while the database cannot tell."""
        await self.closed()
        if self._closing is None or not self._closing.done():
            return None
        result = self._closing.result()
        return None if result is None else result.get("message")

    def _was_work(self, error: QuernelError) -> bool:
        # What is refused for what it says is kept all the same, so it is one of the month's.
        return error.status < HTTPStatus.INTERNAL_SERVER_ERROR or super()._was_work(error)

    def _charge(self, **arguments: Json) -> None:
        self._close("message_finish", **arguments)

    def _release(self, **arguments: Json) -> None:
        self._close("message_fail", **arguments)
