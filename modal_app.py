"""Quernel on Modal: images, secrets, the web app, the task runner, the clock and the GPUs.

    modal deploy modal_app.py
    modal run modal_app.py::smoke_default_chat        one class on its card; also smoke_...

Decides nothing. The secret `quernel` holds the variables of functions/core/settings.py,
`quernel-gpu` those of the gateway: a proxy token, and QUERNEL_LLM_API_KEY once more.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import modal
import modal.experimental

from gpu.catalog import MODELS

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.applications import Starlette

PYTHON_VERSION = "3.11"
UV_VERSION = "0.13.8"
MAX_REQUESTS = 100  # at the same time in one container: they mostly wait for the model
REQUEST_SECONDS = 900  # the longest stream
TASKS_SECONDS = 1800  # how long one runner takes on new tasks
TASKS_GRACE_SECONDS = 1700  # how long it then waits for those it has, before it gives them back
TASKS_TIMEOUT_SECONDS = 3600
MAX_RUNNERS = 10
WAKE_TIMEOUT_SECONDS = 60
DISPATCH_TIMEOUT_SECONDS = 300

GPU_REQUEST_SECONDS = 1800  # a long answer, after a wait in line
GPU_STARTUP_SECONDS = 2400  # the first start fetches and compiles; a snapshot takes one or two
IDLE_SECONDS = 300  # how long a card waits for the next request before it costs nothing
MAX_CARDS = 4  # of one model
GATEWAY_REQUESTS = 500  # at the same time in one container: they wait, too
IMAGE_JOBS = 2  # one is drawn while the next one arrives, and the last one leaves
EMBEDDING_REQUESTS = 16  # one pass runs at a time; the rest wait in line
SMOKE_TOKENS = 16
GIB = 1024  # MiB, in which Modal reckons memory

CACHE = "/cache"
HF_HOME = f"{CACHE}/huggingface"  # read when the hub's library is imported
PROJECT = Path(__file__).parent
LOCK = "/quernel/constraints.txt"
EXTRAS = "--extra aws --extra images --extra libraries --extra telemetry"

image = (
    modal.Image.debian_slim(PYTHON_VERSION)
    .apt_install("git")  # fetches repositories whose documentation is indexed
    .add_local_file(PROJECT / "constraints.txt", LOCK, copy=True)
    .uv_pip_install(
        requirements=[str(PROJECT / "pyproject.toml")],
        # Imported where they are used alone: libraries of providers, of AWS KMS, and parsers.
        extra_options=f"--constraints {LOCK} --require-hashes {EXTRAS}",
        uv_version=UV_VERSION,
    )
    .add_local_python_source("functions", "gpu")
)
# vLLM's own, because its kernels are compiled against what is in there.
vllm_image = (
    modal.Image.from_registry("vllm/vllm-openai:v0.33.0")
    .entrypoint([])
    .uv_pip_install("httpx==0.28.1", uv_version=UV_VERSION)
    .add_local_python_source("gpu")
)
torch_image = (
    modal.Image.debian_slim(PYTHON_VERSION)
    .uv_pip_install(
        "torch==2.13.0",
        "transformers==5.23.0",
        "starlette==1.10.0",
        "pydantic==2.14.3",
        uv_version=UV_VERSION,
    )
    .env({"HF_HOME": HF_HOME})
    .add_local_python_source("gpu")
)
images_image = (
    modal.Image.debian_slim(PYTHON_VERSION)
    .apt_install("g++")  # what is compiled for the card is started by a program of the host's
    .uv_pip_install(
        "accelerate==1.15.0",
        "diffusers==0.42.1",
        "peft==0.21.2",
        "pillow==13.0.0",
        "pydantic==2.14.3",
        "starlette==1.10.0",
        "torch==2.13.0",
        "transformers==5.23.0",
        uv_version=UV_VERSION,
    )
    .env({"HF_HOME": HF_HOME, "TORCHINDUCTOR_CACHE_DIR": f"{CACHE}/inductor"})
    .add_local_python_source("gpu")
)
# Each kind of container has what it needs and nothing else; locally what is not there is not asked.
with image.imports():
    from functions.app import create_app
    from functions.core.settings import get_settings
    from functions.hosted import dispatch_once, run_tasks_once
    from gpu.gateway import PATHS, Place, gateway
with vllm_image.imports():
    from gpu.front import front
    from gpu.llm import SERVING, URL, ModelServer, environment, serve_command
with torch_image.imports():
    from gpu.embeddings import MIN_DIMENSIONS, Embedder, as_query
    from gpu.embeddings_app import embeddings_app
with images_image.imports():
    from gpu.contract import ImageJob
    from gpu.images import open_painter
    from gpu.images_app import images_app

models_volume = modal.Volume.from_name("quernel-models", create_if_missing=True)
settings_secret = modal.Secret.from_name(
    "quernel", required_keys=["QUERNEL_ENVIRONMENT", "QUERNEL_SUPABASE_URL"]
)
gpu_secret = modal.Secret.from_name(
    "quernel-gpu",
    required_keys=["MODAL_PROXY_KEY", "MODAL_PROXY_SECRET", "QUERNEL_LLM_API_KEY"],
)
# FLUX's repositories are shown only to who has accepted their licence.
hub_secret = modal.Secret.from_name("quernel-hub", required_keys=["HF_TOKEN"])
# Secrets are named per function: a model server has no business with any of ours.
app = modal.App("quernel", image=image)


@app.function(min_containers=0, timeout=REQUEST_SECONDS, secrets=[settings_secret])
@modal.concurrent(max_inputs=MAX_REQUESTS)
@modal.asgi_app()
def web() -> FastAPI:
    """The HTTP API."""
    return create_app()


@app.function(max_containers=MAX_RUNNERS, timeout=TASKS_TIMEOUT_SECONDS, secrets=[settings_secret])
async def run_tasks() -> int:
    """Run due tasks; returns how many were started. Whoever queued one may spawn this."""
    return await run_tasks_once(
        get_settings(), seconds=TASKS_SECONDS, grace_seconds=TASKS_GRACE_SECONDS
    )


@app.function(timeout=WAKE_TIMEOUT_SECONDS, secrets=[settings_secret])
@modal.fastapi_endpoint(method="POST", requires_proxy_auth=True)
async def wake() -> None:
    """Spawn the task runner: for the database's runner_url (private.wake_runner)."""
    await run_tasks.spawn.aio()


