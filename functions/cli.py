"""The `quernel` command for operators: is it set up right, what waits, credits, bills, keys.

It works on the database that the environment or `.env` names, else on the stack that `make dev`
runs. The commands are with their domains (`*/commands.py`).

Exit status: 0 done, 1 failed or refused, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NoReturn, TypeAlias

from functions.billing.commands import add_billing_commands
from functions.billing.credit_commands import add_credit_commands
from functions.core import json
from functions.core.console import CommandFailedError, fields, table, text
from functions.core.database import Database
from functions.core.errors import OperatorError, QuernelError
from functions.core.json import Json
from functions.core.settings import Settings, SettingsError, get_operator_settings, get_settings
from functions.cron.commands import add_cron_commands
from functions.doctor.commands import add_doctor_commands
from functions.libraries.commands import add_library_commands
from functions.privacy.commands import add_privacy_commands
from functions.provider_keys.commands import add_key_commands
from functions.tasks.commands import add_task_commands

Options: TypeAlias = argparse.Namespace
Action: TypeAlias = Callable[[Options, Settings, Database], Awaitable[Json]]
Show: TypeAlias = Callable[[Json], str]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001

EXAMPLES = """\
examples:
  quernel status                                  what waits, runs and failed
  quernel doctor                                  is this deployment set up right?
  quernel tasks dead                              what was given up, and why
  quernel cron reap_holds                         run a periodic job now
  quernel credits grant 50 --user ID --reason "sorry" --actor ada

Every command takes --help, and --json for other programs to read. Exit status: 0 done, 1 failed or
refused, 2 wrong usage.
"""


async def show_status(_: Options, settings: Settings, database: Database) -> dict[str, Json]:
    """What waits and what runs, and when each cron job last did."""
    tasks, jobs = await asyncio.gather(database.rpc("task_status"), database.rpc("cron_status"))
    return {
        "environment": settings.environment,
        "transport": "direct" if settings.database_url is not None else "rest",
        "tasks": tasks,
        "cron": jobs,
    }


def format_status(status: dict[str, Json]) -> str:
    """Two short tables."""
    return "\n\n".join(
        [
            f"{status['environment']}, database over {status['transport']}",
            fields(status["tasks"]),
            table(status["cron"], "name", "due_at", "last_finished_at", "last_count", "last_error"),
        ]
    )


def build_parser() -> argparse.ArgumentParser:
    """Every command with its help."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser = argparse.ArgumentParser(
        prog="quernel",
        description="Operate a Quernel backend: the one that QUERNEL_SUPABASE_URL and "
        "QUERNEL_SUPABASE_SECRET_KEY name, else the stack that `make dev` runs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        to: Commands,
        name: str,
        help_: str,
        action: Action,
        show: Show = fields,
    ) -> argparse.ArgumentParser:
        command = to.add_parser(name, help=help_, description=help_, parents=[common])
        command.set_defaults(action=action, show=show)
        return command

    def group(name: str, help_: str) -> Commands:
        return commands.add_parser(name, help=help_, description=help_).add_subparsers(
            title="commands", metavar="COMMAND", required=True
        )

    add(commands, "status", "Show what waits, runs and failed.", show_status, format_status)

    add_doctor_commands(partial(add, commands))
    add_cron_commands(partial(add, commands))
    for add_more in (
        add_task_commands,
        add_credit_commands,
        add_billing_commands,
        add_key_commands,
        add_library_commands,
        add_privacy_commands,
    ):
        add_more(group, add)
    return parser


async def _carry_out(options: Options) -> Json:
    if getattr(options, "is_offline", False):
        return await options.action(options, get_settings())
    settings = get_operator_settings()
    database = await Database.open(settings)
    try:
        return await options.action(options, settings, database)
    finally:
        await database.aclose()


@contextmanager
def _silence() -> Iterator[None]:
    """What goes wrong is said once, by the command, and not in log lines as well."""
    logger = logging.getLogger("functions")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _fail(options: Options, code: str, message: str, facts: dict[str, Json] | None = None) -> int:
    if options.json:
        error = {"error": {"code": code, "message": message, **(facts or {})}}
        print(json.dumps(error).decode(), file=sys.stderr)
    else:
        details = "".join(f"\n  {name}: {text(value)}" for name, value in (facts or {}).items())
        print(f"quernel: {message} ({code}){details}", file=sys.stderr)
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Wrong usage ends the process with status 2."""
    options = build_parser().parse_args(arguments)
    if getattr(options, "list", False):
        options.action, options.show = options.listing
    try:
        with _silence():
            result = asyncio.run(_carry_out(options))
    except SettingsError as error:
        return _fail(options, "invalid_settings", str(error))
    except OperatorError as error:
        return _fail(options, error.operator_code, error.operator_message)
    except QuernelError as error:
        return _fail(options, error.code, error.message, error.facts)
    except CommandFailedError as error:
        return _fail(options, "command_failed", str(error), error.details if options.json else None)
    print(json.dumps(result).decode() if options.json else options.show(result))
    status: int = options.judge(result) if "judge" in options else 0
    return status


def entry() -> NoReturn:
    """For `python -m functions.cli`."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
