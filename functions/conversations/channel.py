"""What a producer that does not stop has to say, and a reader who may leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator


class Channel:
    """Texts for one reader. Writing never waits; once the reader has left, texts are dropped.

    What waits for a slow reader is bounded by what one answer may be (upstream.MAX_ANSWER_BYTES).
    """

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._changed = asyncio.Event()
        self._is_closed = False
        self._is_read = True

    def write(self, text: str) -> None:
        """Hand a text over."""
        if self._is_read:
            self._texts.append(text)
            self._changed.set()

    def close(self) -> None:
        """Nothing follows."""
        self._is_closed = True
        self._changed.set()

    def abandon(self) -> None:
        """Nobody reads any more."""
        self._is_read = False
        self._texts.clear()

    async def read(self) -> AsyncIterator[str]:
        """What was written, joined where it has gathered, until the channel is closed."""
        while True:
            if self._texts:
                texts, self._texts = self._texts, []
                yield "".join(texts)
            elif self._is_closed:
                return
            else:
                self._changed.clear()
                await self._changed.wait()
