"""Vectors of what is searched: by the lexical embedding, or by a model of the operator's server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from functions.chat.model_server import UnreadableError, open_model_server
from functions.core.settings import Settings
from functions.libraries.embedding import lexical

DIMENSIONS = 1536
"""Of what a model behind an address is asked for: as many as a vector of the database has."""

OURS = frozenset({"Qwen3-Embedding-4B", "Qwen/Qwen3-Embedding-4B"})
"""Models of gpu/embeddings_app.py, which puts an instruction before a question."""

MOST_TEXTS = 64
"""Of one question to a server. Of chunks, these have about 30,000 tokens together."""

VECTOR_BYTES = 64 * 1024
"""Of one vector in an answer: 1,536 numbers of 25 characters are about 40 KB."""


async def embed_documents(
    settings: Settings, model: str, texts: Sequence[str], *, is_query: bool = False
) -> list[list[float]]:
    """A unit vector for each text; a question is not read as a page is.

    Raises NoAnswerError where the server has none, OperatorError where numpy is not installed.
    """
    if model == lexical.NAME:
        if is_query:
            return await asyncio.to_thread(lexical.embed, texts)
        return await asyncio.to_thread(lexical.embed, [_with_heading(text) for text in texts])
    vectors: list[list[float]] = []
    async with open_model_server(settings, "library") as server:
        if server is None:
            raise UnreadableError("not_configured")
        for start in range(0, len(texts), MOST_TEXTS):
            part = list(texts[start : start + MOST_TEXTS])
            body = {
                "model": model,
                "input": part,
                "dimensions": DIMENSIONS,
                "encoding_format": "float",
                **({"input_type": "query"} if is_query and model in OURS else {}),
            }
            vectors += _read(
                await server.ask("/embeddings", body, max_bytes=VECTOR_BYTES * (len(part) + 1)),
                len(part),
            )
    return vectors


def _with_heading(text: str) -> str:
    """With the heading that the text is under twice more: no model reads what it is about."""
    heading = text.partition("\n")[0].rpartition(" > ")[2]
    return f"{heading}\n{heading}\n{text}"


def _read(answer: dict[str, Any], count: int) -> list[list[float]]:
    """The vectors in the order of the texts. Raises UnreadableError."""
    try:
        items = sorted(answer["data"], key=lambda item: int(item["index"]))
        vectors = [[float(number) for number in item["embedding"]] for item in items]
    except (LookupError, TypeError, ValueError, OverflowError):
        raise UnreadableError("unreadable") from None
    if len(vectors) != count:
        raise UnreadableError("unreadable")
    return [_unit(vector) for vector in vectors]


def _unit(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    if len(vector) != DIMENSIONS or not math.isfinite(length) or length == 0:
        raise UnreadableError("unreadable")
    return [number / length for number in vector]
