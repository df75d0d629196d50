"""Quernel on Modal: images, secrets, the web app, the task runner and the clock. Decides nothing.

    modal deploy modal_app.py

The secret `quernel` holds the variables of functions/core/settings.py.
"""

from __future__ import annotations

from pathlib import Path

import modal
from fastapi import FastAPI

from functions.app import create_app
from functions.core.settings import get_settings
from functions.hosted import dispatch_once, run_tasks_once

PYTHON_VERSION = "3.11"
UV_VERSION = "0.13.8"
MAX_REQUESTS = 100  # at the same time in one container: they mostly wait for the model
REQUEST_SECONDS = 900  # the longest stream
TASKS_SECONDS = 1800  # how long one runner takes on new tasks
TASKS_GRACE_SECONDS = 1700  # how long it then waits for those it has, before it gives them back
TASKS_TIMEOUT_SECONDS = 3600
MAX_RUNNERS = 10
WAKE_TIMEOUT_SECONDS = 60
DISPATCH_TIMEOUT_SECONDS = 300

PROJECT = Path(__file__).parent
LOCK = "/quernel/constraints.txt"

image = (
    modal.Image.debian_slim(PYTHON_VERSION)
    .add_local_file(PROJECT / "constraints.txt", LOCK, copy=True)
    .uv_pip_install(
        requirements=[str(PROJECT / "pyproject.toml")],
        # Imported where they are used alone: libraries of providers, and of AWS KMS.
        extra_options=f"--constraints {LOCK} --require-hashes --extra aws --extra images",
        uv_version=UV_VERSION,
    )
    .add_local_python_source("functions")
)
settings_secret = modal.Secret.from_name(
    "quernel", required_keys=["QUERNEL_ENVIRONMENT", "QUERNEL_SUPABASE_URL"]
)
app = modal.App("quernel", image=image, secrets=[settings_secret])


@app.function(min_containers=0, timeout=REQUEST_SECONDS)
@modal.concurrent(max_inputs=MAX_REQUESTS)
@modal.asgi_app()
def web() -> FastAPI:
    """The HTTP API."""
    return create_app()


@app.function(max_containers=MAX_RUNNERS, timeout=TASKS_TIMEOUT_SECONDS)
async def run_tasks() -> int:
    """Run due tasks; returns how many were started. Whoever queued one may spawn this."""
    return await run_tasks_once(
        get_settings(), seconds=TASKS_SECONDS, grace_seconds=TASKS_GRACE_SECONDS
    )


@app.function(timeout=WAKE_TIMEOUT_SECONDS)
@modal.fastapi_endpoint(method="POST", requires_proxy_auth=True)
async def wake() -> None:
    """Spawn the task runner: for the database's runner_url (private.wake_runner)."""
    await run_tasks.spawn.aio()


@app.function(schedule=modal.Period(minutes=1), max_containers=1, timeout=DISPATCH_TIMEOUT_SECONDS)
async def dispatch() -> list[str]:
    """Run the cron jobs that are due, returning their names, and have due tasks run."""
    report = await dispatch_once(get_settings())
    if report.tasks_are_due:
        await run_tasks.spawn.aio()
    return report.jobs
