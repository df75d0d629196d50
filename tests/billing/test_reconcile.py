"""Reconciliation: what Stripe has and we do not is found and repaired; the rest is left alone."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from functions.billing.reconcile import WALK, Reconciler
from functions.billing.stripe_client import StripeGateway, stripe_client
from functions.billing.stripe_lists import StripeLists
from functions.billing.tasks import reconcile_stripe
from functions.core.database import Database
from functions.core.errors import UnavailableError
from functions.core.settings import Settings
from functions.tasks.context import TaskContext, TaskRetryError
from local.stack import Stack
from local.stripe_billing_world import BillingWorld
from local.stripe_double import RETRY_AFTER_SECONDS
from local.stripe_world import now
from tests.billing.shop import CREDITS as PACK_CREDITS
from tests.billing.shop import PRICE, Shop
from tests.billing.subscribers import CREDITS, Subscribers, days_ago, own_plan
from tests.conftest import User
from tests.support.reconciliation import alone

pytestmark = pytest.mark.anyio

STATE = (
    "with me as (select customer_id, account_id from private.stripe_customers where user_id = %s)"
    " select jsonb_build_array("
    " (select jsonb_agg(to_jsonb(o) order by o.id) from private.stripe_objects as o, me"
    "  where o.state ->> 'customer' = me.customer_id),"
    " (select jsonb_agg(to_jsonb(e) order by e.id) from private.stripe_events as e, me"
    "  where e.payload #>> '{data,object,customer}' = me.customer_id),"
    " (select to_jsonb(a) from public.credit_accounts as a, me where a.id = me.account_id),"
    " (select jsonb_agg(to_jsonb(s) order by s.id) from public.subscriptions as s, me"
    "  where s.account_id = me.account_id),"
    " (select jsonb_agg(to_jsonb(i) order by i.id) from public.invoices as i, me"
    "  where i.account_id = me.account_id),"
    " (select jsonb_agg(to_jsonb(p) order by p.id) from public.payments as p, me"
    "  where p.account_id = me.account_id),"
    " (select jsonb_agg(to_jsonb(c) order by c.id) from public.credit_purchases as c, me"
    "  where c.account_id = me.account_id)"
    ")::text as state"
)


@dataclass
class Books:
    """Stripe's side in a world of its own, and a worker that compares."""

    shop: Shop
    settings: Settings

    async def reconcile(self, days: int | None = None) -> dict[str, Any]:
        """Run to the end; the report."""
        async with self.open() as (reconciler, _):
            return dict(await reconciler.run(days))

    async def task(self, attempt: int = 1) -> dict[str, Any]:
        """As the worker does it."""
        async with self.open() as (_, database):
            context = TaskContext(self.settings, database, uuid.uuid4(), attempt)
            return dict(await reconcile_stripe({}, context))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[Reconciler, Database]]:
        database = await Database.open(self.settings)
        try:
            async with stripe_client(self.settings) as client:
                assert client is not None
                gateway, lists = StripeGateway(client), StripeLists(client)
                yield Reconciler(self.settings, database, gateway, lists), database
        finally:
            await database.aclose()

    async def settle(self) -> None:
        """Catch up with what the shop's helpers do not tell."""
        await self.reconcile()
        self.shop.stripe.requests.clear()

    def forget_events(self) -> None:
        """Stripe keeps events for thirty days only."""
        self.shop.stripe.world.events.clear()

    def state(self, user: User) -> str:
        """Everything that an object at Stripe may change, with when it last changed."""
        return str(self.shop.row(STATE, user.id)["state"])

    def reads(self) -> list[str]:
        """Paths of single objects that were asked for."""
        paths = [r.path.removeprefix("/v1/") for r in self.shop.stripe.requests]
        return [p for p in paths if p.replace("checkout/", "").count("/") == 1]

    def run(self) -> dict[str, Any]:
        """The newest run."""
        return self.shop.rows("select * from private.stripe_reconciliations order by id desc")[0]


