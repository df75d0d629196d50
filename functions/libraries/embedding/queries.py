"""The vector of a question, by the model that a version was indexed with."""

from __future__ import annotations

import asyncio
import logging

from functions.chat.model_server import NoAnswerError
from functions.core.errors import OperatorError
from functions.core.logging import log_event
from functions.core.settings import Settings
from functions.libraries.embedding.documents import embed_documents

QUERY_SECONDS = 5.0
"""For which a question waits for its vector: a card that sleeps takes a minute."""

logger = logging.getLogger(__name__)


async def embed_query(settings: Settings, model: str | None, text: str) -> list[float] | None:
    """It; None where nobody makes one now: words alone answer then."""
    if model is None:
        return None
    try:
        async with asyncio.timeout(QUERY_SECONDS):
            [vector] = await embed_documents(settings, model, [text], is_query=True)
    except TimeoutError:
        log_event(logger, logging.WARNING, "question without a vector", reason="slow")
        return None
    except NoAnswerError as error:
        log_event(logger, logging.WARNING, "question without a vector", reason=error.reason)
        return None
    except OperatorError as error:
        log_event(logger, logging.ERROR, "question without a vector", reason=error.operator_code)
        return None
    return vector
