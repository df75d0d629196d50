"""Months are made ahead and dropped behind, addresses are forgotten, and nobody waits long for it.

Other tests, and a worker, may drop months of this database at any moment. So what would be
dropped is made in the transaction that drops it, or is in use.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.settings import Settings
from functions.cron.jobs import CRON_JOBS, Step
from local.stack import Stack
from tests.credits.ledger import Ledger, Payer, Refused, call, new_key, one, wait_until_blocked
from tests.usage.conftest import add_row, counts, rollups

LOCK_MS = 700
"""What a drop waits for here; as long as anybody waits behind it."""

WAIT_MS = 20_000
"""What a drop waits for where other tests are in its way."""


@pytest.fixture
def month() -> str:
    """The first day of a month of long ago."""
    return f"{random.randrange(1905, 1999)}-{random.randrange(1, 13):02}-01"  # noqa: S311


@pytest.fixture
def scene(ledger: Ledger) -> Iterator[Ledger]:
    """The ledger in a transaction of its superuser that is rolled back."""
    with ledger.admin.transaction(force_rollback=True):
        yield ledger


@pytest.fixture(params=["rest", "direct"])
async def database(stack: Stack, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    opened = await Database.open(
        Settings(
            environment="test",
            supabase_url=stack.supabase_url,
            supabase_secret_key=stack.keys.secret_key,
            database_url=stack.functions_dsn if request.param == "direct" else None,
        )
    )
    yield opened
    await opened.aclose()


def partition(first: str) -> str:
    return f"private.usage_logs_{first[:4]}_{first[5:7]}"


def make(connection: psycopg.Connection, first: str) -> None:
    connection.execute("select private.create_usage_partition(%s)", [f"{first}T00:00Z"])


def exists(ledger: Ledger, first: str) -> bool:
    return bool(one(ledger.admin, "select to_regclass(%s) is not null", partition(first)))


def drop(connection: psycopg.Connection, **more: Any) -> int:
    arguments = {"p_limit": 50, "p_lock_ms": WAIT_MS} | more
    return int(call(connection, "backend.usage_partitions_drop", **arguments)["count"])


def read_all(reader: psycopg.Connection, first: str) -> None:
    """A month of long ago that somebody reads; the reader's transaction stays open."""
    reader.autocommit = False
    while True:
        make(reader, first)
        reader.commit()
        reader.execute("select count(*) from public.usage_logs")
        if one(reader, "select to_regclass(%s) is not null", partition(first)):
            return
        reader.rollback()  # somebody was quicker


# Refusals ----------------------------------------------------------------------------------------


def test_a_month_with_a_request_that_never_ended_stays(scene: Ledger, month: str) -> None:
    make(scene.admin, month)
    payer = scene.new_payer()
    usage_id = add_row(
        scene.admin, payer, status="started", finished_at=None, created_at=f"{month}T12:00Z"
    )
    drop(scene.admin)
    assert exists(scene, month)
    assert scene.usage(usage_id)["status"] == "started"


def test_a_month_with_an_active_hold_stays(ledger: Ledger, month: str) -> None:
    payer = ledger.new_payer(10)
    hold_id = ledger.hold(payer, 1)["hold_id"]
    with ledger.admin.transaction(force_rollback=True):
        make(ledger.admin, month)
        ledger.admin.execute(
            "update private.credit_holds set created_at = %s where id = %s",
            [f"{month}T12:00Z", hold_id],
        )
        drop(ledger.admin)
        assert exists(ledger, month)


def test_a_month_within_its_retention_stays(scene: Ledger) -> None:
    months = "select count(*) from private.usage_months() as m (month) where m.month >= %s"
    kept = one(
        scene.admin,
        "select (date_trunc('month', now() at time zone 'utc') - interval '13 months')"
        " at time zone 'utc'",
    )
    scene.admin.execute("select private.create_usage_partition(%s)", [kept])
    before = one(scene.admin, months, kept)
    drop(scene.admin)
    assert one(scene.admin, months, kept) == before


def test_nobody_makes_months_without_end(ledger: Ledger) -> None:
    with pytest.raises(Refused, match="invalid_argument"):
        ledger.rpc("usage_partitions_ensure", p_months_ahead=121)


# Dropping ----------------------------------------------------------------------------------------


