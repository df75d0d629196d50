"""Pipelines of diffusers in the card's memory: loaded, made fast, and let go by LRU.

What makes them fast: bf16; convolutions channels-last; query, key and value in one product (not
with LoRAs, which act on the three of them); the repeated blocks compiled; and, for many steps, the
first-block cache.
"""

from __future__ import annotations

import gc
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.hooks import FirstBlockCacheConfig
from huggingface_hub import hf_hub_download, snapshot_download

from gpu.catalog import ServedModel
from gpu.contract import JobError
from gpu.families import FAMILIES, LIGHTNING_SCHEDULE, Family
from gpu.loras import Adapters, LoraFile

CACHED_STEPS = 10
"""From so many on the first-block cache is used: in fewer, no step is like the one before."""

WORKING_BYTES = 12 * 1024**3
"""Left free for what is reckoned: four outputs of two megapixels, decoded."""

MAX_RECOMPILES = 64
"""Of one block: with LoRAs and without, few and many outputs, and sizes."""

CARD_BYTES = 80 * 1000**3  # an H100's
FOLDERS = ("scheduler", "text_encoder*", "tokenizer*", "transformer", "unet", "vae")

logger = logging.getLogger(__name__)


class Pipeline:
    """One model in memory."""

    def __init__(
        self,
        pipe: Any,  # noqa: ANN401 - a pipeline of diffusers
        family: Family,
        compile_with: Mapping[str, Any] | None,
    ) -> None:
        """`pipe` is on its device; `compile_with` are torch.compile's options, None for not."""
        self.family = family
        self._pipe: Any = pipe
        self._denoiser: Any = getattr(self._pipe, family.denoiser)
        for module in (self._denoiser, self._pipe.vae):
            _channels_last(module)
        if compile_with is not None:
            _compile(self._denoiser, compile_with)
        self.adapters = Adapters(self._pipe)
        self._scheduler: Any = self._pipe.scheduler
        self._vae_dtype: torch.dtype = self._pipe.vae.dtype
        self._is_fused = False

    @property
    def bytes_held(self) -> int:
        """Of weights."""
        return sum(
            tensor.numel() * tensor.element_size()
            for part in self._pipe.components.values()
            if isinstance(part, torch.nn.Module)
            for tensor in part.parameters()
        )

    def ready(
        self, loras: list[tuple[LoraFile, float]], *, steps: int, is_distilled: bool, image: bool
    ) -> Any:  # noqa: ANN401 - a pipeline of diffusers
        """The pipeline to call for one job. Raises JobError for LoRAs that do not fit."""
        if loras or self.adapters.slots:
            self._fuse(is_wanted=False)
            self.adapters.set(loras)
        self._fuse(is_wanted=not loras)
        self._cache(is_wanted=steps >= CACHED_STEPS)
        schedule = LIGHTNING_SCHEDULE if is_distilled else self._scheduler.config
        scheduler = type(self._scheduler).from_config(schedule)
        parts = self._pipe.components | {"scheduler": scheduler}
        name = self.family.image_to_image if image else self.family.text_to_image
        pipe: Any = getattr(diffusers, name)(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def forget(self) -> None:
        """What a job left behind that was stopped: the next one would take it for its own."""
        if self._pipe.vae.dtype != self._vae_dtype:
            # SDXL reads an image in 32 bits. What was moved so can be moved back so alone.
            with torch.inference_mode():
                self._pipe.vae.to(self._vae_dtype)
        if self.family.cache_threshold is not None and self._denoiser.is_cache_enabled:
            self._denoiser._reset_stateful_cache()  # noqa: SLF001 - as pipelines do at their end

    def _fuse(self, *, is_wanted: bool) -> None:
        if not self.family.can_fuse or self._is_fused == is_wanted:
            return
        if is_wanted:
            self._denoiser.fuse_qkv_projections()
        else:
            self._denoiser.unfuse_qkv_projections()
        self._is_fused = is_wanted

    def _cache(self, *, is_wanted: bool) -> None:
        threshold = self.family.cache_threshold
        if threshold is None or self._denoiser.is_cache_enabled == is_wanted:
            return
        if is_wanted:
            self._denoiser.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        else:
            self._denoiser.disable_cache()


class Pipelines:
    """Pipelines by model id, as many as the card holds."""

    def __init__(
        self,
        load: Callable[[str], Pipeline],
        size: Callable[[str], int],
        most_bytes: int = CARD_BYTES - WORKING_BYTES,
    ) -> None:
        """`size` says beforehand how many bytes a model's weights will take."""
        self._load = load
        self._size = size
        self._most_bytes = most_bytes
        self._held: OrderedDict[str, Pipeline] = OrderedDict()

    @property
    def held(self) -> list[str]:
        """Models in memory, the one that was used last at the end."""
        return list(self._held)

    def get(self, model_id: str) -> Pipeline:
        """The pipeline of a model; loaded where it is not there, in place of the oldest.

        Raises OSError.
        """
        found = self._held.get(model_id)
        if found is None:
            needed = self._size(model_id)
            while self._held and self._bytes() + needed > self._most_bytes:
                self._held.popitem(last=False)
                free_memory()
            found = self._held[model_id] = self._load(model_id)
        self._held.move_to_end(model_id)
        return found

    def drop_others(self, model_id: str) -> None:
        """Make room for one that turned out to need more."""
        for other in [one for one in self._held if one != model_id]:
            del self._held[other]
        free_memory()

    def _bytes(self) -> int:
        return sum(one.bytes_held for one in self._held.values())


class Hub:
    """Models of the catalog on disk, fetched when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "huggingface" / "hub"

    def model(self, model: ServedModel) -> Path:
        """The folder of a model, whole. Raises OSError and what the hub refuses."""
        ending = f"*.{model.variant}.safetensors" if model.variant else "*.safetensors"
        patterns = ["model_index.json", "config.json", "preprocessor_config.json"]
        if model.kind == "image":
            kinds = ("*.json", "*.txt", "*.model", ending)
            patterns += [f"{one}/{kind}" for one in FOLDERS for kind in kinds]
        else:
            patterns.append("model.safetensors")
        return Path(
            snapshot_download(
                model.hub_id,
                revision=model.revision,
                cache_dir=self._folder,
                allow_patterns=patterns,
            )
        )

    def lightning(self, model: ServedModel, steps: int) -> LoraFile | None:
        """The LoRA that draws in so few steps, where the model has one."""
        for most, file in sorted(model.lightning.items()):
            if steps <= most:
                path = hf_hub_download(
                    file.hub_id, file.name, revision=file.revision, cache_dir=self._folder
                )
                return LoraFile(Path(path), f"lightning_{most}")
        return None


def open_pipeline(
    folder: Path, model: ServedModel, device: str, compile_with: Mapping[str, Any] | None
) -> Pipeline:
    """The pipeline of a model whose files are in `folder`.

    Raises JobError for one that draws nothing, OSError for files that are not there or not whole.
    """
    family = FAMILIES.get(model.id)
    if family is None:
        raise JobError("unknown_model", "There is no such image model.")
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    options = {"variant": model.variant} if model.variant else {}
    # Read straight to the card: on the host there is not room for the largest.
    pipe = getattr(diffusers, family.text_to_image).from_pretrained(
        folder, dtype=dtype, use_safetensors=True, device_map=device, **options
    )
    return Pipeline(pipe, family, compile_with)


def weights_in(folder: Path) -> int:
    """Bytes of the weights in a folder, which are in 16 bits, as they will be in memory."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def free_memory() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _channels_last(module: torch.nn.Module) -> None:
    """Weights of convolutions as cuDNN's kernels read them; images and films have their own."""
    for weights in module.parameters():
        if weights.dim() == 4:
            weights.data = weights.data.contiguous(memory_format=torch.channels_last)
        elif weights.dim() == 5:
            weights.data = weights.data.contiguous(memory_format=torch.channels_last_3d)


def _compile(denoiser: Any, options: Mapping[str, Any]) -> None:  # noqa: ANN401 - of diffusers
    """The blocks that repeat, compiled once for all of them, and the whole where none does."""
    torch._dynamo.config.recompile_limit = MAX_RECOMPILES  # noqa: SLF001 - torch documents it so
    if getattr(denoiser, "_repeated_blocks", None):
        denoiser.compile_repeated_blocks(**options)
    else:
        denoiser.compile(**options)
