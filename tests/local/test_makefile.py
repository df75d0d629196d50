"""The Makefile says what is missing, and lists what it can do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from local.paths import ROOT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A clone in which nothing has been installed."""
    for name in ("Makefile", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    gateway = tmp_path / "local" / "gateway"
    gateway.mkdir(parents=True)
    (gateway / "package-lock.json").symlink_to(ROOT / "local" / "gateway" / "package-lock.json")
    return tmp_path


def make(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],  # noqa: S607 - the one that a developer would get
        cwd=project,
        env={"PATH": os.environ["PATH"], "HOME": str(project)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def interpreter(project: Path, before: str) -> str:
    """A Python that first runs `before`, then what it was asked to."""
    script = project / "python"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{before}; exec(sys.argv[2])' \"$@\"\n")
    script.chmod(0o755)
    return f"PYTHON={script}"


def test_help_lists_every_target(project: Path) -> None:
    listed = {line.split()[1] for line in make(project).stdout.splitlines() if line.strip()}
    everyday = {"help", "setup", "demo", "dev", "test", "check", "lock", "clean"}
    assert listed == everyday | {"bench", "bench-gpu", "restore-drill", "schema", "test-gpu"}


def test_a_missing_python_is_named(project: Path) -> None:
    result = make(project, "setup", "PYTHON=python9.99")
    assert result.returncode != 0
    assert "there is no python9.99" in result.stderr


def test_an_old_python_is_named_with_its_version(project: Path) -> None:
    old = interpreter(project, "import sys; sys.version_info = (3, 9, 2)")
    result = make(project, "setup", old)
    assert result.returncode != 0
    assert "needs Python 3.11 or newer" in result.stderr
    assert "is 3.9" in result.stderr


def test_a_python_without_venv_says_what_to_install(project: Path) -> None:
    bare = interpreter(project, 'import sys; sys.modules["ensurepip"] = None')
    result = make(project, "setup", bare)
    assert result.returncode != 0
    assert "apt-get install python3-venv" in result.stderr
    assert not (project / ".venv").exists()
