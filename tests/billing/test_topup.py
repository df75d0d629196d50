"""A paid checkout grants its credits, once, for exactly its price."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import httpx
import pytest

from functions.billing.tasks import apply_stripe_event
from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.settings import Settings
from functions.tasks.context import TaskContext, TaskRejectedError
from local.stack import Stack
from local.stripe_world import signed
from tests.billing.conftest import app_environment
from tests.billing.shop import CREDITS, PRICE, Purchase, Shop
from tests.conftest import NewUser, User


def test_a_paid_checkout_grants_its_credits(shop: Shop, user: User) -> None:
    before = shop.balance(user)
    purchase = shop.paid(user)
    assert shop.balance(user) == before + CREDITS
    row = shop.purchase(purchase.id)
    session = shop.stripe.world.get(purchase.session_id)
    assert row["status"] == "paid"
    assert row["stripe_payment_intent_id"] == session["payment_intent"]
    (lot,) = shop.lots(user)
    assert lot["id"] == row["lot_id"]
    assert (lot["amount"], lot["paid_minor"], lot["currency"]) == (CREDITS, PRICE, "eur")
    assert lot["reference"] == session["payment_intent"]
    assert lot["expires_at"] is None


def test_an_organization_gets_what_its_admin_buys(shop: Shop, user: User) -> None:
    slug = f"org-{user.id[-12:]}"
    organization = (
        user.client.rpc("create_organization", {"p_name": "Org", "p_slug": slug}).execute().data
    )
    before = shop.balance(user)
    shop.paid(user, organization=slug)
    account = shop.row(
        "select balance from public.credit_accounts where organization_id = %s", organization["id"]
    )
    assert account["balance"] == CREDITS
    assert shop.balance(user) == before


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_a_pack_has_one_invoice_one_payment_one_grant_and_one_receipt(
    shop: Shop, user: User, order: tuple[int, ...]
) -> None:
    """In whatever order its session, its payment, its invoice and their tie are told."""
    before = shop.balance(user)
    purchase = shop.buy(user)
    world = shop.stripe.world
    session = world.pay(purchase.session_id)
    (tie,) = world.payments_of(session["invoice"])
    events = [
        shop.event("checkout.session.completed", session),
        shop.event("payment_intent.succeeded", world.get(session["payment_intent"])),
        shop.event("invoice_payment.paid", tie),
        shop.event("invoice.paid", world.get(session["invoice"])),
    ]
    for place in order:
        assert shop.result(events[place]) == "applied"
        assert shop.result(events[place]) == "duplicate"
    assert shop.balance(user) == before + CREDITS
    (lot,) = shop.lots(user)
    (invoice,) = shop.rows("select * from public.invoices where user_id = %s", user.id)
    assert (invoice["status"], invoice["total_minor"], invoice["currency"]) == (
        "paid",
        PRICE,
        "eur",
    )
    assert (invoice["credits"], invoice["lot_id"]) == (0, None)
    assert invoice["number"] == world.get(session["invoice"])["number"]
    assert invoice["invoice_pdf_url"].endswith("/pdf")
    (payment,) = shop.rows("select * from public.payments where user_id = %s", user.id)
    assert (payment["status"], str(payment["purchase_id"])) == ("succeeded", purchase.id)
    assert payment["invoice_id"] == invoice["id"]
    (receipt,) = shop.rows(
        "select facts from private.notifications where user_id = %s and template = 'receipt'",
        user.id,
    )
    assert (receipt["facts"]["credits"], receipt["facts"]["amount_minor"]) == (CREDITS, PRICE)
    # And what is given back is taken from its one lot, once.
    assert shop.result(shop.refunded(purchase, PRICE // 2)) == "applied"
    (lot,) = shop.lots(user)
    assert lot["clawed_back"] == CREDITS / 2


def test_the_invoice_of_an_organizations_pack_is_the_organizations(shop: Shop, user: User) -> None:
    slug = f"org-{user.id[-12:]}"
    made = user.client.rpc("create_organization", {"p_name": "Org", "p_slug": slug}).execute().data
    purchase = shop.buy(user, organization=slug)
    session = shop.stripe.world.pay(purchase.session_id)
    invoice = shop.stripe.world.get(session["invoice"])
    assert shop.result(shop.event("invoice.paid", invoice)) == "applied"
    row = shop.row(
        "select i.organization_id, i.user_id, a.organization_id as of from public.invoices as i"
        " join public.credit_accounts as a on a.id = i.account_id where i.stripe_invoice_id = %s",
        invoice["id"],
    )
    assert (str(row["organization_id"]), row["user_id"]) == (made["id"], None)
    assert str(row["of"]) == made["id"]


def test_an_invoice_that_names_somebody_elses_purchase_is_an_invoice_of_its_own(
    shop: Shop, user: User, new_user: NewUser
) -> None:
    theirs = shop.buy(new_user())
    mine = shop.stripe.world.pay(shop.buy(user).session_id)
    named = {"quernel_purchase_id": theirs.id}
    invoice = shop.stripe.world.change(mine["invoice"], metadata=named)
    assert shop.result(shop.event("invoice.paid", invoice)) == "applied"
    assert shop.purchase(theirs.id)["status"] == "pending"
    receipts = shop.rows("select key from private.notifications where user_id = %s", user.id)
    assert [receipt["key"] for receipt in receipts] == [invoice["id"]]


def test_the_same_event_again_is_a_duplicate(shop: Shop, user: User) -> None:
    event = shop.completed(shop.buy(user))
    before = shop.balance(user)
    assert [shop.result(event) for _ in range(3)] == ["applied", "duplicate", "duplicate"]
    assert shop.balance(user) == before + CREDITS


def test_the_same_event_fifty_times_at_once_credits_once(shop: Shop, user: User) -> None:
    event = shop.completed(shop.buy(user))
    before = shop.balance(user)
    with ThreadPoolExecutor(50) as threads:
        results = list(threads.map(lambda _: shop.result(event), range(50)))
    assert sorted(results) == ["applied"] + ["duplicate"] * 49
    assert shop.balance(user) == before + CREDITS
    assert len(shop.lots(user)) == 1


def test_twenty_events_about_one_payment_at_once_credit_once(shop: Shop, user: User) -> None:
    """All of the same second, so that none can be told to be the newest."""
    purchase = shop.buy(user)
    session = shop.stripe.world.pay(purchase.session_id)
    before = shop.balance(user)
    events = [
        shop.stripe.world.event("checkout.session.completed", session, created=shop.clock)
        for _ in range(20)
    ]
    with ThreadPoolExecutor(20) as threads:
        assert set(threads.map(shop.result, events)) == {"applied"}
    assert shop.balance(user) == before + CREDITS
    assert len(shop.lots(user)) == 1


def test_a_crash_after_applying_and_before_answering(shop: Shop, user: User) -> None:
    """Stripe has no answer, so it delivers again; the database knows better."""
    event = shop.completed(shop.buy(user))
    before = shop.balance(user)
    applied = shop.service.rpc("stripe_event_receive", p_event=event, p_livemode=False)
    assert applied["result"] == "applied"
    assert shop.result(event) == "duplicate"
    assert shop.balance(user) == before + CREDITS


def test_a_payment_that_takes_days(shop: Shop, user: User) -> None:
    purchase = shop.buy(user)
    before = shop.balance(user)
    session = shop.stripe.world.pay(purchase.session_id, settled=False)
    assert shop.result(shop.event("checkout.session.completed", session)) == "applied"
    assert shop.purchase(purchase.id)["status"] == "pending"
    assert shop.balance(user) == before

    session = shop.stripe.world.settle(purchase.session_id)
    event = shop.event("checkout.session.async_payment_succeeded", session)
    assert shop.result(event) == "applied"
    assert shop.purchase(purchase.id)["status"] == "paid"
    assert shop.balance(user) == before + CREDITS


def test_a_payment_that_fails_after_days(shop: Shop, user: User) -> None:
    purchase = shop.buy(user)
    before = shop.balance(user)
    session = shop.stripe.world.pay(purchase.session_id, settled=False)
    completed = shop.event("checkout.session.completed", session)
    failed = shop.event("checkout.session.async_payment_failed", session)
    assert shop.result(failed) == "applied"
    assert shop.purchase(purchase.id)["status"] == "failed"
    assert shop.result(completed) == "ignored"
    assert shop.purchase(purchase.id)["status"] == "failed"
    assert shop.balance(user) == before


def test_a_checkout_that_expires(shop: Shop, user: User) -> None:
    purchase = shop.buy(user)
    session = shop.stripe.world.expire(purchase.session_id)
    assert shop.result(shop.event("checkout.session.expired", session)) == "applied"
    assert shop.purchase(purchase.id)["status"] == "expired"


def test_what_was_paid_stays_paid(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    session = shop.stripe.world.get(purchase.session_id) | {
        "status": "expired",
        "payment_status": "unpaid",
    }
    shop.result(shop.event("checkout.session.expired", session))
    assert shop.purchase(purchase.id)["status"] == "paid"


def test_a_pack_with_a_validity_expires(shop: Shop, user: User) -> None:
    slug = f"brief-{user.id[-12:]}"
    shop.rows(
        "insert into public.credit_packs (slug, name, credits, price_minor, valid_days)"
        " values (%s, 'Brief', 10, 100, 30)",
        slug,
    )
    shop.paid(user, pack=slug)
    (lot,) = shop.lots(user)
    assert (lot["expires_at"] - lot["created_at"]).days == 30


def test_price_and_credits_are_those_of_the_checkout(shop: Shop, user: User) -> None:
    slug = f"moving-{user.id[-12:]}"
    shop.rows(
        "insert into public.credit_packs (slug, name, credits, price_minor)"
        " values (%s, 'M', 10, 100)",
        slug,
    )
    purchase = shop.buy(user, pack=slug)
    shop.rows("update public.credit_packs set credits = 1, price_minor = 900 where slug = %s", slug)
    assert shop.result(shop.completed(purchase)) == "applied"
    assert shop.lots(user)[0]["amount"] == 10


# What does not fit is kept as failed, and grants nothing ----------------------------------------


def tampered(shop: Shop, purchase: Purchase, **fields: object) -> httpx.Response:
    event = shop.completed(purchase)
    event["data"]["object"] |= fields
    before = shop.balance(purchase.user)
    answer = shop.deliver(event)
    assert shop.balance(purchase.user) == before
    assert shop.purchase(purchase.id)["status"] == "pending"
    (row,) = shop.inbox(event)
    assert row["status"] == "failed"
    assert answer.json()["code"] == "event_not_applied"
    assert row["last_error"] not in answer.text
    answer.extensions["reason"] = row["last_error"]
    return answer


@pytest.mark.parametrize("paid", [PRICE - 1, PRICE + 1, 0, -PRICE, None])
def test_another_amount(shop: Shop, user: User, paid: int | None) -> None:
    answer = tampered(shop, shop.buy(user), amount_total=paid)
    assert answer.status_code == 500
    assert "amount_mismatch" in answer.extensions["reason"]


def test_another_currency(shop: Shop, user: User) -> None:
    answer = tampered(shop, shop.buy(user), currency="jpy")
    assert "amount_mismatch" in answer.extensions["reason"]


def test_another_reference(shop: Shop, user: User) -> None:
    answer = tampered(shop, shop.buy(user), client_reference_id=str(UUID(int=1)))
    assert "purchase_mismatch" in answer.extensions["reason"]


def test_another_session(shop: Shop, user: User) -> None:
    answer = tampered(shop, shop.buy(user), id="cs_test_other")
    assert "purchase_mismatch" in answer.extensions["reason"]


@pytest.mark.parametrize("named", ["0198c0de-7d3a-7c1e-9c39-1f2e3d4c5b6a", "' or true --"])
def test_a_purchase_that_does_not_exist(shop: Shop, user: User, named: str) -> None:
    answer = tampered(
        shop,
        shop.buy(user),
        id="cs_test_unknown",
        client_reference_id=named,
        metadata={"quernel_purchase_id": named},
    )
    assert "purchase_not_found" in answer.extensions["reason"]


def test_a_payment_that_paid_another_purchase_already(shop: Shop, user: User) -> None:
    first = shop.paid(user)
    taken = shop.stripe.world.get(first.session_id)["payment_intent"]
    tampered(shop, shop.buy(user), payment_intent=taken)
    assert len(shop.lots(user)) == 1


def test_a_checkout_of_another_product_is_ignored(shop: Shop) -> None:
    session = shop.stripe.world.make(
        "checkout.session", mode="payment", status="complete", payment_status="paid"
    )
    assert shop.result(shop.event("checkout.session.completed", session)) == "ignored"
    subscription = shop.stripe.world.make("checkout.session", mode="subscription")
    assert shop.result(shop.event("checkout.session.completed", subscription)) == "ignored"


def test_events_that_nobody_handles_are_kept_and_ignored(shop: Shop) -> None:
    event = shop.event("customer.created", shop.stripe.world.customer())
    assert shop.result(event) == "ignored"
    assert shop.result(event) == "duplicate"
    assert shop.inbox(event)[0]["status"] == "ignored"


# What failed is tried again ---------------------------------------------------------------------


def failed_event(shop: Shop, purchase: Purchase) -> dict[str, object]:
    """An event that fails for a cause an operator then removes."""
    event = shop.completed(purchase)
    shop.rows("update public.credit_purchases set price_minor = 1 where id = %s", purchase.id)
    assert shop.deliver(event).status_code == 500
    shop.rows(
        "update public.credit_purchases set price_minor = %s where id = %s", PRICE, purchase.id
    )
    return event


def test_a_failed_event_is_applied_when_delivered_again(shop: Shop, user: User) -> None:
    before = shop.balance(user)
    event = failed_event(shop, shop.buy(user))
    assert shop.result(event) == "applied"
    assert shop.balance(user) == before + CREDITS
    (row,) = shop.inbox(event)
    assert (row["status"], row["attempts"], row["last_error"]) == ("applied", 2, None)


@pytest.mark.anyio
async def test_a_failed_event_is_applied_by_the_worker(
    shop: Shop, user: User, stack: Stack
) -> None:
    before = shop.balance(user)
    event = failed_event(shop, shop.buy(user))
    task = shop.row(
        "select * from private.tasks where kind = 'stripe_event' and key = %s", event["id"]
    )
    assert task["status"] == "queued"
    settings = settings_of(shop, stack)
    database = await Database.open(settings)
    try:
        context = TaskContext(settings, database, task["id"], 1)
        assert await apply_stripe_event(task["payload"], context) == {"result": "applied"}
        assert await apply_stripe_event(task["payload"], context) == {"result": "duplicate"}
        with pytest.raises(TaskRejectedError):
            await apply_stripe_event({"event_id": "evt_unknown"}, context)
        with pytest.raises(TaskRejectedError):
            await apply_stripe_event({}, context)
    finally:
        await database.aclose()
    assert shop.balance(user) == before + CREDITS


@pytest.mark.anyio
async def test_the_worker_fails_while_the_event_does(shop: Shop, user: User, stack: Stack) -> None:
    purchase = shop.buy(user)
    event = shop.completed(purchase)
    event["data"]["object"]["amount_total"] = 1
    shop.deliver(event)
    settings = settings_of(shop, stack)
    database = await Database.open(settings)
    try:
        context = TaskContext(settings, database, UUID(int=0), 1)
        with pytest.raises(QuernelError, match="event_not_applied"):
            await apply_stripe_event({"event_id": event["id"]}, context)
    finally:
        await database.aclose()
    assert shop.inbox(event)[0]["attempts"] == 2


def settings_of(shop: Shop, stack: Stack) -> Settings:
    """The settings of the app under test."""
    prefix = "QUERNEL_"
    return Settings(
        _env_file=None,
        **{
            name.removeprefix(prefix).lower(): value
            for name, value in app_environment(stack, shop.stripe).items()
            if name.startswith(prefix)
        },
    )


def test_the_answer_says_nothing_but_the_result(shop: Shop, user: User) -> None:
    answer = shop.post(*signed(shop.completed(shop.buy(user)), shop.secret))
    assert answer.json() == {"result": "applied"}