def test_a_month_past_its_retention_goes_and_its_rollup_stays(scene: Ledger, month: str) -> None:
    make(scene.admin, month)
    payer = scene.new_payer()
    add_row(scene.admin, payer, created_at=f"{month}T12:00Z")
    (before,) = rollups(scene.admin, payer)
    assert drop(scene.admin) >= 1
    assert not exists(scene, month)
    (after,) = rollups(scene.admin, payer)
    assert counts(after) == counts(before) != {}
    scene.verify(payer)
    assert drop(scene.admin) == 0


def test_a_hold_whose_month_was_dropped_is_no_finding(ledger: Ledger, month: str) -> None:
    payer = ledger.new_payer(10)
    hold_id = ledger.spend(payer, 1)
    with ledger.admin.transaction(force_rollback=True):
        make(ledger.admin, month)
        for table in ("private.credit_holds", "public.usage_logs"):
            ledger.admin.execute(
                f"update {table} set created_at = %s where id = %s".encode(),  # noqa: S608
                [f"{month}T12:00Z", hold_id],
            )
        drop(ledger.admin)
        ledger.verify(payer)


def test_one_month_goes_per_call_oldest_first(scene: Ledger) -> None:
    for first in ("1900-02-01", "1900-01-01"):
        make(scene.admin, first)
    assert drop(scene.admin, p_limit=1) == 1
    assert not exists(scene, "1900-01-01")
    assert exists(scene, "1900-02-01")


def test_dropping_a_month_locks_nothing_but_usage(ledger: Ledger, month: str) -> None:
    """Profiles and organizations, to which usage refers, stay open to everybody."""
    reader = ledger.another_admin()
    read_all(reader, month)
    with ledger.admin.transaction(force_rollback=True):
        ledger.admin.execute("select set_config('lock_timeout', '20s', true)")
        reader.rollback()
        drop(ledger.admin)
        assert not exists(ledger, month)
        locked = ledger.admin.execute(
            "select distinct c.relname from pg_locks as l join pg_class as c on c.oid = l.relation"
            " where l.pid = pg_backend_pid() and l.granted and c.relkind in ('r', 'p')"
            " and c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)"
            " and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',"
            " 'AccessExclusiveLock') and c.relname !~ '^usage_logs_'"
        ).fetchall()
        assert locked in ([("usage_logs",)], [])  # nothing where somebody else was quicker


def test_making_a_month_lets_readers_and_writers_of_usage_go_on(ledger: Ledger, month: str) -> None:
    payer = ledger.new_payer(10)
    reader, door = ledger.another_admin(), ledger.another_door()
    door.execute("set lock_timeout = '5s'")
    with reader.transaction():
        reader.execute("select count(*) from public.usage_logs")
        with ledger.admin.transaction(force_rollback=True):
            make(ledger.admin, month)
            write(door, payer)
    ledger.verify(payer)


def test_behind_a_long_writer_of_profiles_a_month_is_not_made_for_now(ledger: Ledger) -> None:
    payer, writer = ledger.new_payer(), ledger.another_admin()
    with writer.transaction(force_rollback=True):
        writer.execute("update public.profiles set full_name = 'x' where id = %s", [payer.user])
        with pytest.raises(Refused) as refused:
            ledger.rpc("usage_partitions_ensure", p_months_ahead=40)
    assert (refused.value.status, refused.value.code) == (503, "partition_in_use")
    ahead = (
        "select max(m.month) < now() + interval '14 months'"
        " from private.usage_months() as m (month)"
    )
    assert one(ledger.admin, ahead)


def test_of_two_drops_of_a_month_the_second_passes_it_by(ledger: Ledger, month: str) -> None:
    """The relation was there when the second one looked, and is gone when its lock comes."""
    first, second = ledger.another_admin(), ledger.another_door()
    read_all(first, month)
    first.execute(f"lock table {partition(month)} in share update exclusive mode")
    with ThreadPoolExecutor(1) as pool:
        dropping = pool.submit(drop, second, p_lock_ms=2_000)
        wait_until_blocked(ledger.admin, second.info.backend_pid)
        first.execute(f"drop table {partition(month)}")
        first.commit()
        try:
            dropping.result()
        except Refused as refused:  # by a month of another test
            assert refused.code == "partition_in_use"  # noqa: PT017
    assert not exists(ledger, month)


