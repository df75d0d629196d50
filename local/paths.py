"""Where the embedded stack finds its inputs and keeps its state."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The project folder (the clone)."""

MIGRATIONS = Path(os.environ.get("QUERNEL_MIGRATIONS", ROOT / "supabase" / "migrations")).resolve()
PLATFORM_SQL = ROOT / "sql" / "platform.sql"
PLATFORM_GRANTS_SQL = ROOT / "sql" / "platform_grants.sql"
CHECKS = ROOT / "sql" / "checks"
CONFIG = ROOT / "supabase" / "config.toml"
GATEWAY = ROOT / "local" / "gateway"
JAVASCRIPT = ROOT / "tests" / "javascript"
"""Clients in JavaScript that tests run."""


def state_dir() -> Path:
    """The folder of databases, logs and generated secrets; QUERNEL_STATE_DIR moves it."""
    return Path(os.environ.get("QUERNEL_STATE_DIR", ROOT / ".quernel")).resolve()
