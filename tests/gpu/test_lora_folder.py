"""LoRAs from a hub: which file, how large, whether it is one, and what stays on disk."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from pydantic import ValidationError
from safetensors.torch import save

from gpu.contract import ImageJob, JobError
from gpu.loras import MAX_BYTES, USUAL_NAME, LoraFolder, look_at
from tests.gpu.hub import Hub, serve_hub

WEIGHTS = {"unet.to_q.lora_A.weight": torch.ones(2, 2)}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as served:
        yield served


@pytest.fixture
def folder(hub: Hub, tmp_path: Path) -> LoraFolder:
    return LoraFolder(tmp_path / "loras", endpoint=hub.url)


def lora(value: float = 1.0) -> bytes:
    return save({name: weights * value for name, weights in WEIGHTS.items()})


def code_of(folder: LoraFolder, lora_id: str) -> str:
    with pytest.raises(JobError) as refused:
        folder.get(lora_id)
    return refused.value.code


def test_a_lora_is_fetched_once_and_kept(hub: Hub, folder: LoraFolder) -> None:
    hub.repositories["someone/fog"] = {USUAL_NAME: lora(), "README.md": b"fog"}
    first = folder.get("someone/fog")
    assert first.path.read_bytes() == lora()
    fetched = [path for path in hub.asked if "/resolve/" in path]
    assert folder.get("someone/fog") == first
    assert [path for path in hub.asked if "/resolve/" in path] == fetched
    assert not [path for path in fetched if "README" in path]


def test_what_its_owner_changed_is_fetched_anew(hub: Hub, folder: LoraFolder) -> None:
    hub.repositories["someone/fog"] = {USUAL_NAME: lora()}
    first = folder.get("someone/fog")
    hub.repositories["someone/fog"] = {USUAL_NAME: lora(2)}
    second = folder.get("someone/fog")
    assert second.path.read_bytes() == lora(2)
    assert first.name != second.name  # another adapter: the one in memory is not it


def test_a_hub_that_does_not_answer_is_done_without(hub: Hub, folder: LoraFolder) -> None:
    hub.repositories["someone/fog"] = {USUAL_NAME: lora()}
    first = folder.get("someone/fog")
    hub.is_down = True
    assert folder.get("someone/fog") == first
    # Whoever asks for another is not told that there is none, and may ask again.
    assert code_of(folder, "someone/rain") == "internal"


def test_one_that_the_hub_has_no_time_for_may_be_asked_for_again(
    hub: Hub, folder: LoraFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["someone/fog"] = {USUAL_NAME: lora()}
    answer = hub.answer

    def busy(path: str) -> tuple[int, dict[str, str], bytes]:
        return (501, {}, b"") if "/resolve/" in path else answer(path)

    monkeypatch.setattr(hub, "answer", busy)
    assert code_of(folder, "someone/fog") == "internal"


def test_one_that_the_hub_has_disabled_is_not_drawn_with(hub: Hub, folder: LoraFolder) -> None:
    hub.repositories["someone/fog"] = {USUAL_NAME: lora()}
    folder.get("someone/fog")
    hub.is_down, hub.status = True, 403
    assert code_of(folder, "someone/fog") == "lora_not_found"


def test_what_was_not_looked_at_is_not_done_with(
    hub: Hub, folder: LoraFolder, tmp_path: Path
) -> None:
    unfinished = tmp_path / "loras" / "someone--fog" / ".0-1" / USUAL_NAME
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(lora())
    hub.is_down = True
    assert code_of(folder, "someone/fog") == "internal"


def test_our_token_is_shown_to_no_repository_that_a_customer_names(
    hub: Hub, folder: LoraFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens what is private to us, and what is gated."""
    monkeypatch.setenv("HF_TOKEN", "hf_ours")
    hub.repositories["someone/fog"] = {USUAL_NAME: lora()}
    folder.get("someone/fog")
    assert len(hub.asked) > 1
    assert hub.tokens == {None}


def test_what_its_owner_took_back_is_not_drawn_with(hub: Hub, folder: LoraFolder) -> None:
    hub.repositories["someone/fog"] = {USUAL_NAME: lora()}
    folder.get("someone/fog")
    del hub.repositories["someone/fog"]
    assert code_of(folder, "someone/fog") == "lora_not_found"


@pytest.mark.parametrize(
    "files",
    [
        {"fog.safetensors": lora()},
        {USUAL_NAME: lora(), "older.safetensors": lora(2)},
        {"fog.safetensors": lora(), "checkpoint-500/fog.safetensors": lora(2)},
    ],
    ids=["the-only-one", "the-usual-one", "not-in-folders"],
)
def test_one_file_is_meant(hub: Hub, folder: LoraFolder, files: dict[str, bytes]) -> None:
    hub.repositories["someone/fog"] = files
    assert folder.get("someone/fog").path.read_bytes() == lora()


