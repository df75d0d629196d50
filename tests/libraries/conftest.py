"""Fixtures of the tests of libraries: a small corpus, its vectors, and who reads it."""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from local.stack import Stack
from tests.conftest import AsRole, NewUser

MODEL = "hashed-64"
DIMENSIONS = 64

# Words that mean the same to the vectors below, and not to a search for words.
MEANINGS = {
    "dictionary": "mapping",
    "dict": "mapping",
    "hash": "mapping",
    "fetch": "download",
    "retrieve": "download",
    "request": "download",
    "automobile": "car",
    "vehicle": "car",
}


def vector(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A bag of words, hashed; words that mean the same fall on the same place."""
    values = [0.0] * dimensions
    for word in re.findall(r"[a-z]+", text.lower()):
        meaning = MEANINGS.get(word, word)
        digest = hashlib.sha256(meaning.encode()).digest()
        values[int.from_bytes(digest[:4]) % dimensions] += 1 if digest[4] % 2 else -1
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return [round(value / length, 6) for value in values] if any(values) else [1.0] * dimensions


def chunk(content: str, index: int = 0, path: str = "guide.md", **values: Any) -> dict[str, Any]:
    """A chunk as a crawler puts it."""
    return {
        "chunk_index": index,
        "source_path": path,
        "source_url": f"https://docs.quernel.test/{path}#{index}",
        "title": "Guide",
        "headings": ["Guide"],
        "content": content,
        "type": "guide",
        "token_count": max(len(content) // 4, 1),
    } | values


@dataclass
class Shelf:
    """Libraries as functions/ write them, and everybody who may read them."""

    connection: psycopg.Connection[dict[str, Any]]
    as_role: AsRole
    mark: str = field(default_factory=lambda: f"v{uuid.uuid4().hex[:12]}")

    def call(self, function: str, *values: Any, **named: Any) -> Any:
        """A function of any schema, as the superuser."""
        marks = ["%s"] * len(values) + [f"{name} => %s" for name in named]
        row = self.connection.execute(
            f"select {function}({', '.join(marks)}) as answer".encode(),
            [*values, *named.values()],
        ).fetchone()
        assert row is not None
        return row["answer"]

    def add(self, project: str = "docs", **values: Any) -> str:
        """A public library that the run's worker leaves alone; its id."""
        named = {"p_title": project, "p_source_kind": "git", "p_actor": "operator"} | values
        library_id = f"/{self.mark}/{project}"
        with self.connection.transaction():
            self.call("backend.library_add", library_id, **named)
            self.connection.execute(
                "delete from private.tasks where split_part(key, ' ', 1) = %s", [library_id]
            )
        return library_id

    def crawl_key(self, library_id: str) -> str:
        """Of the task that crawls the source that it has now."""
        row = self.connection.execute(
            "select private.crawl_key(l) as key from public.libraries as l where l.id = %s",
            [library_id],
        ).fetchone()
        assert row is not None
        return str(row["key"])

    def begin(self, library_id: str, version: str = "1.0", **values: Any) -> dict[str, Any]:
        named = {"p_embedding_model": MODEL, "p_dimensions": DIMENSIONS} | values
        found: dict[str, Any] = self.call(
            "backend.library_version_begin", library_id, version, **named
        )
        return found

    def put(self, begun: dict[str, Any], *chunks: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.call(
            "backend.library_chunks_put", begun["version_id"], begun["crawl"], Jsonb(list(chunks))
        )
        return found

    def finish(self, begun: dict[str, Any], **values: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.call(
            "backend.library_version_finish", begun["version_id"], begun["crawl"], **values
        )
        return found

    def embed(self, version_id: str, limit: int = 2000) -> dict[str, Any]:
        """Vectors of all chunks that lack one."""
        missing = self.call("backend.library_embeddings_missing", version_id, limit)
        found: dict[str, Any] = self.call(
            "backend.library_embeddings_put",
            version_id,
            missing["model"],
            Jsonb(
                [
                    {
                        "id": one["id"],
                        "embedding": vector(one["content"], missing["dimensions"]),
                    }
                    for one in missing["chunks"]
                ]
            ),
        )
        return found

    def publish(
        self,
        *chunks: dict[str, Any],
        project: str = "docs",
        version: str = "1.0",
        is_embedded: bool = True,
        **values: Any,
    ) -> dict[str, Any]:
        """A library that can be searched: what library_version_begin() said of it."""
        library_id = f"/{self.mark}/{project}"
        if not self.rows("select from public.libraries where id = %s", library_id):
            self.add(project, **values)
        begun = self.begin(library_id, version)
        self.put(begun, *chunks)
        if is_embedded:
            self.embed(begun["version_id"])
        self.finish(begun)
        return begun

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        return self.connection.execute(query.encode(), values).fetchall()

    def search(self, user_id: str, query: str, library_id: str | None, **named: Any) -> Any:
        """As the Supabase SDK of somebody asks."""
        return self.ask(
            user_id, "public.search_documentation", p_query=query, p_library=library_id, **named
        )

    def ask(self, user_id: str, function: str, **named: Any) -> Any:
        marks = ", ".join(f"{name} => %s" for name in named)
        with self.as_role("authenticated", {"sub": user_id}) as connection:
            row = connection.execute(
                f"select {function}({marks})".encode(), list(named.values())
            ).fetchone()
        assert row is not None
        return row[0]

    def organization(self, founder: str) -> dict[str, Any]:
        """Of its founder, whose plan has room for members and API keys."""
        self.connection.execute(
            "select set_config('request.jwt.claims', %s, false)",
            [json.dumps({"role": "authenticated", "sub": founder})],
        )
        made: dict[str, Any] = self.call(
            "public.create_organization", "A team", f"t{uuid.uuid4().hex[:12]}"
        )
        self.connection.execute("select set_config('request.jwt.claims', '', false)")
        self.connection.execute(
            "update public.organizations set plan_id = (select id from public.plans"
            " where slug = 'business') where id = %s",
            [made["id"]],
        )
        return made

    def join(self, organization_id: str, user_id: str, role: str = "member") -> None:
        self.connection.execute(
            "insert into public.organization_members (organization_id, user_id, role)"
            " values (%s, %s, %s)",
            [organization_id, user_id, role],
        )


def end_task(shelf: Shelf, kind: str, key: str, payload: dict[str, Any], status: str) -> None:
    """A task that is given up or called off before the run's worker sees it."""
    with shelf.connection.transaction():
        task_id = shelf.call("private.task_enqueue", kind, Jsonb(payload), key)
        shelf.connection.execute(
            "update private.tasks set status = %s, last_error = 'test', finished_at = now()"
            " where id = %s",
            [status, task_id],
        )


def contents(answer: dict[str, Any]) -> list[str]:
    return [one["content"] for one in answer["results"]]


NewShelf = Callable[[], Shelf]


@pytest.fixture
def shelf(stack: Stack, as_role: AsRole) -> Iterator[Shelf]:
    with psycopg.connect(stack.admin_dsn, autocommit=True, row_factory=dict_row) as connection:
        yield Shelf(connection, as_role)


@pytest.fixture
def reader(new_user: NewUser) -> str:
    """Somebody who has signed up; their id."""
    return new_user().id
