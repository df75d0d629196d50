"""`make lock`: writes constraints.txt and package-lock.json with today's versions."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from local import npm
from local.paths import ROOT

HEADER = """\
# Every Python package of the core and the extra `dev`, with hashes, for every platform.
# Written by `make lock`; installed with pip install --require-hashes -r constraints.txt
"""


def main() -> int:
    """Resolve anew. uv is needed only here, so it lives in a folder that is thrown away."""
    target = ROOT / "constraints.txt"
    with tempfile.TemporaryDirectory() as scratch:
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
                "--upgrade",
                "--generate-hashes",
                "--no-header",
                "--no-annotate",
                "--no-emit-index-url",
                "--no-emit-find-links",
                "--extra=dev",
                "--python-version=3.11",
                f"--output-file={Path(scratch, 'constraints.txt')}",
                "pyproject.toml",
            ],
            cwd=ROOT,
        )
        target.write_text(HEADER + Path(scratch, "constraints.txt").read_text())
    (ROOT / "local" / "gateway" / "package-lock.json").unlink(missing_ok=True)
    return npm.main(["install", "--package-lock-only"])


if __name__ == "__main__":
    sys.exit(main())
