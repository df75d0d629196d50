"""The stack starts, stops, survives being killed, and says clearly what is in its way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from local import postgres
from local.errors import StackError
from local.paths import ROOT
from local.processes import LOOPBACK, Child, require_free_port
from local.stack import Ports, Stack
from tests.local.clients import signed_in
from tests.local.conftest import MIGRATIONS

Make = Callable[..., Stack]


def bodies(stack: Stack) -> list[str]:
    with psycopg.connect(stack.admin_dsn) as connection:
        return [row[0] for row in connection.execute("select body from public.notes order by id")]


def write(stack: Stack, body: str) -> None:
    signed_in(stack).table("notes").insert({"body": body}).execute()


def processes_under(folder: Path) -> list[psutil.Process]:
    """Every process that names the folder or works in it."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = [*(process.info["cmdline"] or []), process.info["cwd"] or ""]
        if any(str(folder) in word for word in words):
            found.append(process)
    return found


def processes_of(state: Path) -> list[psutil.Process]:
    """Every process of the stack with that state folder.

    Root's Postgres may have its data elsewhere, where the server's user can reach it.
    """
    data = Stack(state=state).postgres.place.data
    elsewhere = [] if data.is_relative_to(state) else processes_under(data)
    return processes_under(state) + elsewhere


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_second_start_keeps_data_and_keys(private_stack: Make) -> None:
    first = private_stack()
    with first:
        write(first, "kept")
        key = first.keys.secret_key
    steps: list[str] = []
    with private_stack(state=first.state, say=steps.append) as second:
        assert bodies(second) == ["kept"]
        assert second.keys.secret_key == key
    assert not any("migrations" in step or "New Postgres" in step for step in steps)


def test_stopping_leaves_no_process(private_stack: Make) -> None:
    stack = private_stack().start()
    assert len(processes_of(stack.state)) >= 2
    stack.stop()
    assert processes_of(stack.state) == []
    stack.stop()


def test_the_whole_stack_answers(stack: Stack, functions_url: str) -> None:
    for url in (f"{functions_url}/health", f"{functions_url}/ready"):
        assert httpx.get(url, trust_env=False).is_success, url
    for url in (stack.simulator_url, stack.stripe_url):
        assert httpx.get(url, trust_env=False).status_code < 500, url
    workers = [each for each in processes_under(stack.state.parents[2]) if is_worker(each)]
    assert any(each.environ().get("QUERNEL_PUBLIC_URL") == functions_url for each in workers)


def is_worker(process: psutil.Process) -> bool:
    return "functions.worker" in process.cmdline()


