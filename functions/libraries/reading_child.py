"""The process in which pages are read: frames in on one pipe, frames out on another."""

from __future__ import annotations

import os
import resource
import struct
import sys
from typing import BinaryIO

from functions.core.errors import OperatorError
from functions.libraries.chunking import chunk
from functions.libraries.errors import ParseError
from functions.libraries.parsing import parse
from functions.libraries.reading import ANSWERS, JOBS, MEMORY_BYTES, Failure, Page

_HEADER = struct.Struct("!Q")


def main() -> None:
    """Answer until nobody asks any more."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Files it may write none, whatever a parser is talked into.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # A library that prints must not be taken for an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    questions = sys.stdin.buffer
    while (job := _frame(questions)) is not None and (content := _frame(questions)) is not None:
        answer = ANSWERS.dump_json(_answer(job, content))
        answers.write(_HEADER.pack(len(answer)))
        answers.write(answer)
        answers.flush()


def _answer(job: bytes, content: bytes) -> Page | Failure:
    told = JOBS.validate_json(job)
    try:
        document = parse(content, name=told.name, media_type=told.media_type, charset=told.charset)
        chunks = chunk(document, source_url=told.source_url)
    except ParseError as error:
        return Failure(error.code, error.message)
    except OperatorError as error:
        return Failure(error.operator_code, error.operator_message, is_operators=True)
    except MemoryError:
        return Failure("too_large", "The file takes too much memory to read.")
    except RecursionError:
        return Failure("too_deep", "The file is nested too deeply.")
    return Page(
        title=document.title,
        kind=document.kind,
        metadata=dict(document.metadata),
        encoding=document.encoding,
        warnings=document.warnings,
        removed=dict(document.removed),
        chunks=chunks,
    )


def _frame(pipe: BinaryIO) -> bytes | None:
    header = pipe.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    (size,) = _HEADER.unpack(header)
    return pipe.read(size)


if __name__ == "__main__":
    main()
