"""Pages are read in a process of their own, which has seconds, memory, and no secrets.

A hostile file costs its process and nothing else: parsers in C may crash over it, those in Python
may take a minute for a kilobyte. The process lives for many pages, and is begun anew when one has
ended it.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import TypeAdapter, ValidationError

import functions
from functions.core.errors import OperatorError
from functions.libraries.chunking import Chunk
from functions.libraries.errors import ParseError

SECONDS = 60.0
"""For one page. An honest one of ten megabytes takes half of it."""

MEMORY_BYTES = 2 * 1024**3
ANSWER_BYTES = 256 * 1024**2
PAGES = 2_000
"""After which a process is replaced, for what parsers keep."""

_HEADER = struct.Struct("!Q")
_ROOT = Path(functions.__file__).parent.parent


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
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
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
            self._end()

    def _asked(self, job: bytes, content: bytes) -> Page | Failure:
        process = self._begun()
        late = threading.Event()

        def kill() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            frame = _exchanged(process, job, content)
            answer = ANSWERS.validate_json(frame) if frame is not None else None
        except ValidationError:
            answer = None
        finally:
            timer.cancel()
        self._pages += 1
        if answer is None:
            self._end()
            if late.is_set():
                return Failure("too_slow", "The file takes too long to read.")
            return Failure("crashed", "The file ended the process that read it.")
        if self._pages >= PAGES or late.is_set():
            self._end()
        return answer

    def _begun(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._pages = 0
            self._process = subprocess.Popen(
                [sys.executable, "-m", "functions.libraries.reading_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=_ROOT,
                env={"PATH": os.defpath, "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    # What was not taken from it is of no use any more.
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        continue


def _exchanged(process: subprocess.Popen[bytes], job: bytes, content: bytes) -> bytes | None:
    """One question and its answer; None where the process has ended."""
    if process.stdin is None or process.stdout is None:
        return None
    try:
        for frame in (job, content):
            process.stdin.write(_HEADER.pack(len(frame)))
            process.stdin.write(frame)
        process.stdin.flush()
    except BrokenPipeError:
        return None
    header = process.stdout.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    (size,) = _HEADER.unpack(header)
    if size > ANSWER_BYTES:
        return None
    answer = process.stdout.read(size)
    return answer if len(answer) == size else None