@pytest.mark.parametrize(
    "files",
    [
        {"fog.safetensors": lora(), "rain.safetensors": lora()},
        {"pytorch_lora_weights.bin": pickle.dumps({"lora": 1})},
        {"fog.ckpt": b"x", "fog.pt": b"x", "fog.pkl": b"x"},
        {},
        {"..safetensors\n": lora()},
        {USUAL_NAME: pickle.dumps({"lora": 1})},
        {USUAL_NAME: lora()[:40]},
        {USUAL_NAME: lora()[:-4]},
        {USUAL_NAME: b""},
        {USUAL_NAME: save({"model.diffusion_model.weight": torch.ones(2)})},
        {USUAL_NAME: struct.pack("<Q", 2**60) + b"{}"},
        {USUAL_NAME: struct.pack("<Q", 2) + b"[]"},
        {USUAL_NAME: struct.pack("<Q", 2) + b"{}"},
    ],
    ids=[
        "several",
        "pickle",
        "other-pickles",
        "nothing",
        "strange-name",
        "pickle-by-another-name",
        "cut-header",
        "cut-weights",
        "empty",
        "no-lora",
        "endless-header",
        "no-object",
        "no-weights",
    ],
)
def test_what_is_no_lora_is_refused_and_not_kept(
    hub: Hub, folder: LoraFolder, tmp_path: Path, files: dict[str, bytes]
) -> None:
    hub.repositories["someone/fog"] = files
    assert code_of(folder, "someone/fog") == "lora_refused"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def told(**members: Any) -> bytes:
    """A LoRA, and what diffusers writes beside it."""
    config = LoraConfig(r=2, target_modules=["to_q"]).to_dict() | members
    config["target_modules"] = members.get("target_modules", ["to_q"])
    text = json.dumps({f"unet.{name}": value for name, value in config.items()})
    return save(WEIGHTS, metadata={"lora_adapter_metadata": text, "format": "pt"})


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"rank_pattern": {"^unet.to_q": 4}, "alpha_pattern": {"to_k": 0.5}, "lora_alpha": 16},
        {"lora_dropout": 0.1, "use_rslora": True, "init_lora_weights": "gaussian"},
    ],
)
def test_how_it_was_trained_may_be_told(
    hub: Hub, folder: LoraFolder, members: dict[str, Any]
) -> None:
    content = told(**members)
    hub.repositories["someone/fog"] = {USUAL_NAME: content}
    assert folder.get("someone/fog").path.read_bytes() == content


@pytest.mark.parametrize(
    "members",
    [
        {"init_lora_weights": "pissa"},
        {"target_modules": "(a+)+$"},
        {"rank_pattern": {"(.*)*x": 4}},
        {"alpha_pattern": ["to_q"]},
        {"megatron_config": {"a": 1}, "megatron_core": "antigravity"},
        {"modules_to_save": ["conv_in"]},
        {"layer_replication": [[0, 2]]},
        {"use_dora": True},
        {"bias": "all"},
        {"r": "2"},
        {"nobody_knows_it": 1},
    ],
    ids=lambda members: next(iter(members)),
)
def test_what_is_told_beside_the_weights_does_nothing_else(
    hub: Hub, folder: LoraFolder, members: dict[str, Any]
) -> None:
    hub.repositories["someone/fog"] = {USUAL_NAME: told(**members)}
    assert code_of(folder, "someone/fog") == "lora_refused"


@pytest.mark.parametrize("text", ["{", "[1]", "1"])
def test_what_is_told_and_is_no_object_is_refused(hub: Hub, folder: LoraFolder, text: str) -> None:
    beside = {"lora_adapter_metadata": text}
    hub.repositories["someone/fog"] = {USUAL_NAME: save(WEIGHTS, metadata=beside)}
    assert code_of(folder, "someone/fog") == "lora_refused"


def test_nothing_of_a_pickle_is_run(hub: Hub, folder: LoraFolder, tmp_path: Path) -> None:
    class Run:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "ran"),))

    hub.repositories["someone/fog"] = {USUAL_NAME: pickle.dumps(Run())}
    assert code_of(folder, "someone/fog") == "lora_refused"
    assert not (tmp_path / "ran").exists()


def test_one_that_is_too_large_is_not_fetched(hub: Hub, folder: LoraFolder) -> None:
    hub.repositories["someone/fog"] = {USUAL_NAME: lora()}
    hub.sizes[USUAL_NAME] = MAX_BYTES + 1
    assert code_of(folder, "someone/fog") == "lora_refused"
    assert not [path for path in hub.asked if "/resolve/" in path]


def test_a_file_that_is_longer_than_was_said_does_not_get_in(
    hub: Hub, folder: LoraFolder, tmp_path: Path
) -> None:
    hub.repositories["someone/fog"] = {USUAL_NAME: lora()}
    hub.sizes[USUAL_NAME] = 10
    assert code_of(folder, "someone/fog") == "lora_refused"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_least_lately_used_make_room(hub: Hub, tmp_path: Path) -> None:
    folder = LoraFolder(tmp_path / "loras", endpoint=hub.url, most_bytes=int(2.5 * len(lora())))
    for place, name in enumerate(("a", "b")):
        hub.repositories[f"someone/{name}"] = {USUAL_NAME: lora(place + 1.0)}
        os.utime(folder.get(f"someone/{name}").path, (place, place))
    folder.get("someone/a")  # used again
    hub.repositories["someone/c"] = {USUAL_NAME: lora(3)}
    folder.get("someone/c")
    left = sorted(path.parent.parent.name for path in tmp_path.rglob("*.safetensors"))
    assert left == ["someone--a", "someone--c"]


@pytest.mark.parametrize(
    "lora_id",
    ["fog", "a/b/c", "../fog", "a/..", "/a/b", "a/b\n", "https://a.example/b", "a\\b/c", "", "a/"],
)
def test_an_id_with_a_path_is_refused_before_anybody_is_asked(
    hub: Hub, folder: LoraFolder, lora_id: str
) -> None:
    assert code_of(folder, lora_id) == "lora_refused"
    job = {"id": "a", "model": "sdxl", "prompt": "x", "width": 512, "height": 512, "seed": 1}
    with pytest.raises(ValidationError):
        ImageJob.model_validate(job | {"loras": [{"id": lora_id}]})
    assert hub.asked == []


def test_a_header_that_lies_about_its_offsets_is_refused(tmp_path: Path) -> None:
    header = json.dumps(
        {"lora_A": {"dtype": "F32", "shape": [2], "data_offsets": [0, 10**12]}}
    ).encode()
    path = tmp_path / "lying.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    with pytest.raises(JobError, match="not whole"):
        look_at(path)
