"""A real model behind the real app: `transformers serve` answers a paid chat over HTTP.

The model is tiny and its words are random; its server, tokenizer, stream and counts are not ours.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from functions.app import create_app
from local.stack import Stack
from tests.chat.conftest import MODEL, Payer, payers, settings_of
from tests.conftest import NewUser
from tests.gpu.tiny_models import save_chat_model

START_SECONDS = 180.0  # imports torch, on a busy machine
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
MAX_TOKENS = 12
UPSTREAM_MODEL = "Qwen/Qwen2.5-32B-Instruct-AWQ"  # a folder here: the server insists on the name

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:uvicorn.*")


@pytest.fixture(scope="module")
def model_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`transformers serve` of the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("models")
    save_chat_model(folder / UPSTREAM_MODEL)
    log = folder / "serve.log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [Path(sys.executable).with_name("transformers"), "serve", UPSTREAM_MODEL]
    words += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        child = subprocess.Popen(
            words, cwd=folder, env=os.environ | offline, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _is_healthy(url):
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield url
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@pytest.fixture(scope="module")
def payer(stack: Stack, model_url: str, new_user: NewUser) -> Iterator[Payer]:
    """Somebody with 100 credits, at an app of our own whose model server is that one."""
    app = create_app(settings_of(stack, llm_url=f"{model_url}/v1"))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with payers(stack, url, new_user) as make:
            yield make()
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def test_an_answer_in_one_piece_is_counted_by_the_model_server_and_paid(payer: Payer) -> None:
    before, charged = payer.balance, len(payer.charges())
    answer = payer.client().chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=MAX_TOKENS
    )
    assert answer.model == MODEL
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= MAX_TOKENS
    assert answer.usage.prompt_tokens > 5
    row = payer.settled_usage(charged + 1)[-1]
    assert (row["status"], row["usage_source"]) == ("completed", "upstream")
    assert row["prompt_tokens"] == answer.usage.prompt_tokens
    assert row["completion_tokens"] == answer.usage.completion_tokens
    assert payer.charges()[charged:] == [row["credits"]]
    assert payer.balance == before - row["credits"] < before


def test_a_stream_comes_in_chunks_with_usage_and_what_it_cost_in_the_last(payer: Payer) -> None:
    charged = len(payer.charges())
    stream = payer.client().chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=MAX_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert len([text for text in texts if text]) > 1
    usage = chunks[-1].usage
    assert usage is not None
    assert not chunks[-1].choices
    row = payer.settled_usage(charged + 1)[-1]
    assert row["status"] == "completed"
    assert usage.prompt_tokens == row["prompt_tokens"] > 0
    assert 0 < usage.completion_tokens == row["completion_tokens"] <= MAX_TOKENS
    assert payer.charges()[charged:] == [row["credits"]]
    assert float(usage.model_extra["credits_charged"]) == float(row["credits"])


def test_the_same_question_has_the_same_answer_in_one_piece_and_in_chunks(payer: Payer) -> None:
    client = payer.client()
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=MAX_TOKENS)
    stream = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=MAX_TOKENS, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == whole.choices[0].message.content


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
