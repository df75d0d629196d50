"""What a process is called in the leases it takes."""

from __future__ import annotations

import os
import socket


def worker_name() -> str:
    """Host and process, by which operators find it; at most 200 characters."""
    return f"{socket.gethostname()}:{os.getpid()}"[-200:]
