"""npm for the packages of the gateway and of the tests, with the Node of the wheel.

`python -m local.npm FOLDER install --no-save` and not `npm ci`: that one refuses a lock which lacks
the CLI's binaries for machines other than the one that wrote it. `install --no-save` takes every
locked version and hash, and writes no lock.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from local.node import node

# No registry's address in the lock, no install scripts, no advertising. The system's certificates
# count as they do for pip; Node alone trusts only its own list, which fails behind some proxies.
SETTINGS = {
    "npm_config_omit_lockfile_registry_resolved": "true",
    "npm_config_ignore_scripts": "true",
    "npm_config_audit": "false",
    "npm_config_fund": "false",
    "npm_config_update_notifier": "false",
    "npm_config_loglevel": "error",
    "NODE_USE_SYSTEM_CA": "1",
    "npm_config_fetch_retries": "2",
    "npm_config_fetch_retry_maxtimeout": "10000",  # milliseconds; by default a minute
}


def main(folder: Path, arguments: list[str]) -> int:
    """Run npm in a folder that has a package.json, and return its exit status."""
    binary = node()
    program = binary.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    environment = os.environ | SETTINGS | {"PATH": f"{binary.parent}:{os.environ.get('PATH', '')}"}
    return subprocess.call([binary, program, *arguments], cwd=folder, env=environment)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
