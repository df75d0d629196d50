"""Measures the ledger and the chat route on a stack of its own, and checks the books afterwards.

Every figure stands beside one measured in the same run: the ledger beside the least that could be
called one, the chat route beside the same upstream asked directly, own keys beside the operator's.
`make bench ARGS=chat`, `ledger`, `byok`, `images` or `retrieval` measures that alone.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys

from local.errors import StackError
from local.paths import ROOT, state_dir
from local.stack import Stack
from tests.bench.books import report_checks
from tests.bench.byok import bench_byok
from tests.bench.chat import bench_chat
from tests.bench.images import bench_images
from tests.bench.retrieval import bench_retrieval

ACCOUNTS = 1000
CLIENTS = 16
SECONDS = int(os.environ.get("QUERNEL_BENCH_SECONDS", "8"))
ROUNDS = 2  # A B A B
ROLLUP_ROUNDS = 3  # the difference is small beside that of two runs
EVENTS = int(os.environ.get("QUERNEL_BENCH_EVENTS", "1000000"))
FILL = 100_000  # events of one statement


def main() -> int:
    """Print the tables; 1 when the stack fails or the books do not agree."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "only", nargs="?", choices=("ledger", "chat", "byok", "images", "retrieval")
    )
    only = parser.parse_args().only
    state = state_dir() / "bench"
    shutil.rmtree(state, ignore_errors=True)
    print("This takes about a quarter of an hour.\n", flush=True)
    try:
        if only in (None, "ledger"):
            with Stack(state=state, services=False, durable=True, rebuild=True) as stack:
                print(f"Ledger: pgbench, {CLIENTS} clients, {SECONDS} s, median of {ROUNDS}\n")
                bench_ledger(stack)
                bench_rollup(stack)
                bench_inbox(stack)
        failures = 0
        if only in (None, "chat"):
            for transport in ("rest", "direct"):
                failures += bench_chat(state, transport)
        if only in (None, "byok"):
            failures += bench_byok(state)
        if only in (None, "images"):
            failures += bench_images(state)
        if only in (None, "retrieval"):
            bench_retrieval(state)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        Stack(state=state).postgres.destroy()
        shutil.rmtree(state, ignore_errors=True)
    return 1 if failures else 0


