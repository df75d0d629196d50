"""Alerts: an owner is told once of each crossing, and telling never stands in the way of money."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from tests.credits.ledger import Ledger, Payer, call, hold_arguments, one
from tests.credits.parallel import at_once, open_doors, split
from tests.support.people import NewPerson, Person, Team, refused

Connect = Callable[[], psycopg.Connection]
NewTeam = Callable[[], Team]

METERS = ["plan.monthly_tokens", "plan.requests_per_month", "account_budget"]


def alerts(ledger: Ledger, payer: Payer) -> list[dict[str, Any]]:
    """What a payer was told, oldest first."""
    with ledger.admin.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "select b.* from public.billing_alerts as b join public.credit_accounts as a"
            " on b.user_id = a.user_id or b.organization_id = a.organization_id"
            " where a.id = %s order by b.id",
            [payer.account_id],
        ).fetchall()


def told(ledger: Ledger, payer: Payer) -> list[tuple[str, Decimal, Decimal]]:
    """Type, threshold and value of what a payer was told, oldest first."""
    return [(a["type"], a["threshold"], a["current_value"]) for a in alerts(ledger, payer)]


def set_threshold(ledger: Ledger, payer: Payer, threshold: int | None) -> None:
    ledger.admin.execute(
        "update public.credit_accounts set low_balance_threshold = %s where id = %s",
        [threshold, payer.account_id],
    )


def set_budget(ledger: Ledger, payer: Payer, budget: int | None) -> None:
    ledger.admin.execute(
        "update public.credit_accounts set monthly_credit_budget = %s where id = %s",
        [budget, payer.account_id],
    )


def set_plan(ledger: Ledger, payer: Payer, slug: str, ends: str | None = None) -> None:
    table, owner = (
        ("organizations", payer.organization_id)
        if payer.organization_id
        else ("profiles", payer.user)
    )
    ledger.admin.execute(
        f"update public.{table} set plan_expires_at = now() + %s::interval,"  # noqa: S608
        " plan_id = (select id from public.plans where slug = %s) where id = %s",
        [ends, slug, owner],
    )


def use(ledger: Ledger, payer: Payer, meter: str, amount: int) -> None:
    """Moves one meter on by an amount, in one request or, of requests, in as many."""
    for _ in range(amount if meter == "plan.requests_per_month" else 1):
        charge = amount if meter == "account_budget" else 1
        hold_id = ledger.hold(payer, charge, p_tokens=amount)["hold_id"]
        call(
            ledger.admin,
            "private.credit_settle",
            p_hold_id=hold_id,
            p_amount=charge,
            p_tokens=amount if meter == "plan.monthly_tokens" else 0,
        )


def new_metered(ledger: Ledger, meter: str, limit: int) -> Payer:
    """A payer with this limit and no other, and with credits enough."""
    column = meter.removeprefix("plan.")
    payer = ledger.new_payer(
        10_000, plan="enterprise" if column == meter else ledger.new_plan(**{column: limit})
    )
    if column == meter:
        set_budget(ledger, payer, limit)
    return payer


def break_messages(connection: psycopg.Connection) -> None:
    """From here to the end of the transaction, no alert can be raised."""
    connection.execute(
        "create or replace function private.alert_message("
        " p_type text, p_language text, p_facts jsonb) returns text language plpgsql"
        " set search_path = '' as $$ begin raise exception 'no words'; end $$"
    )


# Clients ------------------------------------------------------------------------------------------


def tell(connection: psycopg.Connection, person: Person | None = None, team: Any = None) -> str:
    """An alert of a person, or of a team."""
    return str(
        one(
            connection,
            "select private.raise_alert(%s, %s, 'payment_failed', gen_random_uuid()::text)",
            person and person.id,
            team and team.id,
        )
    )


def read_state(connection: psycopg.Connection, alert_id: str) -> tuple[bool, bool]:
    row = connection.execute(
        "select is_read, read_at is not null from public.billing_alerts where id = %s", [alert_id]
    ).fetchone()
    assert row is not None
    return row[0], row[1]


@pytest.mark.parametrize(
    "change",
    [
        "insert into public.billing_alerts (user_id, type, key, message)"
        " values (auth.uid(), 'low_balance', 'mine', 'Hello')",
        "delete from public.billing_alerts",
        "update public.billing_alerts set message = 'Hello'",
        "update public.billing_alerts set read_at = now()",
        "update public.billing_alerts set user_id = auth.uid()",
    ],
)
def test_a_client_writes_nothing_but_is_read(
    new_person: NewPerson, db: Connect, change: str
) -> None:
    person, connection = new_person(), db()
    alert_id = tell(connection, person)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        person.execute(change)
    assert read_state(connection, alert_id) == (False, False)


def test_a_stranger_neither_sees_nor_marks_it(new_person: NewPerson, db: Connect) -> None:
    connection, stranger = db(), new_person()
    alert_id = tell(connection, new_person())
    assert stranger.rows("select * from public.billing_alerts") == []
    assert stranger.execute("update public.billing_alerts set is_read = true") == 0
    assert read_state(connection, alert_id) == (False, False)


def test_a_member_neither_sees_nor_marks_those_of_the_organization(
    new_team: NewTeam, db: Connect
) -> None:
    team, connection = new_team(), db()
    alert_id = tell(connection, team=team)
    assert team.member.rows("select * from public.billing_alerts") == []
    assert team.member.execute("update public.billing_alerts set is_read = true") == 0
    assert read_state(connection, alert_id) == (False, False)


def test_a_suspended_person_sees_nothing(new_person: NewPerson, db: Connect) -> None:
    person, connection = new_person(), db()
    tell(connection, person)
    connection.execute("update public.profiles set is_active = false where id = %s", [person.id])
    assert person.rows("select * from public.billing_alerts") == []


@pytest.mark.parametrize("role", ["owner", "admin"])
def test_admins_mark_those_of_their_organization(new_team: NewTeam, db: Connect, role: str) -> None:
    team, connection = new_team(), db()
    alert_id = tell(connection, team=team)
    assert getattr(team, role).execute("update public.billing_alerts set is_read = true") == 1
    assert read_state(connection, alert_id) == (True, True)


def test_read_at_is_when_it_was_first_read(new_person: NewPerson, db: Connect) -> None:
    person, connection = new_person(), db()
    tell(connection, person)
    mark = "update public.billing_alerts set is_read = %s"
    stamp = "select read_at from public.billing_alerts"
    assert person.execute(mark, True) == 1
    [first] = person.rows(stamp)
    assert person.execute(mark, True) == 1
    assert person.rows(stamp) == [first]
    assert person.execute(mark, False) == 1
    assert person.rows(stamp) == [{"read_at": None}]


@pytest.mark.parametrize("threshold", ["-1", "-0.000001", "NaN", "Infinity", "1e14", "0.0000001"])
def test_a_threshold_is_a_credit_amount(new_person: NewPerson, threshold: str) -> None:
    person = new_person()
    with refused("invalid_amount", 400):
        person.call("set_low_balance_threshold", p_threshold=Decimal(threshold))
    [account] = person.rows("select low_balance_threshold from public.credit_accounts")
    assert account["low_balance_threshold"] == 50


def test_only_admins_set_the_threshold_of_an_organization(
    new_team: NewTeam, new_person: NewPerson
) -> None:
    team = new_team()
    arguments = {"p_threshold": 5, "p_organization_id": team.id}
    with refused("not_a_member", 403):
        new_person().call("set_low_balance_threshold", **arguments)
    with refused("not_an_admin", 403):
        team.member.call("set_low_balance_threshold", **arguments)
    answer = team.admin.call("set_low_balance_threshold", **arguments)
    assert (answer["organization_id"], answer["low_balance_threshold"]) == (team.id, 5)


def test_a_person_sets_and_lifts_their_threshold(new_person: NewPerson) -> None:
    person = new_person()
    for threshold in (Decimal("12.5"), None):
        answer = person.call("set_low_balance_threshold", p_threshold=threshold)
        assert answer["low_balance_threshold"] == threshold
        [account] = person.rows("select low_balance_threshold from public.credit_accounts")
        assert account["low_balance_threshold"] == threshold


# Raising ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ("null, null, 'low_balance', 'k', 'Hi', false, null", "an_alert_has_one_owner"),
        ("%(user)s, null, 'good_news', 'k', 'Hi', false, null", "type_is_known"),
        ("%(user)s, null, 'low_balance', '', 'Hi', false, null", "key_is_not_empty"),
        ("%(user)s, null, 'low_balance', 'k', '', false, null", "message_is_not_empty"),
        ("%(user)s, null, 'low_balance', 'k', 'Hi', true, null", "read_at_says_when_it_was_read"),
        ("%(user)s, null, 'low_balance', 'k', 'Hi', false, now()", "read_at_says_when"),
    ],
)
def test_an_alert_that_makes_no_sense(ledger: Ledger, values: str, constraint: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=constraint):
        ledger.admin.execute(
            "insert into public.billing_alerts"  # noqa: S608
            " (user_id, organization_id, type, key, message, is_read, read_at)"
            f" values ({values})".encode(),
            {"user": ledger.new_user()},
        )


def raise_alert(
    connection: psycopg.Connection, payer: Payer, kind: str, key: str, **more: Any
) -> str | None:
    return call(
        connection,
        "private.raise_alert",
        p_user_id=None if payer.organization_id else payer.user,
        p_organization_id=payer.organization_id,
        p_type=kind,
        p_key=key,
        **more,
    )


def test_a_crossing_is_told_once(ledger: Ledger) -> None:
    for payer in (ledger.new_payer(), ledger.new_organization()):
        first = raise_alert(ledger.admin, payer, "invoice_overdue", "in_1")
        assert raise_alert(ledger.admin, payer, "invoice_overdue", "in_1") is None
        assert raise_alert(ledger.admin, payer, "invoice_overdue", "in_2") is not None
        assert raise_alert(ledger.admin, payer, "payment_failed", "in_1") is not None
        assert str(alerts(ledger, payer)[0]["id"]) == str(first)
        assert len(alerts(ledger, payer)) == 3


def test_twenty_at_once_tell_a_crossing_once(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    doors = [ledger.another_admin() for _ in range(20)]
    results, _ = split(
        at_once(doors, lambda door, _: raise_alert(door, payer, "invoice_overdue", "in_1"))
    )
    assert len([alert_id for alert_id in results if alert_id]) == 1
    assert len(alerts(ledger, payer)) == 1


def test_an_owner_who_is_being_erased_is_neither_told_nor_waited_for(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    hold_id = ledger.hold(payer, 60)["hold_id"]
    erasing = ledger.another_admin()
    with erasing.transaction(force_rollback=True):
        erasing.execute("select from public.profiles where id = %s for update", [payer.user])
        ledger.admin.execute("set lock_timeout = '5s'")
        call(ledger.admin, "private.credit_settle", p_hold_id=hold_id, p_amount=60)
    assert ledger.balance(payer) == 40
    assert alerts(ledger, payer) == []


def test_alerts_go_with_their_owner(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    ledger.spend(payer, 60)
    [alert] = alerts(ledger, payer)
    ledger.admin.execute("delete from auth.users where id = %s", [payer.user])
    left = "select count(*) from public.billing_alerts where id = %s"
    assert one(ledger.admin, left, alert["id"]) == 0
    ledger.verify(payer)


FACTS: dict[str, list[dict[str, Any]]] = {
    "low_balance": [{"balance": 49.5, "threshold": 50}],
    "usage_threshold": [
        {"limit_source": meter, "percent": 80, "used": 85, "limit": 100} for meter in METERS
    ],
    "payment_failed": [{}, {"reason": "top_up"}, {"reason": "top_up_switched_off"}],
    "invoice_overdue": [{"number": "Q-0001", "due_at": "2026-01-31T12:00:00Z"}],
    "subscription_expiring": [
        {"reason": "end", "ends_at": "2026-01-31T12:00:00Z"},
        {"reason": "trial", "trial_ends_at": "2026-01-31T12:00:00Z"},
    ],
    "provider_key_invalid": [
        {"reason": reason, "provider": "OpenAI", "last_four": "abcd"}
        for reason in ("rejected", "quota_exceeded")
    ],
}


@pytest.mark.parametrize("kind", FACTS)
def test_every_message_is_whole_in_both_languages(ledger: Ledger, kind: str) -> None:
    for facts in FACTS[kind]:
        messages = set()
        for language in ("fr", "en"):
            payer = ledger.new_payer()
            ledger.admin.execute(
                "update public.profiles set language = %s where id = %s", [language, payer.user]
            )
            raise_alert(ledger.admin, payer, kind, "k", p_facts=facts)
            [alert] = alerts(ledger, payer)
            assert "{" not in alert["message"]
            assert "T12" not in alert["message"]
            assert alert["metadata"] == facts
            messages.add(alert["message"])
        assert len(messages) == 2


def test_every_type_has_its_messages(ledger: Ledger) -> None:
    types = one(
        ledger.admin,
        "select pg_get_constraintdef(oid) from pg_constraint where conname = 'type_is_known'"
        " and conrelid = 'public.billing_alerts'::regclass",
    )
    assert sorted(FACTS) == sorted(types.split("'")[1::2])


# Low balance --------------------------------------------------------------------------------------


def test_above_the_threshold_nothing_is_told(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    ledger.spend(payer, 50)
    assert alerts(ledger, payer) == []


def test_a_hold_is_no_crossing(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    ledger.release(ledger.hold(payer, 90)["hold_id"])
    ledger.settle(ledger.hold(payer, 90)["hold_id"], 1)
    assert alerts(ledger, payer) == []


def test_who_wants_to_be_told_of_nothing_is_told_nothing(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    set_threshold(ledger, payer, None)
    ledger.spend(payer, 100)
    assert alerts(ledger, payer) == []


def test_moving_the_threshold_is_no_crossing(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    set_threshold(ledger, payer, 500)
    ledger.spend(payer, 10)
    assert alerts(ledger, payer) == []


def test_falling_below_the_threshold_is_told_once(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    ledger.spend(payer, Decimal("50.5"))
    ledger.spend(payer, 10)
    [alert] = alerts(ledger, payer)
    assert (alert["type"], alert["threshold"], alert["current_value"], alert["is_read"]) == (
        "low_balance",
        50,
        Decimal("49.5"),
        False,
    )
    assert alert["message"] == "Le solde est passé sous 50 crédits : il en reste 49.5."
    assert alert["metadata"] == {"threshold": 50, "balance": Decimal("49.5")}


def test_falling_again_after_a_recovery_is_told_again(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    ledger.spend(payer, 60)
    ledger.grant(payer, 5)
    ledger.spend(payer, 1)
    ledger.grant(payer, 100)
    ledger.spend(payer, 100)
    assert told(ledger, payer) == [("low_balance", 50, 40), ("low_balance", 50, 44)]


def test_an_organization_is_told_as_such(ledger: Ledger) -> None:
    payer = ledger.new_organization(100)
    ledger.spend(payer, 60)
    [alert] = alerts(ledger, payer)
    assert (alert["user_id"], str(alert["organization_id"])) == (None, payer.organization_id)


def test_expiry_and_clawback_are_told_too(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    ledger.expire(ledger.grant(payer, 100, p_expires_at="2099-01-01T00:00:00Z")["lot_id"])
    ledger.claw_back(ledger.grant(payer, 100)["lot_id"], 60)
    assert told(ledger, payer) == [("low_balance", 50, 0), ("low_balance", 50, 40)]
    ledger.verify(payer)


def test_twenty_settlements_at_once_cross_it_once(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    holds = [ledger.hold(payer, 5)["hold_id"] for _ in range(20)]
    doors = open_doors(ledger.functions_dsn, 20)
    at_once(
        doors,
        lambda door, index: call(door, "backend.credit_settle", p_hold_id=holds[index], p_amount=5),
    )
    for door in doors:
        door.close()
    assert told(ledger, payer) == [("low_balance", 50, 45)]
    assert ledger.balance(payer) == 0
    ledger.verify(payer)


def test_an_alert_that_fails_does_not_stop_a_settlement(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    hold_id = ledger.hold(payer, 60)["hold_id"]
    warnings: list[str] = []
    ledger.admin.add_notice_handler(lambda notice: warnings.append(str(notice.message_primary)))
    with ledger.admin.transaction(force_rollback=True):
        break_messages(ledger.admin)
        call(ledger.admin, "private.credit_settle", p_hold_id=hold_id, p_amount=60)
        assert ledger.balance(payer) == 40
        ledger.verify(payer)
    assert warnings == [f"the low balance of account {payer.account_id} was not told: no words"]


STEPS = st.lists(
    st.tuples(st.sampled_from(["spend", "grant", "hold"]), st.integers(1, 60)), max_size=25
)


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, threshold=st.integers(0, 120))
def test_whatever_happens_there_is_an_alert_for_every_fall(
    ledger: Ledger, steps: list[tuple[str, int]], threshold: int
) -> None:
    payer, balance, falls = ledger.new_payer(100), 100, []
    set_threshold(ledger, payer, threshold)
    for step, amount in steps:
        before = balance
        if step == "grant":
            ledger.grant(payer, amount)
            balance += amount
        elif amount <= balance:
            hold_id = ledger.hold(payer, amount)["hold_id"]
            charge = amount if step == "spend" else 0
            ledger.settle(hold_id, charge)
            balance -= charge
        if before >= threshold > balance:
            falls.append(("low_balance", threshold, balance))
    assert told(ledger, payer) == falls


# The month's use ----------------------------------------------------------------------------------


@pytest.mark.parametrize("meter", METERS)
def test_below_the_first_threshold_nothing_is_told(ledger: Ledger, meter: str) -> None:
    payer = new_metered(ledger, meter, 10)
    use(ledger, payer, meter, 7)
    assert alerts(ledger, payer) == []


@pytest.mark.parametrize("meter", METERS)
def test_each_threshold_is_told_once_a_month(ledger: Ledger, meter: str) -> None:
    payer = new_metered(ledger, meter, 10)
    for amount in (7, 1, 1, 1):
        use(ledger, payer, meter, amount)
    assert told(ledger, payer) == [("usage_threshold", 8, 8), ("usage_threshold", 10, 10)]
    first, last = alerts(ledger, payer)
    assert first["metadata"].items() >= {"limit_source": meter, "percent": 80, "limit": 10}.items()
    assert last["metadata"]["percent"] == 100
    ledger.new_month(payer)
    ledger.admin.execute(
        "update public.billing_alerts set key = regexp_replace(key, '[0-9]{4}-[0-9]{2}', 'before')"
        " where user_id = %s",
        [payer.user],
    )
    use(ledger, payer, meter, 9)
    assert told(ledger, payer)[2:] == [("usage_threshold", 8, 8 if "request" in meter else 9)]
    ledger.verify(payer)


@pytest.mark.parametrize("meter", ["plan.monthly_tokens", "account_budget"])
def test_of_two_thresholds_that_one_request_crosses_the_last_is_told(
    ledger: Ledger, meter: str
) -> None:
    payer = new_metered(ledger, meter, 10)
    use(ledger, payer, meter, 10)
    assert told(ledger, payer) == [("usage_threshold", 10, 10)]


def test_without_a_limit_nothing_is_told(ledger: Ledger) -> None:
    payer = ledger.new_payer(10_000)
    for meter in METERS:
        use(ledger, payer, meter, 9)
    assert alerts(ledger, payer) == []


def test_requests_that_failed_are_not_told_twice(ledger: Ledger) -> None:
    payer = new_metered(ledger, "plan.requests_per_month", 10)
    use(ledger, payer, "plan.requests_per_month", 7)
    for _ in range(3):
        ledger.release(ledger.hold(payer, 1)["hold_id"])
    assert len(alerts(ledger, payer)) == 1


def test_a_larger_plan_has_its_own_thresholds(ledger: Ledger) -> None:
    payer = new_metered(ledger, "plan.monthly_tokens", 10)
    use(ledger, payer, "plan.monthly_tokens", 9)
    set_plan(ledger, payer, ledger.new_plan(monthly_tokens=100))
    use(ledger, payer, "plan.monthly_tokens", 70)
    assert told(ledger, payer) == [("usage_threshold", 8, 9)]
    use(ledger, payer, "plan.monthly_tokens", 1)
    assert told(ledger, payer)[1:] == [("usage_threshold", 80, 80)]


def test_a_smaller_plan_tells_of_nothing_that_was_used_before(ledger: Ledger) -> None:
    payer = new_metered(ledger, "plan.monthly_tokens", 100)
    use(ledger, payer, "plan.monthly_tokens", 9)
    set_plan(ledger, payer, ledger.new_plan(monthly_tokens=10))
    use(ledger, payer, "account_budget", 1)
    assert alerts(ledger, payer) == []
    use(ledger, payer, "plan.monthly_tokens", 1)
    assert told(ledger, payer) == [("usage_threshold", 10, 10)]


def test_a_plan_that_has_ended_leaves_the_thresholds_of_the_free_one(ledger: Ledger) -> None:
    for payer in (ledger.new_payer(10_000), ledger.new_organization(10_000)):
        set_plan(ledger, payer, "enterprise", "1 hour")
        use(ledger, payer, "plan.monthly_tokens", 7_999)
        # The hour passes, for the plan and for what the account knows of it.
        with ledger.admin.transaction():
            ledger.admin.execute("set local session_replication_role = replica")
            set_plan(ledger, payer, "enterprise", "-1 second")
            ledger.admin.execute(
                "update public.credit_accounts set thresholds_expire_at = now() - interval '1 s'"
                " where id = %s",
                [payer.account_id],
            )
        use(ledger, payer, "plan.monthly_tokens", 1)
        assert told(ledger, payer) == [("usage_threshold", 8_000, 8_000)]
        assert ledger.account(payer)["thresholds_expire_at"] is None


def test_a_budget_that_was_raised_and_lowered_is_not_told_twice(ledger: Ledger) -> None:
    payer = new_metered(ledger, "account_budget", 10)
    use(ledger, payer, "account_budget", 8)
    set_budget(ledger, payer, 1000)
    use(ledger, payer, "account_budget", 1)
    set_budget(ledger, payer, 10)
    use(ledger, payer, "plan.requests_per_month", 1)
    assert told(ledger, payer) == [("usage_threshold", 8, 8), ("usage_threshold", 10, 10)]


def test_the_percentages_are_a_setting(ledger: Ledger) -> None:
    with ledger.admin.transaction(force_rollback=True):
        ledger.admin.execute(
            "update private.settings set value = '[50]' where name = 'usage_alert_percentages'"
        )
        payer = ledger.new_payer()
        set_budget(ledger, payer, 10)
        account = ledger.account(payer)
        assert account["next_credits_threshold"] == 5


def test_use_that_cannot_be_told_is_charged_and_told_later(ledger: Ledger) -> None:
    payer = new_metered(ledger, "account_budget", 10)
    with ledger.admin.transaction(force_rollback=True):
        break_messages(ledger.admin)
        hold = call(ledger.admin, "backend.credit_hold", **hold_arguments(payer, 9))
        call(ledger.admin, "private.credit_settle", p_hold_id=hold["hold_id"], p_amount=9)
        assert ledger.account(payer)["next_credits_threshold"] == 8
        assert alerts(ledger, payer) == []
        account = ledger.account(payer)
        ledger.verify(payer)
    ledger.admin.execute(
        "update public.credit_accounts set period_credits = %s where id = %s",
        [account["period_credits"], payer.account_id],
    )
    assert told(ledger, payer) == [("usage_threshold", 8, 9)]


def test_twenty_settlements_at_once_tell_each_threshold_once(ledger: Ledger) -> None:
    payer = new_metered(ledger, "account_budget", 100)
    holds = [ledger.hold(payer, 5)["hold_id"] for _ in range(20)]
    doors = open_doors(ledger.functions_dsn, 20)
    at_once(
        doors,
        lambda door, index: call(door, "backend.credit_settle", p_hold_id=holds[index], p_amount=5),
    )
    for door in doors:
        door.close()
    assert told(ledger, payer) == [("usage_threshold", 80, 80), ("usage_threshold", 100, 100)]
    ledger.verify(payer)


def test_a_request_that_crosses_nothing_runs_no_code_of_alerts(ledger: Ledger) -> None:
    payer = new_metered(ledger, "plan.monthly_tokens", 1000)
    set_budget(ledger, payer, 1000)
    with ledger.admin.transaction(force_rollback=True):
        ledger.admin.execute("set local track_functions = 'all'")
        use(ledger, payer, "plan.monthly_tokens", 10)
        called = {
            row[0]
            for row in ledger.admin.execute(
                "select funcname from pg_stat_xact_user_functions where calls > 0"
            )
        }
    assert "settle_hold" in called
    assert called.isdisjoint(
        {"tell_low_balance", "watch_usage", "tell_usage", "aim_thresholds", "raise_alert"}
    )


# Retention ----------------------------------------------------------------------------------------


def test_only_what_is_old_and_read_is_purged(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    for key in ("old", "unread", "young"):
        raise_alert(ledger.admin, payer, "payment_failed", key)
    ledger.admin.execute(
        "update public.billing_alerts set is_read = key <> 'unread',"
        " created_at = created_at - case when key = 'young' then 89 else 91 end * interval '1 day'"
        " where user_id = %s",
        [payer.user],
    )
    assert ledger.rpc("alerts_purge", p_limit=1000)["count"] >= 1
    assert sorted(alert["key"] for alert in alerts(ledger, payer)) == ["unread", "young"]
