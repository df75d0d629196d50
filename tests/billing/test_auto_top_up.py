"""Automatic top-ups: refusals first, then one charge and one grant whatever is repeated or lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from postgrest import APIError

from functions.billing.stripe_payments import PaymentGateway
from functions.billing.tasks import buy_automatic_top_up
from functions.core.database import Database
from functions.core.errors import QuernelError, UnavailableError
from functions.core.settings import Settings
from functions.cron.jobs import CRON_JOBS
from functions.tasks.context import TaskContext, TaskRejectedError
from functions.tasks.registry import TASK_KINDS
from local.stack import Stack
from local.stripe_world import StripeObject
from tests.billing.conftest import app_environment
from tests.billing.shop import CREDITS, PRICE, Shop
from tests.billing.test_checkout import make_organization
from tests.billing.topped_up import CHARGES, THRESHOLD, TopUps
from tests.conftest import NewUser, User
from tests.credits.parallel import at_once, open_doors

LEFT = Decimal(40)
"""Credits of a sign-up, less what `TopUps.low` spends."""


@pytest.fixture
async def top_ups(shop: Shop, stack: Stack) -> AsyncIterator[TopUps]:
    """Every card is good. The stack's own worker, whose Stripe is another, leaves us the tasks."""
    world = shop.stripe.world
    world.declining.clear()
    world.slow.clear()
    world.confirming.clear()
    world.decline_codes.clear()
    shop.rows(
        "update private.settings set value = '86400' where name = 'auto_top_up_delay_seconds'"
    )
    prefix = "QUERNEL_"
    settings = Settings(
        _env_file=None,
        **{
            name.removeprefix(prefix).lower(): value
            for name, value in app_environment(stack, shop.stripe).items()
            if name.startswith(prefix)
        },
    )
    database = await Database.open(settings)
    try:
        yield TopUps(shop, TaskContext(settings, database, UUID(int=0), 1))
    finally:
        await database.aclose()


pytestmark = [
    pytest.mark.anyio,
    # Stripe's library hands httpx its body in a way that httpx no longer likes.
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]


def refuse(top_ups: TopUps, user: User, status: str, code: str, **changes: object) -> None:
    with pytest.raises(APIError) as info:
        top_ups.set(user, **changes)
    assert info.value.code == f"PT{status}"
    assert f'"{code}"' in str(info.value.details)


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0, -1, None, "NaN", "Infinity", 10_000_001, "0.0000001"])
async def test_a_threshold_that_makes_no_sense(
    top_ups: TopUps, user: User, threshold: object
) -> None:
    top_ups.add_card(user)
    refuse(top_ups, user, "400", "invalid_argument", p_threshold=threshold)


@pytest.mark.parametrize("count", [0, 21, None])
async def test_too_many_or_no_purchases_a_day(
    top_ups: TopUps, user: User, count: int | None
) -> None:
    top_ups.add_card(user)
    refuse(top_ups, user, "400", "invalid_argument", p_max_per_day=count)


async def test_a_pack_nobody_sells(top_ups: TopUps, user: User) -> None:
    top_ups.add_card(user)
    refuse(top_ups, user, "404", "pack_not_found", p_pack="nothing")


async def test_it_needs_a_payment_method(top_ups: TopUps, user: User) -> None:
    refuse(top_ups, user, "409", "payment_method_required")
    top_ups.customer(user)
    refuse(top_ups, user, "409", "payment_method_required")


async def test_the_card_of_somebody_else_does_not_do(
    top_ups: TopUps, user: User, new_user: NewUser
) -> None:
    top_ups.add_card(new_user())
    refuse(top_ups, user, "409", "payment_method_required")


async def test_a_strangers_organization(top_ups: TopUps, user: User, new_user: NewUser) -> None:
    slug = make_organization(top_ups.shop, new_user())
    organization = top_ups.shop.row("select id from public.organizations where slug = %s", slug)
    refuse(top_ups, user, "403", "not_a_member", p_organization_id=str(organization["id"]))


async def test_a_member_who_is_no_admin(top_ups: TopUps, user: User, new_user: NewUser) -> None:
    slug = make_organization(top_ups.shop, new_user(), member=user)
    organization = top_ups.shop.row("select id from public.organizations where slug = %s", slug)
    refuse(top_ups, user, "403", "not_an_admin", p_organization_id=str(organization["id"]))


async def test_a_task_that_names_no_account(top_ups: TopUps) -> None:
    with pytest.raises(TaskRejectedError):
        await buy_automatic_top_up({}, top_ups.context)


async def test_an_account_that_asked_for_nothing(top_ups: TopUps, user: User) -> None:
    account = str(top_ups.shop.account(user)["id"])
    assert await top_ups.buy(account) == {"result": "none", "reason": "no_customer"}
    top_ups.add_card(user)
    top_ups.shop.spend(user, Decimal(60))
    assert await top_ups.buy(account) == {"result": "none", "reason": "not_set_up"}
    assert top_ups.tasks(account) == []
    assert top_ups.shop.stripe.made(CHARGES) == []


