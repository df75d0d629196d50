"""Vectors of a tiny Qwen3, against what plain transformers compute for one text at a time."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient
from transformers import AutoModel, AutoTokenizer

from gpu import embeddings
from gpu.embeddings import MIN_DIMENSIONS, Embedder, TextTooLongError, as_query
from gpu.embeddings_app import MAX_BODY_BYTES, embeddings_app
from tests.gpu.tiny_models import save_embedder

TEXTS = ["sky", "Why is the sky blue?", "ÄÖÜ 中文 " * 20, "a", "Hello, how are you today?"]
NAME = "Qwen3-Embedding-4B"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_embedder(tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Embedder:
    return Embedder(folder, device="cpu", max_tokens=256)


@pytest.fixture(scope="module")
def client(embedder: Embedder) -> Iterator[TestClient]:
    app = embeddings_app(embedder, [NAME, f"Qwen/{NAME}"], as_query, MIN_DIMENSIONS)
    with TestClient(app) as made:
        yield made


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    """What transformers compute, without padding, batches or our code."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def vector(text: str, dimensions: int) -> list[float]:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        numbers = states[0, -1, :dimensions]
        return (numbers / numbers.norm()).tolist()

    return vector


def close(first: list[float], second: list[float]) -> bool:
    return len(first) == len(second) and all(
        math.isclose(one, other, abs_tol=1e-5) for one, other in zip(first, second, strict=True)
    )


def test_each_text_has_the_vector_that_transformers_compute_for_it_alone(
    embedder: Embedder, plain: Any
) -> None:
    """In one pass with texts of all lengths: padding changes nothing."""
    result = embedder.embed(TEXTS, 64)
    for text, vector in zip(TEXTS, result.vectors, strict=True):
        assert close(vector, plain(text, 64))


def test_different_texts_have_different_vectors(embedder: Embedder) -> None:
    """Or nothing here would be shown."""
    vectors = embedder.embed(TEXTS, 64).vectors
    for place, one in enumerate(vectors):
        for other in vectors[:place]:
            assert sum(a * b for a, b in zip(one, other, strict=True)) < 0.99


def test_how_texts_are_batched_changes_nothing(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = embedder.embed(TEXTS, 64).vectors
    monkeypatch.setattr(embeddings, "BATCH_TEXTS", 2)
    monkeypatch.setattr(embeddings, "BATCH_TOKENS", 40)
    for one, other in zip(together, embedder.embed(TEXTS, 64).vectors, strict=True):
        assert close(one, other)


def test_batches_keep_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "BATCH_TEXTS", 3)
    monkeypatch.setattr(embeddings, "BATCH_TOKENS", 20)
    lengths = [9, 1, 30, 2, 3, 10, 1]
    batches = list(embeddings._batches(lengths))
    assert sorted(place for batch in batches for place in batch) == list(range(7))
    for batch in batches:
        assert len(batch) <= 3
        assert len(batch) == 1 or max(lengths[place] for place in batch) * len(batch) <= 20


@pytest.mark.parametrize("dimensions", [32, 48, 64])
def test_a_shorter_vector_is_the_beginning_of_the_whole_one_at_length_1(
    embedder: Embedder, dimensions: int
) -> None:
    (whole,) = embedder.embed(["Why is the sky blue?"], 64).vectors
    (short,) = embedder.embed(["Why is the sky blue?"], dimensions).vectors
    length = math.sqrt(sum(number**2 for number in whole[:dimensions]))
    assert close(short, [number / length for number in whole[:dimensions]])
    assert math.isclose(sum(number**2 for number in short), 1, abs_tol=1e-5)


def test_vectors_are_as_long_as_the_columns_of_the_database(tmp_path: Path) -> None:
    wide = Embedder(save_embedder(tmp_path, hidden_size=2560), device="cpu")
    (vector,) = wide.embed(["sky"]).vectors
    assert len(vector) == 1536
    assert math.isclose(sum(number**2 for number in vector), 1, abs_tol=1e-5)


def test_no_texts_have_no_vectors(embedder: Embedder) -> None:
    assert embedder.embed([]) == embeddings.Embedded([], 0)


