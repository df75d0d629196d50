"""Real worker processes: told to stop they give their work back, killed they are replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from local.paths import ROOT
from local.stack import Stack
from tests.tasks.conftest import Connect, Queue

STOP_LIMIT_SECONDS = 8  # after which the local stack kills a child
START_LIMIT_SECONDS = 50

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(params=["rest", "direct"])
def start(stack: Stack, queue: Queue, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts workers for the test's kind of task; whatever still runs is killed afterwards."""
    environment = stack.functions_environment()
    if request.param == "direct":
        environment["QUERNEL_DATABASE_URL"] = stack.functions_dsn
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str, module: str = "tests.tasks.worker_process") -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()
    queue.connection.execute(
        "delete from private.cron_jobs where starts_with(name, %s)", [queue.kind]
    )


def until(condition: Callable[[], object], seconds: float = START_LIMIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def attempts(file: Path) -> list[int]:
    """The attempts that handlers have begun."""
    if not file.exists():
        return []
    return [int(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_told_to_stop_gives_its_task_back(
    number: signal.Signals, start: Start, queue: Queue, tmp_path: Path
) -> None:
    file = tmp_path / "attempts"
    id_ = queue.enqueue({"do": "hang", "file": str(file)})
    worker = start(queue.kind, "--grace", "0.2")
    until(lambda: attempts(file))

    began = time.monotonic()
    worker.send_signal(number)
    assert worker.wait(STOP_LIMIT_SECONDS) == 0
    assert time.monotonic() - began < STOP_LIMIT_SECONDS

    row = queue.row(id_)
    assert (row["status"], row["attempts"], row["lease_token"]) == ("queued", 0, None)
    assert [task["id"] for task in queue.claim()] == [id_]


def test_a_worker_told_to_stop_lets_a_quick_task_finish(
    start: Start, queue: Queue, tmp_path: Path
) -> None:
    file = tmp_path / "attempts"
    id_ = queue.enqueue({"do": "pause", "file": str(file)})
    worker = start(queue.kind)
    until(lambda: attempts(file))
    worker.terminate()
    assert worker.wait(STOP_LIMIT_SECONDS) == 0
    row = queue.row(id_)
    assert (row["status"], row["result"]) == ("done", {"pid": worker.pid})


@pytest.mark.parametrize("end", ["kill -9", "die"])
def test_the_task_of_a_killed_worker_runs_again_in_another(
    end: str, start: Start, queue: Queue, tmp_path: Path
) -> None:
    file = tmp_path / "attempts"
    id_ = queue.enqueue({"do": "die" if end == "die" else "hang_once", "file": str(file)})
    first = start(queue.kind, "--lease", "2")
    until(lambda: attempts(file))
    if end == "kill -9":
        first.kill()
    else:
        queue.change(id_, 'payload = payload || \'{"do": "nothing"}\'')
    assert first.wait(10) == (-signal.SIGKILL if end == "kill -9" else 7)
    assert queue.row(id_)["status"] == "running"

    second = start(queue.kind)
    until(lambda: queue.row(id_)["status"] == "done")
    row = queue.row(id_)
    assert attempts(file) == [1, 2]
    assert (row["attempts"], row["result"]) == (2, {"pid": second.pid})
    assert f":{first.pid} was not heard of" in row["last_error"]


def test_a_new_task_is_taken_within_a_second(start: Start, queue: Queue, tmp_path: Path) -> None:
    file = tmp_path / "attempts"
    warm_up = queue.enqueue({"do": "nothing", "file": str(file)})
    start(queue.kind)
    until(lambda: queue.row(warm_up)["status"] == "done")
    time.sleep(2)  # the worker has become as lazy as it gets
    id_ = queue.enqueue({"do": "nothing", "file": str(file)})
    until(lambda: queue.row(id_)["status"] == "done", seconds=5)
    row = queue.row(id_)
    assert (row["started_at"] - row["created_at"]).total_seconds() < 1.5


def test_two_workers_share_the_work_and_do_it_once(
    start: Start, queue: Queue, tmp_path: Path
) -> None:
    ids = [
        queue.enqueue({"do": "pause", "file": str(tmp_path / str(number))}) for number in range(24)
    ]
    workers = [start(queue.kind), start(queue.kind)]
    until(lambda: all(queue.row(id_)["status"] == "done" for id_ in ids))
    assert all(attempts(tmp_path / str(number)) == [1] for number in range(24))
    pids = {queue.row(id_)["result"]["pid"] for id_ in ids}
    assert pids <= {worker.pid for worker in workers}


def test_a_worker_runs_its_cron_jobs(start: Start, queue: Queue) -> None:
    def runs() -> list[tuple[str | None]]:
        return queue.connection.execute(
            "select last_error from private.cron_jobs"
            " where starts_with(name, %s) and last_finished_at is not null",
            [queue.kind],
        ).fetchall()

    start(queue.kind)
    until(runs)
    assert runs() == [(None,)]


@pytest.mark.parametrize("start", ["direct"], indirect=True)
def test_a_worker_outlives_its_connections(
    start: Start, queue: Queue, tmp_path: Path, db: Connect
) -> None:
    file = tmp_path / "attempts"
    warm_up = queue.enqueue({"do": "nothing", "file": str(file)})
    worker = start(queue.kind)
    until(lambda: queue.row(warm_up)["status"] == "done")
    ports = [end.laddr.port for end in psutil.Process(worker.pid).net_connections("tcp")]
    cut = db().execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where client_port = any(%s)",
        [ports],
    )
    assert cut.rowcount >= 2  # the pool's and the doorbell's
    id_ = queue.enqueue({"do": "nothing", "file": str(file)})
    until(lambda: queue.row(id_)["status"] == "done")
    assert worker.poll() is None


def test_the_worker_of_the_product_starts_and_stops(start: Start) -> None:
    worker = start(module="functions.worker")
    assert worker.stderr
    line = worker.stderr.readline()
    assert b"worker started" in line
    assert b"stripe_event" in line
    worker.terminate()
    assert worker.wait(STOP_LIMIT_SECONDS) == 0


def test_a_configuration_that_is_refused_ends_the_worker_with_a_sentence() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "functions.worker"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "QUERNEL_ENVIRONMENT": "nowhere"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 1
    assert "QUERNEL_ENVIRONMENT" in result.stderr
    assert "Traceback" not in result.stderr
