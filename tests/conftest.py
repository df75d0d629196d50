"""Fixtures of every test: one embedded stack per run, users on it, and doors into its database."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from local.errors import StackError
from local.paths import state_dir
from local.stack import Ports, Stack
from tests.support.service import Service
from tests.support.sign_ups import PASSWORD, NewUser, SignUps, User

__all__ = ["PASSWORD", "NewUser", "User"]

# Reading every certificate of the system takes 25 ms, more than most requests here: once will do.
httpx._transports.default.create_ssl_context = functools.cache(
    httpx._transports.default.create_ssl_context
)

RUNS = state_dir() / "tests"

# The run's stack --------------------------------------------------------------------------------
#
# The process that was started by hand (the xdist controller, or the only one) owns the stack. The
# workers get its folder, its ports and, if the functions app did not come up, the reason.


@dataclass
class Run:
    """What the owner knows about this run's stack."""

    state: str
    ports: dict[str, int]
    failure: str | None = None

    def stack(self) -> Stack:
        return Stack(state=Path(self.state), ports=Ports(**self.ports), durable=False)


_owned: Stack | None = None
_run: Run | None = None


def pytest_configure(config: pytest.Config) -> None:
    global _owned, _run  # noqa: PLW0603
    if hasattr(config, "workerinput"):
        _run = Run(**json.loads(config.workerinput["quernel_run"]))
        return
    if config.option.collectonly or config.option.help or config.option.version:
        return
    _remove_leftovers()
    _owned = Stack(
        state=RUNS / str(os.getpid()),
        ports=Ports.free(),
        durable=False,
        services=False,
        rebuild=True,
        transport="direct" if os.environ.get("QUERNEL_TEST_TRANSPORT") == "direct" else "rest",
        # Tests make the one simulator fail for each other's payers; those of the breaker have
        # their own.
        environment={"QUERNEL_ENVIRONMENT": "test", "QUERNEL_BREAKER_FAILURES": "0"},
    )
    try:
        _owned.start()
    except StackError as error:
        raise pytest.UsageError(str(error)) from None
    _run = Run(str(_owned.state), asdict(_owned.ports))
    try:
        _owned.start_services()
    except StackError as error:
        _run.failure = str(error)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["quernel_run"] = json.dumps(asdict(_run))


def pytest_unconfigure() -> None:
    if _owned is not None:
        _owned.stop()
        _owned.postgres.destroy()
        shutil.rmtree(RUNS / "last-logs", ignore_errors=True)
        if _owned.logs.exists():
            _owned.logs.rename(RUNS / "last-logs")
        shutil.rmtree(_owned.state, ignore_errors=True)


def _remove_leftovers() -> None:
    """Folders of runs that were killed; their processes died with them."""
    for folder in RUNS.glob("[0-9]*"):
        if not Path("/proc", folder.name).exists():
            left = Stack(state=folder)
            left.postgres.destroy()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def stack() -> Stack:
    """The run's stack: Postgres, migrations and gateway are up. Only its owner may stop it."""
    assert _run is not None, "the stack was not started"
    return _run.stack()


@pytest.fixture(scope="session")
def functions_url(stack: Stack) -> str:
    """Address of the running functions app (with simulator and worker beside it)."""
    assert _run is not None
    if _run.failure:
        pytest.fail(f"the functions app did not start: {_run.failure}", pytrace=False)
    return stack.functions_url


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


# The database -----------------------------------------------------------------------------------


@pytest.fixture
def db(stack: Stack) -> Iterator[Callable[[], psycopg.Connection]]:
    """Call it for a new autocommit connection as the superuser; closed when the test ends."""
    opened: list[psycopg.Connection] = []

    def connect() -> psycopg.Connection:
        opened.append(psycopg.connect(stack.admin_dsn, autocommit=True))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


AsRole = Callable[..., AbstractContextManager[psycopg.Connection]]


@pytest.fixture
def as_role(stack: Stack) -> AsRole:
    """One transaction as PostgREST makes it, with a role and claims.

    `with as_role("authenticated", {"sub": user.id}) as connection: ...` It is rolled back at the
    end, unless commit=True.
    """

    @contextmanager
    def transaction(
        role: str, claims: dict[str, Any] | None = None, *, commit: bool = False
    ) -> Iterator[psycopg.Connection]:
        with psycopg.connect(stack.admin_dsn) as connection:
            connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
            connection.execute(
                "select set_config('request.jwt.claims', %s, true)",
                [json.dumps({"role": role} | (claims or {}))],
            )
            yield connection
            if not commit:
                connection.rollback()

    return transaction


@pytest.fixture(scope="session")
def service(stack: Stack) -> Iterator[Service]:
    """The gateway with the secret key: `service.rpc("name", p_x=…)` calls backend.name."""
    with Service(stack.supabase_url, stack.keys.secret_key) as client:
        yield client


# Users ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def new_user(stack: Stack) -> Iterator[NewUser]:
    """`new_user()` returns somebody who has signed up, signed in, with a verified address.

    Whoever brings an address or data signs up through the gateway. The others are copies of one
    who did: hashing a password takes longer than most tests.
    """
    with SignUps(stack) as sign_ups:
        yield sign_ups.new_user
