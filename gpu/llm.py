"""`vllm serve` for one chat model: its command line, and its life as a child process.

    command = serve_command(model, SERVING[model.id])
    with ModelServer(command, environment("/cache", os.environ)) as server:
        server.wait_ready()
        server.warm_up(model.hub_id)

The server listens on loopback alone: beside the OpenAI protocol it answers /sleep, /wake_up and
/collective_rpc, which are for whoever runs it. What the outside may reach goes through
gpu/front.py. Checked against vLLM 0.33.0.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx

from gpu.catalog import ServedModel

VLLM_VERSION = "0.33.0"
HOST = "127.0.0.1"
PORT = 8001
URL = f"http://{HOST}:{PORT}"
NO_MEDIA_DOMAIN = "media.invalid"
"""An empty list of media domains allows all of them; this one never resolves (RFC 6761 6.4)."""

READY_SECONDS = 1500.0  # weights over the network, compilation and graphs of a first start
POLL_SECONDS = 0.5
PROBE_SECONDS = 5.0
SLEEP_SECONDS = 120.0  # weights of 35 GB to the host's memory, and back
WARM_UP_SECONDS = 300.0
DRAIN_SECONDS = 25  # Modal kills a container 30 seconds after it told it to stop
KILL_SECONDS = 3.0
KEEP_ALIVE_SECONDS = 10  # a comment in a stream that has nothing to say
WARM_UP_PROMPTS = ("Hello", "Count to ten. " * 200)  # a decode, and a prefill of some length


class ServerError(Exception):
    """The model server cannot be used. Says what happened, for the operator's log."""


class ServerExitedError(ServerError):
    """The child ended by itself."""

    def __init__(self, status: int) -> None:
        """`status` is its exit status; negative: the signal that ended it."""
        self.status = status
        super().__init__(f"vllm serve ended with status {status}")


class NotReadyError(ServerError):
    """It lives and did not become healthy in time."""


@dataclass(frozen=True)
class Serving:
    """How one model is served: what the catalog does not say."""

    max_model_len: int
    """Tokens of prompt and output together; as the catalog's context_length."""

    max_num_seqs: int
    """Requests computed at the same time; the rest wait in line."""

    gpu_memory_utilization: float = 0.88
    """Part of the card's memory; less than vLLM's default leaves room to restore a snapshot."""

    tool_call_parser: str = "hermes"
    reasoning_parser: str | None = None
    images_per_prompt: int = 0
    """0: a request with an image is refused."""

    flags: tuple[str, ...] = field(default=())
    """Further flags, as words."""


SERVING: Mapping[str, Serving] = {
    # 19 GB of weights and 256 KiB of cache per token (64 layers, 8 heads of 128, 16 bits) leave
    # room for about 80,000 tokens on 48 GB.
    "Qwen2.5-32B-Instruct-AWQ": Serving(max_model_len=32_768, max_num_seqs=64),
    # 31 GB of weights and 96 KiB per token (48 layers, 4 heads of 128) leave room for about
    # 380,000 tokens on 80 GB.
    "Qwen3-30B-A3B-Instruct-2507-FP8": Serving(max_model_len=131_072, max_num_seqs=256),
    # Looks at one image and answers with some JSON.
    "Qwen3-VL-8B-Instruct-FP8": Serving(max_model_len=16_384, max_num_seqs=32, images_per_prompt=1),
}


def serve_command(
    model: ServedModel, serving: Serving, *, program: str = "vllm", port: int = PORT
) -> list[str]:
    """The words of the command line."""
    media = {"image": serving.images_per_prompt, "video": 0, "audio": 0}
    # The tokenizer's follows the model's.
    revision = ["--revision", model.revision]
    return [
        program,
        "serve",
        model.hub_id,
        *revision,
        # Requests name what the catalog calls it upstream; people at a terminal use the short one.
        "--served-model-name",
        model.hub_id,
        model.id,
        "--host",
        HOST,
        "--port",
        str(port),
        "--max-model-len",
        str(serving.max_model_len),
        "--max-num-seqs",
        str(serving.max_num_seqs),
        "--gpu-memory-utilization",
        str(serving.gpu_memory_utilization),
        "--enable-prefix-caching",
        "--enable-sleep-mode",
        "--allowed-media-domains",
        NO_MEDIA_DOMAIN,
        "--limit-mm-per-prompt",
        json.dumps(media),
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        serving.tool_call_parser,
        *(["--reasoning-parser", serving.reasoning_parser] if serving.reasoning_parser else []),
        "--enable-prompt-tokens-details",  # tells cached tokens, which cost less
        "--sse-keep-alive-interval",
        str(KEEP_ALIVE_SECONDS),
        "--shutdown-timeout",
        str(DRAIN_SECONDS),
        "--disable-uvicorn-access-log",  # requests are logged where they are answered for
        "--disable-fastapi-docs",
        *serving.flags,
    ]


