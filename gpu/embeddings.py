"""Qwen3-Embedding: vectors of texts, and of queries, which are asked with an instruction.

A vector is the last hidden state of a text's last token, so texts are padded on the left: there
the last token is at the same place in every row. The model is trained so that the first numbers of
a vector are a vector as well (matryoshka); cut off, it is scaled to length 1 again.

Follows the model's card, https://huggingface.co/Qwen/Qwen3-Embedding-4B, section "Transformers
Usage".
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

STORED_DIMENSIONS = 1536
"""Numbers in a vector of the database: halfvec(1536)."""

MIN_DIMENSIONS = 32  # the model's card; as the catalog's min_dimensions
MAX_TOKENS = 32_768  # of one text; as the catalog's context_length
BATCH_TOKENS = 32_768  # of one pass, padding included: bounds the memory
BATCH_TEXTS = 128
QUERY_INSTRUCTION = "Given a search query, retrieve relevant passages that answer the query"
"""The card measures 1 to 5 per cent better retrieval with an instruction, written in English."""


class TextTooLongError(ValueError):
    """A text has more tokens than the model reads. `index` is its place."""

    def __init__(self, index: int, tokens: int, limit: int) -> None:
        self.index = index
        super().__init__(f"Text {index} has {tokens} tokens; the model reads {limit}.")


@dataclass(frozen=True)
class Embedded:
    """Vectors in the order of their texts, and the tokens that were read, without padding."""

    vectors: list[list[float]]
    tokens: int


def as_query(text: str, instruction: str = QUERY_INSTRUCTION) -> str:
    """A query as the model was trained to see it; documents go without an instruction."""
    return f"Instruct: {instruction}\nQuery:{text}"


class Embedder:
    """The model in memory. Any thread may ask; one pass runs at a time."""

    def __init__(
        self,
        source: str | Path,
        *,
        revision: str | None = None,
        device: str | None = None,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        """`source` is a hub id or a folder in hub format. Takes the first GPU, where there is one.

        Raises OSError when the model cannot be loaded.
        """
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if self.device.startswith("cuda") else torch.float32
        self.max_tokens = max_tokens
        self._tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, padding_side="left"
        )
        self._model = AutoModel.from_pretrained(
            source, revision=revision, dtype=dtype, use_safetensors=True
        )
        self._model.to(self.device).eval()
        self._lock = threading.Lock()

    @property
    def dimensions(self) -> int:
        """Numbers in a whole vector."""
        return int(self._model.config.hidden_size)

    def embed(self, texts: Sequence[str], dimensions: int = STORED_DIMENSIONS) -> Embedded:
        """Vectors of length 1, with so many numbers, or all where the model has fewer.

        Raises TextTooLongError, before anything is computed, and ValueError for dimensions below 1.
        """
        if dimensions < 1:
            raise ValueError("A vector has at least one number.")
        encoded: list[list[int]] = self._tokenizer(list(texts))["input_ids"] if texts else []
        for index, ids in enumerate(encoded):
            if len(ids) > self.max_tokens:
                raise TextTooLongError(index, len(ids), self.max_tokens)
        vectors: list[list[float]] = [[] for _ in encoded]
        for places in _batches([len(ids) for ids in encoded]):
            batch = self._pass([encoded[place] for place in places], dimensions)
            for place, vector in zip(places, batch, strict=True):
                vectors[place] = vector
        return Embedded(vectors, sum(map(len, encoded)))

    def _pass(self, encoded: list[list[int]], dimensions: int) -> list[list[float]]:
        padded = self._tokenizer.pad({"input_ids": encoded}, return_tensors="pt")
        with self._lock, torch.inference_mode():
            states = self._model(
                input_ids=padded["input_ids"].to(self.device),
                attention_mask=padded["attention_mask"].to(self.device),
                use_cache=False,
            ).last_hidden_state
            # In 32 bits: 16 of them are too few to scale by.
            last = states[:, -1].float()[:, :dimensions]
            vectors: list[list[float]] = normalize(last, dim=-1).cpu().tolist()
        return vectors


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of texts that share a pass: of like length, so that little is padding."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        # The newest is the longest, and all are padded to its length.
        is_full = len(batch) == BATCH_TEXTS or lengths[place] * (len(batch) + 1) > BATCH_TOKENS
        if batch and is_full:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