async def test_nothing_is_bought_above_the_threshold(top_ups: TopUps, user: User) -> None:
    account = top_ups.ready(user)
    assert top_ups.tasks(account) == []
    assert await top_ups.buy(account) == {"result": "none", "reason": "enough_credits"}
    assert top_ups.purchases(account) == []


async def test_nothing_is_bought_once_it_is_off(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    top_ups.set(user, p_is_enabled=False)
    row = top_ups.shop.row("select * from public.credit_accounts where id = %s", account)
    assert row["top_up_below"] is None
    assert await top_ups.buy(account) == {"result": "none", "reason": "switched_off"}


@pytest.mark.parametrize("what", ["suspended", "no_payment_method", "pack_not_on_sale"])
async def test_nothing_is_bought_for(top_ups: TopUps, user: User, what: str) -> None:
    account = top_ups.low(user)
    shop = top_ups.shop
    if what == "suspended":
        shop.rows("update public.profiles set is_active = false where id = %s", user.id)
    elif what == "no_payment_method":
        shop.rows("delete from public.payment_methods where user_id = %s", user.id)
    else:
        shop.rows(
            "with k as (insert into public.credit_packs (slug, name, credits, price_minor,"
            " is_active) values (%s, 'Gone', 1, 1, false) returning id)"
            " update public.auto_top_ups set pack_id = k.id from k where account_id = %s",
            f"gone-{uuid4().hex[:12]}",
            account,
        )
    assert await top_ups.buy(account) == {"result": "none", "reason": what}
    assert top_ups.purchases(account) == []


async def test_nothing_is_bought_for_somebody_who_was_erased(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    top_ups.shop.rows("delete from auth.users where id = %s", user.id)
    assert await top_ups.buy(account) == {"result": "none", "reason": "no_customer"}
    row = top_ups.shop.row("select * from public.credit_accounts where id = %s", account)
    assert row["top_up_below"] is None
    assert top_ups.shop.stripe.made(CHARGES) == []


# Buying -----------------------------------------------------------------------------------------


async def test_falling_under_the_threshold_buys_a_pack_once(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    (task,) = top_ups.tasks(account)
    assert task["payload"] == {"account_id": account}
    assert TASK_KINDS["auto_top_up"].handler is buy_automatic_top_up
    assert (await top_ups.buy(account))["result"] == "succeeded"
    assert await top_ups.buy(account) == {"result": "none", "reason": "enough_credits"}
    (charge,) = top_ups.shop.stripe.made(CHARGES)
    (purchase,) = top_ups.purchases(account)
    assert charge.params == {
        "amount": str(PRICE),
        "currency": "eur",
        "customer": top_ups.customer(user),
        "payment_method": purchase["stripe_payment_method_id"],
        "description": "1,000 credits",
        "metadata": {"quernel_purchase_id": str(purchase["id"])},
        "off_session": "true",
        "confirm": "true",
    }
    assert charge.headers["idempotency-key"] == f"quernel-top-up-{purchase['id']}"
    assert (purchase["status"], purchase["credits"]) == ("paid", CREDITS)
    assert top_ups.shop.balance(user) == LEFT + CREDITS
    (payment,) = top_ups.shop.rows("select * from public.payments where user_id = %s", user.id)
    assert (payment["status"], payment["purchase_id"]) == ("succeeded", purchase["id"])


async def test_the_owner_gets_a_receipt(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    await top_ups.buy(account)
    (purchase,) = top_ups.purchases(account)
    (receipt,) = top_ups.shop.rows(
        "select key, facts from private.notifications where user_id = %s and template = 'receipt'",
        user.id,
    )
    assert receipt["key"] == str(purchase["id"])
    assert receipt["facts"]["amount_minor"] == PRICE


async def test_a_hold_counts_as_spent(top_ups: TopUps, user: User) -> None:
    account = top_ups.ready(user)
    top_ups.shop.service.rpc(
        "credit_hold",
        p_user_id=user.id,
        p_organization_id=None,
        p_amount=60,
        p_idempotency_key=uuid4().hex,
        p_action="test",
    )
    assert len(top_ups.tasks(account)) == 1
    assert (await top_ups.buy(account))["result"] == "succeeded"


async def test_setting_it_up_under_the_threshold_asks_at_once(top_ups: TopUps, user: User) -> None:
    top_ups.shop.spend(user, Decimal(60))
    account = top_ups.ready(user)
    assert len(top_ups.tasks(account)) == 1


async def test_an_error_in_noticing_never_breaks_a_settlement(top_ups: TopUps, user: User) -> None:
    account = top_ups.ready(user)
    connection = top_ups.shop.connect()
    with connection.transaction(force_rollback=True):
        connection.execute(
            "create or replace function private.ask_top_up(p_account_id uuid) returns void"
            " language plpgsql set search_path = '' as"
            " $$ begin raise exception 'broken'; end $$"
        )
        hold = connection.execute(
            "select backend.credit_hold(%s, null, 60, %s, 'test')", [user.id, uuid4().hex]
        ).fetchone()
        assert hold is not None
        connection.execute("select backend.credit_settle(%s, 60)", [hold[0]["hold_id"]])
        row = connection.execute(
            "select balance from public.credit_accounts where id = %s", [account]
        ).fetchone()
        assert row == (LEFT,)


async def test_twenty_settlements_at_once_buy_one_pack(
    top_ups: TopUps, user: User, stack: Stack
) -> None:
    account = top_ups.ready(user)
    doors = open_doors(stack.admin_dsn, 20)

    def work(door: psycopg.Connection, _: int) -> None:
        row = door.execute(
            "select backend.credit_hold(%s, null, 3, %s, 'test') ->> 'hold_id'",
            [user.id, uuid4().hex],
        ).fetchone()
        assert row is not None
        door.execute("select backend.credit_settle(%s, 3)", [row[0]])

    top_ups.shop.rows("update public.plans set concurrent_requests = -1 where slug = 'free'")
    try:
        at_once(doors, work)
    finally:
        top_ups.shop.rows("update public.plans set concurrent_requests = 2 where slug = 'free'")
        for door in doors:
            door.close()
    assert len(top_ups.tasks(account)) == 1
    await top_ups.buy(account)
    await top_ups.buy(account)
    assert top_ups.statuses(account) == ["paid"]


async def test_twenty_decisions_at_once_open_one_purchase(
    top_ups: TopUps, user: User, stack: Stack
) -> None:
    account = top_ups.low(user)
    doors = open_doors(stack.admin_dsn, 20)

    def work(door: psycopg.Connection, _: int) -> object:
        row = door.execute("select backend.top_up_start(%s)", [account]).fetchone()
        assert row is not None
        return row[0]["purchase_id"]

    answers = at_once(doors, work)
    for door in doors:
        door.close()
    (purchase,) = top_ups.purchases(account)
    assert set(answers) == {str(purchase["id"])}


async def test_at_most_so_many_a_day(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user, p_max_per_day=2)
    for _ in range(2):
        assert (await top_ups.buy(account))["result"] == "succeeded"
        top_ups.shop.spend(user, CREDITS)
    assert await top_ups.buy(account) == {"result": "none", "reason": "enough_for_today"}
    assert top_ups.statuses(account) == ["paid", "paid"]
    top_ups.time_passes(account, "25 hours")
    assert (await top_ups.buy(account))["result"] == "succeeded"


async def test_an_organization_is_topped_up_by_its_admin(
    top_ups: TopUps, user: User, new_user: NewUser
) -> None:
    shop, admin = top_ups.shop, new_user()
    slug = make_organization(shop, user, admin=admin)
    organization = str(shop.row("select id from public.organizations where slug = %s", slug)["id"])
    top_ups.add_card(admin, organization)
    account = str(top_ups.set(admin, p_organization_id=organization)["account_id"])
    assert len(top_ups.tasks(account)) == 1  # an organization begins with nothing
    assert (await top_ups.buy(account))["result"] == "succeeded"
    (purchase,) = top_ups.purchases(account)
    assert (str(purchase["organization_id"]), purchase["user_id"]) == (organization, None)
    assert shop.row("select balance from public.credit_accounts where id = %s", account) == {
        "balance": CREDITS
    }
    seen = user.client.table("auto_top_ups").select("threshold").execute().data
    assert [row["threshold"] for row in seen] == [THRESHOLD]


# What was missed --------------------------------------------------------------------------------


def due(top_ups: TopUps) -> None:
    (step,) = CRON_JOBS["top_ups"].steps
    top_ups.shop.service.rpc(step.function, p_limit=step.batch)


async def test_the_cron_step_asks_for_what_was_missed(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    top_ups.shop.rows("delete from private.tasks where key = %s", account)
    due(top_ups)
    due(top_ups)
    assert len(top_ups.tasks(account)) == 1


async def test_the_cron_step_leaves_those_alone_who_are_not_to_be_charged(
    top_ups: TopUps, user: User, new_user: NewUser
) -> None:
    above = top_ups.ready(user)
    top_ups.shop.stripe.world.declining.add(top_ups.customer(paused := new_user()))
    declined = top_ups.low(paused)
    await top_ups.buy(declined)
    off = top_ups.low(stopped := new_user())
    top_ups.set(stopped, p_is_enabled=False)
    for account in (above, declined, off):
        top_ups.shop.rows("delete from private.tasks where key = %s", account)
    due(top_ups)
    assert [top_ups.tasks(account) for account in (above, declined, off)] == [[], [], []]


# Declines ---------------------------------------------------------------------------------------


def told_of_declines(top_ups: TopUps, user: User) -> list[dict[str, Any]]:
    """Alerts of payments that failed, oldest first."""
    return top_ups.shop.rows(
        "select * from public.billing_alerts where user_id = %s and type = 'payment_failed'"
        " order by id",
        user.id,
    )


async def test_a_decline_backs_off_and_is_tried_again_after_the_pause(
    top_ups: TopUps, user: User
) -> None:
    account = top_ups.low(user)
    customer = top_ups.customer(user)
    top_ups.shop.stripe.world.declining.add(customer)
    assert (await top_ups.buy(account))["result"] == "requires_payment_method"
    row = top_ups.settings(account)
    assert (row["failures"], row["last_failure_code"]) == (1, "insufficient_funds")
    assert round((row["paused_until"] - row["updated_at"]).total_seconds()) == 3600
    assert await top_ups.buy(account) == {"result": "none", "reason": "paused"}
    assert top_ups.shop.balance(user) == LEFT
    (alert,) = told_of_declines(top_ups, user)
    assert alert["current_value"] == PRICE
    assert alert["metadata"]["reason"] == "top_up"
    assert alert["metadata"]["next_attempt_at"].endswith("Z")
    top_ups.shop.stripe.world.declining.clear()
    top_ups.time_passes(account, "61 minutes")
    assert (await top_ups.buy(account))["result"] == "succeeded"
    row = top_ups.settings(account)
    assert (row["failures"], row["paused_until"], row["last_failure_code"]) == (0, None, None)
    # What was declined does not count for the day: at most one a day was asked for.
    assert top_ups.statuses(account) == ["failed", "paid"]


async def test_the_fifth_decline_in_a_row_switches_it_off(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    top_ups.shop.stripe.world.declining.add(top_ups.customer(user))
    pauses = []
    for _ in range(5):
        assert top_ups.settings(account)["is_enabled"]
        await top_ups.buy(account)
        row = top_ups.settings(account)
        pauses.append(round((row["paused_until"] - row["updated_at"]).total_seconds() / 3600))
        top_ups.time_passes(account, f"{pauses[-1]} hours")
    assert pauses == [1, 4, 16, 64, 64]
    assert not top_ups.settings(account)["is_enabled"]
    *before, last = told_of_declines(top_ups, user)
    assert [alert["metadata"]["reason"] for alert in before] == ["top_up"] * 4
    assert last["metadata"]["reason"] == "top_up_switched_off"
    assert "désactivée" in last["message"]
    assert "next_attempt_at" not in last["metadata"]
    assert await top_ups.buy(account) == {"result": "none", "reason": "switched_off"}
    top_ups.shop.stripe.world.declining.clear()
    top_ups.add_card(user)
    assert top_ups.set(user)["failures"] == 0
    assert (await top_ups.buy(account))["result"] == "succeeded"


async def test_switching_it_on_again_does_not_try_the_same_card_at_once(
    top_ups: TopUps, user: User
) -> None:
    account = top_ups.low(user)
    top_ups.shop.stripe.world.declining.add(top_ups.customer(user))
    await top_ups.buy(account)
    before = top_ups.settings(account)
    top_ups.set(user, p_is_enabled=False)
    again = top_ups.set(user)
    assert (again["failures"], again["last_failure_code"]) == (1, "insufficient_funds")
    assert top_ups.settings(account)["paused_until"] == before["paused_until"]
    assert await top_ups.buy(account) == {"result": "none", "reason": "paused"}
    # Another card is worth a try.
    top_ups.add_card(user)
    assert top_ups.set(user)["failures"] == 0
    assert (await top_ups.buy(account))["result"] == "requires_payment_method"
    assert top_ups.statuses(account) == ["failed", "failed"]


async def test_many_cards_are_not_tried_one_after_another(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    top_ups.shop.stripe.world.declining.add(top_ups.customer(user))
    for _ in range(5):
        assert (await top_ups.buy(account))["result"] == "requires_payment_method"
        top_ups.add_card(user)
        top_ups.set(user)
    assert await top_ups.buy(account) == {"result": "none", "reason": "too_many_declines"}
    assert len(top_ups.intents(user)) == 5
    top_ups.time_passes(account, "25 hours")
    assert (await top_ups.buy(account))["result"] == "requires_payment_method"


async def test_a_payment_that_needs_its_owner_waits_for_them(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    customer = top_ups.customer(user)
    top_ups.shop.stripe.world.declining.add(customer)
    top_ups.shop.stripe.world.decline_codes[customer] = "authentication_required"
    await top_ups.buy(account)
    row = top_ups.settings(account)
    assert (row["is_enabled"], row["last_failure_code"]) == (False, "authentication_required")
    (alert,) = told_of_declines(top_ups, user)
    assert alert["metadata"]["reason"] == "top_up_switched_off"
    top_ups.time_passes(account, "1000 hours")
    assert await top_ups.buy(account) == {"result": "none", "reason": "switched_off"}


async def test_a_card_that_stripe_does_not_know_is_a_decline(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    for card in top_ups.shop.stripe.world.of_type("payment_method"):
        if card["customer"] == top_ups.customer(user):
            top_ups.shop.stripe.world.detach(card["id"])
    assert (await top_ups.buy(account))["result"] == "failed"
    assert top_ups.settings(account)["failures"] == 1
    (purchase,) = top_ups.purchases(account)
    (alert,) = told_of_declines(top_ups, user)
    assert (alert["key"], alert["current_value"]) == (str(purchase["id"]), PRICE)
    facts = alert["metadata"].items()
    assert facts >= {"reason": "top_up", "amount_minor": PRICE, "currency": "eur"}.items()
    assert facts >= {"pack": "1,000 credits", "failure_code": "invalid_request"}.items()
    # A repetition after a crash is the same refusal.
    top_ups.shop.service.rpc("top_up_close", p_purchase_id=str(purchase["id"]), p_code="again")
    assert len(told_of_declines(top_ups, user)) == 1


async def test_money_that_does_not_arrive_is_declined_once(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    top_ups.shop.stripe.world.slow.add(top_ups.customer(user))
    assert (await top_ups.buy(account))["result"] == "processing"
    # It counts as coming: nothing more is bought meanwhile.
    assert await top_ups.buy(account) == {"result": "none", "reason": "enough_credits"}
    (intent,) = top_ups.intents(user)
    failed = top_ups.shop.stripe.world.decline(intent["id"], "insufficient_funds")
    later(top_ups)
    for _ in range(2):
        event = top_ups.shop.event("payment_intent.payment_failed", failed)
        assert top_ups.shop.result(event) == "applied"
    assert top_ups.statuses(account) == ["failed"]
    assert top_ups.settings(account)["failures"] == 1
    (alert,) = told_of_declines(top_ups, user)
    (payment,) = top_ups.shop.rows("select id from public.payments where user_id = %s", user.id)
    assert alert["metadata"]["payment_id"] == str(payment["id"])


async def test_who_had_switched_it_off_is_not_told_that_it_is_off(
    top_ups: TopUps, user: User
) -> None:
    account = top_ups.low(user)
    top_ups.shop.service.rpc("top_up_start", p_account_id=account)
    top_ups.set(user, p_is_enabled=False)
    (purchase,) = top_ups.purchases(account)
    top_ups.shop.service.rpc(
        "top_up_close", p_purchase_id=str(purchase["id"]), p_code="authentication_required"
    )
    (alert,) = told_of_declines(top_ups, user)
    assert alert["metadata"]["reason"] == "top_up"
    assert {"next_attempt_at", "switched_off_at"}.isdisjoint(alert["metadata"])


async def test_a_declined_payment_is_ended_at_stripe(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    top_ups.shop.stripe.world.declining.add(top_ups.customer(user))
    await top_ups.buy(account)
    (intent,) = top_ups.intents(user)
    assert (intent["status"], intent["cancellation_reason"]) == ("canceled", "abandoned")
    later(top_ups)
    event = top_ups.shop.event("payment_intent.canceled", intent)
    assert top_ups.shop.result(event) == "applied"
    assert top_ups.settings(account)["failures"] == 1


async def test_a_payment_that_cannot_be_ended_has_failed_all_the_same(
    top_ups: TopUps, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = top_ups.low(user)
    top_ups.shop.stripe.world.declining.add(top_ups.customer(user))

    async def away(*_: object) -> None:
        raise UnavailableError("payment_provider_unavailable", "Stripe does not answer.")

    monkeypatch.setattr(PaymentGateway, "cancel", away)
    assert (await top_ups.buy(account))["result"] == "requires_payment_method"
    assert top_ups.statuses(account) == ["failed"]


@pytest.mark.parametrize("told_by", ["answer", "event"])
async def test_a_payment_whose_owner_must_confirm_it_waits_for_them(
    top_ups: TopUps, user: User, told_by: str
) -> None:
    account = top_ups.low(user)
    world = top_ups.shop.stripe.world
    if told_by == "answer":
        world.confirming.add(top_ups.customer(user))
        assert (await top_ups.buy(account))["result"] == "requires_action"
    else:
        world.slow.add(top_ups.customer(user))
        await top_ups.buy(account)
        (intent,) = top_ups.intents(user)
        waiting = world.confirm_wanted(intent["id"])
        later(top_ups)
        event = top_ups.shop.event("payment_intent.requires_action", waiting)
        assert top_ups.shop.result(event) == "applied"
    row = top_ups.settings(account)
    assert (row["is_enabled"], row["last_failure_code"]) == (False, "authentication_required")
    assert top_ups.statuses(account) == ["failed"]
    (alert,) = told_of_declines(top_ups, user)
    assert alert["metadata"]["reason"] == "top_up_switched_off"
    assert top_ups.shop.balance(user) == LEFT


# Money that is given back ------------------------------------------------------------------------


def stopped(top_ups: TopUps, user: User) -> list[dict[str, object]]:
    return top_ups.shop.rows(
        "select facts from private.notifications where user_id = %s"
        " and template = 'auto_top_up_stopped'",
        user.id,
    )


@pytest.mark.parametrize("what", ["refunded", "disputed"])
async def test_what_was_given_back_is_not_charged_again(
    top_ups: TopUps, user: User, what: str
) -> None:
    shop = top_ups.shop
    account = top_ups.low(user)
    await top_ups.buy(account)
    (intent,) = top_ups.intents(user)
    world = shop.stripe.world
    charge = next(c for c in world.of_type("charge") if c["payment_intent"] == intent["id"])
    later(top_ups)
    if what == "refunded":
        event = shop.event("charge.refunded", world.refund(charge["id"], PRICE))
    else:
        dispute = world.dispute(charge["id"], status="needs_response")
        event = shop.event("charge.dispute.created", dispute)
    assert shop.result(event) == "applied"
    assert shop.balance(user) == LEFT
    assert await top_ups.buy(account) == {"result": "none", "reason": "switched_off"}
    row = top_ups.settings(account)
    assert (row["is_enabled"], row["last_failure_code"]) == (False, f"payment_{what}")
    assert stopped(top_ups, user) == [{"facts": {"reason": f"payment_{what}"}}]
    assert len(top_ups.intents(user)) == 1


async def test_a_dispute_that_was_won_switches_nothing_off(top_ups: TopUps, user: User) -> None:
    shop = top_ups.shop
    account = top_ups.low(user)
    await top_ups.buy(account)
    (intent,) = top_ups.intents(user)
    world = shop.stripe.world
    charge = next(c for c in world.of_type("charge") if c["payment_intent"] == intent["id"])
    later(top_ups)
    dispute = world.dispute(charge["id"], status="needs_response")
    shop.result(shop.event("charge.dispute.created", dispute))
    top_ups.set(user)
    won = world.change(dispute["id"], status="won")
    assert shop.result(shop.event("charge.dispute.closed", won)) == "applied"
    assert shop.balance(user) == LEFT + CREDITS
    assert top_ups.settings(account)["is_enabled"]


# Repetitions and crashes ------------------------------------------------------------------------


async def test_two_workers_at_once_charge_once(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    top_ups.shop.stripe.latency_seconds = 0.2  # both ask before either has its answer
    try:
        answers = await asyncio.gather(
            *(top_ups.buy(account) for _ in range(4)), return_exceptions=True
        )
    finally:
        top_ups.shop.stripe.latency_seconds = 0
    # Stripe refuses a key that is in use: who is refused comes again.
    assert {"result": "succeeded"}.items() <= max(
        (a for a in answers if isinstance(a, dict)), key=lambda a: a["result"] == "succeeded"
    ).items()
    assert all(isinstance(a, dict | UnavailableError) for a in answers)
    assert len(top_ups.intents(user)) == 1
    assert top_ups.statuses(account) == ["paid"]
    assert top_ups.shop.balance(user) == LEFT + CREDITS


async def test_money_that_arrives_after_its_owner_was_erased_is_granted_to_nobody_else(
    top_ups: TopUps, user: User
) -> None:
    account = top_ups.low(user)
    top_ups.shop.stripe.world.slow.add(top_ups.customer(user))
    await top_ups.buy(account)
    (intent,) = top_ups.intents(user)
    top_ups.shop.rows("delete from auth.users where id = %s", user.id)
    paid = top_ups.shop.stripe.world.arrive(intent["id"])
    later(top_ups)
    event = top_ups.shop.event("payment_intent.succeeded", paid)
    assert top_ups.shop.result(event) == "applied"
    # The books stay whole: what was paid for is owed until it is refunded, to nobody by name.
    row = top_ups.shop.row(
        "select user_id, balance from public.credit_accounts where id = %s", account
    )
    assert row == {"user_id": None, "balance": LEFT + CREDITS}
    assert top_ups.statuses(account) == ["paid"]


def later(top_ups: TopUps) -> None:
    """What is told from now on happened after what was read until now."""
    top_ups.shop.clock += 2 * 3600


def told(top_ups: TopUps, user: User) -> StripeObject:
    """The event of the user's one payment."""
    (intent,) = top_ups.intents(user)
    return top_ups.shop.event(f"payment_intent.{intent['status']}", intent)


async def test_stripe_away_and_back_is_one_charge(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    top_ups.shop.stripe.failures.extend([503] * 3)  # the SDK repeats twice
    with pytest.raises(QuernelError, match="payment_provider_unavailable"):
        await top_ups.buy(account)
    assert top_ups.statuses(account) == ["pending"]
    assert (await top_ups.buy(account))["result"] == "succeeded"
    assert top_ups.statuses(account) == ["paid"]
    assert len(top_ups.intents(user)) == 1


async def test_a_crash_after_the_charge_is_one_charge_and_one_grant(
    top_ups: TopUps, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = top_ups.low(user)

    async def crash(*_: object) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr("functions.billing.top_ups.mirrored", crash)
        with pytest.raises(ConnectionResetError):
            await top_ups.buy(account)
    assert top_ups.statuses(account) == ["pending"]
    assert (await top_ups.buy(account))["result"] == "succeeded"
    assert len(top_ups.intents(user)) == 1
    assert top_ups.shop.balance(user) == LEFT + CREDITS


@pytest.mark.parametrize("answered", ["after", "before"])
async def test_the_event_and_the_answer_grant_once(
    top_ups: TopUps, user: User, answered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = top_ups.low(user)
    if answered == "after":

        async def crash(*_: object) -> None:
            raise ConnectionResetError

        with monkeypatch.context() as patch:
            patch.setattr("functions.billing.top_ups.mirrored", crash)
            with pytest.raises(ConnectionResetError):
                await top_ups.buy(account)
        assert top_ups.shop.result(told(top_ups, user)) == "applied"
        assert await top_ups.buy(account) == {"result": "none", "reason": "enough_credits"}
    else:
        await top_ups.buy(account)
        later(top_ups)
        assert top_ups.shop.result(told(top_ups, user)) == "applied"
    assert top_ups.shop.balance(user) == LEFT + CREDITS
    assert len(top_ups.shop.lots(user)) == 1


@pytest.mark.parametrize("was_charged", [True, False])
async def test_an_old_purchase_is_looked_up_and_never_charged(
    top_ups: TopUps, user: User, monkeypatch: pytest.MonkeyPatch, *, was_charged: bool
) -> None:
    account = top_ups.low(user)
    if was_charged:

        async def crash(*_: object) -> None:
            raise ConnectionResetError

        with monkeypatch.context() as patch:
            patch.setattr("functions.billing.top_ups.mirrored", crash)
            with pytest.raises(ConnectionResetError):
                await top_ups.buy(account)
    else:
        top_ups.shop.service.rpc("top_up_start", p_account_id=account)
    top_ups.time_passes(account, "13 hours")
    top_ups.shop.rows("delete from private.tasks where key = %s", account)
    due(top_ups)
    assert len(top_ups.tasks(account)) == 1
    top_ups.shop.stripe.requests.clear()
    answer = await top_ups.buy(account)
    assert answer["result"] == ("succeeded" if was_charged else "expired")
    assert top_ups.shop.stripe.made(CHARGES) == []
    assert top_ups.statuses(account) == ["paid" if was_charged else "expired"]


async def test_a_purchase_whose_charge_may_be_under_way_is_not_given_up(
    top_ups: TopUps, user: User
) -> None:
    """A worker has set out to charge it; meanwhile its owner switches the top-up off."""
    shop = top_ups.shop
    account = top_ups.low(user)
    top_ups.time_passes(account, "0 hours")
    start = shop.service.rpc("top_up_start", p_account_id=account)
    top_ups.time_passes(account, "5 hours")
    assert shop.service.rpc("top_up_start", p_account_id=account) == start | {
        "begun_at": shop.service.rpc("top_up_start", p_account_id=account)["begun_at"]
    }
    top_ups.set(user, p_is_enabled=False)
    shop.stripe.requests.clear()
    assert await top_ups.buy(account) == {"result": "none", "reason": "in_flight"}
    closed = shop.service.rpc("top_up_close", p_purchase_id=start["purchase_id"])
    assert (closed["status"], shop.stripe.requests) == ("pending", [])
    top_ups.set(user)
    assert (await top_ups.buy(account))["result"] == "succeeded"
    assert len(top_ups.purchases(account)) == 1


async def test_a_purchase_is_repeated_with_the_name_its_pack_had(
    top_ups: TopUps, user: User
) -> None:
    """Stripe refuses a key with other parameters."""
    shop = top_ups.shop
    slug = f"named-{uuid4().hex[:12]}"
    shop.rows(
        "insert into public.credit_packs (slug, name, credits, price_minor)"
        " values (%s, 'Before', 1000, 500)",
        slug,
    )
    account = top_ups.low(user, p_pack=slug)
    shop.stripe.failures[:] = [503] * 3
    with pytest.raises(QuernelError, match="payment_provider_unavailable"):
        await top_ups.buy(account)
    shop.rows("update public.credit_packs set name = 'After' where slug = %s", slug)
    assert (await top_ups.buy(account))["result"] == "succeeded"
    assert {charge.params["description"] for charge in shop.stripe.made(CHARGES)} == {"Before"}


async def test_money_of_a_purchase_that_had_expired_is_granted(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    start = top_ups.shop.service.rpc("top_up_start", p_account_id=account)
    top_ups.time_passes(account, "2 hours")
    top_ups.shop.service.rpc("top_up_close", p_purchase_id=start["purchase_id"])
    assert top_ups.statuses(account) == ["expired"]
    intent = paid_by(top_ups, user, start["purchase_id"])
    assert top_ups.shop.result(top_ups.shop.event("payment_intent.succeeded", intent)) == "applied"
    assert top_ups.shop.balance(user) == LEFT + CREDITS


async def test_with_its_customer_a_purchase_is_given_up_and_the_next_one_buys(
    top_ups: TopUps, user: User
) -> None:
    account, shop = top_ups.low(user), top_ups.shop
    start = shop.service.rpc("top_up_start", p_account_id=account)
    before = top_ups.customer(user)
    intent = paid_by(top_ups, user, start["purchase_id"])
    gone = shop.stripe.world.delete_customer(before)
    assert shop.result(shop.event("customer.deleted", gone)) == "applied"
    assert top_ups.statuses(account) == ["expired"]
    assert await top_ups.buy(account) == {"result": "none", "reason": "no_customer"}
    top_ups.add_card(user)
    assert top_ups.customer(user) != before
    assert (await top_ups.buy(account))["result"] == "succeeded"
    assert shop.balance(user) == LEFT + CREDITS
    # What the one before had paid all the same is theirs too.
    assert shop.result(shop.event("payment_intent.succeeded", intent)) == "applied"
    assert top_ups.statuses(account) == ["paid", "paid"]
    assert shop.balance(user) == LEFT + CREDITS * 2


# Reversals and forgeries ------------------------------------------------------------------------


async def test_a_refund_takes_back_its_share(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    await top_ups.buy(account)
    (intent,) = top_ups.intents(user)
    world = top_ups.shop.stripe.world
    (charge,) = [c for c in world.of_type("charge") if c["payment_intent"] == intent["id"]]
    event = top_ups.shop.event("charge.refunded", world.refund(charge["id"], PRICE // 2))
    assert top_ups.shop.result(event) == "applied"
    assert top_ups.shop.balance(user) == LEFT + CREDITS / 2
    assert top_ups.statuses(account) == ["partially_refunded"]


async def test_a_dispute_takes_it_back_and_returns_it_when_won(top_ups: TopUps, user: User) -> None:
    account = top_ups.low(user)
    await top_ups.buy(account)
    (intent,) = top_ups.intents(user)
    world = top_ups.shop.stripe.world
    (charge,) = [c for c in world.of_type("charge") if c["payment_intent"] == intent["id"]]
    dispute = world.dispute(charge["id"], status="needs_response")
    top_ups.shop.result(top_ups.shop.event("charge.dispute.created", dispute))
    assert top_ups.shop.balance(user) == LEFT
    won = world.change(dispute["id"], status="won")
    top_ups.shop.result(top_ups.shop.event("charge.dispute.closed", won))
    assert top_ups.shop.balance(user) == LEFT + CREDITS
    assert top_ups.statuses(account) == ["paid"]


def paid_by(
    top_ups: TopUps, user: User, purchase_id: object, amount: int = PRICE, currency: str = "eur"
) -> StripeObject:
    """A payment of the user's customer that names a purchase."""
    return dict(
        top_ups.shop.stripe.world.make(
            "payment_intent",
            amount=amount,
            amount_received=amount,
            currency=currency,
            customer=top_ups.customer(user),
            metadata={"quernel_purchase_id": str(purchase_id)},
            last_payment_error=None,
            status="succeeded",
        )
    )


async def test_a_payment_that_names_somebody_elses_purchase_grants_nothing(
    top_ups: TopUps, user: User, new_user: NewUser
) -> None:
    account = top_ups.low(user)
    start = top_ups.shop.service.rpc("top_up_start", p_account_id=account)
    intent = paid_by(top_ups, thief := new_user(), start["purchase_id"])
    top_ups.shop.result(top_ups.shop.event("payment_intent.succeeded", intent))
    assert top_ups.statuses(account) == ["pending"]
    assert (top_ups.shop.balance(user), top_ups.shop.balance(thief)) == (LEFT, Decimal(100))


async def test_a_payment_that_names_a_checkout_grants_nothing(top_ups: TopUps, user: User) -> None:
    purchase = top_ups.shop.buy(user)
    intent = paid_by(top_ups, user, purchase.id)
    top_ups.shop.result(top_ups.shop.event("payment_intent.succeeded", intent))
    assert top_ups.shop.purchase(purchase.id)["status"] == "pending"
    assert top_ups.shop.balance(user) == Decimal(100)


@pytest.mark.parametrize(("amount", "currency"), [(PRICE - 1, "eur"), (PRICE, "usd")])
async def test_only_exactly_its_price_pays_a_purchase(
    top_ups: TopUps, user: User, amount: int, currency: str
) -> None:
    account = top_ups.low(user)
    start = top_ups.shop.service.rpc("top_up_start", p_account_id=account)
    intent = paid_by(top_ups, user, start["purchase_id"], amount, currency)
    event = top_ups.shop.event("payment_intent.succeeded", intent)
    assert top_ups.shop.deliver(event).status_code == 500
    assert "amount_mismatch" in top_ups.shop.inbox(event)[0]["last_error"]
    assert top_ups.statuses(account) == ["pending"]
    assert top_ups.shop.balance(user) == LEFT
