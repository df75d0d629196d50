"""A hub of models on loopback: what is asked of it is what the library asks of the real one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """Repositories, each a commit and its files.

    `asked` are the paths that were asked for, `tokens` what was shown with them, `status` is what
    is answered while it is down.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.sizes: dict[str, int] = {}
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.is_down = False
        self.status = 503
        self.url = ""

    def commit(self, repository: str) -> str:
        """Changes with the files."""
        told = json.dumps(
            {
                name: hashlib.sha256(content).hexdigest()
                for name, content in self.repositories[repository].items()
            }
        )
        return hashlib.sha1(told.encode()).hexdigest()  # noqa: S324 - as git's

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        if self.is_down:
            return self.status, {}, b""
        words = path.partition("?")[0].strip("/").split("/")
        is_api = words[:2] == ["api", "models"]
        repository = "/".join(words[2:4] if is_api else words[:2])
        files = self.repositories.get(repository)
        if files is None:
            return 404, {"x-error-code": "RepoNotFound"}, b"{}"
        commit = self.commit(repository)
        if is_api:
            siblings = [
                {"rfilename": name, "size": self.sizes.get(name, len(content))}
                for name, content in files.items()
            ]
            told: dict[str, Any] = {"id": repository, "sha": commit, "siblings": siblings}
            return 200, {"content-type": "application/json"}, json.dumps(told).encode()
        name = "/".join(words[4:])
        if words[2] != "resolve" or words[3] != commit or name not in files:
            return 404, {"x-error-code": "EntryNotFound"}, b""
        etag = hashlib.sha256(files[name]).hexdigest()
        return 200, {"etag": f'"{etag}"', "x-repo-commit": commit}, files[name]


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A hub that answers until the end of the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, *, has_body: bool) -> None:
            hub.tokens.add(self.headers.get("authorization"))
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if has_body:
                self.wfile.write(body)

        def do_GET(self) -> None:
            self._answer(has_body=True)

        def do_HEAD(self) -> None:
            self._answer(has_body=False)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
