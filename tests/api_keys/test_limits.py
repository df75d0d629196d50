"""A key's own limits: refused with 429 or 402, told by headers, given back, exact under load."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from uuid import uuid4

import psycopg
import pytest

from local.stack import Stack
from tests.api_keys.conftest import Keys, refusal
from tests.credits.parallel import at_once, open_doors
from tests.support.people import wait_until_blocked

HOLD = (
    "select private.place_hold(p.account, p.limits, k.user_id, %s, %s, %s, 'test', null)"
    " from public.api_keys as k, private.payer(k.user_id, k.organization_id, k.id) as p"
    " where k.id = %s"
)


def hold(connection: psycopg.Connection, key_id: str, amount: object = 1, tokens: int = 0) -> str:
    """Hold for a key; the hold's id."""
    key = uuid4().hex
    connection.execute(HOLD, [amount, tokens, key, key_id])
    row = connection.execute(
        "select id from private.credit_holds where idempotency_key = %s", [key]
    ).fetchone()
    assert row is not None
    return str(row[0])


@pytest.fixture
def door(stack: Stack) -> Iterator[psycopg.Connection]:
    with psycopg.connect(stack.admin_dsn, autocommit=True) as connection:
        yield connection


# Rates ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("rate_limit_per_minute", 60),
        ("rate_limit_per_day", 86_400),
        ("rate_limit_per_month", 2_592_000),
    ],
)
def test_requests_beyond_a_rate_are_refused(keys: Keys, limit: str, seconds: int) -> None:
    user = keys.person()
    values = {"rate_limit_per_minute": None} | {limit: 3}
    key = keys.make(user, **values)
    for left in (2, 1, 0):
        answer = keys.ask(key["key"])
        assert answer.status_code == 200
        assert answer.headers["ratelimit-limit"] == "3"
        assert answer.headers["ratelimit-remaining"] == str(left)
        assert 0 < int(answer.headers["ratelimit-reset"]) <= seconds
    answer = keys.ask(key["key"])
    assert refusal(answer) == (429, "rate_limited")
    error = answer.json()["error"]
    assert (error["limit_source"], error["limit"]) == (f"api_key.{limit}", 3)
    # A third of the period brings one request back.
    assert 0 < error["retry_after"] <= seconds / 3
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["ratelimit-remaining"] == "0"
    assert len(keys.usage(key)) == 3


def test_a_stream_tells_its_rate_limit_too(keys: Keys) -> None:
    key = keys.make(keys.person(), rate_limit_per_minute=10)
    answer = keys.ask(key["key"], stream=True)
    assert answer.headers["ratelimit-limit"] == "10"
    assert answer.headers["ratelimit-remaining"] == "9"


def test_a_rate_refills_evenly(keys: Keys, door: psycopg.Connection) -> None:
    key = keys.make(keys.person(), rate_limit_per_minute=2)
    hold(door, key["id"])
    hold(door, key["id"])
    keys.rows(
        "update private.api_key_states set next_request_minute_at = next_request_minute_at"
        " - interval '30 seconds' where api_key_id = %s",
        key["id"],
    )
    hold(door, key["id"])
    with pytest.raises(psycopg.DatabaseError, match="too many requests"):
        hold(door, key["id"])


def test_twenty_at_once_get_what_the_rate_allows(keys: Keys, stack: Stack) -> None:
    key = keys.make(keys.person(), rate_limit_per_minute=None, rate_limit_per_day=7)
    doors = open_doors(stack.admin_dsn, 20)

    def work(connection: psycopg.Connection, _: int) -> bool:
        try:
            hold(connection, key["id"])
        except psycopg.DatabaseError:
            return False
        return True

    try:
        assert sum(at_once(doors, work)) == 7
    finally:
        for connection in doors:
            connection.close()
    assert keys.state(key)["active_holds"] == 7


def test_what_was_refused_counts_for_nothing(keys: Keys, door: psycopg.Connection) -> None:
    key = keys.make(keys.person(), rate_limit_per_minute=5, monthly_credit_budget=1)
    before = keys.state(key)
    with pytest.raises(psycopg.DatabaseError, match="budget"):
        hold(door, key["id"], 2)
    assert keys.state(key) == before


# Tokens -----------------------------------------------------------------------------------------