@app.function(
    schedule=modal.Period(minutes=1),
    max_containers=1,
    timeout=DISPATCH_TIMEOUT_SECONDS,
    secrets=[settings_secret],
)
async def dispatch() -> list[str]:
    """Run the cron jobs that are due, returning their names, and have due tasks run."""
    report = await dispatch_once(get_settings())
    if report.tasks_are_due:
        await run_tasks.spawn.aio()
    return report.jobs


# Models ------------------------------------------------------------------------------------------


class Served:
    """`vllm serve` on one card: started and put to sleep before the snapshot, woken after it."""

    model_id: ClassVar[str]

    @modal.enter(snap=True)
    def start(self) -> None:
        """Load, compile, warm up and sleep: what the snapshot saves the next start."""
        model, serving = MODELS[self.model_id], SERVING[self.model_id]
        self.server = ModelServer(serve_command(model, serving), environment(CACHE, os.environ))
        self.server.start()
        self.server.wait_ready()
        self.server.warm_up(model.hub_id)
        models_volume.commit()
        self.server.sleep()

    @modal.enter(snap=False)
    def wake(self) -> None:
        """Back from the host's memory, or from the snapshot."""
        self.server.wake()

    @modal.exit()
    def stop(self) -> None:
        """Let it finish its requests."""
        self.server.stop()

    @modal.asgi_app(requires_proxy_auth=True)
    def front(self) -> Starlette:
        """What the gateway may ask. A container whose server has died takes no more requests."""
        return front(URL, self.server.is_healthy, on_lost=modal.experimental.stop_fetching_inputs)

    @modal.method()
    def smoke(self) -> dict[str, Any]:
        """One short answer, and how long it took."""
        began = time.monotonic()
        text = self.server.ask(MODELS[self.model_id].hub_id, "Say hello.", SMOKE_TOKENS)
        return {"model": self.model_id, "text": text, "seconds": time.monotonic() - began}


def card(model_id: str, image: modal.Image, **options: Any) -> dict[str, Any]:
    """What all classes with a GPU have in common, for app.cls.

    `memory` of the host holds the weights while the server sleeps, and the server.
    """
    return {
        "image": image,
        "gpu": MODELS[model_id].gpu,
        "volumes": {CACHE: models_volume},
        "min_containers": 0,
        "max_containers": MAX_CARDS,
        "scaledown_window": IDLE_SECONDS,
        "timeout": GPU_REQUEST_SECONDS,
        "startup_timeout": GPU_STARTUP_SECONDS,
    } | options


SNAPSHOT: dict[str, Any] = {
    "enable_memory_snapshot": True,
    "experimental_options": {"enable_gpu_snapshot": True},
}


@app.cls(**card("Qwen2.5-32B-Instruct-AWQ", vllm_image, memory=32 * GIB, **SNAPSHOT))
@modal.concurrent(max_inputs=128, target_inputs=64)
class DefaultChat(Served):
    """The model of whoever names none."""

    model_id = "Qwen2.5-32B-Instruct-AWQ"


