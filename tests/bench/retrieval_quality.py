"""How well real documentation answers: by words, by vectors, by both, and by BM25 beside them."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import bm25s
import psycopg
import Stemmer
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from functions.core.settings import Settings
from functions.libraries.chunking import Chunk
from functions.libraries.embedding import lexical
from functions.libraries.embedding.documents import embed_documents
from functions.libraries.indexing import embedded_text
from local.stack import Stack
from tests.bench.retrieval_corpus import MEASURED, Piece, Question, pieces_of, questions_of

AT = 10
"""Places that are looked at."""

SETTINGS = Settings()

Key = tuple[str, int]
Search = Callable[[str], Sequence[Key]]


@dataclass(frozen=True)
class Quality:
    """Means over questions, each 0 to 1."""

    mrr: float
    recall_at_5: float
    ndcg_at_10: float


def quality(questions: Sequence[Question], search: Search) -> Quality:
    """Reciprocal rank of the first that answers, recall among 5, and nDCG among 10 places."""
    rows = []
    for question in questions:
        found = list(search(question.text))[:AT]
        hits = [key in question.relevant for key in found]
        first = next((1 / place for place, is_hit in enumerate(hits, 1) if is_hit), 0.0)
        gain = sum(1 / math.log2(place + 1) for place, is_hit in enumerate(hits, 1) if is_hit)
        best = sum(
            1 / math.log2(place + 1) for place in range(1, min(len(question.relevant), AT) + 1)
        )
        rows.append((first, sum(hits[:5]) / len(question.relevant), gain / best))
    return Quality(*(statistics.fmean(column) for column in zip(*rows, strict=True)))


def bm25(pieces: Sequence[Piece]) -> Search:
    """Okapi's BM25 as bm25s has it, over titles, headings and texts, with stems and stop words."""
    stemmer = Stemmer.Stemmer("english")

    def cut(texts: list[str]) -> Any:
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    index = bm25s.BM25()
    index.index(cut([text_of(piece.chunk) for piece in pieces]), show_progress=False)

    def search(text: str) -> list[Key]:
        places, _ = index.retrieve(cut([text]), k=AT, show_progress=False)
        return [pieces[int(place)].key for place in places[0]]

    return search


def text_of(chunk: Chunk) -> str:
    """What of a chunk vectors are made of, and BM25 looks at: the same."""
    return embedded_text(
        {"title": chunk.title, "headings": list(chunk.headings), "content": chunk.content}
    )


def index(
    connection: psycopg.Connection[Any], library_id: str, pieces: Sequence[Piece]
) -> dict[Key, str]:
    """Put a library as a crawl does, with lexical vectors; ids of chunks by key of the piece."""
    call(connection, "backend.library_add", library_id, library_id, "folder", p_actor="bench")
    connection.execute("delete from private.tasks where split_part(key, ' ', 1) = %s", [library_id])
    begun = call(
        connection,
        "backend.library_version_begin",
        library_id,
        "1",
        lexical.NAME,
        lexical.DIMENSIONS,
    )
    rows = [row_of(piece) for piece in pieces]
    for start in range(0, len(rows), 500):
        call(
            connection,
            "backend.library_chunks_put",
            begun["version_id"],
            begun["crawl"],
            Jsonb(rows[start : start + 500]),
        )
    embed(connection, begun["version_id"])
    call(connection, "backend.library_version_finish", begun["version_id"], begun["crawl"])
    found = connection.execute(
        "select id, source_path, chunk_index from public.documentation_chunks"
        " where library_version_id = %s",
        [begun["version_id"]],
    ).fetchall()
    return {(row["source_path"], row["chunk_index"]): str(row["id"]) for row in found}


def row_of(piece: Piece) -> dict[str, Any]:
    """A piece as backend.library_chunks_put() takes it."""
    chunk = piece.chunk
    path, number = piece.key
    return {
        "chunk_index": number,
        "source_path": path,
        "title": chunk.title[:500],
        "headings": [heading[:500] for heading in chunk.headings[:10]],
        "content": chunk.content,
        "type": chunk.content_type,
        "language": chunk.language,
        "token_count": max(1, chunk.token_count),
        "identifiers": list(chunk.identifiers),
    }


