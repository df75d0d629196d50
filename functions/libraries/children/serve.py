"""The side of the process: its bounds, and questions answered until nobody asks any more."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Sequence

from functions.libraries.children.child import HEADER, MEMORY_BYTES, read_frame


def serve(answer: Callable[[bytes, bytes], Sequence[bytes]]) -> None:
    """Answer questions of two frames: what is asked, and the file."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Files it may write none, whatever a parser is talked into.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # A library that prints must not be taken for an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    questions = sys.stdin.buffer
    while (asked := read_frame(questions)) is not None:
        content = read_frame(questions)
        if content is None:
            return
        for frame in answer(asked, content):
            answers.write(HEADER.pack(len(frame)))
            answers.write(frame)
        answers.flush()