def test_a_text_that_is_too_long_is_named_before_anything_is_computed(embedder: Embedder) -> None:
    with pytest.raises(TextTooLongError) as caught:
        embedder.embed(["sky", "0" * 500])
    assert caught.value.index == 1


def test_a_vector_without_numbers_is_refused(embedder: Embedder) -> None:
    with pytest.raises(ValueError, match="at least one"):
        embedder.embed(["sky"], 0)


# Over HTTP ----------------------------------------------------------------------------------------


def test_an_answer_has_openais_shape_and_counts_tokens_without_padding(
    client: TestClient, embedder: Embedder, plain: Any
) -> None:
    answer = client.post("/v1/embeddings", json={"model": NAME, "input": ["sky", TEXTS[2]]}).json()
    assert [one["index"] for one in answer["data"]] == [0, 1]
    assert close(answer["data"][1]["embedding"], plain(TEXTS[2], 64))
    tokens = sum(embedder.embed([text]).tokens for text in ("sky", TEXTS[2]))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_a_single_text_needs_no_list(client: TestClient) -> None:
    answer = client.post("/v1/embeddings", json={"model": f"Qwen/{NAME}", "input": "sky"}).json()
    assert len(answer["data"]) == 1
    assert answer["model"] == f"Qwen/{NAME}"


def test_base64_is_the_same_vector(client: TestClient, plain: Any) -> None:
    body = {"model": NAME, "input": "sky", "encoding_format": "base64", "dimensions": 32}
    packed = client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    assert close(list(struct.unpack("<32f", base64.b64decode(packed))), plain("sky", 32))


def test_a_query_is_asked_with_its_instruction(client: TestClient, plain: Any) -> None:
    def vector(**options: str) -> list[float]:
        body = {"model": NAME, "input": "sky"} | options
        numbers: list[float] = client.post("/v1/embeddings", json=body).json()["data"][0][
            "embedding"
        ]
        return numbers

    instruction = "Given a search query, retrieve relevant passages that answer the query"
    assert close(vector(input_type="query"), plain(f"Instruct: {instruction}\nQuery:sky", 64))
    own = vector(input_type="query", instruction="Hello")
    assert close(own, plain("Instruct: Hello\nQuery:sky", 64))
    assert close(vector(input_type="document"), plain("sky", 64))


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "model"),
        ({"model": "other", "input": "sky"}, 404, "model"),
        ({"model": NAME}, 400, "input"),
        ({"model": NAME, "input": ""}, 400, "input"),
        ({"model": NAME, "input": []}, 400, "input"),
        ({"model": NAME, "input": ["sky", ""]}, 400, "input"),
        ({"model": NAME, "input": ["a"] * 2049}, 400, "input"),
        ({"model": NAME, "input": [[1, 2]]}, 400, "input"),
        ({"model": NAME, "input": "0" * 500}, 400, "input"),
        ({"model": NAME, "input": "sky", "dimensions": 31}, 400, "dimensions"),
        ({"model": NAME, "input": "sky", "dimensions": 65}, 400, "dimensions"),
        ({"model": NAME, "input": "sky", "dimensions": 0}, 400, "dimensions"),
        ({"model": NAME, "input": "sky", "dimensions": True}, 400, "dimensions"),
        ({"model": NAME, "input": "sky", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"model": NAME, "input": "sky", "input_type": "other"}, 400, "input_type"),
        ({"model": NAME, "input": "sky", "instruction": "x"}, 400, None),
    ],
)
def test_what_is_wrong_is_told(
    client: TestClient, body: dict[str, Any], status: int, param: str | None
) -> None:
    answer = client.post("/v1/embeddings", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'"text"'])
def test_what_is_no_request_is_refused(client: TestClient, content: bytes) -> None:
    assert client.post("/v1/embeddings", content=content).status_code == 400


def test_a_body_that_is_too_large_is_refused(client: TestClient) -> None:
    assert client.post("/v1/embeddings", content=b" " * (MAX_BODY_BYTES + 1)).status_code == 413


def test_health_and_models_name_the_model(client: TestClient) -> None:
    assert client.get("/health").json() == {"model": NAME, "is_warm": True}
    assert client.get("/v1/models").json()["data"][0]["id"] == NAME