def test_tokens_beyond_a_minutes_are_refused(keys: Keys, door: psycopg.Connection) -> None:
    key = keys.make(keys.person(), tokens_per_minute=1000)
    hold(door, key["id"], tokens=600)
    with pytest.raises(psycopg.DatabaseError) as info:
        hold(door, key["id"], tokens=600)
    assert '"api_key.tokens_per_minute"' in str(info.value.diag.message_detail)
    hold(door, key["id"], tokens=400)


def test_tokens_that_were_not_used_come_back(keys: Keys, door: psycopg.Connection) -> None:
    key = keys.make(keys.person(), tokens_per_minute=1000)
    first = hold(door, key["id"], tokens=1000)
    door.execute("select private.credit_settle(%s, 1, 100)", [first])
    second = hold(door, key["id"], tokens=890)
    door.execute("select private.credit_release(%s, 'test')", [second])
    hold(door, key["id"], tokens=890)
    assert keys.state(key)["total_tokens"] == 100


def test_tokens_that_came_back_by_themselves_do_not_come_back_again(
    keys: Keys, door: psycopg.Connection
) -> None:
    """A slow request took them minutes ago."""
    key = keys.make(keys.person(), tokens_per_minute=1000)
    slow = hold(door, key["id"], tokens=1000)
    for table in ("private.credit_holds", "public.usage_logs"):
        door.execute(
            f"update {table} set created_at = created_at - interval '2 minutes'"  # noqa: S608
            f" where id = '{slow}'".encode()
        )
    keys.rows(
        "update private.api_key_states set next_token_at = next_token_at - interval '2 minutes'"
        " where api_key_id = %s",
        key["id"],
    )
    hold(door, key["id"], tokens=1000)
    door.execute("select private.credit_settle(%s, 1, 1)", [slow])
    with pytest.raises(psycopg.DatabaseError, match="too many requests"):
        hold(door, key["id"], tokens=500)


def test_a_request_larger_than_a_minute_goes_alone(keys: Keys, door: psycopg.Connection) -> None:
    key = keys.make(keys.person(), tokens_per_minute=100)
    hold(door, key["id"], tokens=1000)  # it could never come otherwise
    with pytest.raises(psycopg.DatabaseError, match="too many requests"):
        hold(door, key["id"], tokens=1)


# Concurrency ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["settled", "released", "reaped"])
def test_requests_in_flight_are_limited_and_come_back(
    keys: Keys, door: psycopg.Connection, end: str
) -> None:
    key = keys.make(keys.person(), max_concurrent_requests=1)
    first = hold(door, key["id"])
    with pytest.raises(psycopg.DatabaseError) as info:
        hold(door, key["id"])
    assert '"api_key.max_concurrent_requests"' in str(info.value.diag.message_detail)
    if end == "settled":
        door.execute("select private.credit_settle(%s, 1)", [first])
    elif end == "released":
        door.execute("select private.credit_release(%s, 'test')", [first])
    else:
        door.execute("select private.credit_release(%s, 'deadline_passed', 'expired')", [first])
    state = keys.state(key)
    assert (state["active_holds"], state["held"]) == (0, 0)
    hold(door, key["id"])


def test_a_settlement_after_the_reaper_gives_nothing_back_twice(
    keys: Keys, door: psycopg.Connection
) -> None:
    key = keys.make(keys.person())
    first = hold(door, key["id"], 3)
    door.execute("select private.credit_release(%s, 'deadline_passed', 'expired')", [first])
    door.execute("select private.credit_settle(%s, 2)", [first])
    state = keys.state(key)
    assert (state["active_holds"], state["held"], state["total_credits"]) == (0, 0, 2)


# Budget -----------------------------------------------------------------------------------------


def test_a_budget_is_never_passed(keys: Keys, stack: Stack) -> None:
    key = keys.make(keys.person(), monthly_credit_budget=5)
    doors = open_doors(stack.admin_dsn, 20)

    def work(connection: psycopg.Connection, _: int) -> bool:
        try:
            one = hold(connection, key["id"], 2)
        except psycopg.DatabaseError:
            return False
        connection.execute("select private.credit_settle(%s, 2)", [one])
        return True

    try:
        assert sum(at_once(doors, work)) == 2
    finally:
        for connection in doors:
            connection.close()
    assert keys.state(key)["period_credits"] == 4