def test_behind_a_long_reader_writers_wait_no_longer_than_the_drop_does(
    ledger: Ledger, month: str
) -> None:
    """The reader keeps the drop out, the drop keeps writers out, and then it gives up."""
    payer = ledger.new_payer(10)
    reader, dropper, writer = ledger.another_admin(), ledger.another_door(), ledger.another_door()
    # A writer that had to wait longer would fail with lock_not_available.
    writer.execute(f"set lock_timeout = '{LOCK_MS + 2000}ms'".encode())
    read_all(reader, month)
    with ThreadPoolExecutor(2) as pool:
        dropping = pool.submit(drop, dropper, p_lock_ms=LOCK_MS)
        wait_until_blocked(ledger.admin, dropper.info.backend_pid)
        writing = pool.submit(write, writer, payer)
        wait_until_blocked(ledger.admin, writer.info.backend_pid)
        assert dropper.info.backend_pid in one(
            ledger.admin, "select pg_blocking_pids(%s)", writer.info.backend_pid
        )
        with pytest.raises(Refused) as refused:
            dropping.result()
        hold_id = writing.result()
    assert exists(ledger, month)
    assert (refused.value.status, refused.value.code) == (503, "partition_in_use")
    assert refused.value.facts == {"retry_after": 2}
    assert ledger.usage(hold_id)["status"] == "completed"
    # The reader is gone: the next run does it.
    reader.rollback()
    drop(dropper)
    assert not exists(ledger, month)
    ledger.verify(payer)


def write(door: psycopg.Connection, payer: Payer) -> str:
    """A request and its end; the hold's id."""
    hold_id = call(
        door,
        "backend.credit_hold",
        **payer.owner(),
        p_amount=1,
        p_idempotency_key=new_key(),
        p_action="test",
    )["hold_id"]
    call(door, "backend.credit_settle", p_hold_id=hold_id, p_amount=1)
    return str(hold_id)


class Watched(Database):
    """Waits for its lock a tenth of the time, and tells before each call how many there were."""

    def __init__(self, database: Database, before: Callable[[int], None] = lambda _: None) -> None:
        self.database, self.before, self.calls = database, before, 0

    async def rpc(self, function: str, /, **arguments: Any) -> Any:
        self.before(self.calls)
        self.calls += 1
        return await self.database.rpc(function, **arguments, p_lock_ms=200)


@pytest.mark.anyio
async def test_a_step_that_never_gets_its_lock_fails_and_says_why(
    database: Database, ledger: Ledger, month: str
) -> None:
    read_all(ledger.another_admin(), month)
    watched = Watched(database)
    with pytest.raises(QuernelError) as refused:
        await Step("usage_partitions_drop", batch=1, tries=2).run(watched)
    assert (refused.value.code, refused.value.status) == ("partition_in_use", 503)
    assert watched.calls == 2
    assert exists(ledger, month)


@pytest.mark.anyio
async def test_another_refusal_is_not_tried_again(database: Database) -> None:
    watched = Watched(database)
    with pytest.raises(QuernelError):
        await Step("no_such_function", tries=4).run(watched)
    assert watched.calls == 1


@pytest.mark.anyio
async def test_the_step_of_the_job_tries_again_after_a_pause(
    database: Database, ledger: Ledger, month: str
) -> None:
    """The reader leaves before the second try."""
    _, step = CRON_JOBS["usage_partitions"].steps
    assert step == Step("usage_partitions_drop", batch=1, tries=4)
    reader = ledger.another_admin()
    read_all(reader, month)
    watched = Watched(database, lambda calls: reader.rollback() if calls == 1 else None)
    await step.run(watched)
    assert watched.calls >= 2
    assert not exists(ledger, month)


@pytest.mark.anyio
async def test_the_job_drops_and_makes_months(
    database: Database, ledger: Ledger, month: str
) -> None:
    make(ledger.admin, month)
    assert await CRON_JOBS["usage_partitions"].run(database) >= 0
    assert not exists(ledger, month)
    assert one(ledger.admin, "select count(*) from private.usage_months()") >= 13