def environment(cache: str, base: Mapping[str, str]) -> dict[str, str]:
    """The child's environment: `base`, this process's, with everything kept under `cache`."""
    return dict(base) | {
        "HF_HOME": f"{cache}/huggingface",
        "HF_XET_HIGH_PERFORMANCE": "1",
        "VLLM_CACHE_ROOT": f"{cache}/vllm",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # its pool of processes does not survive a snapshot
        "VLLM_SERVER_DEV_MODE": "1",  # /sleep and /wake_up, on loopback
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }


class ModelServer:
    """The child. Started when entered, stopped when left; every wait is bounded, in seconds."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], url: str = URL
    ) -> None:
        """`url` is where the command makes it listen."""
        self._command = list(command)
        self._environment = dict(environment)
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=PROBE_SECONDS)
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, in a process group of its own: its engine is another process.

        Raises ServerError when the program cannot be run, or when something answers at its address
        already: it would be taken for the child.
        """
        with suppress(httpx.HTTPError):
            self._http.get("/health")
            raise ServerError("something else answers at the address of vllm serve")
        try:
            self._child = subprocess.Popen(
                self._command, env=self._environment, start_new_session=True
            )
        except OSError as error:
            raise ServerError(f"{self._command[0]} cannot be run") from error

    def require_alive(self) -> None:
        """Raises ServerExitedError when the child has ended, ServerError before the start."""
        if self._child is None:
            raise ServerError("vllm serve was not started")
        status = self._child.poll()
        if status is not None:
            raise ServerExitedError(status)

    def is_healthy(self) -> bool:
        """Whether the child lives and says that its engine does.

        In that order and then again: another process may answer at the address of a dead one.
        """
        try:
            self.require_alive()
            healthy = self._http.get("/health").status_code == httpx.codes.OK
            self.require_alive()
        except (ServerError, httpx.HTTPError):
            return False
        return healthy

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Return once it is healthy. Raises ServerExitedError at once, NotReadyError at the end."""
        deadline = time.monotonic() + seconds
        while not self.is_healthy():
            self.require_alive()
            if time.monotonic() >= deadline:
                raise NotReadyError(f"vllm serve was not ready after {seconds:.0f} seconds")
            time.sleep(POLL_SECONDS)

    def warm_up(self, model: str, seconds: float = WARM_UP_SECONDS) -> None:
        """Ask it something, so that no client waits for what is compiled at first use.

        Raises ServerError when it does not answer.
        """
        for prompt in WARM_UP_PROMPTS:
            self.ask(model, prompt, 8, seconds)

    def ask(
        self, model: str, prompt: str, max_tokens: int, seconds: float = WARM_UP_SECONDS
    ) -> str:
        """The text of one short answer. Raises ServerError."""
        message = {"role": "user", "content": prompt}
        body = {"model": model, "messages": [message], "max_tokens": max_tokens}
        answer = self._post("/v1/chat/completions", seconds, body)
        try:
            return str(answer.json()["choices"][0]["message"]["content"])
        except (ValueError, LookupError, TypeError) as error:
            raise ServerError("vllm serve answered with no completion") from error

    def sleep(self) -> None:
        """Move the weights to the host's memory and drop the cache: before a snapshot.

        Raises ServerError.
        """
        self._post("/sleep?level=1", SLEEP_SECONDS)

    def wake(self) -> None:
        """Undo sleep(): after a snapshot was restored. Raises ServerError."""
        self._post("/wake_up", SLEEP_SECONDS)
        self.wait_ready(SLEEP_SECONDS)

    def stop(self, drain_seconds: float = DRAIN_SECONDS) -> int | None:
        """End it: SIGTERM, time to finish its requests, then SIGKILL to the whole group.

        Returns the exit status; None if it never ran. May be called again.
        """
        self._http.close()
        if self._child is None:
            return None
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(drain_seconds)
        # Also when the child has ended: its engine may not have.
        with suppress(ProcessLookupError):  # nobody is left in the group
            os.killpg(self._child.pid, signal.SIGKILL)
        return self._child.wait(KILL_SECONDS)

    def _post(self, path: str, seconds: float, body: object = None) -> httpx.Response:
        self.require_alive()
        try:
            answer = self._http.post(path, json=body, timeout=seconds)
        except httpx.HTTPError as error:
            self.require_alive()
            raise ServerError(f"vllm serve did not answer {path}") from error
        if answer.status_code != httpx.codes.OK:
            raise ServerError(f"vllm serve answered {path} with {answer.status_code}")
        return answer
