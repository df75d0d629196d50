"""What of a model server can be reached from outside: the listed paths, and nothing else."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from gpu import llm
from gpu.front import MAX_BODY_BYTES, front
from tests.gpu.test_llm import WAIT_SECONDS, Fake, wait_for


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setattr(llm, "POLL_SECONDS", 0.02)
    made = Fake(tmp_path)
    yield made
    for server in made.servers:
        server.stop(0)


@pytest.fixture
def outside(fake: Fake) -> Iterator[httpx.Client]:
    """A client of the proxy, over a real socket, in front of a real child."""
    server = fake.server()
    server.start()
    server.wait_ready(WAIT_SECONDS)
    listener = socket.create_server(("127.0.0.1", 0))
    app = uvicorn.Server(uvicorn.Config(front(fake.url, server.is_healthy), log_level="error"))
    thread = threading.Thread(target=app.run, args=([listener],))
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx.Client(base_url=url, trust_env=False, timeout=WAIT_SECONDS) as client:
        yield client
    app.should_exit = True
    thread.join(WAIT_SECONDS)
    listener.close()


@pytest.mark.parametrize(
    "path",
    [
        "/sleep",
        "/wake_up",
        "/is_sleeping",
        "/collective_rpc",
        "/reset_prefix_cache",
        "/server_info",
        "/v1/load_lora_adapter",
        "/tokenize",
        "/invocations",
        "/metrics",
        "/v1/chat/completions/../../../sleep",
        "/v1/chat/completions/%2e%2e/%2e%2e/%2e%2e/sleep",
        "//sleep",
        "/v1//sleep",
        "/%73leep",
    ],
)
def test_the_developers_endpoints_cannot_be_reached(
    outside: httpx.Client, fake: Fake, path: str
) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        assert outside.request(method, path).status_code in (404, 405)
    assert not [line for line in fake.said() if line.startswith("/")]


def test_a_query_does_not_reach_the_server(outside: httpx.Client) -> None:
    answer = outside.post("/v1/chat/completions?level=1", json={})
    assert answer.json()["path"] == "/v1/chat/completions"


def test_a_listed_path_takes_its_own_method_alone(outside: httpx.Client, fake: Fake) -> None:
    assert outside.get("/v1/chat/completions").status_code == 405
    assert outside.post("/v1/models").status_code == 405
    assert not [line for line in fake.said() if line.startswith("/")]


def test_a_body_that_is_too_large_does_not_reach_the_server(
    outside: httpx.Client, fake: Fake
) -> None:
    answer = outside.post("/v1/chat/completions", content=b"x" * (MAX_BODY_BYTES + 1))
    assert answer.status_code == 413
    assert answer.json()["error"]["message"]
    assert not [line for line in fake.said() if line.startswith("/")]


def test_credentials_are_not_passed_on_and_inner_headers_do_not_come_out(
    outside: httpx.Client,
) -> None:
    answer = outside.post(
        "/v1/chat/completions",
        json={"model": "tiny"},
        headers={"authorization": "Bearer x", "modal-secret": "ws-x", "x-request-id": "r1"},
    )
    seen = answer.json()["headers"]
    assert answer.status_code == 200
    assert seen["x-request-id"] == "r1"
    assert not {"authorization", "modal-secret"} & set(seen)
    assert "x-inner" not in answer.headers


def test_health_is_the_childs(outside: httpx.Client, fake: Fake) -> None:
    assert outside.get("/health").json() == {"is_warm": True}
    fake.servers[0].stop(0)
    answer = outside.get("/health")
    assert (answer.status_code, answer.json()) == (503, {"is_warm": False})


def test_a_server_that_is_gone_is_unavailable(outside: httpx.Client, fake: Fake) -> None:
    fake.servers[0].stop(0)
    answer = outside.post("/v1/chat/completions", json={})
    assert answer.status_code == 503
    assert "127.0.0.1" not in answer.text


def test_a_stream_comes_as_it_is_made_and_ends_with_its_reader(
    outside: httpx.Client, fake: Fake
) -> None:
    body = json.dumps({"stream": True})
    with outside.stream("POST", "/v1/chat/completions", content=body) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        events = answer.iter_raw()
        assert next(events).startswith(b"data: {}")
        time.sleep(0.1)
        assert next(events)
        assert "client left" not in fake.said()
    wait_for(lambda: "client left" in fake.said())
