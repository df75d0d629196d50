"""`make lock`: writes constraints.txt, constraints-gpu.txt and each package-lock.json anew.

`make lock ARGS=--keep` leaves every version that still fits as it is: for one dependency more or
fewer in pyproject.toml.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from local import npm
from local.paths import GATEWAY, JAVASCRIPT, ROOT

HEADER = """\
# Every Python package of the core and the extra `dev`, with hashes, for every platform.
# Written by `make lock`; installed with pip install --require-hashes -r constraints.txt
"""

GPU_HEADER = """\
# What the extra `gpu` adds to constraints.txt, without hashes: which build of torch it is depends
# on where it is installed. Written by `make lock`; read with pip install --constraint.
"""


def main() -> int:
    """Resolve. uv is needed only here, so it lives in a folder that is thrown away."""
    parser = argparse.ArgumentParser(prog="python -m local.lock", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="change no version that still fits")
    keep = parser.parse_args().keep
    target, gpu = ROOT / "constraints.txt", ROOT / "constraints-gpu.txt"
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, "constraints.txt")
        if keep:
            output.write_bytes(target.read_bytes())  # uv prefers what it finds in its output file
        subprocess.check_call(
            [sys.executable, "-m", "pip", "install", "--quiet", "--target", scratch, "uv"]
        )
        uv = Path(scratch, "bin", "uv")
        _compile(uv, output, keep, "--universal", "--generate-hashes", "--extra=dev")
        pins = output.read_text().removeprefix(HEADER)
        target.write_text(HEADER + pins)
        added = Path(scratch, "constraints-gpu.txt")
        if keep and gpu.is_file():
            added.write_bytes(gpu.read_bytes())
        _compile(uv, added, keep, "--extra=gpu", f"--constraint={target}")
        known = {line.split()[0] for line in pins.splitlines() if "==" in line}
        lines = [
            line
            for line in added.read_text().splitlines(keepends=True)
            if not line.startswith("#") and line.strip() not in known
        ]
        gpu.write_text(GPU_HEADER + "".join(lines))
    if keep:
        return 0
    for folder in (GATEWAY, JAVASCRIPT):
        (folder / "package-lock.json").unlink(missing_ok=True)
        if status := npm.main(folder, ["install", "--package-lock-only"]):
            return status
    return 0


def _compile(uv: Path, output: Path, keep: bool, *options: str) -> None:
    """Choose the versions of pyproject.toml's packages; uv keeps those that `output` has."""
    subprocess.check_call(
        [
            uv,
            "pip",
            "compile",
            "--quiet",
            *([] if keep else ["--upgrade"]),
            "--no-header",
            "--no-annotate",
            "--no-emit-index-url",
            "--no-emit-find-links",
            "--python-version=3.11",
            f"--output-file={output}",
            *options,
            "pyproject.toml",
        ],
        cwd=ROOT,
    )


if __name__ == "__main__":
    sys.exit(main())