def test_a_row_of_a_month_without_a_partition_is_refused(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    with pytest.raises(psycopg.errors.CheckViolation, match="no partition"):
        add_row(ledger.admin, payer, created_at="1899-01-01T00:00Z")
    assert rollups(ledger.admin, payer) == []


# Addresses ---------------------------------------------------------------------------------------

ADDRESS = ("192.0.2.1", "tests")


def address(ledger: Ledger, usage_id: str) -> tuple[Any, Any]:
    row = ledger.usage(usage_id)
    return row["ip_address"], row["user_agent"]


def visit(ledger: Ledger, payer: Payer, days_ago: int) -> str:
    """A request with an address; its month is within the retention of months."""
    at = one(ledger.admin, "select now() - make_interval(days => %s)", days_ago)
    ledger.admin.execute("select private.create_usage_partition(%s)", [at])
    ip_address, user_agent = ADDRESS
    return add_row(ledger.admin, payer, created_at=at, ip_address=ip_address, user_agent=user_agent)


def test_a_young_request_keeps_its_address(ledger: Ledger) -> None:
    usage_id = visit(ledger, ledger.new_payer(), 29)
    ledger.rpc("usage_addresses_forget", p_limit=1000)
    assert address(ledger, usage_id) == ADDRESS


@pytest.mark.parametrize(("days_ago", "kept"), [(29, "a question"), (40, None)])
def test_what_a_tool_was_asked_is_forgotten_like_an_address(
    ledger: Ledger, days_ago: int, kept: str | None
) -> None:
    at = one(ledger.admin, "select now() - make_interval(days => %s)", days_ago)
    ledger.admin.execute("select private.create_usage_partition(%s)", [at])
    usage_id = add_row(ledger.admin, ledger.new_payer(), created_at=at, query="a question")
    ledger.rpc("usage_addresses_forget", p_limit=1000)
    assert ledger.usage(usage_id)["query"] == kept


def test_addresses_are_forgotten_in_batches_oldest_first(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    with ledger.admin.transaction(force_rollback=True):
        late, early = visit(ledger, payer, 40), visit(ledger, payer, 80)
        forget_in_batches(ledger, payer, late, early)


def forget_in_batches(scene: Ledger, payer: Payer, late: str, early: str) -> None:
    before = [counts(row) for row in rollups(scene.admin, payer)]
    # Rows of others may be older still, but never is the younger of these two the first.
    while address(scene, early) == ADDRESS:
        assert call(scene.admin, "backend.usage_addresses_forget", p_limit=1) == {"count": 1}
        assert address(scene, late) == ADDRESS
    call(scene.admin, "backend.usage_addresses_forget", p_limit=1000)
    assert address(scene, early) == address(scene, late) == (None, None)
    assert [counts(row) for row in rollups(scene.admin, payer)] == before


def test_a_request_somebody_works_on_is_passed_over(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    other = ledger.another_admin()
    with other.transaction(force_rollback=True):
        busy = visit(ledger, payer, 80)
        if (
            other.execute(
                "select from public.usage_logs where id = %s and user_agent is not null for update",
                [busy],
            ).fetchone()
            is None
        ):
            pytest.skip("a worker forgot it first")
        idle = visit(ledger, payer, 40)
        ledger.rpc("usage_addresses_forget", p_limit=1000)
        assert address(ledger, idle) == (None, None)
        assert address(ledger, busy) == ADDRESS
    ledger.rpc("usage_addresses_forget", p_limit=1000)
    assert address(ledger, busy) == (None, None)


def test_what_is_to_be_forgotten_is_found_by_its_index(scene: Ledger) -> None:
    """In every partition there is an index of the rows that still have an address."""
    scene.admin.execute("set local enable_seqscan = off")
    plan = "\n".join(
        row[0]
        for row in scene.admin.execute(
            "explain select u.id from public.usage_logs as u"
            " where (u.ip_address is not null or u.user_agent is not null"
            " or u.query is not null)"
            " and u.created_at < now() + interval '400 days'"
            " order by u.created_at limit 10"
        )
    )
    assert "Sort" not in plan
    assert "Seq Scan" not in plan
    assert "created_at_idx" in plan


@pytest.mark.anyio
async def test_the_job_forgets_addresses(database: Database, ledger: Ledger) -> None:
    usage_id = visit(ledger, ledger.new_payer(), 50)
    assert await CRON_JOBS["usage_addresses"].run(database) >= 0
    assert address(ledger, usage_id) == (None, None)
