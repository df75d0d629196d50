"""One address for all models, in front of servers that sleep, redirect, refuse and break."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from gpu import gateway as module
from gpu.front import MAX_BODY_BYTES
from gpu.gateway import WARMING, Place, gateway

CHAT, EMBED = "/v1/chat/completions", "/v1/embeddings"
TOKEN = "token-of-the-gateway"
KEYS = {"Modal-Key": "wk-key", "Modal-Secret": "ws-secret"}
WAIT_SECONDS = 10.0


class Card:
    """A model server that does what a request's `do` says."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.left = threading.Event()
        self.url = ""
        self.app = Starlette(
            routes=[
                Route(CHAT, self.chat, methods=["POST"]),
                Route(EMBED, self.chat, methods=["POST"]),
                Route("/later/{left:int}", self.later),
                Route("/secret", self.chat),
            ]
        )

    async def chat(self, request: Request) -> Response:
        self.requests.append(request)
        asked = await request.json()
        do = asked.get("do", "answer")
        if do == "sleep":
            await asyncio.sleep(asked["seconds"])
        if do == "refuse":
            await asyncio.sleep(asked.get("seconds", 0))
            return JSONResponse({"error": {"message": "Too long."}}, status_code=400)
        if do == "redirect":
            return RedirectResponse(asked["to"], status_code=303)
        if do == "endless":
            return StreamingResponse(self.endless(), media_type="text/event-stream")
        if asked.get("stream"):
            return StreamingResponse(iter([b"data: 1\n\n"]), media_type="text/event-stream")
        return JSONResponse({"path": request.url.path, "asked": asked})

    async def later(self, request: Request) -> Response:
        self.requests.append(request)
        left = request.path_params["left"]
        if left:
            return RedirectResponse(f"/later/{left - 1}", status_code=303)
        return JSONResponse({"done": True})

    async def endless(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"data: {}\n\n"
                await asyncio.sleep(0.02)
        finally:
            self.left.set()


@contextmanager
def serving(app: Starlette) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(WAIT_SECONDS)
        listener.close()


@pytest.fixture
def card() -> Iterator[Card]:
    made = Card()
    with serving(made.app) as made.url:
        yield made


@pytest.fixture
def client(card: Card, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setattr(module, "FIRST_BYTES_SECONDS", 0.1)
    monkeypatch.setattr(module, "WARMING_SECONDS", 0.1)
    places = {
        "Qwen/chat": Place(card.url, CHAT),
        "Qwen/embed": Place(card.url, EMBED),
        "Qwen/gone": Place("http://127.0.0.1:9", CHAT),
    }
    bearer = {"authorization": f"Bearer {TOKEN}"}
    with (
        serving(gateway(places, TOKEN, KEYS)) as url,
        httpx.Client(base_url=url, headers=bearer, trust_env=False, timeout=WAIT_SECONDS) as made,
    ):
        yield made


def ask(client: httpx.Client, **options: Any) -> httpx.Response:
    return client.post(CHAT, json={"model": "Qwen/chat"} | options)


def test_a_gateway_without_a_token_is_not_made() -> None:
    with pytest.raises(ValueError, match="token"):
        gateway({}, "", {})


@pytest.mark.parametrize("shown", ["", TOKEN, "Bearer", f"Bearer {TOKEN}x", f"bearer {TOKEN}"])
def test_whoever_shows_another_token_wakes_no_card(
    client: httpx.Client, card: Card, shown: str
) -> None:
    answer = client.post(CHAT, json={"model": "Qwen/chat"}, headers={"authorization": shown})
    assert answer.status_code == 401
    assert card.requests == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"x"', b"{}", b"\xff", b"[" * 100_000, b'{"stream": true}']
)
def test_a_body_that_names_no_model_wakes_no_card(
    client: httpx.Client, card: Card, content: bytes
) -> None:
    assert client.post(CHAT, content=content).status_code == 400
    assert card.requests == []


@pytest.mark.parametrize("model", ["other", "", 7, None, ["Qwen/chat"], "Qwen/embed"])
def test_a_model_that_is_not_there_is_told(client: httpx.Client, card: Card, model: Any) -> None:
    assert ask(client, model=model).status_code == 404
    assert card.requests == []


def test_a_body_that_is_too_large_wakes_no_card(client: httpx.Client, card: Card) -> None:
    assert client.post(CHAT, content=b" " * (MAX_BODY_BYTES + 1)).status_code == 413
    assert card.requests == []


@pytest.mark.parametrize("path", ["/sleep", "/secret", "/v1/models", "//v1/chat/completions"])
def test_other_paths_lead_nowhere(client: httpx.Client, card: Card, path: str) -> None:
    assert client.post(path, json={"model": "Qwen/chat"}).status_code == 404
    assert card.requests == []


def test_a_request_reaches_its_model_with_our_keys_and_without_the_callers(
    client: httpx.Client, card: Card
) -> None:
    answer = client.post(EMBED, json={"model": "Qwen/embed", "input": "x"})
    assert answer.json() == {"path": EMBED, "asked": {"model": "Qwen/embed", "input": "x"}}
    (seen,) = card.requests
    assert (seen.headers["modal-key"], seen.headers["modal-secret"]) == ("wk-key", "ws-secret")
    assert "authorization" not in seen.headers


def test_a_stream_that_begins_at_once_begins_with_the_answer(client: httpx.Client) -> None:
    answer = ask(client, stream=True)
    assert answer.content == b"data: 1\n\n"
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_stream_of_a_cold_model_says_that_it_warms_and_then_answers(
    client: httpx.Client,
) -> None:
    body = {"model": "Qwen/chat", "stream": True, "do": "sleep", "seconds": 0.7}
    began = time.monotonic()
    with client.stream("POST", CHAT, json=body) as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == WARMING
        assert time.monotonic() - began < 0.7
        rest = b"".join(chunks)
    assert answer.status_code == 200
    assert rest.startswith(WARMING)
    assert rest.endswith(b"data: 1\n\n")


def test_a_refusal_at_once_keeps_its_status(client: httpx.Client) -> None:
    answer = ask(client, stream=True, do="refuse")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "Too long.")


