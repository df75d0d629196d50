"""Pages are read in a process of their own, which has seconds, memory, and no secrets.

A hostile file costs its process and nothing else: parsers in C may crash over it, those in Python
may take a minute for a kilobyte. The process lives for many pages, and is begun anew when one has
ended it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pydantic import TypeAdapter, ValidationError

from functions.core.errors import OperatorError
from functions.libraries.children.child import Answers, Child, LostError
from functions.libraries.chunking import Chunk
from functions.libraries.errors import ParseError

SECONDS = 60.0
"""For one page. An honest one of ten megabytes takes half of it."""

ANSWER_BYTES = 256 * 1024**2
PAGES = 2_000
"""After which a process is replaced, for what parsers keep."""


@dataclass(frozen=True, slots=True)
class Job:
    """A file to read: what `parsing.parse` and `chunking.chunk` are told of it."""

    name: str = ""
    media_type: str | None = None
    charset: str | None = None
    source_url: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """What became of a file: what is known of it, and its chunks."""

    title: str
    kind: str
    metadata: dict[str, str]
    encoding: str | None
    warnings: tuple[str, ...]
    removed: dict[str, int]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no page."""

    code: str
    message: str
    is_operators: bool = False


JOBS = TypeAdapter(Job)
ANSWERS: TypeAdapter[Page | Failure] = TypeAdapter(Page | Failure)


class PageReader:
    """Reads pages, one at a time; threads wait for each other.

    `with PageReader() as reader: page = reader.read(content, name="docs/index.md")`
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._lock = threading.Lock()
        self.child = Child("functions.libraries.children.pages", Answers((ANSWER_BYTES,)), seconds)
        self._pages = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def read(
        self,
        content: bytes,
        *,
        name: str = "",
        media_type: str | None = None,
        charset: str | None = None,
        source_url: str = "",
    ) -> Page:
        """Parse a file and cut it into chunks.

        Raises ParseError, with `too_slow` or `crashed` where the process did not survive, and
        OperatorError where the extra `libraries` is not installed.
        """
        job = JOBS.dump_json(Job(name, media_type, charset, source_url))
        with self._lock:
            answer = self._asked(job, content)
        if isinstance(answer, Page):
            return answer
        if answer.is_operators:
            raise OperatorError(answer.code, answer.message)
        raise ParseError(answer.code, answer.message)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self.child.end()

    def _asked(self, job: bytes, content: bytes) -> Page | Failure:
        if self._pages >= PAGES:
            self.child.end()
            self._pages = 0
        self._pages += 1
        try:
            [frame] = self.child.ask(job, content)
            return ANSWERS.validate_json(frame)
        except LostError as error:
            if error.is_late:
                return Failure("too_slow", "The file takes too long to read.")
        except ValidationError:
            self.child.end()
        return Failure("crashed", "The file ended the process that read it.")
