"""The invariants of sql/checks/ as a chapter of the migrations: `python -m local.check_chapter`.

A database in production proves them by itself, once a day (the cron job `prove_invariants`). The
files are what people edit; a test compares the chapter with them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from local.paths import CHECKS, MIGRATIONS

CHAPTER = MIGRATIONS / "20260101000992_invariant_queries.sql"
_HEAD = """\
-- The invariants, as sql/checks/ has them. Made by `python -m local.check_chapter`: edit those
-- files, and make it again.
-- noqa: disable=all
"""


def chapter(folder: Path = CHECKS) -> str:
    """The migration."""
    rows = [_row(path) for path in sorted(folder.glob("*.sql"))]
    values = ",\n".join(rows)
    return f"{_HEAD}\ninsert into private.invariants (name, says, mend, query) values\n{values};\n"


def _row(path: Path) -> str:
    text = path.read_text()
    lines = text.splitlines()
    comments = [line.removeprefix("--").strip() for line in lines if line.startswith("--")]
    said = " ".join(comments)
    says, _, mend = said.partition("Mend: ")
    query = "\n".join(line for line in lines if not line.startswith("--")).strip().rstrip(";")
    name = re.sub(r"[^a-z0-9]+", "_", path.stem)
    parts = [_literal(name), _literal(says.strip()), _literal(mend.strip())]
    return f"({', '.join(parts)},\n$query$\n{query}\n$query$)"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def main() -> int:
    """Write the chapter."""
    CHAPTER.write_text(chapter())
    return 0


if __name__ == "__main__":
    sys.exit(main())