def test_a_refusal_after_the_warming_is_the_event_that_ends_the_stream(
    client: httpx.Client,
) -> None:
    answer = ask(client, stream=True, do="refuse", seconds=0.4)
    assert answer.status_code == 200
    comments, _, event = answer.content.rpartition(WARMING)
    assert comments is not None
    assert json.loads(event.removeprefix(b"data: ")) == {
        "error": {"message": "Too long.", "type": "invalid_request_error", "code": 400}
    }


def test_an_answer_in_one_piece_waits_in_silence(client: httpx.Client) -> None:
    answer = ask(client, do="sleep", seconds=0.4)
    assert answer.json()["asked"]["do"] == "sleep"


def test_modals_redirects_are_followed_with_our_keys(client: httpx.Client, card: Card) -> None:
    assert ask(client, do="redirect", to="/later/3").json() == {"done": True}
    assert [seen.method for seen in card.requests] == ["POST", "GET", "GET", "GET", "GET"]
    assert {seen.headers["modal-key"] for seen in card.requests} == {"wk-key"}


def test_redirects_end(client: httpx.Client, card: Card) -> None:
    assert ask(client, do="redirect", to="/later/1000").status_code == 504
    assert len(card.requests) == module.MAX_REDIRECTS


@pytest.mark.parametrize(
    "to", ["http://127.0.0.1:9/x", "//example.invalid/x", "https://127.0.0.1/"]
)
def test_our_keys_are_shown_nowhere_else(client: httpx.Client, card: Card, to: str) -> None:
    assert ask(client, do="redirect", to=to).status_code == 502
    assert len(card.requests) == 1


def test_a_card_that_cannot_be_reached_is_unavailable(client: httpx.Client) -> None:
    answer = ask(client, model="Qwen/gone")
    assert answer.status_code == 503
    assert "127.0.0.1" not in answer.text


def test_whoever_leaves_a_stream_stops_the_model(client: httpx.Client, card: Card) -> None:
    body = {"model": "Qwen/chat", "stream": True, "do": "endless"}
    with client.stream("POST", CHAT, json=body) as answer:
        events = answer.iter_raw()  # kept: the connection is closed with it
        assert next(events)
        assert not card.left.is_set()
    assert card.left.wait(WAIT_SECONDS)


def test_health_names_the_models(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"models": ["Qwen/chat", "Qwen/embed", "Qwen/gone"]}
