"""Migrations after 1.0, which change a database that is in use: `python -m local.upgrades`.

Chapters are edited in place until 1.0 is tagged. From then on a migration is a file of its own
with a later date, and this looks at those alone: by squawk, and by rules of our own for what that
does not see. docs/upgrades.md says what to write instead.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from local.errors import StackError
from local.paths import MIGRATIONS

CHAPTERS = "20260101"
"""What the names of chapters begin with; those of upgrades sort after it."""

MAJOR_VERSION = "17"
"""Of Postgres, as hosted."""

NOT_ASKED = (
    "prefer-bigint-over-int",  # counters of one row are small
    "prefer-robust-stmts",  # the CLI notes what was applied; a file of one statement is whole
)
NOT_ASKED_ALONE = ("require-lock-timeout", "require-statement-timeout")
"""Of a file of one statement: it holds no lock for long, and cannot have a `set` beside it."""

_CONCURRENTLY = re.compile(r"\bconcurrently\b", re.IGNORECASE)
_BODY = re.compile(r"\$(\w*)\$.*?\$\1\$", re.DOTALL)
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_BACKFILL = re.compile(
    r"\b(update|delete\s+from)\s+(?:only\s+)?((?:public|private|auth|storage)\.(?!settings\b)\w+)",
    re.IGNORECASE,
)
_NOT_VALID = re.compile(r"\bnot\s+valid\b", re.IGNORECASE)
_VALIDATE = re.compile(r"\bvalidate\s+constraint\b", re.IGNORECASE)


def main() -> int:
    """Print every problem; 0 when there is none."""
    try:
        problems = list(problems_of(MIGRATIONS))
    except StackError as error:
        problems = [str(error)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print("See docs/upgrades.md for what to write instead.", file=sys.stderr)
    return 1 if problems else 0


def problems_of(folder: Path) -> Iterator[str]:
    """`file:line: rule: why`, for every upgrade in a folder. Raises StackError."""
    for path in sorted(folder.glob("*.sql")):
        if path.name[: len(CHAPTERS)] > CHAPTERS:
            yield from _linted(path)
            text = path.read_text()
            yield from (one for one in _our_own(path) if not _is_set_aside(one, text))


def _linted(path: Path) -> Iterator[str]:
    """What squawk says. Raises StackError where it cannot be asked."""
    is_alone = _CONCURRENTLY.search(_plain(path.read_text())) is not None
    command = [
        str(Path(sys.executable).with_name("squawk")),
        "--reporter=json",
        f"--pg-version={MAJOR_VERSION}",
        f"--exclude={','.join([*NOT_ASKED, *(NOT_ASKED_ALONE if is_alone else ())])}",
        # A file is one transaction, unless it is one statement that cannot be in any.
        *([] if is_alone else ["--assume-in-transaction"]),
        str(path),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = json.loads(done.stdout)
    except (OSError, ValueError):
        raise StackError("squawk could not be run: make setup installs it.") from None
    for one in found:
        told = " ".join(filter(None, (one["message"], one.get("help"))))
        yield f"{path.name}:{one['line'] + 1}: {one['rule_name']}: {told}"


def _our_own(path: Path) -> Iterator[str]:
    text = _plain(path.read_text())
    statements = [part for part in text.split(";") if part.strip()]
    if _CONCURRENTLY.search(text) and len(statements) > 1:
        yield (
            f"{path.name}:1: concurrently-alone: What is done concurrently is in no transaction: "
            "give it a file of its own, with nothing else in it."
        )
    for match in _BACKFILL.finditer(text):
        yield (
            f"{path.name}:{text[: match.start(1)].count(chr(10)) + 1}: backfill-in-batches: "
            f"Rows of {match.group(2)} are locked until the migration ends. Change them in "
            "batches, by a step of a cron job."
        )
    if _NOT_VALID.search(text) and _VALIDATE.search(text):
        line = text[: _VALIDATE.search(text).start()].count("\n") + 1  # type: ignore[union-attr]
        yield (
            f"{path.name}:{line}: validate-elsewhere: Validated in the transaction that adds it, a "
            "constraint keeps its lock for as long as the scan takes. Validate it in the next file."
        )


def _is_set_aside(problem: str, text: str) -> bool:
    """Whether a line of the file says `-- upgrade-ignore rule`, and better why."""
    return f"-- upgrade-ignore {problem.split(': ')[1]}" in text


def _plain(text: str) -> str:
    """Without comments and bodies of functions, line by line as before; what is done is left."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match.group().count("\n")

    def blank_body(match: re.Match[str]) -> str:
        is_done = re.search(r"\bdo\s*\Z", match.string[: match.start()], re.IGNORECASE)
        return match.group() if is_done else blank(match)

    return _BODY.sub(blank_body, _COMMENT.sub(blank, text))


if __name__ == "__main__":
    sys.exit(main())
