"""The question of a message, with its vector where documents are searched for it."""

from __future__ import annotations

from typing import Any

from functions.chat.metering import repeat_start
from functions.core.database import Database
from functions.core.json import Json
from functions.core.settings import Settings
from functions.libraries.embedding.queries import embed_query


class Questions:
    """Begins answers; what documents say to a question the database looks up itself."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def begin(self, database: Database, arguments: dict[str, Json]) -> dict[str, Any]:
        """Call message_start, twice where it wants a vector of the question first.

        Raises QuernelError. Where nobody makes a vector, words alone are searched for.
        """
        started = await repeat_start("message_start", database, arguments)
        if started["state"] != "search":
            return started
        model = started["embedding_model"]
        found = {
            "p_embedding": await embed_query(self._settings, model, started["question"]),
            "p_embedding_model": model,
        }
        return await repeat_start("message_start", database, arguments | found)
