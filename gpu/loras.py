"""LoRAs of the hub: found, looked at, kept on disk, and put into a pipeline for one job.

Nothing of theirs is run: only safetensors are read, whose header is looked at before any library
loads it. A repository is asked at each job for its newest commit, so that nobody draws for ever
with what its owner took back; where the hub does not answer, what is on disk does. The hub is asked
without a token: ours would show to every customer what is shown to us alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import struct
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from safetensors import SafetensorError

from gpu.contract import LORA_ID, JobError

MAX_BYTES = 2 * 1024**3
"""Of one file. Those for the largest models, at a rank of 128, have about 1.5 GB."""

MAX_FOLDER_BYTES = 64 * 1024**3
"""Of all of them on disk; then the one that was least lately used goes."""

MAX_HEADER_BYTES = 16 * 1024**2
MAX_TENSORS = 20_000
HUB_SECONDS = 10.0
USUAL_NAME = "pytorch_lora_weights.safetensors"
"""What diffusers writes, and reads where no file is named."""

_LORA_KEY = re.compile(r"lora|dora_scale|alpha$", re.IGNORECASE)
_CONFIG = "lora_adapter_metadata"
"""What diffusers makes peft's LoraConfig of, of any member."""

_PATTERN = re.compile(r"\^?[\w.]{1,300}\$?")
_NUMBERS = ("r", "lora_alpha", "lora_dropout", "qalora_group_size")
_FREE = (
    "base_model_name_or_path",
    "inference_mode",
    "megatron_core",  # imported where there is a megatron_config, which there may not be
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
    "use_rslora",
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OFFLINE = (httpx.HTTPError, OSError, HfHubHTTPError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoraFile:
    """A LoRA on disk. `name` is its adapter's: the same for the same bytes."""

    path: Path
    name: str


class LoraFolder:
    """LoRAs on disk, by repository and commit."""

    def __init__(
        self, folder: Path, *, endpoint: str | None = None, most_bytes: int = MAX_FOLDER_BYTES
    ) -> None:
        """`endpoint` is the hub's address, where it is another than the usual one."""
        self._folder = folder
        self._endpoint = endpoint
        self._api = HfApi(endpoint=endpoint, token=False)
        self._most_bytes = most_bytes
        self._lock = threading.Lock()

    def get(self, lora_id: str) -> LoraFile:
        """The file of a LoRA.

        Raises JobError lora_not_found, lora_refused; internal where the hub does not answer.
        """
        if re.fullmatch(LORA_ID, lora_id) is None:
            raise JobError("lora_refused", "A LoRA is named as owner/name.")
        with self._lock:  # of two who want the same one fetches it
            return self._found(lora_id)

    def _found(self, lora_id: str) -> LoraFile:
        place = self._folder / lora_id.replace("/", "--")
        try:
            found = self._api.model_info(lora_id, files_metadata=True, timeout=HUB_SECONDS)
        except _OFFLINE as error:
            if _is_refusal(error):
                raise JobError("lora_not_found", f"There is no public LoRA {lora_id}.") from None
            return self._kept(place)
        sizes = {one.rfilename: one.size or 0 for one in found.siblings or []}
        name = _chosen(lora_id, sizes)
        if sizes[name] > MAX_BYTES:
            raise JobError("lora_refused", f"The LoRA {lora_id} has more than {MAX_BYTES} bytes.")
        commit = str(found.sha)
        if _COMMIT.fullmatch(commit) is None:
            raise JobError("lora_refused", f"The LoRA {lora_id} has no commit.")
        path = place / commit / name
        if not path.is_file():
            self._make_room(sizes[name])
            self._fetch(lora_id, commit, path, sizes[name])
        return _used(path, commit)

    def _fetch(self, lora_id: str, commit: str, path: Path, size: int) -> None:
        """Into a folder of its own first, so that no half of a file is ever taken for a whole."""
        unfinished = path.parent.with_name(f".{commit}-{os.getpid()}")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            hf_hub_download(
                lora_id,
                path.name,
                revision=commit,
                local_dir=unfinished,
                endpoint=self._endpoint,
                token=False,
            )
            fetched = unfinished / path.name
            if fetched.stat().st_size != size:
                raise JobError("lora_refused", f"The LoRA {lora_id} has another size than it says.")
            look_at(fetched)
            path.parent.mkdir(parents=True, exist_ok=True)
            fetched.replace(path)
        except (EntryNotFoundError, *_OFFLINE) as error:
            logger.warning("lora %s not fetched: %s", lora_id, type(error).__name__)
            if _is_refusal(error) or _is_refusal(error.__cause__):
                raise JobError("lora_not_found", f"The LoRA {lora_id} cannot be fetched.") from None
            raise _no_answer() from None
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _kept(self, place: Path) -> LoraFile:
        # One that is unfinished, in a folder with a dot, was not looked at.
        files = sorted(place.glob("[!.]*/*.safetensors"), key=lambda path: path.stat().st_mtime)
        if not files:
            raise _no_answer()
        return _used(files[-1], files[-1].parent.name)

    def _make_room(self, size: int) -> None:
        """For so many bytes, by deleting those that were least lately used."""
        files = [(path.stat(), path) for path in self._folder.glob("*/*/*.safetensors")]
        left = self._most_bytes - size - sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda one: one[0].st_mtime):
            if left >= 0:
                return
            shutil.rmtree(path.parent, ignore_errors=True)
            left += stat.st_size


class Adapters:
    """What acts on one pipeline. For each job it is set anew, and nothing of the last one stays."""

    def __init__(self, pipe: Any) -> None:  # noqa: ANN401 - a pipeline of diffusers
        self._pipe = pipe
        # FLUX's makes the model's own layers as wide as a LoRA's, and leaves them so.
        pipe._maybe_expand_transformer_param_shape_or_error_ = _keep_shapes
        self.slots: dict[str, str] = {}
        """Names in the layers, by those of the files. Few, and used again: what is compiled is
        compiled for them."""

    def set(self, wanted: Sequence[tuple[LoraFile, float]]) -> None:
        """Have these act, each as strongly as its number says, and no others.

        Raises JobError lora_refused for one that does not fit the model; then none acts.
        """
        scales = {file.name: scale for file, scale in wanted}  # the same twice: the last counts
        if not scales:
            self.clear()
            return
        try:
            gone = self.slots.keys() - scales.keys()
            if gone:
                self._pipe.delete_adapters(sorted(self.slots.pop(name) for name in gone))
            for file, _ in wanted:
                if file.name not in self.slots:
                    self._load(file)
            self._pipe.set_adapters([self.slots[name] for name in scales], list(scales.values()))
        except BaseException:
            self.clear()
            raise

    def clear(self) -> None:
        """Take all of them out: the model is as if there had never been one."""
        # One that failed halfway is in the layers and has no slot.
        self._pipe.unload_lora_weights()
        self.slots.clear()

    def _load(self, file: LoraFile) -> None:
        taken = self.slots.values()
        slot = next(name for name in map("lora_{}".format, count()) if name not in taken)
        try:
            with warnings.catch_warnings():
                # That there are several is what is wanted.
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")
                self._pipe.load_lora_weights(
                    str(file.path.parent),
                    weight_name=file.path.name,
                    adapter_name=slot,
                    use_safetensors=True,
                )
        except torch.OutOfMemoryError:  # a RuntimeError, and not the LoRA's fault
            raise
        except (
            ValueError,
            RuntimeError,
            KeyError,
            TypeError,
            AttributeError,
            IndexError,
            AssertionError,
            ImportError,
            SafetensorError,
        ):
            raise JobError("lora_refused", "A LoRA does not fit the model.") from None
        listed: Mapping[str, list[str]] = self._pipe.get_list_adapters()
        if not any(slot in names for names in listed.values()):
            raise JobError("lora_refused", "A LoRA has nothing for the model.")
        for part in self._pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()  # its layers come as they are trained: with dropout
        self.slots[file.name] = slot


def look_at(path: Path) -> None:
    """Raise JobError lora_refused for a file that is no safetensors of a LoRA."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            # One that is longer than a header may be is cut off, and is no JSON then.
            header: dict[str, Any] = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
        names = [name for name in header if name != "__metadata__"]
        ends = [int(header[name]["data_offsets"][1]) for name in names]
        config = json.loads(header.get("__metadata__", {}).get(_CONFIG) or "{}")
        is_plain = all(_is_plain(name, value) for name, value in config.items())
    except (
        OSError,
        ValueError,
        struct.error,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
    ):
        raise JobError("lora_refused", "A LoRA's file is no safetensors.") from None
    if not 0 < len(names) <= MAX_TENSORS or 8 + length + max(ends) > size:
        raise JobError("lora_refused", "A LoRA's file is not whole.")
    if not all(_LORA_KEY.search(name) for name in names):
        raise JobError("lora_refused", "A LoRA's file holds other weights than a LoRA's.")
    if not is_plain:
        raise JobError("lora_refused", "A LoRA's file asks for more than a LoRA of weights.")


def _is_plain(name: str, value: Any) -> bool:  # noqa: ANN401 - JSON
    """Whether a member of peft's LoraConfig says no more than where and how strongly it acts.

    Others take the model's own weights apart, import modules, or look for patterns without end.
    """
    member = name.rpartition(".")[2]
    if member in _NUMBERS:
        return isinstance(value, int | float)
    if member in ("rank_pattern", "alpha_pattern"):
        return all(_PATTERN.fullmatch(one) and isinstance(value[one], int | float) for one in value)
    if member == "target_modules":  # a word alone is a pattern
        return isinstance(value, list)
    if member == "init_lora_weights":  # before they are read
        return value in (True, False, "gaussian")
    return not value or member in _FREE or (member, value) == ("bias", "none")


def _keep_shapes(*_: object, **__: object) -> bool:
    return False


def _is_refusal(error: BaseException | None) -> bool:
    """Whether the hub has answered that we may not have it, and not that it cannot just now."""
    return (
        isinstance(error, HfHubHTTPError)
        and error.response is not None
        and 400 <= error.response.status_code < 500
        and error.response.status_code not in (408, 429)
    )


def _no_answer() -> JobError:
    # Not the fault of whoever asked, who may ask again.
    return JobError("internal", "The hub of the LoRAs does not answer.")


def _chosen(lora_id: str, sizes: Mapping[str, int]) -> str:
    """The one file of a repository that is meant. Files in folders are not looked at."""
    files = [name for name in sizes if name.endswith(".safetensors") and "/" not in name]
    if USUAL_NAME in files:
        return USUAL_NAME
    if len(files) == 1 and re.fullmatch(r"[\w.+() -]{1,200}", files[0]) is not None:
        return files[0]
    if not files:
        raise JobError("lora_refused", f"{lora_id} has no safetensors; other files are not read.")
    raise JobError("lora_refused", f"{lora_id} has several files, and none is {USUAL_NAME}.")


def _used(path: Path, commit: str) -> LoraFile:
    path.touch()
    told = f"{path.parent.parent.name}/{commit}/{path.name}"
    return LoraFile(path, "lora_" + hashlib.sha256(told.encode()).hexdigest()[:16])
