"""A program called `vllm`: answers as the real one does, and fails as it is told.

Its first lines are written by the tests (test_llm.py), which run it as a child process. BEHAVIOUR
is JSON: start_seconds, exit_at_start, die_at (a path), ignores_term, drain_seconds, unhealthy.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BEHAVIOUR = json.loads(os.environ.get("BEHAVIOUR", "{}"))
JOURNAL = Path(os.environ["JOURNAL"])


def note(what: str) -> None:
    with JOURNAL.open("a") as journal:
        journal.write(what + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(503 if BEHAVIOUR.get("unhealthy") else 200, b"")
        elif self.path == "/stream":
            self.endless()
        else:
            self.answer(200, json.dumps({"path": self.path}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        note(f"{self.path} {body.decode()}")
        if self.path == BEHAVIOUR.get("die_at"):
            os._exit(9)
        if self.path == BEHAVIOUR.get("fail_at"):
            self.answer(500, b"{}")
        elif b'"stream": true' in body or b'"stream":true' in body:
            self.endless()
        else:
            seen = {name.lower(): text for name, text in self.headers.items()}
            said = [{"message": {"role": "assistant", "content": "Hello."}}]
            answer = {"path": self.path, "headers": seen, "choices": said}
            self.answer(200, json.dumps(answer).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("x-inner", "secret")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def endless(self) -> None:
        """Events until the client leaves."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"data: {}\n\n")
                self.wfile.flush()
                time.sleep(0.02)
        except OSError:
            note("client left")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Silence."""


def main() -> None:
    note("started " + " ".join(sys.argv[1:]))
    if "exit_at_start" in BEHAVIOUR:
        sys.exit(BEHAVIOUR["exit_at_start"])
    if BEHAVIOUR.get("with_engine"):
        engine = os.fork()
        if engine == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
            os._exit(0)
        note(f"engine {engine}")
    time.sleep(BEHAVIOUR.get("start_seconds", 0))
    server = ThreadingHTTPServer(
        ("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler
    )
    server.daemon_threads = True

    def stop(*_: object) -> None:
        note("told to stop")
        if BEHAVIOUR.get("ignores_term"):
            return
        time.sleep(BEHAVIOUR.get("drain_seconds", 0))
        note("drained")
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
