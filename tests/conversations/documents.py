"""People who talk about their documents: fixtures of the tests of passages and citations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from local.stack import Stack
from tests.conftest import AsRole, User
from tests.conversations.conftest import Memory, NewTalker, Talker, wait_for
from tests.documents.conftest import Author
from tests.libraries.conftest import Shelf

HARBOUR = "A berth in the harbour costs nine coins a night."
LAMP = "The lighthouse turns every ten seconds."


@dataclass
class Reader:
    """Somebody who has documents, and conversations about them."""

    talker: Talker
    author: Author

    @property
    def id(self) -> str:
        return self.talker.id

    def document(self, *texts: str, has_vectors: bool = False, **values: Any) -> str:
        """One that can be searched, by words alone, a chunk per text; its id."""
        document_id = self.author.indexed(*(texts or (HARBOUR,)), **values)
        if not has_vectors:
            self.author.shelf.connection.execute(
                "update public.documents set embedding_model = null, dimensions = null"
                " where id = %s",
                [document_id],
            )
        return document_id

    def uploaded(self, content: bytes, name: str, mime_type: str) -> str:
        """One that the run's worker has read; its id."""
        document = self.author.added(name, mime_type=mime_type, file_size=len(content))
        assert self.author.upload(document["storage_path"], content).is_success
        assert self.author.uploaded(document["id"]).is_success
        wait_for(lambda: self.state(document["id"]) == "ready", 30)
        return str(document["id"])

    def state(self, document_id: str) -> str:
        [row] = self.author.rest.get(f"/documents?id=eq.{document_id}").json()
        return str(row["state"])

    def forget(self, document_id: str) -> None:
        assert self.author.rest.delete(f"/documents?id=eq.{document_id}").is_success

    def flag(self, document_id: str) -> None:
        """As the screening does."""
        self.author.shelf.connection.execute(
            "update public.document_chunks set flags = '{override_instructions}'"
            " where document_id = %s",
            [document_id],
        )


NewReader = Callable[..., Reader]


@pytest.fixture
def reader_of(stack: Stack, as_role: AsRole) -> Iterator[Callable[[Talker], Reader]]:
    """`reader_of(talker)`: the same person, with the doors to documents."""
    opened: list[httpx.Client] = []

    def make(talker: Talker) -> Reader:
        token, key = talker.payer.token, stack.keys.publishable_key
        storage = httpx.Client(
            base_url=f"{stack.supabase_url}/storage/v1",
            headers={"Authorization": f"Bearer {token}", "apikey": key},
            trust_env=False,
            timeout=30,
        )
        opened.append(storage)
        user = User(talker.id, "", token, "", stack.supabase_url, key)
        shelf = Shelf(talker.payer.connection, as_role)
        return Reader(talker, Author(user, shelf, talker.rest, storage))

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def new_reader(new_talker: NewTalker, reader_of: Callable[[Talker], Reader]) -> NewReader:
    return lambda *values, **named: reader_of(new_talker(*values, **named))


@pytest.fixture
def reader(new_reader: NewReader) -> Reader:
    return new_reader()


def prompts(upstream: Memory, text: str) -> list[dict[str, Any]]:
    """What models were asked that were to answer, not to make a vector."""
    return [body for body in upstream.bodies(text) if "messages" in body]


def mark_in(text: str) -> str:
    """What tells the lines around the passages of a message from their text."""
    found = re.search(r"lines that hold the mark ([0-9a-f]{16})\.", text)
    assert found is not None, text
    return found[1]
