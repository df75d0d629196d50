"""Fixtures of the tests of documents: people with a plan, who put files in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from local.stack import Stack
from tests.conftest import AsRole, NewUser, User
from tests.libraries.conftest import MODEL, Shelf, vector

__all__ = ["MODEL", "vector"]


@dataclass
class Author:
    """Somebody who puts documents in, through the doors that clients have."""

    user: User
    shelf: Shelf
    rest: httpx.Client
    storage: httpx.Client

    @property
    def id(self) -> str:
        return self.user.id

    def insert(self, name: str = "notes.txt", **values: Any) -> httpx.Response:
        body = {
            "name": name,
            "original_filename": name,
            "mime_type": "text/plain",
            "file_size": 5,
        } | values
        return self.rest.post("/documents", json=body, headers={"Prefer": "return=representation"})

    def added(self, name: str = "notes.txt", **values: Any) -> dict[str, Any]:
        answer = self.insert(name, **values)
        assert answer.status_code == 201, answer.text
        [row] = answer.json()
        found: dict[str, Any] = row
        return found

    def upload(self, path: str, content: bytes = b"hello") -> httpx.Response:
        return self.storage.post(
            f"/object/documents/{path}", content=content, headers={"Content-Type": "text/plain"}
        )

    def uploaded(self, document_id: str) -> httpx.Response:
        return self.rest.post("/rpc/document_uploaded", json={"p_id": document_id})

    def queue(self, document_id: str) -> None:
        """As document_uploaded() does, and the run's worker leaves it alone."""
        connection = self.shelf.connection
        with connection.transaction():
            connection.execute(
                "select private.queue_document(d) from public.documents as d where d.id = %s",
                [document_id],
            )
            connection.execute("delete from private.tasks where key = %s", [document_id])

    def search(self, query: str, **named: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.shelf.ask(
            self.id, "public.search_documents", p_query=query, **named
        )
        return found

    def indexed(
        self, *texts: str, name: str = "notes.txt", pages: bool = True, **values: Any
    ) -> str:
        """A document that can be searched, one chunk per text; its id."""
        document = self.added(name, **values)
        assert self.upload(document["storage_path"]).is_success
        self.queue(document["id"])
        assert self.shelf.call("backend.document_begin", document["id"], MODEL, 64)
        self.shelf.call(
            "backend.document_chunks_put",
            document["id"],
            Jsonb(
                [
                    {
                        "chunk_index": 2 * n,
                        "page": n + 1 if pages else None,
                        "content": text,
                        "token_count": max(len(text) // 4, 1),
                        "embedding": vector(text),
                    }
                    for n, text in enumerate(texts)
                ]
            ),
        )
        self.shelf.call("backend.document_finish", document["id"], len(texts))
        return str(document["id"])


NewAuthor = Callable[..., Author]


@pytest.fixture
def new_author(stack: Stack, as_role: AsRole, new_user: NewUser) -> Iterator[NewAuthor]:
    """`new_author(plan="pro")`: somebody new."""
    opened: list[httpx.Client] = []
    with psycopg.connect(stack.admin_dsn, autocommit=True, row_factory=dict_row) as connection:

        def make(plan: str = "business") -> Author:
            user = new_user()
            connection.execute(
                "update public.profiles set plan_id = (select id from public.plans where slug = %s)"
                " where id = %s",
                [plan, user.id],
            )
            headers = {
                "Authorization": f"Bearer {user.token}",
                "apikey": stack.keys.publishable_key,
            }
            clients = [
                httpx.Client(
                    base_url=f"{stack.supabase_url}/{door}/v1",
                    headers=headers,
                    trust_env=False,
                    timeout=30,
                )
                for door in ("rest", "storage")
            ]
            opened.extend(clients)
            return Author(user, Shelf(connection, as_role), *clients)

        yield make
    for client in opened:
        client.close()


@pytest.fixture
def author(new_author: NewAuthor) -> Author:
    return new_author()