def embed(connection: psycopg.Connection[Any], version_id: str) -> None:
    """Give vectors to all that have none, as the crawl does."""
    while True:
        found = call(connection, "backend.library_embeddings_missing", version_id, 256)
        if not found["chunks"]:
            return
        texts = [embedded_text(one) for one in found["chunks"]]
        vectors = asyncio.run(embed_documents(SETTINGS, lexical.NAME, texts))
        rows = [
            {"id": one["id"], "embedding": vector}
            for one, vector in zip(found["chunks"], vectors, strict=True)
        ]
        call(connection, "backend.library_embeddings_put", version_id, found["model"], Jsonb(rows))


def call(connection: psycopg.Connection[Any], function: str, *values: Any, **named: Any) -> Any:
    """What a function of the database answers."""
    marks = ", ".join(["%s"] * len(values) + [f"{name} => %s" for name in named])
    row = connection.execute(
        f"select {function}({marks}) as answer".encode(), [*values, *named.values()]
    ).fetchone()
    assert row is not None
    return row["answer"]


def measure_quality(stack: Stack, folder: Path) -> tuple[list[Piece], list[str]]:
    """Print MRR, recall and nDCG of each way to search, for headings and for docstrings."""
    pieces = pieces_of(MEASURED, folder)
    questions = questions_of(MEASURED, folder, pieces)
    with psycopg.connect(stack.admin_dsn, autocommit=True, row_factory=dict_row) as connection:
        begun = time.perf_counter()
        chunks = index(connection, "/bench/measured", pieces)
        seconds = time.perf_counter() - begun
        ways = {"BM25 (bm25s)": bm25(pieces)} | ways_of(connection, "/bench/measured", chunks)
        packages = ", ".join(package.replace("==", " ") for package in MEASURED)
        print(f"\nRetrieval: {len(pieces)} chunks of {packages}\n")
        print(f"  {'':>14} {'headings':>24} {'docstrings':>26}")
        print(f"  {'':>14} " + f"{'MRR':>8} {'R@5':>8} {'nDCG@10':>8} " * 2)
        for name, search in ways.items():
            told = [
                quality([one for one in questions if one.kind == kind], search)
                for kind in ("heading", "docstring")
            ]
            figures = [f"{value:>8.3f}" for one in told for value in astuple(one)]
            print(f"  {name:>14} {' '.join(figures)}")
        counts = Counter(question.kind for question in questions)
        print(f"\n  {counts['heading']} headings, {counts['docstring']} docstrings;", end=" ")
        print(f"{len(pieces) / seconds:.0f} chunks/s stored, with lexical vectors")
    return pieces, [question.text for question in questions]


def ways_of(
    connection: psycopg.Connection[Any], library_id: str, chunks: Mapping[Key, str]
) -> dict[str, Search]:
    """The search of the database: by words alone, by vectors alone, and as it answers."""
    keys = {chunk_id: key for key, chunk_id in chunks.items()}
    row = connection.execute(
        "select id from public.library_versions where library_id = %s", [library_id]
    ).fetchone()
    assert row is not None
    version_id = row["id"]

    def search(text: str, vector: Any) -> list[Key]:
        rows = connection.execute(
            "select h.chunk_id from unnest(private.find_chunks(array[%s]::uuid[], %s, %s, %s, null,"
            " 'down')) with ordinality as h order by h.ordinality",
            [version_id, text, vector, lexical.NAME],
        ).fetchall()
        return [keys[str(row["chunk_id"])] for row in rows]

    return {
        "words": lambda text: search(text, None),
        "vectors": lambda text: search("", vector_of(text)),
        "both, fused": lambda text: search(text, vector_of(text)),
    }


def vector_of(text: str) -> Jsonb:
    """Of a question."""
    return Jsonb(lexical.embed([text])[0])
