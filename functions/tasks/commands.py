"""`quernel tasks`, for operators."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from functions.core.arguments import identifier, reason
from functions.core.console import CommandFailedError, Progress, Rows, count, table
from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.json import Json
from functions.core.settings import Settings

PAGE = 500
"""Tasks asked for at once: backend.task_list() answers no more."""

SHOWN_FAILURES = 20


async def list_tasks(options: argparse.Namespace, _: Settings, database: Database) -> Rows:
    """The newest tasks."""
    tasks: Rows = await database.rpc(
        "task_list",
        p_status=options.status,
        p_kind=options.kind,
        p_limit=options.limit,
        p_before=options.before,
        p_request_id=options.request,
    )
    return tasks


def format_tasks(tasks: Rows) -> str:
    """One line per task."""
    return table(tasks, "id", "kind", "key", "status", "attempts", "run_after", "last_error")


def format_dead(tasks: Rows) -> str:
    """One line per task, with why it was given up."""
    return table(tasks, "id", "kind", "attempts", "finished_at", "last_error")


async def list_dead(options: argparse.Namespace, settings: Settings, database: Database) -> Rows:
    """The newest tasks that were given up."""
    options.status = "dead"
    return await list_tasks(options, settings, database)


async def retry_tasks(options: argparse.Namespace, _: Settings, database: Database) -> Json:
    """Queue dead tasks again.

    Raises QuernelError for a single one that cannot be, CommandFailedError where some cannot.
    """
    if len(options.id) == 1:
        return await database.rpc("task_retry", p_id=options.id[0])
    ids = options.id or await _dead(options, database)
    progress, failures = Progress("retrying", len(ids)), []
    for done, one in enumerate(ids, 1):
        try:
            await database.rpc("task_retry", p_id=one)
        except QuernelError as error:
            failures.append({"id": str(one), "code": error.code})
        progress.show(done)
    progress.end()
    retried = len(ids) - len(failures)
    if failures:
        shown = ", ".join(f"{one['id']} ({one['code']})" for one in failures[:SHOWN_FAILURES])
        raise CommandFailedError(
            f"{retried} queued again, {len(failures)} not: {shown}",
            {"retried": retried, "failures": failures},
        )
    return {"retried": retried}


async def _dead(options: argparse.Namespace, database: Database) -> list[str]:
    """All of them, of one kind if one is named: found first, so that none is met twice."""
    ids: list[str] = []
    while True:
        page: Rows = await database.rpc(
            "task_list",
            p_status="dead",
            p_kind=options.kind,
            p_limit=PAGE,
            p_before=ids[-1] if ids else None,
        )
        ids += [row["id"] for row in page]
        if len(page) < PAGE:
            return ids


async def cancel_task(options: argparse.Namespace, _: Settings, database: Database) -> Json:
    """Call a task off."""
    return await database.rpc("task_cancel", p_id=options.id, p_reason=options.reason)


def add_task_commands(
    group: Callable[[str, str], Any], add: Callable[..., argparse.ArgumentParser]
) -> None:
    """Add them to the parser of `quernel`."""
    tasks = group("tasks", "Look after queued work.")
    listing = add(tasks, "list", "List tasks, newest first.", list_tasks, format_tasks)
    listing.add_argument(
        "--status", choices=("queued", "running", "done", "dead", "cancelled"), help="only these"
    )
    dead = add(tasks, "dead", "List what was given up, and why.", list_dead, format_dead)
    for command in (listing, dead):
        command.add_argument("--kind", help="only tasks of this kind")
        command.add_argument(
            "--limit", type=count, default=50, help="at most so many (%(default)s)"
        )
        command.add_argument("--before", type=identifier, metavar="ID", help="older than this task")
        command.add_argument(
            "--request",
            type=identifier,
            metavar="ID",
            help="only what this request (x-request-id) or cron run caused",
        )
    retry = add(tasks, "retry", "Queue dead tasks again, with all their attempts.", retry_tasks)
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument("id", nargs="*", type=identifier, metavar="ID", default=[], help="of a task")
    which.add_argument("--dead", action="store_true", help="all that were given up")
    retry.add_argument("--kind", help="with --dead: only of this kind")
    cancel = add(tasks, "cancel", "Call a task off; credits held for it return.", cancel_task)
    cancel.add_argument("id", type=identifier, metavar="ID")
    cancel.add_argument("--reason", type=reason, required=True, help="kept with the task")
