"""The classes with a GPU, called in this process: `vllm` is a program of the tests."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import modal
import pytest
from starlette.testclient import TestClient

import modal_app
from gpu import llm
from gpu.catalog import MODELS
from gpu.contract import ImageJob
from gpu.embeddings_app import embeddings_app
from gpu.images_app import images_app
from gpu.llm import ModelServer, serve_command
from tests.gpu.test_llm import Fake

# There is no Volume here.
pytestmark = pytest.mark.filterwarnings("ignore:.*is executing locally:UserWarning")

SERVED = ["DefaultChat", "FastChat", "Vision"]


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands where the Volume is; says what was written down."""
    made: list[str] = []

    class Volume:
        def commit(self) -> None:
            made.append("commit")

    monkeypatch.setattr(modal_app, "models_volume", Volume())
    return made


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """What the classes start is the tests' own `vllm`, on a free port."""
    made = Fake(tmp_path)

    def server(command: list[str], environment: dict[str, str]) -> ModelServer:
        variables = environment | {"JOURNAL": str(made.journal)}
        made.servers.append(ModelServer(command, variables, made.url))
        return made.servers[-1]

    command = functools.partial(serve_command, program=str(made.program), port=made.port)
    monkeypatch.setattr(llm, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(modal_app, "serve_command", command)
    monkeypatch.setattr(modal_app, "ModelServer", server)
    monkeypatch.setattr(modal_app, "URL", made.url)
    yield made
    for one in made.servers:
        one.stop(0)


@pytest.mark.parametrize("name", SERVED)
def test_a_card_is_warm_before_its_snapshot_and_awake_after_it(
    name: str, fake: Fake, commits: list[str]
) -> None:
    said = getattr(modal_app, name)().smoke.local()
    assert said["text"] == "Hello."
    assert said["seconds"] >= 0
    paths = [line.split()[0] for line in fake.said() if line.startswith("/")]
    chat = "/v1/chat/completions"
    assert paths == [chat, chat, "/sleep?level=1", "/wake_up", chat]
    (started,) = [line for line in fake.said() if line.startswith("started")]
    assert MODELS[said["model"]].hub_id in started
    assert commits == ["commit"]


@pytest.mark.usefixtures("commits")
def test_what_the_gateway_may_ask_is_chat_and_not_sleep(fake: Fake) -> None:
    card = modal_app.DefaultChat()
    card.smoke.local()
    with TestClient(card.front.local()) as outside:
        assert outside.get("/health").json() == {"is_warm": True}
        assert outside.post("/v1/chat/completions", json={}).status_code == 200
        told = len(fake.said())
        assert outside.post("/sleep").status_code == 404
        assert len(fake.said()) == told


@pytest.mark.usefixtures("commits")
def test_a_container_whose_server_died_takes_no_more_requests(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[str] = []
    monkeypatch.setattr(modal.experimental, "stop_fetching_inputs", lambda: stopped.append("stop"))
    card = modal_app.DefaultChat()
    card.smoke.local()
    with TestClient(card.front.local()) as outside:
        assert outside.post("/v1/chat/completions", json={}).status_code == 200
        assert stopped == []
        fake.servers[0].stop(0)
        assert outside.post("/v1/chat/completions", json={}).status_code == 503
    assert stopped == ["stop"]


@dataclass
class Loaded:
    """An embedder that says what it was loaded from."""

    source: str
    revision: str | None = None
    dimensions: int = 4

    def embed(self, texts: Sequence[str], dimensions: int = 3) -> Any:
        @dataclass
        class Embedded:
            vectors: list[list[float]]
            tokens: int

        return Embedded([[0.5] * dimensions for _ in texts], len(texts))


def test_the_embeddings_are_those_of_the_catalog(
    monkeypatch: pytest.MonkeyPatch, commits: list[str]
) -> None:
    # They need torch, which is not there when this is not run by `make test-gpu`.
    monkeypatch.setattr(modal_app, "Embedder", Loaded, raising=False)
    monkeypatch.setattr(modal_app, "embeddings_app", embeddings_app, raising=False)
    monkeypatch.setattr(modal_app, "as_query", str, raising=False)
    monkeypatch.setattr(modal_app, "MIN_DIMENSIONS", 2, raising=False)
    card = modal_app.Embeddings()

    said = card.smoke.local()

    assert (said["model"], said["numbers"]) == ("Qwen3-Embedding-4B", 3)
    assert commits == ["commit"]
    with TestClient(card.front.local()) as outside:
        names = [one["id"] for one in outside.get("/v1/models").json()["data"]]
        assert names == ["Qwen/Qwen3-Embedding-4B", "Qwen3-Embedding-4B"]
        body = {"model": names[0], "input": "x"}
        assert len(outside.post("/v1/embeddings", json=body).json()["data"]) == 1


class Painter:
    """Says what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: list[str] = []

    def warm_up(self) -> None:
        self.held = ["flux-schnell"]

    def draw(self, job: Any, tell: Any, is_wanted: Any = None) -> None:  # noqa: ARG002
        self.held.append(job.model)
        tell({"progress": 50})
        tell({"image": {"index": 0, "seed": job.seed, "content": "aGk="}})
        tell({"done": {"seconds": 0.5, "peak_memory_bytes": 1}})


def test_the_card_of_the_images_is_warm_and_draws(
    monkeypatch: pytest.MonkeyPatch, commits: list[str]
) -> None:
    monkeypatch.setattr(modal_app, "open_painter", Painter, raising=False)
    # They come with an image that is not this process's.
    monkeypatch.setattr(modal_app, "images_app", images_app, raising=False)
    monkeypatch.setattr(modal_app, "ImageJob", ImageJob, raising=False)
    card = modal_app.Images()

    said = card.smoke.local("sdxl")

    expected = {"model": "sdxl", "images": 1, "seconds": 0.5, "peak_memory_bytes": 1}
    assert said == expected
    assert commits == ["commit"]
    with TestClient(card.front.local()) as outside:
        health = outside.get("/health").json()
        assert health == {"models": ["flux-schnell", "sdxl"], "is_warm": True}
        job = {"id": "a", "model": "sdxl", "prompt": "x", "width": 512, "height": 512, "seed": 3}
        lines = outside.post("/images", json=job).text.splitlines()
    assert json.loads(lines[0]) == {"state": "loading"}
    assert json.loads(lines[-2])["image"]["seed"] == 3


def test_the_gateway_knows_every_model_by_both_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODAL_PROXY_KEY", "MODAL_PROXY_SECRET", "QUERNEL_LLM_API_KEY"):
        monkeypatch.setenv(name, f"value-of-{name}")
    asked: list[str] = []

    def web_url(function: Any) -> str:
        asked.append(type(function).__name__)
        return "https://card.example"

    monkeypatch.setattr(modal.Function, "get_web_url", web_url)
    with TestClient(modal_app.models.local()) as client:
        names = client.get("/health").json()["models"]
        refused = client.post("/v1/chat/completions", json={"model": names[0]})
    assert len(asked) == len(modal_app.CARDS)
    served = [model for model in MODELS.values() if model.kind in ("chat", "vision", "embedding")]
    expected = [model.id for model in served] + [model.hub_id for model in served]
    assert names == sorted(expected)
    assert refused.status_code == 401


def test_every_card_can_be_tried_with_modal_run() -> None:
    for served in (*modal_app.CARDS, modal_app.Images):
        name = served._get_user_cls().__name__
        snake = "".join(f"_{one.lower()}" if one.isupper() else one for one in name)
        assert isinstance(getattr(modal_app, f"smoke{snake}"), modal.app.LocalEntrypoint)
