"""The doorbell: rings for a task, and again after its connection was cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from functions.tasks.doorbell import ring_on_notify
from local.stack import Stack
from tests.tasks.conftest import Connect, Queue

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bell(stack: Stack) -> AsyncIterator[asyncio.Event]:
    event = asyncio.Event()
    ringing = asyncio.create_task(ring_on_notify(stack.functions_dsn, event))
    await asyncio.wait_for(event.wait(), 10)  # rings once when it begins to listen
    event.clear()
    yield event
    ringing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ringing


async def test_it_rings_for_a_task(bell: asyncio.Event, queue: Queue) -> None:
    queue.enqueue()
    await asyncio.wait_for(bell.wait(), 2)


async def test_it_listens_again_when_the_connection_is_cut(
    bell: asyncio.Event, queue: Queue, db: Connect
) -> None:
    db().execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'quernel-doorbell'"
    )
    await asyncio.wait_for(bell.wait(), 10)  # it listens again
    bell.clear()
    queue.enqueue()
    await asyncio.wait_for(bell.wait(), 2)


async def test_a_wrong_address_is_tried_again_and_harms_nothing(stack: Stack) -> None:
    event = asyncio.Event()
    wrong = stack.postgres.dsn("quernel_functions", "wrong")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ring_on_notify(wrong, event), 1.5)
    assert not event.is_set()
