"""Images: what a generation costs outside of the model, and whether the table's size matters."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row

from local.image_simulator import draw
from local.stack import Stack
from tests.bench.books import report_books
from tests.bench.chat import rich_user

GENERATIONS = int(os.environ.get("QUERNEL_BENCH_GENERATIONS", "100"))
ROWS = int(os.environ.get("QUERNEL_BENCH_IMAGES", "1000000"))
FEW = 1_000
INSERTS = 2_000
ROUNDS = 5
SIDE = 256  # pixels: encoding is not what is measured
MODEL = "flux-schnell"
PROMPT = "simulate: steps=1 step_ms=0"

_INSERT = """
insert into public.generated_images (user_id, storage_path, width, height, format, size_bytes)
values (%s, %s, 8, 8, 'png', 100)
"""
_FILL = """
insert into public.generated_images (
  user_id, storage_path, width, height, format, size_bytes, is_public, vision_labels, style_tags,
  color_palette
)
select
  u.id, 'fill/' || n, 8, 8, 'png', 100, n %% 5 = 0,
  array['label ' || n %% 977, 'label ' || n %% 53, 'label ' || n %% 7], array['style ' || n %% 31],
  array['#' || lpad(to_hex(n %% 4096), 6, '0'), '#000000']
from generate_series(%(first)s::bigint, %(last)s::bigint) as n
inner join unnest(%(users)s::uuid[]) with ordinality as u (id, place)
  on u.place = n %% cardinality(%(users)s::uuid[]) + 1
"""


def bench_images(state: Path) -> int:
    """Print the tables; how many books disagree afterwards."""
    with Stack(state=state / "images", rebuild=True, transport="direct") as stack:
        failures = measure_overhead(stack)
    with Stack(state=state / "rows", rebuild=True, services=False) as stack:
        measure_inserts(stack)
    return failures


def measure_overhead(stack: Stack) -> int:
    """From the request to the work, and from the last byte of the model to the row."""
    headers = {"Authorization": f"Bearer {rich_user(stack)}"}
    body = {"model_id": MODEL, "prompt": PROMPT, "width": SIDE, "height": SIDE, "seed": 1}
    with (
        httpx.Client(base_url=stack.functions_url, headers=headers, trust_env=False) as http,
        psycopg.connect(stack.admin_dsn, autocommit=True, row_factory=dict_row) as connection,
    ):
        rows = [_one(http, connection, body) for _ in range(GENERATIONS)]
    bare = statistics.median(_bare(stack) for _ in range(GENERATIONS))
    begun = sorted(row["begun"] for row in rows)
    kept = sorted(row["worked"] - bare for row in rows)
    print(f"\nImages: {GENERATIONS} generations, one after the other, of {SIDE} x {SIDE} pixels\n")
    print(f"  {'ms':>34} {'p50':>8} {'p99':>8}")
    for name, values in (
        ("from the request to the work", begun),
        ("from the model to the row", kept),
    ):
        print(f"  {name:>34} {_of(values, 0.5):>8.1f} {_of(values, 0.99):>8.1f}")
    both = _of(begun, 0.5) + _of(kept, 0.5)
    print(f"  {'together':>34} {both:>8.1f}          (the model itself: {bare:.1f})")
    return report_books(stack, len(rows))


def _one(http: httpx.Client, connection: psycopg.Connection[Any], body: Any) -> dict[str, float]:
    answer = http.post("/images/generations", json=body).raise_for_status()
    generation_id = answer.json()["id"]
    while True:
        row = connection.execute(
            "select status, extract(epoch from started_at - created_at)::float * 1000 as begun,"
            " extract(epoch from completed_at - started_at)::float * 1000 as worked"
            " from public.image_generations where id = %s",
            [generation_id],
        ).fetchone()
        assert row is not None
        if row["status"] == "completed":
            return row
        assert row["status"] in ("pending", "processing"), row
        time.sleep(0.005)


def _bare(stack: Stack) -> float:
    """Milliseconds that the image server takes by itself for the same job."""
    job = {
        "id": "bench",
        "model": MODEL,
        "prompt": PROMPT,
        "width": SIDE,
        "height": SIDE,
        "steps": 4,
        "seed": 1,
        "outputs": 1,
        "format": "webp",
        "quality": 90,
    }
    assert draw(job, 0)
    begun = time.perf_counter()
    httpx.post(f"{stack.images_url}/images", json=job, trust_env=False).raise_for_status()
    return (time.perf_counter() - begun) * 1000


def measure_inserts(stack: Stack) -> None:
    """Single-row inserts, triggers included, into a small table and a large one."""
    with psycopg.connect(stack.admin_dsn, autocommit=True, row_factory=dict_row) as connection:
        rich_user(stack)
        connection.execute(
            "insert into auth.users (id, email, email_confirmed_at)"
            " select gen_random_uuid(), n || '@bench.example', now()"
            " from generate_series(1, 500) as n"
        )
        users = [row["id"] for row in connection.execute("select id from public.profiles")]
        _fill(connection, users, 1, FEW)
        _inserts(connection, users[0], "warm")  # plans, caches
        small = [_inserts(connection, users[0], f"small/{n}") for n in range(ROUNDS)]
        began = time.monotonic()
        _fill(connection, users, FEW + 1, ROWS)
        print(f"\nFilled to {ROWS:,} images in {time.monotonic() - began:.0f} s")
        large = [_inserts(connection, users[0], f"large/{n}") for n in range(ROUNDS)]
        refresh = _refresh(connection)
    few, many = statistics.median(small), statistics.median(large)
    print(f"\n  {'images':>12} {'inserts/s':>10}")
    print(f"  {FEW:>12,} {1000 / few:>10,.0f}")
    print(f"  {ROWS:>12,} {1000 / many:>10,.0f}")
    print(f"  A refresh of trends and stats of {ROWS:,} images of this week takes {refresh:.1f} s.")
    print(f"  An insert among many costs {many / few:.2f} of one among few (at most 1.2).")


def _fill(connection: psycopg.Connection[Any], users: list[Any], first: int, last: int) -> None:
    with connection.transaction():
        # Past the triggers: nobody looks at these.
        connection.execute("set local session_replication_role = replica")
        connection.execute(_FILL, {"first": first, "last": last, "users": users})
    connection.execute("vacuum analyze public.generated_images")
    connection.execute("checkpoint")


def _refresh(connection: psycopg.Connection[Any]) -> float:
    """Seconds of one that changes everything."""
    connection.execute("delete from private.insight_refreshes")
    begun = time.perf_counter()
    connection.execute("select backend.insights_refresh()")
    return time.perf_counter() - begun


def _inserts(connection: psycopg.Connection[Any], user: Any, name: str) -> float:
    """Milliseconds of one insert."""
    begun = time.perf_counter()
    with connection.transaction():
        for number in range(INSERTS):
            connection.execute(_INSERT, [user, f"{name}/{number}"], prepare=True)
    taken = (time.perf_counter() - begun) * 1000 / INSERTS
    connection.execute("delete from private.tasks where kind = 'image_analyze'")
    connection.execute("vacuum private.tasks")
    return taken


def _of(values: list[float], share: float) -> float:
    return values[min(int(len(values) * share), len(values) - 1)]
