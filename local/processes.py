"""Child processes that never outlive the stack, their logs, and the ports they listen on."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from local.errors import StackError

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
LOOPBACK = "127.0.0.1"
LOG_TAIL_LINES = 25
STOP_SECONDS = 8.0

# Loaded before any fork: the child may only call it, not import it.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Account:
    """The system user a child runs as."""

    name: str
    uid: int
    gid: int


def die_with_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """Return a function for the forked child that ties its life to this process.

    The kernel sends `death_signal` when the thread that forked ends, so children must be started
    from a thread that lives as long as the stack.
    """
    parent = os.getpid()

    def in_child() -> None:
        if _libc is None:
            return
        _libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # the parent died between fork and prctl
            os._exit(1)

    return in_child


class Child:
    """One process of the stack."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        account: Account | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
        stdin: bytes | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            # A session of its own: Ctrl-C reaches only the parent, which stops things in order.
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env) if env is not None else None,
                cwd=cwd,
                start_new_session=True,
                preexec_fn=die_with_parent(death_signal),  # noqa: PLW1509
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        if stdin is not None and self._process.stdin is not None:
            # A child that has already ended is reported by the wait for readiness.
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(stdin)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def tail(self) -> str:
        """The last lines of the log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join(lines[-LOG_TAIL_LINES:]) or "(the log is empty)"

    def require_running(self) -> None:
        """Raise StackError with the end of the log if the process has ended."""
        code = self._process.poll()
        if code is not None:
            raise StackError(
                f"{self.name} ended with status {code}. The end of {self.log}:\n{self.tail()}"
            )

    def wait_until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Poll `ready` every 20 ms; raise StackError if the process ends or time runs out."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.require_running()
            if time.monotonic() > deadline:
                raise StackError(
                    f"{self.name} was not ready after {seconds:.0f} s. "
                    f"The end of {self.log}:\n{self.tail()}"
                )
            time.sleep(0.02)
        # Another program may have answered on the port.
        self.require_running()

    def stop(self, *, seconds: float = STOP_SECONDS) -> None:
        """Ask the process to end, then insist. Returns when it is gone."""
        if not self.running:
            return
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal and return at once."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    """A loopback TCP port that nobody listens on at this moment."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Different loopback TCP ports that nobody listens on at this moment."""
    with contextlib.ExitStack() as probes:
        # All are held until the last is found, or the system could name one twice.
        opened = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in opened:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in opened]


def require_free_port(port: int, what: str, variable: str) -> None:
    """Raise StackError naming the port and the variable that moves it, if somebody listens."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise StackError(
                f"Port {port} ({what}) is taken by another program. "
                f"Stop that program, or choose another port: {variable}={_another(port)}"
            ) from error


def _another(port: int) -> int:
    """A thousand further, where there is such a port."""
    return port + 1000 if port + 1000 < 2**16 else port - 1000


def answers(url: str) -> bool:
    """Whether a GET of the URL is answered with a status below 500."""
    # Not httpx: it makes a TLS context for every call, and this is called 50 times a second while
    # others need the processor to start.
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or LOOPBACK, parts.port, timeout=2.0)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def accepts(port: int) -> bool:
    """Whether somebody accepts connections on a loopback port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2.0):
            return True
    except OSError:
        return False