def test_a_key_over_its_budget_is_told_so(keys: Keys) -> None:
    user = keys.person()
    key = keys.make(user, monthly_credit_budget="0.000001")
    answer = keys.ask(key["key"])
    assert refusal(answer) == (402, "budget_exceeded")
    error = answer.json()["error"]
    assert (error["limit_source"], error["remedy"]) == ("api_key_budget", "raise_budget")
    assert Decimal(str(error["available"])) == Decimal("0.000001")
    assert keys.usage(key) == []


def test_a_budget_bounds_the_answer_of_a_request_that_names_no_limit(keys: Keys) -> None:
    user = keys.person()
    key = keys.make(user, monthly_credit_budget=1)
    quote = keys.program(key["key"]).post(
        "/quote",
        json={
            "model": "Qwen2.5-32B-Instruct-AWQ",
            "messages": [{"role": "user", "content": "hello"}],
        },
    )
    assert quote.status_code == 200
    assert Decimal(str(quote.json()["credits_max"])) <= 1


def test_a_budget_begins_anew_with_the_month(keys: Keys, door: psycopg.Connection) -> None:
    key = keys.make(keys.person(), monthly_credit_budget=2)
    door.execute("select private.credit_settle(%s, 2)", [hold(door, key["id"], 2)])
    with pytest.raises(psycopg.DatabaseError, match="budget"):
        hold(door, key["id"], 1)
    keys.rows(
        "update private.api_key_states set period_start = period_start - interval '1 month'"
        " where api_key_id = %s",
        key["id"],
    )
    door.execute("select private.credit_settle(%s, 1)", [hold(door, key["id"], 1)])
    assert keys.state(key)["period_credits"] == 1


def test_a_budget_is_one_for_all_accounts_that_a_key_pays_from(
    keys: Keys, stack: Stack, door: psycopg.Connection
) -> None:
    """A person's key asks on their own account and on an organization's at the same time."""
    person = keys.person()
    organization = keys.organization(person)
    key = keys.make(person, monthly_credit_budget=3)
    both = (
        "select private.place_hold(p.account, p.limits, k.user_id, 2, 0, %s, 'test', null)"
        " from public.api_keys as k, private.payer(k.user_id, %s, k.id) as p where k.id = %s"
    )
    with psycopg.connect(stack.admin_dsn) as other, ThreadPoolExecutor(1) as pool:
        other.execute(both, [uuid4().hex, None, key["id"]])
        waiting = pool.submit(door.execute, both, [uuid4().hex, organization, key["id"]])
        with psycopg.connect(stack.admin_dsn, autocommit=True) as watcher:
            wait_until_blocked(watcher, door.info.backend_pid)
        other.commit()
        with pytest.raises(psycopg.DatabaseError) as info:
            waiting.result(timeout=10)
    assert '"api_key_budget"' in str(info.value.diag.message_detail)
    assert keys.state(key)["held"] == 2


def test_a_refund_comes_back_to_the_budget(keys: Keys, door: psycopg.Connection) -> None:
    key = keys.make(keys.person(), monthly_credit_budget=2)
    one = hold(door, key["id"], 2)
    door.execute("select private.credit_settle(%s, 2)", [one])
    door.execute("select private.credit_refund(%s, 1.5, 'a', 'sorry')", [one])
    state = keys.state(key)
    assert (state["period_credits"], state["total_credits"]) == (Decimal("0.5"), Decimal("0.5"))
    hold(door, key["id"], Decimal("1.5"))


# Many at once -----------------------------------------------------------------------------------


def test_forty_requests_by_one_key_leave_exact_totals(keys: Keys) -> None:
    user = keys.person()
    key = keys.make(user, rate_limit_per_minute=None)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: keys.ask(key["key"]), range(40)))
    assert {answer.status_code for answer in answers} == {200}
    rows = keys.usage(key)
    state = keys.state(key)
    assert (len(rows), state["total_requests"]) == (40, 40)
    assert state["total_credits"] == sum(row["credits"] for row in rows)
    assert state["total_tokens"] == sum(row["tokens_used"] for row in rows)
    assert (state["held"], state["active_holds"]) == (0, 0)