@pytest.fixture
def books(shop: Shop, stack: Stack) -> Iterator[Books]:
    """The account at Stripe is empty, and no run is under way."""
    before = shop.stripe.world
    shop.stripe.world = BillingWorld()
    settings = Settings(
        environment="test",
        supabase_url=stack.supabase_url,
        supabase_secret_key=stack.keys.secret_key,
        stripe_secret_key="sk_test_reconcile",  # type: ignore[arg-type]
        stripe_api_base=shop.stripe.url,
    )
    with alone(shop.connect()):
        shop.rows("delete from private.stripe_reconciliations where status = 'running'")
        yield Books(shop, settings)
    shop.stripe.world = before


def told(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    return sorted((f["type"], f["finding"], f["outcome"]) for f in report["findings"])


# Nothing to do ----------------------------------------------------------------------------------


async def test_where_nothing_differs_nothing_changes_and_nothing_is_read(
    books: Books, subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user)
    charge = subscriber.world.charge_of_invoice(subscriber.invoice["id"])
    subscriber.deliver(
        [books.shop.event("charge.refunded", subscriber.world.refund(charge["id"], 870))]
    )
    books.shop.paid(user)
    books.shop.buy(user)  # a page nobody paid on
    await books.settle()
    before = books.state(user)
    report = await books.reconcile()
    assert report["findings"] == []
    assert (report["missing"], report["differing"], report["unapplied"]) == (0, 0, 0)
    assert report["compared"] > 10
    assert books.reads() == []
    assert books.state(user) == before


async def test_events_of_the_other_livemode_are_left_aside(books: Books, user: User) -> None:
    purchase = books.shop.buy(user)
    event = books.shop.completed(purchase)
    books.shop.stripe.world.events[-1]["livemode"] = True
    books.shop.stripe.world.change(purchase.session_id, created=days_ago(10))
    for kind in ("payment_intent", "charge", "invoice", "invoice_payment"):
        for made in books.shop.stripe.world.of_type(kind):
            books.shop.stripe.world.change(made["id"], created=days_ago(10))
    before = books.shop.balance(user)
    assert (await books.reconcile())["findings"] == []
    assert (books.shop.inbox(event), books.shop.balance(user)) == ([], before)


async def test_objects_of_other_customers_are_left_aside(books: Books) -> None:
    world = books.shop.stripe.world
    world.make("charge", customer="cus_elsewhere", amount_refunded=5, payment_intent="pi_elsewhere")
    world.make("subscription", customer="cus_elsewhere")
    assert (await books.reconcile())["findings"] == []
    assert books.reads() == []


async def test_without_payments_there_is_nothing_to_compare(books: Books) -> None:
    without = books.settings.model_copy(update={"stripe_secret_key": None})
    database = await Database.open(without)
    try:
        context = TaskContext(without, database, uuid.uuid4(), 1)
        assert await reconcile_stripe({}, context) == {"result": "payments_not_configured"}
    finally:
        await database.aclose()


# Lost and found ---------------------------------------------------------------------------------


async def test_a_lost_event_is_found_and_applied(books: Books, user: User) -> None:
    before = books.shop.balance(user)
    event = books.shop.completed(books.shop.buy(user))
    report = await books.reconcile()
    assert ("event", "missing", "repaired") in told(report)
    assert books.shop.inbox(event)[0]["status"] == "applied"
    assert books.shop.balance(user) == before + PACK_CREDITS


async def test_a_lost_purchase_is_found_without_its_event(books: Books, user: User) -> None:
    before = books.shop.balance(user)
    books.shop.completed(books.shop.buy(user))
    books.forget_events()
    report = await books.reconcile()
    assert told(report) == [
        ("checkout.session", "missing", "repaired"),
        ("invoice", "missing", "repaired"),
        ("invoice_payment", "missing", "repaired"),
        ("payment_intent", "missing", "repaired"),
    ]
    assert books.shop.balance(user) == before + PACK_CREDITS


async def test_a_lost_subscription_and_its_invoice_are_repaired(
    books: Books, subscribers: Subscribers, user: User
) -> None:
    before = books.shop.balance(user)
    subscriber = subscribers.silent(user)
    books.forget_events()
    report = await books.reconcile()
    assert {f["type"] for f in report["findings"]} == {
        "subscription",
        "payment_intent",
        "invoice_payment",
        "invoice",
        "checkout.session",
    }
    # The page it was bought on says nothing that the subscription did not.
    assert (report["repaired"], report["skipped"], report["failed"]) == (4, 1, 0)
    assert (subscriber.plan, subscriber.row["status"]) == ("pro", "active")
    assert [i["status"] for i in subscriber.invoices()] == ["paid"]
    assert books.shop.balance(user) == before + CREDITS["pro"]


async def test_a_lost_refund_takes_exactly_its_share(
    books: Books, subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user)
    await books.settle()
    before = books.shop.balance(user)
    charge = subscriber.world.charge_of_invoice(subscriber.invoice["id"])
    subscriber.world.refund(charge["id"], 870)
    assert told(await books.reconcile()) == [("charge", "missing", "repaired")]
    assert books.shop.balance(user) == before - CREDITS["pro"] * 3 / 10
    subscriber.world.refund(charge["id"], 870)
    assert told(await books.reconcile()) == [("charge", "differing", "repaired")]
    assert books.shop.balance(user) == before - CREDITS["pro"] * 6 / 10


async def test_a_lost_dispute_takes_the_credits(books: Books, user: User) -> None:
    before = books.shop.balance(user)
    purchase = books.shop.paid(user)
    charge = books.shop.charge(purchase)
    books.shop.stripe.world.dispute(charge["id"], status="needs_response")
    report = await books.reconcile()
    assert ("dispute", "missing", "repaired") in told(report)
    assert books.shop.purchase(purchase.id)["amount_disputed_minor"] == PRICE
    assert books.shop.balance(user) == before


async def test_a_subscription_that_ended_unheard_is_repaired(
    books: Books, subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user)
    await books.settle()
    subscriber.world.end(subscriber.id)
    assert told(await books.reconcile()) == [("subscription", "differing", "repaired")]
    assert (subscriber.row["status"], subscriber.plan) == ("canceled", "free")


async def test_what_was_lost_of_a_customer_deleted_at_stripe_is_repaired(
    books: Books, subscribers: Subscribers, user: User
) -> None:
    before = books.shop.balance(user)
    subscriber = subscribers.new(user, at=days_ago(31))
    await books.settle()
    subscriber.world.renew(subscriber.id)
    customer = subscriber.world.delete_customer(subscriber.state["customer"])
    books.forget_events()
    subscriber.later()
    subscriber.deliver([books.shop.event("customer.deleted", customer)])
    report = await books.reconcile(60)
    assert {kind for kind, _, _ in told(report)} >= {"subscription", "invoice", "payment_intent"}
    assert report["failed"] == 0
    assert (subscriber.row["status"], subscriber.plan) == ("canceled", "free")
    assert books.shop.balance(user) == before + CREDITS["pro"] * 2


async def test_what_did_not_follow_from_a_known_object_is_repaired(
    books: Books, subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user)
    await books.settle()
    books.shop.rows(
        "delete from public.payments where user_id = %s and provider = 'stripe'", user.id
    )
    report = await books.reconcile()
    # The first repair of the payment mends it for all that it belongs to.
    assert told(report) == [("payment_intent", "unapplied", "repaired")]
    (payment,) = books.shop.rows("select * from public.payments where user_id = %s", user.id)
    assert payment["invoice_id"] == subscriber.invoices()[0]["id"]


async def test_credits_that_were_not_taken_back_are(books: Books, user: User) -> None:
    """The mirror is right, and the ledger is not."""
    before = books.shop.balance(user)
    purchase = books.shop.paid(user)
    charge = books.shop.stripe.world.refund(books.shop.charge(purchase)["id"], PRICE)
    assert books.shop.result(books.shop.event("charge.refunded", charge)) == "applied"
    await books.settle()
    lot_id = books.shop.purchase(purchase.id)["lot_id"]
    books.shop.rows("select private.credit_claw_back(%s, 0, 'by mistake', 'r')", lot_id)
    assert books.shop.balance(user) == before + PACK_CREDITS
    report = await books.reconcile()
    assert {f["finding"] for f in report["findings"]} == {"unapplied"}
    assert books.shop.balance(user) == before


async def test_a_plan_that_grants_more_now_grants_nothing_for_invoices_of_before(
    books: Books, subscribers: Subscribers, user: User
) -> None:
    slug = own_plan(books.shop, credits_per_month=0, sort_order=3)
    subscriber = subscribers.new(user, at=days_ago(2), plan=slug)
    books.shop.rows("update public.plans set credits_per_month = 1000 where slug = %s", slug)
    report = await books.reconcile(100)
    assert "invoice" not in {kind for kind, *_ in told(report)}
    assert subscriber.lots() == []


async def test_what_cannot_be_repaired_is_reported_and_stops_nothing(
    books: Books, subscribers: Subscribers, user: User
) -> None:
    broken = books.shop.buy(user)
    books.shop.completed(broken)
    books.shop.stripe.world.change(broken.session_id, amount_total=1)
    books.forget_events()
    subscriber = subscribers.silent(user)
    before = books.shop.balance(user)
    report = await books.reconcile()
    (failed,) = [f for f in report["findings"] if f["outcome"] == "failed"]
    assert failed == {
        "type": "checkout.session",
        "id": broken.session_id,
        "finding": "missing",
        "outcome": "failed",
        "error": "amount_mismatch",
    }
    assert report["failed"] == 1
    assert subscriber.plan == "pro"
    assert books.shop.balance(user) == before + CREDITS["pro"]


async def test_a_second_run_finds_nothing(
    books: Books, subscribers: Subscribers, user: User
) -> None:
    subscribers.silent(user)
    books.shop.completed(books.shop.buy(user))
    assert (await books.reconcile())["repaired"] > 0
    before = books.state(user)
    assert (await books.reconcile())["findings"] == []
    assert books.state(user) == before


async def test_only_what_is_recent_is_compared(books: Books, user: User) -> None:
    purchase = books.shop.buy(user)
    books.shop.completed(purchase)
    books.forget_events()
    world = books.shop.stripe.world
    for kind in ("checkout.session", "payment_intent", "charge", "invoice", "invoice_payment"):
        for made in world.of_type(kind):
            world.change(made["id"], created=days_ago(20))
    assert (await books.reconcile(days=10))["compared"] == 0
    assert (await books.reconcile(days=30))["repaired"] == 4


# Cut off ----------------------------------------------------------------------------------------


def many(books: Books, count: int) -> None:
    """Several pages of events of which none is handled."""
    for _ in range(count):
        books.shop.stripe.world.event("balance.available", {"object": "balance"})


async def test_a_crash_in_the_middle_resumes_at_the_cursor(books: Books, user: User) -> None:
    before = books.shop.balance(user)
    lost = books.shop.completed(books.shop.buy(user))
    many(books, 60)  # newer: the lost one is on the second page

    async with books.open() as (reconciler, database):
        run = await database.rpc("stripe_reconcile_start", p_object_type=WALK[0])
        run = await reconciler._page(run)  # and then the process dies
    assert books.shop.balance(user) == before
    stands = books.run()
    assert (stands["status"], stands["object_type"]) == ("running", "event")
    assert stands["cursor"] is not None
    books.shop.stripe.requests.clear()

    report = await books.reconcile()
    first = books.shop.stripe.requests[0]
    assert (first.path, first.params["starting_after"]) == ("/v1/events", stands["cursor"])
    assert (report["run_id"], books.run()["status"]) == (str(stands["id"]), "completed")
    assert books.shop.inbox(lost)[0]["status"] == "applied"
    assert books.shop.balance(user) == before + PACK_CREDITS
    assert report["compared"] >= 61  # of both halves


async def test_a_429_backs_off_and_goes_on_later(books: Books, user: User) -> None:
    before = books.shop.balance(user)
    books.shop.completed(books.shop.buy(user))
    for attempt, seconds in ((1, RETRY_AFTER_SECONDS), (3, 4 * RETRY_AFTER_SECONDS)):
        books.shop.stripe.failures.append(429)
        with pytest.raises(TaskRetryError, match="payment_provider_unavailable") as pause:
            await books.task(attempt)
        assert pause.value.seconds == seconds
        assert books.run()["status"] == "running"
    assert books.shop.balance(user) == before
    report = await books.task()
    assert report["run_id"] == str(books.run()["id"])
    assert books.shop.balance(user) == before + PACK_CREDITS


async def test_a_provider_that_is_away_leaves_the_run_where_it_stands(books: Books) -> None:
    books.shop.stripe.failures += [503] * 3  # the SDK tries three times
    with pytest.raises(UnavailableError):
        await books.reconcile()
    assert books.run()["status"] == "running"
    assert (await books.reconcile())["run_id"] == str(books.run()["id"])


async def test_two_workers_do_not_note_the_same_page(books: Books) -> None:
    async with books.open() as (reconciler, database):
        run = await database.rpc("stripe_reconcile_start", p_object_type=WALK[0])
        await reconciler._page(run)
        with pytest.raises(Exception, match="reconciliation_moved"):
            await reconciler._page(run)
    assert books.run()["object_type"] == WALK[1]


async def test_a_run_that_is_stuck_is_abandoned_after_a_day(books: Books) -> None:
    async with books.open() as (_, database):
        stuck = await database.rpc("stripe_reconcile_start", p_object_type="event", p_days=5)
    books.shop.rows("alter table private.stripe_reconciliations disable trigger user")
    books.shop.rows(
        "update private.stripe_reconciliations set updated_at = now() - interval '25 hours'"
        " where id = %s",
        stuck["id"],
    )
    books.shop.rows("alter table private.stripe_reconciliations enable trigger user")
    report = await books.reconcile()
    assert report["run_id"] != stuck["id"]
    (row,) = books.shop.rows(
        "select status from private.stripe_reconciliations where id = %s", stuck["id"]
    )
    assert row["status"] == "abandoned"


async def test_a_report_is_bounded(books: Books) -> None:
    async with books.open() as (_, database):
        run = await database.rpc("stripe_reconcile_start", p_object_type="event")
        findings = [
            {"type": "event", "id": f"evt_{n}", "finding": "missing", "outcome": "failed"}
            for n in range(250)
        ]
        run = await database.rpc(
            "stripe_reconcile_note",
            p_run_id=run["id"],
            p_object_type="event",
            p_cursor=None,
            p_next_type=None,
            p_next_cursor=None,
            p_compared=250,
            p_findings=findings,
        )
    assert (run["failed"], len(run["findings"])) == (250, 200)


async def test_the_daily_job_leaves_one_task(books: Books) -> None:
    async with books.open() as (_, database):
        for _ in range(2):
            assert await database.rpc("stripe_reconcile_enqueue") == {"count": 1}
    waiting = books.shop.rows(
        "select * from private.tasks where kind = 'stripe_reconcile' and status = 'queued'"
    )
    assert len(waiting) <= 1


async def test_the_pages_are_stripes(books: Books) -> None:
    """What is asked for: everything that was made lately, also what has ended."""
    await books.reconcile(days=2)
    asked = {r.path: r.params for r in books.shop.stripe.requests}
    assert len(asked) == len(WALK)
    for params in asked.values():
        assert int(params["created"]["gte"]) == pytest.approx(now() - 2 * 86_400, abs=60)
    assert asked["/v1/subscriptions"]["status"] == "all"


async def test_reports_are_deleted_past_their_retention(books: Books) -> None:
    def report(days: int) -> str:
        row = books.shop.row(
            "insert into private.stripe_reconciliations (since, status, finished_at)"
            " select now(), 'completed', now() - %s * interval '1 day' returning id",
            days,
        )
        return str(row["id"])

    old, recent = report(401), report(399)
    await books.reconcile(days=1)
    kept = books.shop.rows("select id::text from private.stripe_reconciliations")
    ids = {row["id"] for row in kept}
    assert recent in ids
    assert old not in ids
