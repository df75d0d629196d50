"""docs/plans.md says what the database has: every limit, feature and price of every plan."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.rows import dict_row

from local.paths import ROOT

START, END = "<!-- plans: begin -->\n", "<!-- plans: end -->"
NOT_OF_A_PRICE_LIST = {
    *("id", "slug", "name", "description", "is_active", "sort_order", "metadata"),
    *("stripe_price_id_monthly", "stripe_price_id_yearly", "created_at", "updated_at"),
}

# The plans that came with the migration; other tests make plans of their own.
SEEDED = (
    "select * from public.plans where created_at ="
    " (select created_at from public.plans where slug = 'free') order by sort_order"
)

Connect = Callable[[], psycopg.Connection]


def page() -> str:
    return (ROOT / "docs" / "plans.md").read_text()


def cell(column: str, value: Any) -> str:
    """A value as the page writes it."""
    words = {None: "on request", -1: "unlimited"}
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, str) or value in words:
        return words.get(value, value)
    return f"{value / 100:,.2f}" if column.endswith("_minor") else f"{value:,.0f}"


def price_list(connection: psycopg.Connection) -> str:
    """The table of the page, out of public.plans."""
    with connection.cursor(row_factory=dict_row) as cursor:
        plans = cursor.execute(SEEDED).fetchall()
    lines = ["| column | " + " | ".join(plan["name"] for plan in plans) + " |"]
    lines += ["|---|" + "---|" * len(plans)]
    lines += [
        f"| `{column}` | " + " | ".join(cell(column, plan[column]) for plan in plans) + " |"
        for column in plans[0]
        if column not in NOT_OF_A_PRICE_LIST
    ]
    return "\n".join(lines) + "\n"


def test_the_table_of_plans_is_the_databases(db: Connect) -> None:
    assert page().split(START)[1].split(END)[0] == price_list(db())


def test_every_limit_is_explained(db: Connect) -> None:
    columns = {
        row[0]
        for row in db().execute(
            "select attname from pg_attribute where attrelid = 'public.plans'::regclass"
            " and attnum > 0 and not attisdropped"
        )
    }
    explained = set(re.findall(r"`(\w+)`", page().split(END)[1]))
    assert columns - explained == set()


def test_every_plan_of_the_specifications_is_one_of_ours(db: Connect) -> None:
    with db().cursor(row_factory=dict_row) as cursor:
        ours = {plan["slug"] for plan in cursor.execute(SEEDED)}
    rows = re.findall(r"^\| 00\d \| `\w+` \| `(\w+)` \|$", page(), re.MULTILINE)
    assert len(rows) == 13
    assert set(rows) == ours
