"""Texts to vectors: what is refused, what it costs, and what the official client makes of it."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import openai
import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.chat.conftest import MODEL, Memory, NewPayer, Payer, wait_for

EMBEDDING_MODEL = "Qwen3-Embedding-4B"
PRICE = 4  # credits per million tokens


def embed(payer: Payer, text: Any, **options: Any) -> httpx.Response:
    request = {"model": EMBEDDING_MODEL, "input": text} | options
    return payer.http.post("/embeddings", json=request)


def refused(response: httpx.Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "options", "code", "param"),
    [
        ("", {}, "invalid_request", "input"),
        ([], {}, "invalid_request", "input"),
        (["a", ""], {}, "invalid_request", "input[1]"),
        (None, {}, "invalid_request", "input"),
        ({"text": "a"}, {}, "invalid_request", "input"),
        (["a"] * 2049, {}, "invalid_request", "input"),
        ([1, 2, 3], {}, "unsupported_content", "input"),
        ([[1, 2], [3]], {}, "unsupported_content", "input"),
        ("a", {"encoding_format": "int8"}, "invalid_request", "encoding_format"),
        ("a", {"dimensions": 0}, "invalid_request", "dimensions"),
        ("a", {"dimensions": "many"}, "invalid_request", "dimensions"),
        ("a", {"model": ""}, "invalid_request", "model"),
        ("a", {"truncate_prompt_tokens": 1}, "unsupported_parameter", "truncate_prompt_tokens"),
        ("a", {"messages": []}, "unsupported_parameter", "messages"),
    ],
)
def test_what_cannot_be_embedded_is_refused(
    idle_payer: Payer, text: Any, options: dict[str, Any], code: str, param: str
) -> None:
    assert refused(embed(idle_payer, text, **options)) == (400, code, param)
    assert idle_payer.holds() == []


@pytest.mark.parametrize("model", [MODEL, "no-such-model"])
def test_what_embeds_nothing_is_not_found(idle_payer: Payer, model: str) -> None:
    answer = embed(idle_payer, "a", model=model)
    assert refused(answer) == (404, "model_not_found", "model")
    assert idle_payer.holds() == []


def test_an_embedding_model_completes_nothing(idle_payer: Payer) -> None:
    answer = idle_payer.ask("a", model=EMBEDDING_MODEL)
    assert refused(answer)[1] == "model_not_found"


@pytest.mark.parametrize("dimensions", [31, 2561])
def test_a_length_that_the_model_does_not_make_is_refused_and_free(
    payer: Payer, dimensions: int
) -> None:
    answer = embed(payer, "a", dimensions=dimensions)
    assert refused(answer) == (400, "invalid_argument", "dimensions")
    payer.require_free(count=1, code="invalid_argument")


def test_a_model_of_one_length_takes_no_other(payer: Payer, service: Any) -> None:
    fields = {
        "id": "vectors-of-one-length",
        "provider": "quernel",
        "name": "Vectors",
        "kind": "embedding",
        "upstream_model": "vectors",
        "context_length": 512,
        "prompt_price": 1,
        "capabilities": {"dimensions": 384},
    }
    service.rpc("model_upsert", p_model=fields, p_actor="tests")
    answer = embed(payer, "a", model=fields["id"], dimensions=256)
    assert refused(answer) == (400, "unsupported_parameter", "dimensions")
    assert embed(payer, "a", model=fields["id"], dimensions=384).status_code == 200
    service.rpc("model_upsert", p_model={"id": fields["id"], "is_active": False}, p_actor="tests")


def test_more_vectors_than_one_answer_carries_are_refused_and_free(payer: Payer) -> None:
    answer = embed(payer, ["a"] * 1000)
    assert refused(answer) == (413, "body_too_large", "input")
    assert answer.json()["error"]["max_inputs"] == 546
    payer.require_free(count=1, code="body_too_large")


def test_without_credits_nothing_is_embedded(payer: Payer, upstream: Memory, mark: str) -> None:
    payer.connection.execute(
        "update public.credit_accounts set monthly_credit_budget = 0.00001 where user_id = %s",
        [payer.id],
    )
    answer = embed(payer, f"{mark} " * 100)
    assert refused(answer)[:2] == (402, "budget_exceeded")
    assert upstream.bodies(mark) == []
    payer.require_free(count=0)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("status=500", 502, "upstream_error"),
        ("status=429 retry_after=3", 503, "upstream_rate_limited"),
        ("status=422", 400, "upstream_rejected"),
        ("fault=context", 400, "context_length_exceeded"),
        ("fault=empty", 502, "upstream_error"),
        ("fault=drop", 502, "upstream_error"),
    ],
)
def test_a_failing_upstream_is_free(payer: Payer, fault: str, status: int, code: str) -> None:
    assert refused(embed(payer, f"simulate: {fault}"))[:2] == (status, code)
    payer.require_free(count=1, code=code)


def test_a_negative_price_of_an_embedding_model_is_none(
    db: Callable[[], psycopg.Connection],
) -> None:
    for change in ({"prompt_price": -1}, {"prompt_price": None}, {"context_length": None}):
        with pytest.raises(psycopg.DatabaseError):
            db().execute(
                "select backend.model_upsert(p_model => %s, p_actor => 'tests')",
                [Jsonb({"id": EMBEDDING_MODEL} | change)],
            )


# Vectors ------------------------------------------------------------------------------------------


def test_a_text_is_embedded_and_paid_to_the_digit(payer: Payer) -> None:
    raw = embed(payer, "Why is the sky blue?")
    answer = json.loads(raw.content, parse_float=Decimal)
    assert (answer["object"], answer["model"]) == ("list", EMBEDDING_MODEL)
    [vector] = answer["data"]
    assert (vector["object"], vector["index"]) == ("embedding", 0)
    assert len(vector["embedding"]) == 2560
    usage = answer["usage"]
    assert usage["prompt_tokens"] == usage["total_tokens"] > 0
    assert "completion_tokens" not in usage
    [row] = payer.settled_usage()
    assert (row["action"], row["status"], row["usage_source"]) == (
        "embedding",
        "completed",
        "upstream",
    )
    assert (row["model_id"], row["provider"]) == (EMBEDDING_MODEL, "quernel")
    assert row["prompt_tokens"] == usage["prompt_tokens"]
    cost = Decimal(PRICE * usage["prompt_tokens"]) / 1_000_000
    assert payer.charges() == [cost] == [usage["credits_charged"]]
    assert payer.balance == 100 - cost == usage["credits_remaining"]
    assert payer.account()["period_tokens"] == usage["prompt_tokens"]
    assert raw.headers["x-quernel-provider"] == "quernel"
    assert raw.headers["x-quernel-credential"] == "platform"


def test_the_official_client_gets_unit_vectors_in_order(
    payer: Payer, upstream: Memory, mark: str
) -> None:
    texts = [f"{mark} one", "two", f"{mark} one"]
    embeddings = payer.client().embeddings
    answer = embeddings.create(
        model=EMBEDDING_MODEL, input=texts, dimensions=64, user="somebody@example.com"
    )
    assert [vector.index for vector in answer.data] == [0, 1, 2]
    first, second, third = (vector.embedding for vector in answer.data)
    assert first == third != second
    assert math.isclose(sum(number * number for number in first), 1, rel_tol=1e-5)
    [sent] = upstream.bodies(mark)
    assert sent == {
        "model": "Qwen/Qwen3-Embedding-4B",
        "input": texts,
        "dimensions": 64,
        "encoding_format": "base64",
    }
    floats = embeddings.create(
        model=EMBEDDING_MODEL, input=texts, dimensions=64, encoding_format="float"
    )
    assert floats.data[1].embedding == pytest.approx(second, rel=1e-6)


def test_base64_is_passed_through(payer: Payer) -> None:
    answer = embed(payer, "a", dimensions=32, encoding_format="base64").json()
    packed = base64.b64decode(answer["data"][0]["embedding"])
    assert len(struct.unpack("<32f", packed)) == 32


def test_many_texts_in_one_request(payer: Payer) -> None:
    answer = embed(payer, ["a text"] * 2048, encoding_format="base64", dimensions=1024)
    assert len(answer.json()["data"]) == 2048
    assert len(payer.charges()) == 1


@pytest.mark.parametrize(("fault", "source"), [("huge_usage", "upstream"), ("no_usage", "counted")])
def test_no_count_of_the_upstream_exceeds_the_hold(payer: Payer, fault: str, source: str) -> None:
    assert embed(payer, f"a simulate: fault={fault}", dimensions=32).status_code == 200
    [row] = payer.settled_usage()
    assert row["usage_source"] == source
    assert 0 < row["credits"] <= row["credits_held"]
    assert payer.charges() == [row["credits"]]


def test_a_connection_that_broke_is_made_once_more(
    payer: Payer, upstream: Memory, mark: str
) -> None:
    answer = embed(payer, f"{mark} simulate: fault=drop times=1", dimensions=32)
    assert answer.status_code == 200
    assert len(upstream.bodies(mark)) == 2
    assert len(payer.charges()) == 1


def test_leaving_stops_the_model_and_is_free(payer: Payer, upstream: Memory, mark: str) -> None:
    request = {"model": EMBEDDING_MODEL, "input": f"{mark} simulate: first_ms=5000"}
    with pytest.raises(httpx.ReadTimeout):
        payer.http.post("/embeddings", json=request, timeout=0.4)
    wait_for(lambda: upstream.counts(mark)["cancelled"] == 1, seconds=2)
    payer.require_free(count=1, code="client_closed_request")


def test_the_same_start_again_is_the_same_hold(payer: Payer, service: Any) -> None:
    arguments = {
        "p_user_id": payer.id,
        "p_request_id": "3f0e7c56-7a3a-4a6e-9a54-1f2d3c4b5a69",
        "p_model": EMBEDDING_MODEL,
        "p_prompt_tokens": 100,
    }
    first, second = (service.rpc("embedding_start", **arguments) for _ in range(2))
    assert first["hold_id"] == second["hold_id"]
    assert first["held"] == second["held"] == Decimal(PRICE * 100) / 1_000_000
    service.rpc("chat_fail", p_hold_id=first["hold_id"], p_error_code="tests")
    with pytest.raises(Exception, match="idempotency_conflict"):
        service.rpc("embedding_start", **arguments)


def test_parallel_embeddings_pass_a_budget_once(new_payer: NewPayer) -> None:
    # LiteLLM PR 40002, here for embeddings: five long requests within a budget for one.
    payer = new_payer()
    payer.connection.execute(
        "update public.credit_accounts set monthly_credit_budget = 0.05 where user_id = %s",
        [payer.id],
    )
    text = "word " * 2000  # 10,000 bytes: 0.04 credits held, 0.016 charged
    with ThreadPoolExecutor(5) as pool:
        answers = list(
            pool.map(
                lambda _: embed(payer, f"{text} simulate: first_ms=700", dimensions=32), "abcde"
            )
        )
    assert sorted(answer.status_code for answer in answers) == [200, 402, 402, 402, 402]
    assert len(payer.charges()) == 1


def test_the_list_has_the_model_with_its_price_and_lengths(payer: Payer) -> None:
    model = payer.client().models.retrieve(EMBEDDING_MODEL)
    assert isinstance(model, openai.types.Model)
    shown = model.model_dump()
    assert shown["kind"] == "embedding"
    assert shown["context_length"] == 32768
    assert shown["capabilities"]["dimensions"] == 2560
    assert shown["pricing"]["prompt"] == PRICE
