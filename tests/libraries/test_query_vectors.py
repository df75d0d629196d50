"""The vector of a question: by the model of the version, and never waited for too long."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from functions.libraries.embedding import queries
from functions.libraries.embedding.documents import DIMENSIONS, MOST_TEXTS, embed_documents
from functions.libraries.embedding.lexical import NAME, embed
from functions.libraries.embedding.queries import embed_query
from local.stack import Stack
from tests.chat.conftest import settings_of
from tests.support.http_server import serve

pytestmark = pytest.mark.anyio
MODEL = "Qwen3-Embedding-4B"


async def test_the_lexical_one_is_made_here(stack: Stack) -> None:
    assert await embed_query(settings_of(stack), NAME, "beam") == embed(["beam"])[0]
    assert await embed_query(settings_of(stack), None, "beam") is None


async def test_a_model_is_asked_as_for_a_question(stack: Stack) -> None:
    seen = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(json.loads(await request.read()))
        return web.json_response({"data": [{"index": 0, "embedding": [0.0, 3.0] + [0.0] * 1534}]})

    async with serve(answer) as url:
        settings = settings_of(stack, llm_url=f"{url}/v1", llm_api_key="key")
        vector = await embed_query(settings, MODEL, "beam")
    assert vector is not None
    assert (len(vector), vector[1]) == (1536, 1.0)
    assert (seen[0]["model"], seen[0]["input_type"]) == (MODEL, "query")


async def test_pages_are_asked_about_many_at_once(stack: Stack) -> None:
    asked = []

    async def answer(request: web.BaseRequest) -> web.Response:
        texts = json.loads(await request.read())["input"]
        asked.append(len(texts))
        vector = [0.123456789012345678] * DIMENSIONS
        items = [{"index": number, "embedding": vector} for number in range(len(texts))]
        return web.json_response({"data": items})

    async with serve(answer) as url:
        settings = settings_of(stack, llm_url=f"{url}/v1", llm_api_key="key")
        vectors = await embed_documents(settings, MODEL, ["page"] * (MOST_TEXTS + 1))
    assert (len(vectors), asked) == (MOST_TEXTS + 1, [MOST_TEXTS, 1])


@pytest.mark.parametrize("status", [404, 429, 503])
async def test_without_an_answer_words_do(stack: Stack, status: int) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status)

    async with serve(answer) as url:
        settings = settings_of(stack, llm_url=f"{url}/v1", llm_api_key="key")
        assert await embed_query(settings, MODEL, "beam") is None


async def test_a_model_that_sleeps_is_not_waited_for(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "QUERY_SECONDS", 0.2)
    is_over = asyncio.Event()

    async def answer(_: web.BaseRequest) -> web.Response:
        await is_over.wait()
        return web.Response()

    async with serve(answer) as url:
        settings = settings_of(stack, llm_url=f"{url}/v1", llm_api_key="key")
        assert await embed_query(settings, MODEL, "beam") is None
        is_over.set()
