"""Hears over a direct connection that a task was queued, so that a worker need not wait to look."""

from __future__ import annotations

import asyncio
import logging

import psycopg

from functions.core.logging import log_event

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 5
MAX_PAUSE_SECONDS = 30.0


async def ring_on_notify(url: str, bell: asyncio.Event) -> None:
    """Set `bell` for every announced task, until cancelled; reconnects when the connection fails.

    Behind a transaction pooler nothing is ever heard, and the worker finds tasks by looking.
    """
    pause = 1.0
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(
                url,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                application_name="quernel-doorbell",
            ) as connection:
                await connection.execute("listen quernel_tasks")  # private.announce_task()
                pause = 1.0
                bell.set()  # what was queued while nobody listened
                async for _ in connection.notifies():
                    bell.set()
        except psycopg.Error as error:
            log_event(logger, logging.INFO, "doorbell reconnects", cause=type(error).__name__)
        await asyncio.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE_SECONDS)
