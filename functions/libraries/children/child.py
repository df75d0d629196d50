"""A process that answers questions, and that a hostile file may have.

A question and its answer are frames: lengths, and as many bytes. Nothing else is understood, so
what comes back from a process that a file has taken over is no more than bytes.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import functions

MEMORY_BYTES = 2 * 1024**3
HEADER = struct.Struct("!Q")
_ROOT = Path(functions.__file__).parent.parent


class LostError(Exception):
    """There is no answer: the process took too long (`is_late`), or ended over the question."""

    def __init__(self, *, is_late: bool) -> None:
        super().__init__(is_late)
        self.is_late = is_late


@dataclass(frozen=True)
class Answers:
    """What a process answers with: frames, each of so many bytes at most."""

    max_bytes: tuple[int, ...]


class Child:
    """A process, begun with the first question and anew when one has ended it. For one thread."""

    def __init__(self, module: str, answers: Answers, seconds: float) -> None:
        """`python -m module` calls serve.serve(); a question has `seconds` to be answered."""
        self._module = module
        self._answers = answers
        self._seconds = seconds
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, *frames: bytes) -> list[bytes]:
        """Raises LostError."""
        process = self._begun()
        late = threading.Event()

        def kill() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            answer = _exchanged(process, frames, self._answers)
        finally:
            timer.cancel()
        if answer is None or late.is_set():
            self.end()
        if answer is None:
            raise LostError(is_late=late.is_set())
        return answer

    def end(self) -> None:
        """End the process; the next question begins another."""
        process, self.process = self.process, None
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

    def _begun(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.end()
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=_ROOT,
                env={"PATH": os.defpath, "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
            )
        return self.process


def _exchanged(
    process: subprocess.Popen[bytes], frames: Sequence[bytes], answers: Answers
) -> list[bytes] | None:
    """None where the process has ended, or says more than it may."""
    if process.stdin is None or process.stdout is None:
        return None
    try:
        for frame in frames:
            process.stdin.write(HEADER.pack(len(frame)))
            process.stdin.write(frame)
        process.stdin.flush()
    except BrokenPipeError:
        return None
    found: list[bytes] = []
    for most in answers.max_bytes:
        part = read_frame(process.stdout, most)
        if part is None:
            return None
        found.append(part)
    return found


def read_frame(pipe: IO[bytes], max_bytes: int | None = None) -> bytes | None:
    """None where there is none, or none that is whole and small enough."""
    header = pipe.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (size,) = HEADER.unpack(header)
    if max_bytes is not None and size > max_bytes:
        return None
    frame = pipe.read(size)
    return frame if len(frame) == size else None