def test_settings_of_the_developers_shell_do_not_leak_in(
    private_stack: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUERNEL_STRIPE_SECRET_KEY", "sk_live_of_somebody")
    monkeypatch.setenv("QUERNEL_LLM_URL", "https://paid.example.com/v1")
    settings = private_stack().functions_environment()
    assert settings["QUERNEL_STRIPE_SECRET_KEY"].startswith("sk_test_")
    assert settings["QUERNEL_LLM_URL"].startswith(f"http://{LOOPBACK}:")


def test_an_upstream_of_ones_own_replaces_the_simulator(private_stack: Make) -> None:
    own = {"QUERNEL_LLM_URL": "http://127.0.0.1:8000/v1"}
    stack = private_stack(environment=own, transport="direct")
    settings = stack.functions_environment()
    assert settings["QUERNEL_LLM_URL"] == own["QUERNEL_LLM_URL"]
    assert settings["QUERNEL_DATABASE_URL"] == stack.functions_dsn


def test_the_direct_transports_role_has_service_rights_only(private_stack: Make) -> None:
    with private_stack() as stack, psycopg.connect(stack.functions_dsn) as connection:
        answer = connection.execute("select backend.echo('{}')").fetchone()
        assert answer == ({"data": {}, "type": "object"},)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select * from auth.users")


def test_secrets_are_private_and_differ_between_stacks(private_stack: Make) -> None:
    first, second = private_stack(), private_stack()
    assert first.keys.secret_key != second.keys.secret_key
    assert (first.state / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert first.keys.secret_key not in repr(first)
    assert first.keys.secret_key not in repr(first.keys)


def in_a_shell(stack: Stack, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in which `$0` is Python and `$1` the stack's functions.env."""
    return subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, stack.state / "functions.env"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"]} | environment,
    )


@pytest.mark.parametrize("source", ["", 'set -a; . "$1"; '], ids=["by itself", "told by a shell"])
def test_the_command_line_reaches_the_stack(stack: Stack, source: str) -> None:
    state = {} if source else {"QUERNEL_STATE_DIR": str(stack.state)}
    told = in_a_shell(stack, f'{source}exec "$0" -m functions.cli status --json', **state)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["environment"] == "test"


def test_what_a_stack_wrote_is_not_the_developers_choice_later(stack: Stack) -> None:
    assert (stack.state / "functions.env").stat().st_mode & 0o777 == 0o600
    told = in_a_shell(
        stack,
        'set -a; . "$1"; QUERNEL_LOG_LEVEL=DEBUG; QUERNEL_STRIPE_API_BASE=http://127.0.0.1:7;'
        " QUERNEL_SMTP_URL=; QUERNEL_VISION_MODEL=;"
        ' exec "$0" -c "import json, local.stack; print(json.dumps(local.stack.own_settings()))"',
    )
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == {
        "QUERNEL_BREAKER_FAILURES": "0",  # the run's own choice: tests/conftest.py
        "QUERNEL_LOG_LEVEL": "DEBUG",
        "QUERNEL_STRIPE_API_BASE": "http://127.0.0.1:7",
        "QUERNEL_VISION_MODEL": "",  # which means off
    }


def test_the_environment_file_goes_with_the_stack(private_stack: Make) -> None:
    stack = private_stack()
    with stack:
        assert (stack.state / "functions.env").exists()
    assert not (stack.state / "functions.env").exists()


def test_everything_listens_on_loopback_only(private_stack: Make) -> None:
    with private_stack() as stack:
        for port in (stack.ports.postgres, stack.ports.gateway):
            addresses = {
                connection.laddr.ip
                for connection in psutil.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            }
            assert addresses == {LOOPBACK}


def test_killing_the_parent_leaves_nothing_behind_and_loses_nothing(
    scratch: Callable[[], Path], private_stack: Make
) -> None:
    state = scratch()
    parent = start_dev(state)
    stack = running(parent, state)
    write(stack, "committed before the kill")
    children = json.loads((state / "stack.json").read_text())["children"].values()
    assert all(psutil.pid_exists(pid) for pid in children)

    parent.kill()
    parent.wait()
    assert wait_until(lambda: not processes_of(state), 15), processes_of(state)

    with private_stack(state=state, durable=True) as again:
        assert bodies(again) == ["committed before the kill"]


def test_an_orphaned_or_crashed_postgres_is_recovered(private_stack: Make) -> None:
    stack = private_stack().start()
    write(stack, "before the crash")
    stack.postgres.crash()
    stack.stop()
    assert (stack.postgres.place.data / "postmaster.pid").exists() or not processes_of(stack.state)
    with private_stack(state=stack.state) as again:
        assert bodies(again) == ["before the crash"]


def test_a_stale_pid_file_of_a_stranger_is_forgotten(private_stack: Make) -> None:
    stack = private_stack()
    with stack:
        write(stack, "still here")
    lock = stack.postgres.place.data / "postmaster.pid"
    # A process number that since belongs to somebody else: here, to this test.
    lock.write_text(f"{os.getpid()}\n{stack.postgres.place.data}\n0\n{stack.ports.postgres}\n")
    with private_stack(state=stack.state) as again:
        assert bodies(again) == ["still here"]


def test_a_server_whose_parent_is_gone_is_replaced(private_stack: Make) -> None:
    stack = private_stack()
    stack.start_database()
    # Another Stack on the same folder, as after a crash that left the server alone.
    again = private_stack(state=stack.state, ports=replace(Ports.free()))
    with again:
        assert bodies(again) == []
    assert not stack.postgres.child.running


@pytest.mark.parametrize(
    "name", ["gateway", "postgres", "functions", "simulator", "stripe", "mail"]
)
def test_a_busy_port_is_named(private_stack: Make, name: str) -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        port = other.getsockname()[1]
        stack = private_stack(ports=replace(Ports.free(), **{name: port}), services=True)
        with pytest.raises(StackError, match=f"Port {port} .*QUERNEL_PORT_{name.upper()}="):
            stack.start()
    assert processes_of(stack.state) == []


def test_one_port_for_two_things_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUERNEL_PORT_GATEWAY", "54322")
    with pytest.raises(StackError, match=r"QUERNEL_PORT_GATEWAY and QUERNEL_PORT_POSTGRES.* 54322"):
        Ports.from_environment()


def test_another_port_is_proposed_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(socket.socket, "bind", refuse)
    for port, proposed in ((54321, 55321), (65000, 64000)):
        with pytest.raises(StackError, match=f"VARIABLE={proposed}$"):
            require_free_port(port, "gateway", "VARIABLE")


def test_a_destroyed_database_leaves_no_folder_elsewhere(
    private_stack: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if os.getuid() != 0:
        pytest.skip("only root's Postgres has its data elsewhere")
    # A place of its own: the real one may hold the data of other stacks of this clone.
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setattr(postgres, "fallback_folder", lambda: elsewhere)
    reaches = postgres._reaches
    monkeypatch.setattr(
        postgres, "_reaches", lambda account, path: path.name == "bin" and reaches(account, path)
    )
    database = private_stack().postgres
    assert database.place.data.is_relative_to(elsewhere)
    assert database.place.data.parent.exists()
    database.destroy()
    assert not elsewhere.exists()


def test_data_of_another_version_is_refused(private_stack: Make) -> None:
    stack = private_stack()
    with stack:
        pass
    (stack.postgres.place.data / "PG_VERSION").write_text("15\n")
    with pytest.raises(StackError, match=r"data of Postgres 15.*make clean"):
        private_stack(state=stack.state).start()


def test_a_second_stack_on_the_same_folder_is_refused(private_stack: Make) -> None:
    with private_stack() as first:
        with pytest.raises(StackError, match=f"runs already .*{first.ports.gateway}"):
            private_stack(state=first.state).start()
        assert bodies(first) == []


def test_lost_passwords_are_explained(private_stack: Make) -> None:
    stack = private_stack()
    with stack:
        pass
    (stack.state / "secrets.json").unlink()
    with pytest.raises(StackError, match=r"passwords no longer open .*secrets\.json"):
        private_stack(state=stack.state).start()


def test_a_key_that_a_later_version_needs_is_added(private_stack: Make) -> None:
    stack = private_stack()
    file = stack.state / "secrets.json"
    before = asdict(stack.keys)
    older = {name: value for name, value in before.items() if name != "webhook_signing_key"}
    file.write_text(json.dumps(older))
    after = asdict(private_stack(state=stack.state).keys)
    assert after["webhook_signing_key"] != before["webhook_signing_key"]
    assert {name: after[name] for name in older} == older
    assert json.loads(file.read_text()) == after
    assert file.stat().st_mode & 0o777 == 0o600


def test_damaged_keys_are_explained(private_stack: Make) -> None:
    stack = private_stack()
    (stack.state / "secrets.json").write_text("{")
    with pytest.raises(StackError, match=r"secrets\.json is damaged(.|\n)*make clean"):
        private_stack(state=stack.state).start()


def test_a_broken_migration_says_where(private_stack: Make, tmp_path: Path) -> None:
    (tmp_path / "20260101000100_broken.sql").write_text("create table public.x (id nonsense);")
    with pytest.raises(StackError, match=r"20260101000100_broken(.|\n)*nonsense"):
        private_stack(migrations=tmp_path).start()


def test_an_edited_migration_is_noticed(private_stack: Make, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    stack = private_stack(migrations=folder)
    with stack:
        write(stack, "old")
    file = next(folder.glob("*.sql"))
    file.write_text(file.read_text() + "\ncomment on table public.notes is 'edited';\n")
    with pytest.raises(StackError, match=r"have been edited.*notes\.sql(.|\n)*ARGS=--rebuild"):
        private_stack(state=stack.state, migrations=folder).start()
    with private_stack(state=stack.state, migrations=folder, rebuild=True) as rebuilt:
        assert bodies(rebuilt) == []


def test_a_new_migration_is_applied_without_losing_data(
    private_stack: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    stack = private_stack(migrations=folder)
    with stack:
        write(stack, "old")
    (folder / "20260101000200_more.sql").write_text(
        "alter table public.notes add column extra text;"
    )
    with private_stack(state=stack.state, migrations=folder) as again:
        assert bodies(again) == ["old"]
        row = (
            signed_in(again).table("notes").insert({"body": "new", "extra": "x"}).execute().data[0]
        )
        assert row["extra"] == "x"


def test_an_interrupted_first_start_is_repaired(private_stack: Make) -> None:
    stack = private_stack()
    stack.postgres.initialize()  # a cluster, but no platform yet
    with stack:
        assert bodies(stack) == []


def test_migrations_run_as_an_ordinary_owner(private_stack: Make) -> None:
    with private_stack() as stack, psycopg.connect(stack.postgres_dsn) as connection:
        assert connection.execute(
            "select rolsuper, rolbypassrls from pg_roles where rolname = current_user"
        ).fetchone() == (False, True)
        owner = "select tableowner from pg_tables where tablename = 'notes'"
        assert connection.execute(owner).fetchone() == ("postgres",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("alter table auth.users add column x text")


def test_a_process_that_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    script = "import sys; print('the reason'); sys.exit(3)"
    child = Child("Example", [sys.executable, "-c", script], log=tmp_path / "example.log")
    with pytest.raises(StackError, match=r"status 3(.|\n)*the reason"):
        child.wait_until(lambda: False, seconds=20)


def test_dev_prints_addresses_and_stops_on_ctrl_c(scratch: Callable[[], Path]) -> None:
    state = scratch()
    parent = start_dev(state)
    stack = running(parent, state)
    parent.send_signal(signal.SIGINT)
    output, _ = parent.communicate(timeout=30)
    assert parent.returncode == 0
    for text in ("API URL", stack.supabase_url, stack.keys.publishable_key, "Stopping"):
        assert text in output
    assert processes_of(state) == []


def test_an_impatient_second_ctrl_c_leaves_nothing_behind(scratch: Callable[[], Path]) -> None:
    state = scratch()
    parent = start_dev(state)
    running(parent, state)
    for _ in range(3):
        parent.send_signal(signal.SIGINT)
        time.sleep(0.05)
    output, _ = parent.communicate(timeout=30)
    assert (parent.returncode, "Traceback" in output) == (0, False), output
    assert processes_of(state) == []


def start_dev(state: Path) -> subprocess.Popen[str]:
    """`make dev` in a process of its own, on free ports."""
    return subprocess.Popen(
        [sys.executable, "-m", "local.dev", "--database-only", "--free-ports"],
        cwd=ROOT,
        env=os.environ | {"QUERNEL_STATE_DIR": str(state), "QUERNEL_MIGRATIONS": str(MIGRATIONS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def running(parent: subprocess.Popen[str], state: Path) -> Stack:
    """The stack of another process, once it says that it is up."""
    description = state / "stack.json"
    assert wait_until(lambda: description.exists() or parent.poll() is not None, 60)
    assert parent.poll() is None, parent.stdout and parent.stdout.read()
    return Stack(
        state=state,
        ports=Ports(**json.loads(description.read_text())["ports"]),
        migrations=MIGRATIONS,
        services=False,
    )
