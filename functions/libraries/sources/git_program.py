"""git as a program that is not trusted: without our environment, and with one vetted way out.

What it connects to is vetted by the proxy that it is told of, also after redirects; how much it
fetches, how long it takes, and the memory it has are bounded.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from functions.core.http import SafeClient
from functions.libraries.errors import SourceError
from functions.libraries.sources.proxy import VettingProxy

MAX_BYTES = 256 * 1024 * 1024
"""That a server may send."""

SECONDS = 600.0
MEMORY_BYTES = 4 * 1024**3
_OUTPUT_BYTES = 256 * 1024 * 1024


class Git:
    """git, as it is installed."""

    def __init__(self, http: SafeClient, authority: Path | None = None) -> None:
        """`authority`: a file of certificates to trust instead of the system's.

        Raises SourceError where there is no git.
        """
        program = shutil.which("git")
        if program is None:
            raise SourceError("source_not_configured", "The operator has not installed git.")
        self._program = program
        self._http = http
        self._authority = authority

    async def run(
        self, home: str, arguments: Sequence[str], folder: str = "", given: bytes = b""
    ) -> bytes:
        """What it writes, asked in a folder of `home`. Raises SourceError where it fails, or a
        bound is reached.
        """
        proxy = VettingProxy(self._http, MAX_BYTES)
        async with proxy.running():
            process = await asyncio.create_subprocess_exec(
                self._program,
                *arguments,
                cwd=Path(home, folder),
                env=self._environment(home, proxy.url),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
            with suppress(ProcessLookupError):
                _limit(process.pid)
            try:
                async with asyncio.timeout(SECONDS):
                    told, code = await _talk(process, given)
            except TimeoutError:
                raise SourceError("too_slow_source", "It takes too long to be fetched.") from None
            finally:
                # Its children with it: git speaks HTTP by another program.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if proxy.is_over:
            raise SourceError("too_large", f"The server sends more than {MAX_BYTES} bytes.")
        if proxy.refused is not None:
            raise SourceError("source_refused", proxy.refused)
        if code != 0:
            raise SourceError("source_unavailable", "The repository cannot be read.")
        return told

    def _environment(self, home: str, proxy: str) -> dict[str, str]:
        settings = {
            "http.proxy": proxy,
            "http.proxyAuthMethod": "basic",
            "http.followRedirects": "initial",
            "http.lowSpeedLimit": "1000",  # bytes per second
            "http.lowSpeedTime": "60",
            "protocol.allow": "never",
            "protocol.https.allow": "always",
            "protocol.version": "2",
            "core.hooksPath": os.devnull,
            "core.fsmonitor": "false",
            "core.bigFileThreshold": "16m",
            "credential.helper": "",
            "fetch.negotiationAlgorithm": "noop",
            "fetch.unpackLimit": "1",
            "gc.auto": "0",
            "pack.threads": "1",
            "transfer.bundleURI": "false",
        }
        if self._authority is not None:
            settings["http.sslCAInfo"] = str(self._authority)
        numbered = {
            f"GIT_CONFIG_{what}_{number}": text
            for number, pair in enumerate(settings.items())
            for what, text in zip(("KEY", "VALUE"), pair, strict=True)
        }
        return numbered | {
            "GIT_CONFIG_COUNT": str(len(settings)),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "HOME": home,
            "PATH": os.pathsep.join([str(Path(self._program).parent), os.defpath]),
            "LC_ALL": "C",
        }


async def _talk(process: asyncio.subprocess.Process, given: bytes) -> tuple[bytes, int]:
    """What a program writes, and how it ends. Raises SourceError where it writes too much."""
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None:
        raise RuntimeError("the program was started without pipes")
    writing = asyncio.ensure_future(_write(stdin, given))
    told = bytearray()
    try:
        while piece := await stdout.read(64 * 1024):
            told += piece
            if len(told) > _OUTPUT_BYTES:
                raise SourceError("too_large", "There are too many files in it.")
        return bytes(told), await process.wait()
    finally:
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing


async def _write(stream: asyncio.StreamWriter, given: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):
        stream.write(given)
        await stream.drain()
        stream.close()


def _limit(pid: int) -> None:
    """Where the system can: memory, and the size of a file."""
    if hasattr(resource, "prlimit"):
        resource.prlimit(pid, resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (2 * MAX_BYTES, 2 * MAX_BYTES))
