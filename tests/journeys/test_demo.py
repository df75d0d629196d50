"""`make demo`: the story ends well over both transports, and a failing step fails the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from local.paths import ROOT
from local.processes import free_port


def demo(state: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "local.demo", *arguments],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
        env=os.environ | {"QUERNEL_STATE_DIR": str(state)} | environment,
    )


@pytest.mark.parametrize("transport", ["rest", "direct"])
def test_the_story_ends_with_a_statement(tmp_path: Path, transport: str) -> None:
    told = demo(tmp_path, "--transport", transport)
    assert told.returncode == 0, told.stdout + told.stderr
    steps = [
        line for line in told.stdout.splitlines() if line.startswith("  ") and ". " in line[:6]
    ]
    assert len(steps) == 11
    beginning = told.stdout.split("  1. ")[0]
    for part in ("Postgres", "migrations", "Gateway", "Functions"):
        assert f"{part}: " in beginning
    assert told.stdout.count("     done in ") == len(steps)
    for entry in ("Welcome credits", "Credits bought", "chat", "image"):
        assert entry in told.stdout
    assert "[1] cited: Harbour rules: " in told.stdout
    assert "All of it worked" in told.stdout


def test_nothing_of_the_demo_is_left_behind(tmp_path: Path) -> None:
    state, home = tmp_path / "state", tmp_path / "home"
    home.mkdir()
    # Neither the gateway nor the CLIs nor Stripe's library keep anything in the home folder.
    told = demo(state, HOME=str(home), XDG_CONFIG_HOME="", XDG_CACHE_HOME="")
    assert told.returncode == 0, told.stdout + told.stderr
    assert list(home.rglob("*")) == []
    assert not (state / "demo").exists()


def test_a_step_that_fails_fails_the_command(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/v1"
    told = demo(tmp_path, QUERNEL_LLM_URL=nobody)
    assert told.returncode == 1
    assert "The demo failed." in told.stderr
    assert "All of it worked" not in told.stdout
