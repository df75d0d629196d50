"""The table of handled events in docs/stripe.md, as the database has it.

python -m tests.billing.handler_map --write
"""

from __future__ import annotations

import argparse
import sys

import psycopg
from psycopg.rows import dict_row

from local.paths import ROOT
from tests.support.fresh_database import fresh_database

PAGE = ROOT / "docs" / "stripe.md"
START, END = "<!-- handler map: begin -->\n", "<!-- handler map: end -->"


def observe(connection: psycopg.Connection) -> str:
    """The table's Markdown."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "select t.event_type, h.handler, t.effect from private.stripe_event_types as t"
            " join private.stripe_object_handlers as h using (object_type) order by 1"
        ).fetchall()
    lines = ["| event | function | what it does |", "|---|---|---|"]
    lines += [f"| `{r['event_type']}` | `private.{r['handler']}` | {r['effect']} |" for r in rows]
    return "\n".join(lines) + "\n"


def documented() -> str:
    """The table on the page."""
    return PAGE.read_text().split(START)[1].split(END)[0]


def main() -> None:
    """Write the table, or say whether it is the database's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/stripe.md")
    options = parser.parse_args()
    with fresh_database() as connection:
        actual = observe(connection)
    if options.write:
        before, rest = PAGE.read_text().split(START)
        PAGE.write_text(f"{before}{START}{actual}{END}{rest.split(END)[1]}")
        return
    if actual != documented():
        sys.exit("docs/stripe.md differs from the handler map: run this with --write.")


if __name__ == "__main__":
    main()
