"""`make lock`: writes constraints.txt and each package-lock.json with today's versions.

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


def main() -> int:
    """Resolve. uv is needed only here, so it lives in a folder that is thrown away."""
    parser = argparse.ArgumentParser(prog="python -m local.lock", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="change no version that still fits")
    keep = parser.parse_args().keep
    target = ROOT / "constraints.txt"
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, "constraints.txt")
        if keep:
            output.write_bytes(target.read_bytes())  # uv prefers what it finds in its output file
        subprocess.check_call(
            [sys.executable, "-m", "pip", "install", "--quiet", "--target", scratch, "uv"]
        )
        subprocess.check_call(
            [
                Path(scratch, "bin", "uv"),
                "pip",
                "compile",
                "--quiet",
                "--universal",
                *([] if keep else ["--upgrade"]),
                "--generate-hashes",
                "--no-header",
                "--no-annotate",
                "--no-emit-index-url",
                "--no-emit-find-links",
                "--extra=dev",
                "--python-version=3.11",
                f"--output-file={output}",
                "pyproject.toml",
            ],
            cwd=ROOT,
        )
        pins = output.read_text().removeprefix(HEADER)
        target.write_text(HEADER + pins)
    if keep:
        return 0
    for folder in (GATEWAY, JAVASCRIPT):
        (folder / "package-lock.json").unlink(missing_ok=True)
        if status := npm.main(folder, ["install", "--package-lock-only"]):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