@app.cls(**card("Qwen3-30B-A3B-Instruct-2507-FP8", vllm_image, memory=48 * GIB, **SNAPSHOT))
@modal.concurrent(max_inputs=512, target_inputs=256)
class FastChat(Served):
    """A mixture of experts, in FP8."""

    model_id = "Qwen3-30B-A3B-Instruct-2507-FP8"


@app.cls(**card("Qwen3-VL-8B-Instruct-FP8", vllm_image, memory=24 * GIB, **SNAPSHOT))
@modal.concurrent(max_inputs=64, target_inputs=32)
class Vision(Served):
    """Looks at images."""

    model_id = "Qwen3-VL-8B-Instruct-FP8"


@app.cls(**card("Qwen3-Embedding-4B", torch_image, memory=16 * GIB))
@modal.concurrent(max_inputs=EMBEDDING_REQUESTS)
class Embeddings:
    """Vectors. No snapshot: 8 GB of weights from the Volume are there in seconds."""

    model_id: ClassVar[str] = "Qwen3-Embedding-4B"

    @modal.enter()
    def load(self) -> None:
        """Load the model."""
        model = MODELS[self.model_id]
        self.embedder = Embedder(model.hub_id, revision=model.revision)
        models_volume.commit()

    @modal.asgi_app(requires_proxy_auth=True)
    def front(self) -> Starlette:
        """What the gateway may ask."""
        model = MODELS[self.model_id]
        return embeddings_app(self.embedder, [model.hub_id, model.id], as_query, MIN_DIMENSIONS)

    @modal.method()
    def smoke(self) -> dict[str, Any]:
        """One vector, and how long it took."""
        began = time.monotonic()
        (vector,) = self.embedder.embed(["hello"]).vectors
        return {
            "model": self.model_id,
            "numbers": len(vector),
            "seconds": time.monotonic() - began,
        }


@app.cls(**card("flux-schnell", images_image, memory=32 * GIB, secrets=[hub_secret]))
@modal.concurrent(max_inputs=IMAGE_JOBS, target_inputs=1)
class Images:
    """All image models: those that are asked for stay, as many as the card holds."""

    @modal.enter()
    def load(self) -> None:
        """Have the usual model in memory and compiled."""
        self.painter = open_painter(Path(CACHE))
        self.painter.warm_up()
        models_volume.commit()

    @modal.asgi_app(requires_proxy_auth=True)
    def front(self) -> Starlette:
        """What the task runner may ask: QUERNEL_IMAGES_URL."""
        return images_app(self.painter)

    @modal.method()
    def smoke(self, model_id: str) -> dict[str, Any]:
        """One image, and how long it took once the model was there."""
        events: list[dict[str, Any]] = []
        job = ImageJob(
            id="smoke", model=model_id, prompt="a lighthouse", width=1024, height=1024, seed=0
        )
        self.painter.draw(job, events.append)
        drawn = sum("image" in event for event in events)
        return {"model": model_id, "images": drawn, **events[-1]["done"]}


CARDS = (DefaultChat, FastChat, Vision, Embeddings)
"""Those that the gateway asks; the task runner asks Images itself."""


@app.function(min_containers=0, timeout=GPU_REQUEST_SECONDS, secrets=[gpu_secret])
@modal.concurrent(max_inputs=GATEWAY_REQUESTS)
@modal.asgi_app()
def models() -> Starlette:
    """One address for all models: QUERNEL_LLM_URL is its URL and `/v1`."""
    places: dict[str, Place] = {}
    for served in CARDS:
        model = MODELS[served.model_id]
        place = Place(str(served().front.get_web_url()), PATHS[model.kind])
        places |= {model.id: place, model.hub_id: place}
    keys = {
        "Modal-Key": os.environ["MODAL_PROXY_KEY"],
        "Modal-Secret": os.environ["MODAL_PROXY_SECRET"],
    }
    return gateway(places, os.environ["QUERNEL_LLM_API_KEY"], keys)


# Each starts one card, asks it something and prints the answer: the first start takes minutes.


@app.local_entrypoint()
def smoke_default_chat() -> None:
    """One answer of the default model."""
    print(DefaultChat().smoke.remote())


@app.local_entrypoint()
def smoke_fast_chat() -> None:
    """One answer of the mixture of experts."""
    print(FastChat().smoke.remote())


@app.local_entrypoint()
def smoke_vision() -> None:
    """One answer of the model that looks at images."""
    print(Vision().smoke.remote())


@app.local_entrypoint()
def smoke_embeddings() -> None:
    """One vector."""
    print(Embeddings().smoke.remote())


@app.local_entrypoint()
def smoke_images(model: str = "flux-schnell") -> None:
    """One image; `--model` names another model."""
    print(Images().smoke.remote(model))
