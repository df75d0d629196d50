"""What needs torch is run by `make test-gpu`, in an environment of its own that has it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

NEED_TORCH = (
    "test_adapters.py",
    "test_bench.py",
    "test_embeddings.py",
    "test_images.py",
    "test_lora_folder.py",
    "test_pipelines.py",
    "test_safety.py",
    "test_transformers_serve.py",
)
if find_spec("torch"):
    import torch

    # Two runs at a time on two cores: threads of both would wait for each other.
    torch.set_num_threads(1)

collect_ignore = [] if find_spec("torch") else list(NEED_TORCH)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny pipelines, by the ids of the catalog."""
    from tests.gpu import tiny_pipelines as tiny  # noqa: PLC0415 - only with torch

    folder = tmp_path_factory.mktemp("models")
    tiny.save_flux(folder / "flux-schnell", is_guided=False)
    tiny.save_flux(folder / "flux-dev", is_guided=True)
    tiny.save_qwen_image(folder / "qwen-image")
    tiny.save_sdxl(folder / "sdxl")
    return folder
