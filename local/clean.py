"""`make clean`, the part that rm cannot do: stop what still runs and delete what lies elsewhere."""

from __future__ import annotations

import fcntl
import shutil
import sys

from local.paths import state_dir
from local.postgres import fallback_folder


def main() -> int:
    """Delete the state folder; 1 if a stack is running in it."""
    state = state_dir()
    lock = state / "stack.lock"
    if lock.exists():
        with lock.open() as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                print(f"A stack runs in {state}. Stop it first (Ctrl-C).", file=sys.stderr)
                return 1
    shutil.rmtree(state, ignore_errors=True)
    shutil.rmtree(fallback_folder(), ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
