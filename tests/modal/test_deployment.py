"""What `modal deploy modal_app.py` asks Modal for, seen by a stand-in for its API."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modal_proto import api_pb2

import modal_app
from gpu.llm import SERVING, VLLM_VERSION
from local.paths import ROOT
from tests.modal.control_plane import ControlPlane

MODULE = ROOT / "modal_app.py"


def modal_environment(url: str, home: Path) -> dict[str, str]:
    """Nothing of the caller's Modal account, and none of Quernel's settings."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "MODAL_SERVER_URL": url,
        "MODAL_TOKEN_ID": "ak-test",
        "MODAL_TOKEN_SECRET": "as-test",
    }


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        result = subprocess.run(
            [sys.executable, "-m", "modal", "deploy", MODULE],
            cwd=ROOT,
            env=modal_environment(plane.url, tmp_path_factory.mktemp("home")),
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        yield plane


@pytest.fixture(scope="module")
def functions(deployment: ControlPlane) -> dict[str, Any]:
    return {
        request.function.function_name: request.function
        for request in deployment.of("FunctionCreate")
    }


CARDS = {
    "DefaultChat.*": "L40S",
    "FastChat.*": "H100",
    "Vision.*": "L4",
    "Embeddings.*": "L4",
    "Images.*": "H100",
}
SNAPSHOTS = {"DefaultChat.*", "FastChat.*", "Vision.*"}


def test_nothing_is_deployed_that_is_not_named_here(functions: dict[str, Any]) -> None:
    assert set(functions) == {"dispatch", "models", "run_tasks", "wake", "web", *CARDS}


def test_nothing_stays_warm(functions: dict[str, Any]) -> None:
    for function in functions.values():
        assert function.autoscaler_settings.min_containers == 0
        assert function.autoscaler_settings.buffer_containers == 0


def test_each_class_has_one_card_of_its_kind_and_nothing_else_has_one(
    functions: dict[str, Any],
) -> None:
    cards = {
        name: function.resources.gpu_config.gpu_type
        for name, function in functions.items()
        if function.resources.gpu_config.gpu_type
    }
    assert cards == CARDS
    assert {functions[name].resources.gpu_config.count for name in CARDS} == {1}


def test_cards_are_few_and_go_when_nobody_asks(functions: dict[str, Any]) -> None:
    for name in CARDS:
        scaling = functions[name].autoscaler_settings
        assert (scaling.max_containers, scaling.scaledown_window) == (4, 300)


def test_the_hosts_memory_holds_the_weights_of_a_server_that_sleeps(
    functions: dict[str, Any],
) -> None:
    gibibytes = {name: functions[name].resources.memory_mb / 1024 for name in CARDS}
    assert gibibytes == {
        "DefaultChat.*": 32,
        "FastChat.*": 48,
        "Vision.*": 24,
        "Embeddings.*": 16,
        "Images.*": 32,
    }


def test_cards_take_as_many_requests_as_they_are_worth(functions: dict[str, Any]) -> None:
    """Never fewer than vLLM computes at the same time."""
    inputs = {
        name: (functions[name].target_concurrent_inputs, functions[name].max_concurrent_inputs)
        for name in CARDS
    }
    assert inputs == {
        "DefaultChat.*": (64, 128),
        "FastChat.*": (256, 512),
        "Vision.*": (32, 64),
        "Embeddings.*": (0, 16),
        "Images.*": (1, 2),
    }
    for served in (modal_app.DefaultChat, modal_app.FastChat, modal_app.Vision):
        model_id = served._get_user_cls().model_id
        assert inputs[f"{served._get_user_cls().__name__}.*"][0] == SERVING[model_id].max_num_seqs


def test_what_is_compiled_for_a_card_is_kept_in_a_snapshot(functions: dict[str, Any]) -> None:
    kept = {name for name, one in functions.items() if one.checkpointing_enabled}
    assert kept == SNAPSHOTS
    for name in SNAPSHOTS:
        assert functions[name].experimental_options["enable_gpu_snapshot"] == "True"


def test_weights_and_caches_lie_on_one_volume(
    deployment: ControlPlane, functions: dict[str, Any]
) -> None:
    names = {request.deployment_name for request in deployment.of("VolumeGetOrCreate")}
    assert names == {"quernel-models"}
    for name, function in functions.items():
        paths = [mount.mount_path for mount in function.volume_mounts]
        assert paths == (["/cache"] if name in CARDS else [])


def test_cards_are_behind_modals_proxy_and_the_gateway_behind_its_token(
    deployment: ControlPlane,
) -> None:
    """A class tells its web endpoints by its methods."""
    asked = [request.function for request in deployment.of("FunctionCreate")]
    methods = {
        one.function_name: one.method_definitions for one in asked if one.function_name in CARDS
    }
    assert set(methods) == set(CARDS)
    for definitions in methods.values():
        assert set(definitions) == {"front", "smoke"}
        assert definitions["front"].webhook_config.requires_proxy_auth
        assert definitions["front"].webhook_config.type == api_pb2.WEBHOOK_TYPE_ASGI_APP
    (gateway,) = [one for one in asked if one.function_name == "models"]
    assert not gateway.webhook_config.requires_proxy_auth
    assert gateway.max_concurrent_inputs == 500


def test_no_card_is_given_a_secret_but_the_hubs(functions: dict[str, Any]) -> None:
    given = {name: list(functions[name].secret_ids) for name in CARDS}
    [hub] = given.pop("Images.*")
    assert set(map(len, given.values())) == {0}
    others = {one for name in functions if name not in CARDS for one in functions[name].secret_ids}
    assert hub not in others


def test_what_the_hub_gives_lies_on_the_volume_and_so_does_what_is_compiled(
    deployment: ControlPlane,
) -> None:
    """The library reads HF_HOME when it is imported, which is before any of our code runs."""
    images = [request.image for request in deployment.of("ImageGetOrCreate")]
    commands = [command for image in images for command in image.dockerfile_commands]
    homes = {command for command in commands if "HF_HOME" in command}
    assert homes == {"ENV HF_HOME=/cache/huggingface"}
    assert "ENV TORCHINDUCTOR_CACHE_DIR=/cache/inductor" in commands


def test_what_is_installed_beside_torch_is_what_was_tested(deployment: ControlPlane) -> None:
    """Locked for the functions, and pinned in the extra `gpu`."""
    images = [request.image for request in deployment.of("ImageGetOrCreate")]
    commands = [command for image in images for command in image.dockerfile_commands]
    pinned = set(re.findall(r"[a-z0-9_-]+==[0-9.]+", " ".join(commands)))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = re.findall(
        r"^([a-z0-9_-]+==[0-9.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE
    )
    assert pinned
    assert pinned <= {*locked, *project["optional-dependencies"]["gpu"]}


def test_vllm_comes_from_the_image_of_the_version_that_its_flags_are_checked_for(
    deployment: ControlPlane,
) -> None:
    images = [request.image for request in deployment.of("ImageGetOrCreate")]
    commands = [command for image in images for command in image.dockerfile_commands]
    assert f"FROM vllm/vllm-openai:v{VLLM_VERSION}" in commands


def test_only_the_dispatcher_has_a_schedule(functions: dict[str, Any]) -> None:
    scheduled = [
        name for name, one in functions.items() if one.schedule.WhichOneof("schedule_oneof")
    ]
    assert scheduled == ["dispatch"]
    period = functions["dispatch"].schedule.period
    assert (period.minutes, period.hours, period.days, period.seconds) == (1, 0, 0, 0)


def test_one_dispatcher_runs_at_a_time(functions: dict[str, Any]) -> None:
    assert functions["dispatch"].autoscaler_settings.max_containers == 1


def test_every_function_has_its_time_limit(functions: dict[str, Any]) -> None:
    limits = {name: function.timeout_secs for name, function in functions.items()}
    ours = {"web": 900, "run_tasks": 3600, "wake": 60, "dispatch": 300, "models": 1800}
    assert limits == ours | dict.fromkeys(CARDS, 1800)
    for name in CARDS:
        assert functions[name].startup_timeout_secs == 2400


def test_the_web_app_serves_many_requests_per_container(functions: dict[str, Any]) -> None:
    web = functions["web"]
    assert web.webhook_config.type == api_pb2.WEBHOOK_TYPE_ASGI_APP
    assert web.max_concurrent_inputs == 100
    assert not web.webhook_config.requires_proxy_auth


def test_waking_the_runner_takes_a_post_with_the_keys_of_the_workspace(
    functions: dict[str, Any],
) -> None:
    wake = functions["wake"].webhook_config
    assert (wake.method, wake.requires_proxy_auth) == ("POST", True)


def test_what_acts_for_clients_gets_the_settings_and_the_gateway_its_own_secret(
    deployment: ControlPlane, functions: dict[str, Any]
) -> None:
    secrets = {
        request.deployment_name: tuple(request.required_keys)
        for request in deployment.of("SecretGetOrCreate")
    }
    assert secrets == {
        "quernel": ("QUERNEL_ENVIRONMENT", "QUERNEL_SUPABASE_URL"),
        "quernel-hub": ("HF_TOKEN",),
        "quernel-gpu": ("MODAL_PROXY_KEY", "MODAL_PROXY_SECRET", "QUERNEL_LLM_API_KEY"),
    }
    ours = {name: tuple(functions[name].secret_ids) for name in functions if name not in CARDS}
    gateway = ours.pop("models")
    assert len(set(ours.values())) == 1
    assert len(gateway) == 1
    assert gateway not in ours.values()


def test_the_image_is_built_from_the_lock(deployment: ControlPlane) -> None:
    images = [request.image for request in deployment.of("ImageGetOrCreate")]
    commands = [command for image in images for command in image.dockerfile_commands]
    assert any(command.startswith("FROM python:3.11") for command in commands)
    (install,) = [command for command in commands if "--require-hashes" in command]
    assert "uv pip install" in install
    assert "--constraints /quernel/constraints.txt" in install
    (project,) = [file for image in images for file in image.context_files]
    assert project.data == (ROOT / "pyproject.toml").read_bytes()
    assert "/quernel/constraints.txt" in _mounted_files(deployment)


def test_no_image_names_a_package_registry(deployment: ControlPlane) -> None:
    for request in deployment.of("ImageGetOrCreate"):
        for command in request.image.dockerfile_commands:
            assert not re.search(r"index-url|find-links|https?://", command)


def test_the_code_goes_along_and_nothing_else(deployment: ControlPlane) -> None:
    sent = _mounted_files(deployment)
    assert "/root/modal_app.py" in sent
    assert "/root/functions/app.py" in sent
    strangers = {
        name
        for name in sent
        if not name.startswith(
            ("/root/functions/", "/root/gpu/", "/root/modal_app.py", "/quernel/")
        )
    }
    assert strangers == set()
    assert not [name for name in sent if ".env" in name or "secrets" in name]


def test_the_module_can_be_imported_where_only_the_code_is(tmp_path: Path) -> None:
    """As in a container: no project files, no settings, no account."""
    shutil.copy(MODULE, tmp_path)
    for package in ("functions", "gpu"):
        shutil.copytree(ROOT / package, tmp_path / package)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import modal_app; print(modal_app.app.name)"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (0, "quernel\n"), result.stderr


def _mounted_files(deployment: ControlPlane) -> set[str]:
    return {
        file.filename for request in deployment.of("MountGetOrCreate") for file in request.files
    }