def bench_ledger(stack: Stack) -> None:
    """Hold and settle pairs per second, and the floor, on many accounts and on one."""
    psql(stack, "-v", f"accounts={ACCOUNTS}", "-f", "sql/bench/setup.sql")
    # Plans are made from statistics, which a server has after its first minutes.
    pgbench(stack, "sql/bench/hold_settle.sql", ACCOUNTS, seconds=2)
    pgbench(stack, "sql/bench/floor.sql", ACCOUNTS, seconds=2)
    psql(stack, "-c", "vacuum analyze")
    print("A pair is a hold and its settlement; the floor is the least that could be a ledger.\n")
    print(f"  {'accounts':>10} {'pairs/s':>10} {'floor/s':>10} {'pairs to floor':>15}")
    for accounts in (ACCOUNTS, 10, 1):
        pairs, floors = [], []
        for _ in range(ROUNDS):
            pairs.append(pgbench(stack, "sql/bench/hold_settle.sql", accounts))
            floors.append(pgbench(stack, "sql/bench/floor.sql", accounts))
        pair, floor = sorted(pairs)[ROUNDS // 2], sorted(floors)[ROUNDS // 2]
        print(f"  {accounts:>10} {pair:>10,.0f} {floor:>10,.0f} {pair / floor:>15.2f}")
    report_checks(stack)


def bench_rollup(stack: Stack) -> None:
    """What api_usage costs a hold and its settlement: the same with its triggers and without."""
    print(f"\nUsage: hold and settle with api_usage and without it, {ROLLUP_ROUNDS} rounds\n")
    print(f"  {'accounts':>10} {'with/s':>10} {'without/s':>10} {'with to without':>16}")
    for accounts in (ACCOUNTS, 1):
        shares = []
        for _ in range(ROLLUP_ROUNDS):
            kept = pgbench(stack, "sql/bench/hold_settle.sql", accounts)
            psql(stack, "-c", "alter table public.usage_logs disable trigger user")
            bare = pgbench(stack, "sql/bench/hold_settle.sql", accounts)
            psql(stack, "-c", "alter table public.usage_logs enable trigger user")
            shares.append((kept / bare, kept, bare))
        share, kept, bare = sorted(shares)[ROLLUP_ROUNDS // 2]
        print(f"  {accounts:>10} {kept:>10,.0f} {bare:>10,.0f} {share:>16.2f}")
    # What ended while nobody counted.
    psql(stack, "-c", "select private.rebuild_api_usage(now())")
    report_checks(stack)


def bench_inbox(stack: Stack) -> None:
    """Webhook events applied per second, with few in the inbox and with very many."""
    psql(stack, "-f", "sql/bench/stripe_setup.sql")
    print(f"\nInbox: backend.stripe_event_receive, {CLIENTS} clients, {SECONDS} s a run\n")
    print(f"  {'events before':>13} {'events/s':>10} {'floor/s':>10} {'to floor':>10} {'cost':>6}")
    first = filled = 0.0
    for size in (1000, EVENTS):
        for start in range(int(filled) + 1, size + 1, FILL):
            end = min(start + FILL - 1, size)
            psql(stack, "-c", f"call bench.fill_inbox({start}, {end}, {ACCOUNTS})")
        filled = size
        psql(stack, "-c", "vacuum analyze")
        pgbench(stack, "sql/bench/stripe_event.sql", ACCOUNTS, seconds=2)
        shares = []
        for _ in range(ROUNDS):
            events = pgbench(stack, "sql/bench/stripe_event.sql", ACCOUNTS)
            floor = pgbench(stack, "sql/bench/floor.sql", ACCOUNTS)
            shares.append((events / floor, events, floor))
        share, events, floor = sorted(shares)[ROUNDS // 2]
        first = first or share
        # Beside the floor of its own round, so that a busier minute does not count.
        print(
            f"  {size:>13,} {events:>10,.0f} {floor:>10,.0f} {share:>10.2f} {first / share:>6.2f}"
        )
    report_checks(stack)


def pgbench(stack: Stack, script: str, accounts: int, seconds: int = SECONDS) -> float:
    """Transactions per second of one run; one script run is one transaction to pgbench."""
    result = run_postgres_tool(
        stack, "pgbench", "-n", "-M", "extended", "-c", str(CLIENTS), "-j", "2",
        "-T", str(seconds), "-D", f"accounts={accounts}", "-f", script,
    )  # fmt: skip
    found = re.search(r"^tps = ([0-9.]+)", result, re.MULTILINE)
    if not found or "number of failed transactions: 0 " not in result:
        raise StackError(f"pgbench failed:\n{result}")
    return float(found[1])


def psql(stack: Stack, *arguments: str) -> str:
    return run_postgres_tool(stack, "psql", "-q", "-v", "ON_ERROR_STOP=1", *arguments)


def run_postgres_tool(stack: Stack, tool: str, *arguments: str) -> str:
    """Run a client program of the embedded Postgres against the stack's database."""
    result = subprocess.run(
        [str(stack.postgres.place.binaries / tool), *arguments],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
        env={
            "PATH": os.environ.get("PATH", ""),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(stack.ports.postgres),
            "PGUSER": "supabase_admin",
            "PGPASSWORD": stack.keys.superuser_password,
            "PGDATABASE": "postgres",
        },
    )
    if result.returncode != 0:
        raise StackError(f"{tool} failed:\n{result.stderr.strip()}")
    return result.stdout


if __name__ == "__main__":
    raise SystemExit(main())
