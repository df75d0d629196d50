"""Fixtures of billing's tests: a Stripe double and a functions app that talks to it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import psycopg
import pytest

from functions.core.database import Database
from functions.core.settings import Settings
from functions.tasks.context import TaskContext
from local.paths import ROOT
from local.processes import LOOPBACK, Child, answers, free_port
from local.stack import Stack
from local.stripe_double import StripeDouble, serve
from tests.billing.shop import ORIGIN, Shop
from tests.billing.subscribers import subscribers
from tests.conftest import NewUser, User
from tests.credits.ledger import Ledger
from tests.support.people import new_person, new_team
from tests.support.service import Service

__all__ = ["new_person", "new_team", "subscribers"]


@pytest.fixture(scope="session")
def stripe_double() -> Iterator[StripeDouble]:
    """Stripe, on a free port."""
    with serve() as double:
        yield double


@contextmanager
def running_app(environment: dict[str, str], log: Path) -> Iterator[str]:
    """A functions app under uvicorn; its address."""
    port = free_port()
    child = Child(
        "Functions",
        [sys.executable, "-m", "uvicorn", "functions.app:app", f"--port={port}", "--no-access-log"],
        log=log,
        cwd=ROOT,
        env=environment,
    )
    url = f"http://{LOOPBACK}:{port}"
    try:
        child.wait_until(lambda: answers(f"{url}/health"), seconds=30)
        yield url
    finally:
        child.stop()


def app_environment(stack: Stack, double: StripeDouble) -> dict[str, str]:
    """The stack's variables, with Stripe at the double."""
    return stack.functions_environment() | {
        "QUERNEL_ENVIRONMENT": "test",
        "QUERNEL_STRIPE_API_BASE": double.url,
        "QUERNEL_ALLOWED_ORIGINS": ORIGIN,
    }


@pytest.fixture(scope="session")
def app_url(
    stack: Stack, stripe_double: StripeDouble, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The functions app over PostgREST."""
    log = tmp_path_factory.mktemp("billing") / "functions.log"
    with running_app(app_environment(stack, stripe_double), log) as url:
        yield url


@pytest.fixture
def shop(
    app_url: str,
    stripe_double: StripeDouble,
    stack: Stack,
    service: Service,
    db: Callable[[], psycopg.Connection],
) -> Iterator[Shop]:
    """The shop; the double forgets what it was told to do wrong in the test before.

    Whatever a test does, each call that changes something at Stripe has carried a key of ours.
    """
    stripe_double.latency_seconds = 0.0
    stripe_double.failures.clear()
    stripe_double.requests.clear()
    with httpx.Client(base_url=app_url, trust_env=False, timeout=60) as http:
        yield Shop(http, stripe_double, stack.keys.stripe_webhook_secret, service, db)
    # The SDK makes a key where there is none; only ours are the same when a call is repeated.
    without = [
        f"{request.method} {request.path}"
        for request in stripe_double.requests
        if request.method != "GET"
        and not request.headers.get("idempotency-key", "").startswith("quernel-")
    ]
    assert without == [], "these calls to Stripe carry no idempotency key of ours"


@pytest.fixture
async def worker(shop: Shop, stack: Stack) -> AsyncIterator[TaskContext]:
    """A worker whose Stripe is the double."""
    prefix = "QUERNEL_"
    settings = Settings(
        _env_file=None,
        **{
            name.removeprefix(prefix).lower(): value
            for name, value in app_environment(stack, shop.stripe).items()
            if name.startswith(prefix)
        },
    )
    database = await Database.open(settings)
    try:
        yield TaskContext(settings, database, UUID(int=0), 1)
    finally:
        await database.aclose()


@pytest.fixture
def user(new_user: NewUser) -> User:
    """Somebody who has signed up."""
    return new_user()


@pytest.fixture
def ledger(stack: Stack) -> Iterator[Ledger]:
    """The ledger, with connections of its own."""
    ledger = Ledger(stack.admin_dsn, stack.functions_dsn)
    yield ledger
    ledger.close()
