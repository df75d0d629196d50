"""modal_app.py's functions called in this process, against the test stack."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

import modal_app
from functions.core.settings import get_settings
from functions.cron.jobs import CRON_JOBS
from functions.hosted import Dispatch
from local.stack import Stack
from tests.support.service import Service


@pytest.fixture
def environment(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The settings of a container: the secret's variables and nothing else."""
    for name, value in stack.functions_environment().items():
        if name.startswith("QUERNEL_"):
            monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


class Spawned:
    """Counts what would be started on Modal."""

    def __init__(self) -> None:
        self.times = 0
        self.spawn = self

    async def aio(self) -> None:
        self.times += 1


@pytest.fixture
def run_tasks(monkeypatch: pytest.MonkeyPatch) -> Spawned:
    spawned = Spawned()
    monkeypatch.setattr(modal_app, "run_tasks", spawned)
    return spawned


@pytest.mark.usefixtures("environment")
def test_the_web_app_is_the_whole_app_and_reaches_the_database() -> None:
    with TestClient(modal_app.web.local()) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/ready").status_code == 200
        assert client.get("/v1/models").status_code == 401


@pytest.mark.usefixtures("environment", "run_tasks")
def test_after_a_dispatch_every_job_has_run(service: Service) -> None:
    ran = asyncio.run(modal_app.dispatch.local())

    assert set(ran) <= set(CRON_JOBS)
    jobs = {job["name"]: job for job in service.rpc("cron_status")}
    for name in ran:
        assert jobs[name]["last_error"] is None
    # Those that did not run now had run before, so were not due.
    assert {name for name in CRON_JOBS if jobs[name]["last_started_at"]} == set(CRON_JOBS)


@pytest.mark.usefixtures("environment", "run_tasks")
def test_a_second_dispatch_does_not_run_an_hourly_job_again() -> None:
    asyncio.run(modal_app.dispatch.local())
    assert "purge_idempotency" not in asyncio.run(modal_app.dispatch.local())


@pytest.mark.parametrize(("due", "times"), [(False, 0), (True, 1)])
@pytest.mark.usefixtures("environment")
def test_a_runner_is_spawned_only_when_tasks_are_due(
    due: bool, times: int, run_tasks: Spawned, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def report(_: Any) -> Dispatch:
        return Dispatch(["sweep_tasks"], due)

    monkeypatch.setattr(modal_app, "dispatch_once", report)

    assert asyncio.run(modal_app.dispatch.local()) == ["sweep_tasks"]
    assert run_tasks.times == times


@pytest.mark.usefixtures("environment")
def test_waking_spawns_one_runner(run_tasks: Spawned) -> None:
    asyncio.run(modal_app.wake.local())
    assert run_tasks.times == 1


@pytest.mark.usefixtures("environment")
def test_the_task_runner_ends_when_nothing_is_due() -> None:
    assert asyncio.run(modal_app.run_tasks.local()) >= 0
