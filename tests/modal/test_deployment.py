"""What `modal deploy modal_app.py` asks Modal for, seen by a stand-in for its API."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modal_proto import api_pb2

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


def test_nothing_is_deployed_that_is_not_named_here(functions: dict[str, Any]) -> None:
    assert sorted(functions) == ["dispatch", "run_tasks", "wake", "web"]


def test_no_function_asks_for_a_gpu_or_stays_warm(functions: dict[str, Any]) -> None:
    for function in functions.values():
        assert function.resources.gpu_config.gpu_type == ""
        assert function.autoscaler_settings.min_containers == 0
        assert function.autoscaler_settings.buffer_containers == 0


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
    assert limits == {"web": 900, "run_tasks": 3600, "wake": 60, "dispatch": 300}


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


def test_every_function_gets_the_one_secret(
    deployment: ControlPlane, functions: dict[str, Any]
) -> None:
    (secret,) = {
        (request.deployment_name, tuple(request.required_keys))
        for request in deployment.of("SecretGetOrCreate")
    }
    assert secret == ("quernel", ("QUERNEL_ENVIRONMENT", "QUERNEL_SUPABASE_URL"))
    assert {len(function.secret_ids) for function in functions.values()} == {1}


def test_the_image_is_built_from_the_lock(deployment: ControlPlane) -> None:
    images = [request.image for request in deployment.of("ImageGetOrCreate")]
    commands = [command for image in images for command in image.dockerfile_commands]
    assert any(command.startswith("FROM python:3.11") for command in commands)
    (install,) = [command for command in commands if "uv pip install" in command]
    assert "--require-hashes" in install
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
        if not name.startswith(("/root/functions/", "/root/modal_app.py", "/quernel/"))
    }
    assert strangers == set()
    assert not [name for name in sent if ".env" in name or "secrets" in name]


def test_the_module_can_be_imported_where_only_the_code_is(tmp_path: Path) -> None:
    """As in a container: no project files, no settings, no account."""
    shutil.copy(MODULE, tmp_path)
    shutil.copytree(ROOT / "functions", tmp_path / "functions")
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
