"""Files of a source to what is searched: read, cut, stored, and given vectors.

Each page is read on its own: one that cannot be read is counted, and the rest is indexed. What was
indexed before is served until all of the new is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from functions.core.database import Database
from functions.core.json import Json
from functions.core.settings import Settings
from functions.libraries.chunking import Chunk
from functions.libraries.embedding.documents import embed_documents
from functions.libraries.errors import ParseError
from functions.libraries.reading import PageReader
from functions.libraries.sources.files import Skipped, SourceFile

MOST_CHUNKS = 500
"""Of one call to the database; about a megabyte."""

MOST_VECTORS = 256
PUT_SECONDS = 300.0
"""As long as the database takes at most to put chunks, or vectors into their graph."""

READ_SHARE = 70  # per cent of the progress; the rest is for vectors
FLAGGED_FROM = 0.5
"""Score from which a flag is kept: searches rank down what has one."""

_MAX_TITLE = 500
_MAX_HEADING = 500
_MAX_HEADINGS = 10
_MAX_URL = 2_000
_MAX_CONTENT = 100_000


@dataclass
class Indexed:
    """What became of the files."""

    pages: int = 0
    chunks: int = 0
    kept: int = 0
    """Chunks whose text was there before."""

    vectors: int = 0
    skipped: Skipped = field(default_factory=Skipped)


@dataclass(frozen=True)
class Version:
    """What backend.library_version_begin() says of a version."""

    id: str
    crawl: int | None = None
    """Of which it is a part; None where only vectors are made."""

    @classmethod
    def read(cls, begun: dict[str, Any]) -> Version:
        return cls(str(begun["version_id"]), int(begun["crawl"]))


class Indexer:
    """Indexes one version."""

    def __init__(self, database: Database, settings: Settings, version: Version) -> None:
        self._database = database
        self._settings = settings
        self._version = version
        self.result = Indexed()

    async def put(self, files: Sequence[SourceFile]) -> None:
        """Read and store the files. Raises QuernelError, OperatorError."""
        waiting: list[dict[str, Json]] = []
        async with _reader() as reader:
            for number, file in enumerate(files):
                waiting += await self._chunks(reader, file)
                while len(waiting) >= MOST_CHUNKS:
                    await self._store(waiting[:MOST_CHUNKS])
                    del waiting[:MOST_CHUNKS]
                    await self._tell(READ_SHARE * number // len(files))
        if waiting:
            await self._store(waiting)
        await self._tell(READ_SHARE)

    async def embed(self) -> None:
        """Give vectors to what has none. Raises NoAnswerError, QuernelError, OperatorError."""
        first = 0
        while True:
            found = await self._database.rpc(
                "library_embeddings_missing", p_version_id=self._version.id, p_limit=MOST_VECTORS
            )
            chunks, left = found["chunks"], int(found["missing"])
            if not chunks:
                return
            first = first or left
            texts = [embedded_text(one) for one in chunks]
            vectors = await embed_documents(self._settings, found["model"], texts)
            await self._database.long_rpc(
                "library_embeddings_put",
                PUT_SECONDS,
                p_version_id=self._version.id,
                p_model=found["model"],
                p_embeddings=[
                    {"id": one["id"], "embedding": vector}
                    for one, vector in zip(chunks, vectors, strict=True)
                ],
            )
            self.result.vectors += len(chunks)
            done = READ_SHARE + (100 - READ_SHARE) * (first - left + len(chunks)) // first
            await self._tell(min(done, 99))

    async def _chunks(self, reader: PageReader, file: SourceFile) -> list[dict[str, Json]]:
        try:
            page = await asyncio.to_thread(
                reader.read, file.content, name=file.path, source_url=file.url
            )
        except ParseError as error:
            self.result.skipped.add(error.code)
            return []
        self.result.pages += 1
        return [_row(chunk, file) for chunk in page.chunks if len(chunk.content) <= _MAX_CONTENT]

    async def _store(self, rows: list[dict[str, Json]]) -> None:
        answer = await self._database.long_rpc(
            "library_chunks_put",
            PUT_SECONDS,
            p_version_id=self._version.id,
            p_crawl=self._version.crawl,
            p_chunks=rows,
        )
        self.result.chunks += int(answer["added"]) + int(answer["kept"])
        self.result.kept += int(answer["kept"])

    async def _tell(self, percent: int) -> None:
        if self._version.crawl is None:
            return
        await self._database.rpc(
            "library_progress",
            p_version_id=self._version.id,
            p_crawl=self._version.crawl,
            p_progress=percent,
            p_state="indexing",
        )


def embedded_text(chunk: dict[str, Any]) -> str:
    """What a vector is made of: the content under its title and its headings."""
    above = dict.fromkeys([chunk["title"], *chunk["headings"]])
    return "\n".join(line for line in (" > ".join(filter(None, above)), chunk["content"]) if line)


def flags_of(chunk: Chunk) -> list[str]:
    """What was found in it that searches rank down for, each once."""
    reasons = [flag.reason for flag in chunk.flags if flag.score >= FLAGGED_FROM]
    return list(dict.fromkeys(reasons))


def _row(chunk: Chunk, file: SourceFile) -> dict[str, Json]:
    """A chunk as backend.library_chunks_put() takes it."""
    return {
        "chunk_index": chunk.index,
        "source_path": file.path,
        "source_url": chunk.source_url[:_MAX_URL] or None,
        "title": chunk.title[:_MAX_TITLE],
        "headings": [heading[:_MAX_HEADING] for heading in chunk.headings[:_MAX_HEADINGS]],
        "content": chunk.content,
        "type": chunk.content_type,
        "language": chunk.language,
        "token_count": max(1, chunk.token_count),
        "identifiers": list(chunk.identifiers),
        "flags": flags_of(chunk),
    }


@asynccontextmanager
async def _reader() -> AsyncIterator[PageReader]:
    reader = PageReader()
    try:
        yield reader
    finally:
        await asyncio.to_thread(reader.close)


def unique(files: Iterable[SourceFile]) -> list[SourceFile]:
    """Files by path, each once; of two of a path the first."""
    found: dict[str, SourceFile] = {}
    for file in files:
        found.setdefault(file.path, file)
    return list(found.values())
