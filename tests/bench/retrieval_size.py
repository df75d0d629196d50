"""How fast a search is among 100,000 chunks, how much the graph of vectors misses, and its size.

The chunks are made of paragraphs of real documentation, mixed, so that words and vectors are
spread as they are there. One library in a hundred is another's: the filter of a tenant.
"""

from __future__ import annotations

import json
import os
import random
import re
import statistics
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from functions.libraries.embedding import lexical
from local.stack import Stack
from tests.bench.retrieval_corpus import Piece
from tests.bench.retrieval_quality import call, vector_of

CHUNKS = int(os.environ.get("QUERNEL_BENCH_CHUNKS", "100000"))
SHARE = 100
"""Chunks of which one is the small library's."""

SEARCHES = 400
CHECKED = 100
AT = 10
SIZED = 25_000
"""Vectors of which an index is made as halfvec and as vector."""

_LARGE, _SMALL = "/bench/large", "/bench/small"


def measure_size(stack: Stack, pieces: Sequence[Piece], questions: Sequence[str]) -> None:
    """Print the time of a search, the recall of the graph, and the sizes of indexes."""
    with psycopg.connect(stack.admin_dsn, autocommit=True, row_factory=dict_row) as connection:
        versions = fill(connection, pieces)
        measured = connection.execute(
            "select id from public.library_versions where library_id = '/bench/measured'"
        ).fetchone()
        assert measured is not None
        versions["/bench/measured"] = str(measured["id"])
        chosen = list(questions[:: max(1, len(questions) // SEARCHES)])[:SEARCHES]
        print(f"\nRetrieval among {CHUNKS:,} chunks of one library\n")
        _measure_time(stack, connection, chosen)
        _measure_recall(connection, versions, chosen[:CHECKED])
        _measure_indexes(connection)


def fill(connection: psycopg.Connection[Any], pieces: Sequence[Piece]) -> dict[str, str]:
    """Two libraries with vectors; ids of their versions by id of the library."""
    begun = time.perf_counter()
    connection.execute("set maintenance_work_mem = '2GB'")
    connection.execute("drop index private.documentation_embeddings_by_likeness")
    versions = {}
    for library_id, count, seed in ((_LARGE, CHUNKS, 1), (_SMALL, CHUNKS // SHARE, 2)):
        call(connection, "backend.library_add", library_id, library_id, "folder", p_actor="bench")
        connection.execute(
            "delete from private.tasks where split_part(key, ' ', 1) = %s", [library_id]
        )
        started = call(
            connection,
            "backend.library_version_begin",
            library_id,
            "1",
            lexical.NAME,
            lexical.DIMENSIONS,
        )
        versions[library_id] = started["version_id"]
        with ProcessPoolExecutor() as pool:
            for rows in pool.map(_with_vectors, _batches(mixed(pieces, count, seed))):
                _put(connection, started, rows)
        call(connection, "backend.library_version_finish", started["version_id"], started["crawl"])
    stored = time.perf_counter()
    connection.execute(
        "create index documentation_embeddings_by_likeness"
        " on private.documentation_embeddings using hnsw (embedding extensions.halfvec_cosine_ops)"
    )
    connection.execute("vacuum analyze")
    total = CHUNKS + CHUNKS // SHARE
    print(f"\n  {total:,} chunks stored at {total / (stored - begun):.0f} chunks/s,", end=" ")
    print(f"their graph made in {time.perf_counter() - stored:.0f} s", flush=True)
    return versions


def mixed(pieces: Sequence[Piece], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Chunks of paragraphs that stand elsewhere in the documentation of one package."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    blocks: dict[str, list[str]] = {}
    for piece in pieces:
        blocks.setdefault(piece.package, []).extend(re.split(r"\n\n+", piece.chunk.content))
    for number in range(count):
        piece = pieces[chance.randrange(len(pieces))]
        content = "\n\n".join(chance.choices(blocks[piece.package], k=5))[:4_000].strip()
        yield {
            "chunk_index": number % 50,
            "source_path": f"page-{number // 50}.md",
            "title": piece.chunk.title[:500],
            "headings": [heading[:500] for heading in piece.chunk.headings[:10]],
            "content": content or "nothing",
            "type": piece.chunk.content_type,
            "token_count": max(1, len(content) // 4),
            "identifiers": list(piece.chunk.identifiers),
        }


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(rows, 500)):
        yield batch


def _with_vectors(rows: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], list[float]]]:
    texts = [" > ".join([row["title"], *row["headings"]]) + f"\n{row['content']}" for row in rows]
    return list(zip(rows, lexical.embed(texts), strict=True))


def _put(
    connection: psycopg.Connection[Any],
    begun: dict[str, Any],
    rows: Sequence[tuple[dict[str, Any], list[float]]],
) -> None:
    """As a crawl does; vectors without the graph, which is made when all are there."""
    version_id = begun["version_id"]
    chunks = Jsonb([row for row, _ in rows])
    call(connection, "backend.library_chunks_put", version_id, begun["crawl"], chunks)
    places = {(row["source_path"], row["chunk_index"]): vector for row, vector in rows}
    found = connection.execute(
        "select c.id, c.source_path, c.chunk_index from public.documentation_chunks as c"
        " where c.library_version_id = %s and c.source_path = any(%s) and not exists ("
        "  select from private.documentation_embeddings as e where e.chunk_id = c.id"
        ")",
        [version_id, [path for path, _ in places]],
    ).fetchall()
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "copy private.documentation_embeddings (chunk_id, model, library_version_id, embedding)"
            " from stdin"
        ) as copy,
    ):
        for row in found:
            vector = places.get((row["source_path"], row["chunk_index"]))
            if vector is not None:
                copy.write_row([row["id"], lexical.NAME, version_id, json.dumps(vector)])


def _measure_time(
    stack: Stack, connection: psycopg.Connection[Any], questions: Sequence[str]
) -> None:
    """As somebody who is signed in asks, one question after the other."""
    user_id = str(uuid.uuid4())
    connection.execute(
        "insert into auth.users (id, email) values (%s, %s)",
        [user_id, f"{user_id}@quernel.test"],
    )
    claims = json.dumps({"role": "authenticated", "sub": user_id})
    with psycopg.connect(stack.admin_dsn, autocommit=True) as asking:
        asking.execute("select set_config('request.jwt.claims', %s, false)", [claims])
        asking.execute("set role authenticated")
        print(f"  {'ms in Postgres':>28} {'p50':>8} {'p99':>8}")
        for name, vectors in (
            ("words", [None] * len(questions)),
            ("words and vectors", [vector_of(text) for text in questions]),
        ):
            times = []
            for is_counted in (False, True):  # once to warm what is cached
                for text, vector in zip(questions, vectors, strict=True):
                    took = _explained(asking, text, vector)
                    if is_counted:
                        times.append(took)
            cuts = statistics.quantiles(times, n=100)
            print(f"  {name:>28} {cuts[49]:>8.1f} {cuts[98]:>8.1f}", flush=True)


def _explained(connection: psycopg.Connection[Any], text: str, vector: Jsonb | None) -> float:
    """Milliseconds that the statement took, by the server's own clock."""
    row = connection.execute(
        "explain (analyze, timing off, format json) select public.search_documentation("
        "%s, %s, p_embedding => %s, p_embedding_model => %s)",
        [text, _LARGE, vector, lexical.NAME],
    ).fetchone()
    assert row is not None
    return float(row[0][0]["Execution Time"])


def _measure_recall(
    connection: psycopg.Connection[Any], versions: dict[str, str], questions: Sequence[str]
) -> None:
    """Of the ten nearest, how many the graph finds; exact is every vector looked at."""
    # So many that all are looked for in the graph, which holds everybody's.
    connection.execute(
        "update public.library_versions set total_chunks = greatest(total_chunks, 10000)"
        " where id = any(%s::uuid[])",
        [list(versions.values())],
    )
    for library_id, version_id in versions.items():
        shares = []
        for text in questions:
            vector = vector_of(text)
            with connection.transaction():
                connection.execute("set local enable_indexscan = off")
                exact = _nearest(connection, version_id, vector)
            found = connection.execute(
                "select v.distance from private.vector_ranks(array[%s]::uuid[],"
                " private.padded_vector(%s), %s, null, true, 50) as v order by v.place limit %s",
                [version_id, vector, lexical.NAME, AT],
            ).fetchall()
            worst = exact[-1] + 1e-6  # texts that are as near as the tenth are as good
            shares.append(sum(row["distance"] <= worst for row in found) / len(exact))
        name = f"recall@{AT}, {library_id.rpartition('/')[2]}"
        print(f"  {name:>28} {statistics.fmean(shares):>8.3f}", flush=True)


def _nearest(connection: psycopg.Connection[Any], version_id: str, vector: Jsonb) -> list[float]:
    rows = connection.execute(
        "select (e.embedding operator(extensions.<=>) private.padded_vector(%s)) + 0 as distance"
        " from private.documentation_embeddings as e where e.library_version_id = %s"
        " order by 1 limit %s",
        [vector, version_id, AT],
    ).fetchall()
    return [row["distance"] for row in rows]


def _measure_indexes(connection: psycopg.Connection[Any]) -> None:
    """The same vectors, with numbers of 16 and of 32 bits."""
    sizes = {}
    for kind in ("halfvec", "vector"):
        connection.execute(
            f"create table private.sized as select e.embedding::extensions.{kind}(1536) as v"  # noqa: S608
            f" from private.documentation_embeddings as e limit {SIZED}"
        )
        connection.execute(
            "create index sized_by_likeness on private.sized"
            f" using hnsw (v extensions.{kind}_cosine_ops)"
        )
        row = connection.execute(
            "select pg_relation_size('private.sized_by_likeness') as size"
        ).fetchone()
        assert row is not None
        sizes[kind] = row["size"]
        connection.execute("drop table private.sized")
    mega = {kind: size / 2**20 for kind, size in sizes.items()}
    print(f"  graph of {SIZED:,} vectors: halfvec {mega['halfvec']:.0f} MiB,", end=" ")
    print(f"vector {mega['vector']:.0f} MiB")
