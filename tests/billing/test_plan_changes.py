"""Changing, canceling, pausing: nothing is had that was not paid, and nothing paid is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from local.stripe_world import StripeObject
from tests.billing.subscribers import (
    CREDITS,
    PRICES,
    Subscriber,
    Subscribers,
    days_ago,
    own_plan,
    price_id,
)
from tests.billing.test_checkout import make_organization
from tests.conftest import NewUser, User


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def posted(subscriber: Subscriber) -> list[str]:
    """What was asked of Stripe about the subscription."""
    return [r.method for r in subscriber.shop.stripe.requests if r.path.endswith(subscriber.id)]


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["change", "cancel", "pause", "resume"])
def test_a_strangers_subscription_answers_as_none(
    subscribers: Subscribers, user: User, new_user: NewUser, action: str
) -> None:
    subscriber = subscribers.new(user)
    subscriber.user = new_user()
    body = {"plan": "business"} if action == "change" else {}
    if action == "cancel":
        body = {"when": "now"}
    assert refusal(subscriber.post(action, **body)) == (404, "subscription_not_found")
    assert posted(subscriber) == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"plan": "pro"}, 409, "same_plan"),
        ({"plan": "no-such-plan"}, 404, "plan_not_found"),
        ({"plan": "enterprise"}, 409, "plan_not_on_sale"),
        ({"plan": "business", "interval": "day"}, 422, "invalid_request"),
        ({"plan": "business", "price": 1}, 422, "invalid_request"),
    ],
)
def test_changes_that_are_none(
    subscribers: Subscribers, user: User, body: dict[str, object], status: int, code: str
) -> None:
    subscriber = subscribers.new(user)
    assert refusal(subscriber.post("change", **body)) == (status, code)
    assert posted(subscriber) == []


@pytest.mark.parametrize(
    ("there", "code"),
    [((999, "eur"), "plan_price_mismatch"), (None, "price_not_available")],
)
def test_a_plan_that_stripe_sells_otherwise_is_not_changed_to(
    subscribers: Subscribers, user: User, there: tuple[int, str] | None, code: str
) -> None:
    shop, subscriber = subscribers.shop, subscribers.new(user)
    slug = own_plan(shop, sort_order=9)
    price = shop.row("select stripe_price_id_monthly as id from public.plans where slug = %s", slug)
    del shop.stripe.world.prices[price["id"]]
    if there is not None:
        shop.stripe.world.prices[price["id"]] = there
    assert refusal(subscriber.post("change", plan=slug)) == (409, code)
    assert posted(subscriber) == []
    assert subscriber.plan == "pro"


def test_what_has_ended_cannot_be_changed(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user)
    subscriber.world.end(subscriber.id)
    subscriber.told("customer.subscription.deleted")
    for action in ("change", "pause", "resume"):
        body = {"plan": "business"} if action == "change" else {}
        assert refusal(subscriber.post(action, **body)) == (409, "subscription_not_changeable")


def test_a_year_that_is_paid_is_not_changed_to_months(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user, interval="year")
    for plan in ("pro", "business"):
        answer = subscriber.post("change", plan=plan, interval="month")
        assert refusal(answer) == (409, "interval_not_changeable")
    assert posted(subscriber) == []


# A larger plan ----------------------------------------------------------------------------------


def test_a_larger_plan_begins_at_once_and_its_share_is_granted(
    subscribers: Subscribers, user: User
) -> None:
    """Half of the month is left: half of the new plan's credits less half of the old one's."""
    subscriber = subscribers.new(user, at=days_ago(15))
    answer = subscriber.post("change", plan="business")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["plan"], answer.json()["is_payment_pending"]) == ("business", False)
    assert subscriber.plan == "business"
    (update,) = subscribers.shop.stripe.made(f"/v1/subscriptions/{subscriber.id}")
    assert update.params["proration_behavior"] == "always_invoice"
    assert update.params["payment_behavior"] == "pending_if_incomplete"
    assert update.headers["idempotency-key"].startswith("quernel-subscription-")
    subscriber.deliver(subscriber.invoiced())
    invoice = subscriber.invoices()[-1]
    assert invoice["billing_reason"] == "subscription_update"
    assert invoice["total_minor"] == (PRICES["business"][0] - PRICES["pro"][0]) / 2
    granted = subscriber.lots()[-1]["amount"]
    assert abs(granted - (CREDITS["business"] - CREDITS["pro"]) / 2) < 1
    assert [item["type"] for item in invoice["items"]] == ["proration", "proration"]


def test_a_larger_plan_that_is_not_paid_changes_nothing(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user)
    before = subscribers.shop.balance(user)
    subscriber.world.declining.add(subscriber.state["customer"])
    answer = subscriber.post("change", plan="business")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["plan"], answer.json()["is_payment_pending"]) == ("pro", True)
    assert (subscriber.plan, subscribers.shop.balance(user)) == ("pro", before)


def unpaid_upgrade(subscribers: Subscribers, user: User) -> tuple[Subscriber, StripeObject]:
    """From pro to business with half of the month left; declined, and told so. The open invoice."""
    subscriber = subscribers.new(user, at=days_ago(15))
    subscriber.world.declining.add(subscriber.state["customer"])
    answer = subscriber.post("change", plan="business")
    assert answer.json()["is_payment_pending"] is True, answer.text
    subscriber.world.declining.clear()
    invoice = subscriber.invoice
    assert (invoice["status"], invoice["billing_reason"]) == ("open", "subscription_update")
    subscriber.later()
    subscriber.deliver(subscriber.invoiced(invoice))
    assert (subscriber.plan, subscriber.row["slug"]) == ("pro", "pro")
    assert len(subscriber.lots()) == 1
    return subscriber, invoice


@pytest.mark.parametrize("first", ["plan", "money"])
def test_a_larger_plan_that_is_paid_later_begins_then_once(
    subscribers: Subscribers, user: User, first: str
) -> None:
    subscriber, _ = unpaid_upgrade(subscribers, user)
    applied = subscribers.shop.event(
        "customer.subscription.pending_update_applied",
        subscriber.world.settle_pending_update(subscriber.id),
    )
    paid = subscriber.invoiced()
    assert paid[-1]["type"] == "invoice.paid"
    told = [applied, *paid] if first == "plan" else [*paid, applied]
    subscriber.deliver(told + told)
    assert (subscriber.plan, subscriber.row["slug"]) == ("business", "business")
    granted = [lot["amount"] for lot in subscriber.lots()]
    assert len(granted) == 2
    assert abs(granted[1] - (CREDITS["business"] - CREDITS["pro"]) / 2) < 1
    assert [i["status"] for i in subscriber.invoices()] == ["paid", "paid"]


def test_a_larger_plan_that_is_never_paid_leaves_everything_as_it_was(
    subscribers: Subscribers, user: User
) -> None:
    subscriber, invoice = unpaid_upgrade(subscribers, user)
    before = (subscriber.plan, subscriber.profile, subscriber.lots())
    balance = subscribers.shop.balance(user)
    state = subscriber.world.expire_pending_update(subscriber.id)
    assert subscriber.told("customer.subscription.pending_update_expired") == "applied"
    void = subscriber.world.get(invoice["id"])
    subscriber.deliver([subscribers.shop.event("invoice.voided", void)])
    assert state["pending_update"] is None
    assert (subscriber.plan, subscriber.profile, subscriber.lots()) == before
    assert subscribers.shop.balance(user) == balance
    assert [i["status"] for i in subscriber.invoices()] == ["paid", "void"]
    # And it can be asked for again.
    answer = subscriber.post("change", plan="business")
    assert (answer.status_code, answer.json()["plan"]) == (200, "business")


def test_a_year_that_is_paid_later_begins_with_its_payment(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user, at=days_ago(15))
    subscriber.world.declining.add(subscriber.state["customer"])
    answer = subscriber.post("change", plan="pro", interval="year")
    assert (answer.json()["interval"], answer.json()["is_payment_pending"]) == ("month", True)
    subscriber.world.declining.clear()
    subscriber.world.settle_pending_update(subscriber.id)
    subscriber.later()
    subscriber.deliver(subscriber.invoiced())
    assert subscriber.told("customer.subscription.pending_update_applied") == "applied"
    assert subscriber.row["billing_interval"] == "year"
    assert abs(subscriber.lots()[-1]["amount"] - (CREDITS["pro"] * 12 - CREDITS["pro"] / 2)) < 5


def test_from_months_to_a_year_the_year_is_granted_less_the_rest_of_the_month(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user, at=days_ago(15))
    answer = subscriber.post("change", plan="pro", interval="year")
    assert (answer.status_code, answer.json()["interval"]) == (200, "year")
    subscriber.deliver(subscriber.invoiced())
    assert abs(subscriber.lots()[-1]["amount"] - (CREDITS["pro"] * 12 - CREDITS["pro"] / 2)) < 5


# A smaller plan ---------------------------------------------------------------------------------


def test_a_smaller_plan_waits_for_the_end_of_the_period(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user, plan="business")
    before = subscribers.shop.balance(user)
    answer = subscriber.post("change", plan="pro")
    assert answer.status_code == 200, answer.text
    changed = answer.json()
    assert (changed["plan"], changed["kept_plan"]) == ("pro", "business")
    assert changed["kept_until"] == changed["current_period_end"]
    assert (subscriber.plan, subscribers.shop.balance(user)) == ("business", before)
    (update,) = subscribers.shop.stripe.made(f"/v1/subscriptions/{subscriber.id}")
    assert update.params["proration_behavior"] == "none"  # no money back for credits already had
    assert len(subscriber.invoices()) == 1


def changed_down(subscribers: Subscribers, user: User) -> Subscriber:
    """Changed from business to pro in a period that has ended since."""
    subscriber = subscribers.new(user, at=days_ago(29), plan="business")
    assert subscriber.post("change", plan="pro").status_code == 200
    # Two days later, as far as the dates go.
    state = subscriber.state
    metadata = state["metadata"] | {"quernel_paid_until": str(days_ago(1))}
    subscriber.world.change(subscriber.id, metadata=metadata)
    invoice = subscriber.world.renew(subscriber.id)
    subscriber.later()
    assert subscriber.told() == "applied"
    subscriber.deliver(subscriber.invoiced(invoice))
    return subscriber


def test_with_the_next_period_the_smaller_plan_begins(subscribers: Subscribers, user: User) -> None:
    subscriber = changed_down(subscribers, user)
    assert subscriber.plan == "pro"
    assert [lot["amount"] for lot in subscriber.lots()] == [CREDITS["business"], CREDITS["pro"]]


def test_a_change_to_a_smaller_plan_can_be_taken_back_for_nothing(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user, plan="business")
    subscriber.post("change", plan="pro")
    answer = subscriber.post("change", plan="business")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["plan"], answer.json()["kept_plan"]) == ("business", None)
    assert len(subscriber.invoices()) == 1
    assert subscriber.state["metadata"].keys() == {"quernel_checkout_id", "quernel_plan"}


def test_while_a_smaller_plan_waits_nothing_larger_is_bought(
    subscribers: Subscribers, user: User
) -> None:
    """Stripe would charge the difference from the smaller plan, which was never had."""
    subscriber = subscribers.new(user, plan="business")
    larger = own_plan(subscribers.shop, sort_order=9, price_monthly_minor=20000)
    subscriber.post("change", plan="pro")
    answer = subscriber.post("change", plan=larger)
    assert refusal(answer) == (409, "change_pending")
    assert answer.json()["plan"] == "business"


def test_a_larger_plan_that_is_about_to_end_is_not_taken_back(
    subscribers: Subscribers, user: User
) -> None:
    """Carried out a minute later, it would be the next period's plan for nothing."""
    subscriber = subscribers.new(user, at=days_ago(30) + 900, plan="business")
    assert subscriber.post("change", plan="pro").status_code == 200
    paid_until = str(days_ago(0) + 300)
    metadata = subscriber.state["metadata"] | {"quernel_paid_until": paid_until}
    subscriber.world.change(subscriber.id, metadata=metadata)
    subscriber.later()
    subscriber.told()
    answer = subscriber.post("change", plan="business")
    assert refusal(answer) == (409, "change_pending")
    assert subscriber.state["items"]["data"][0]["price"]["id"] == price_id("pro")


def test_a_smaller_plan_is_not_chosen_in_the_last_minutes_of_a_period(
    subscribers: Subscribers, user: User
) -> None:
    """Carried out a minute later, the larger one would be paid once more and not be had."""
    subscriber = subscribers.new(user, at=days_ago(30) + 300, plan="business")
    answer = subscriber.post("change", plan="pro")
    assert refusal(answer) == (409, "change_pending")
    assert (subscriber.plan, posted(subscriber)) == ("business", [])


@pytest.mark.parametrize("order", [3, 9])
def test_a_cheaper_plan_is_a_smaller_one_wherever_it_stands_in_the_list(
    subscribers: Subscribers, user: User, order: int
) -> None:
    """As an upgrade it would give money back for credits that were had."""
    subscriber = subscribers.new(user, plan="business")
    cheaper = own_plan(subscribers.shop, sort_order=order)
    answer = subscriber.post("change", plan=cheaper)
    assert (answer.status_code, answer.json()["kept_plan"]) == (200, "business")
    assert min(i["total"] for i in subscriber.world.of_type("invoice")) >= 0
    assert len(subscriber.invoices()) == 1


def test_a_year_that_costs_less_than_the_month_is_no_larger_plan(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user, plan="business")
    cheaper = own_plan(subscribers.shop, sort_order=3, price_yearly_minor=5000)
    answer = subscriber.post("change", plan=cheaper, interval="year")
    assert refusal(answer) == (409, "interval_not_changeable")


def test_credits_that_were_spent_are_not_paid_back_by_changing_down(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user, plan="business")
    subscribers.shop.spend(user, CREDITS["business"])
    subscriber.post("change", plan="pro")
    invoices = subscriber.world.of_type("invoice")
    assert min(i["total"] for i in invoices) >= 0
    assert subscriber.state["items"]["data"][0]["price"]["id"] == price_id("pro")


# Trials -----------------------------------------------------------------------------------------


def test_in_a_trial_a_plan_without_one_is_not_to_be_had(
    subscribers: Subscribers, user: User
) -> None:
    slug = own_plan(subscribers.shop, trial_days=14, sort_order=2)
    subscriber = subscribers.new(user, plan=slug)
    answer = subscriber.post("change", plan="business")
    assert refusal(answer) == (409, "plan_without_trial")
    assert (subscriber.plan, posted(subscriber)) == (slug, [])


def test_in_a_trial_that_is_about_to_end_nothing_is_replaced(
    subscribers: Subscribers, user: User
) -> None:
    """Carried out a minute later, it would be the paid period's plan for nothing."""
    slug = own_plan(subscribers.shop, trial_days=14, sort_order=2)
    larger = own_plan(subscribers.shop, trial_days=14, sort_order=3, price_monthly_minor=9000)
    subscriber = subscribers.new(user, plan=slug, at=days_ago(14) + 300)
    answer = subscriber.post("change", plan=larger)
    assert refusal(answer) == (409, "change_pending")
    assert (subscriber.plan, posted(subscriber)) == (slug, [])


def test_in_a_trial_the_plan_is_replaced(subscribers: Subscribers, user: User) -> None:
    slug = own_plan(subscribers.shop, trial_days=14, sort_order=3)
    other = own_plan(subscribers.shop, trial_days=7, sort_order=2)
    subscriber = subscribers.new(user, plan=slug)
    end = subscriber.row["trial_end"]
    assert subscriber.post("change", plan=other).status_code == 200
    assert (subscriber.row["status"], subscriber.plan) == ("trialing", other)
    assert (subscriber.row["trial_end"], subscriber.lots()) == (end, [])


# Canceling --------------------------------------------------------------------------------------


def test_canceled_at_the_end_the_plan_is_kept_until_then(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user)
    answer = subscriber.post("cancel", when="period_end")
    assert (answer.status_code, answer.json()["cancel_at_period_end"]) == (200, True)
    assert subscriber.plan == "pro"
    end = datetime.fromisoformat(answer.json()["current_period_end"])
    assert subscriber.profile["plan_expires_at"] == end  # without the grace of a renewal
    resumed = subscriber.post("resume")
    assert (resumed.status_code, resumed.json()["cancel_at_period_end"]) == (200, False)
    assert subscriber.profile["plan_expires_at"] > end


def test_an_end_on_a_date_is_taken_back(subscribers: Subscribers, user: User) -> None:
    """As somebody at Stripe's dashboard sets it."""
    subscriber = subscribers.new(user)
    date = days_ago(-10)
    subscriber.world.update_subscription(subscriber.id, {"cancel_at": str(date)})
    assert subscriber.told() == "applied"
    assert subscriber.row["cancel_at_period_end"] is False
    assert subscriber.profile["plan_expires_at"] == datetime.fromtimestamp(date, UTC)
    resumed = subscriber.post("resume")
    assert (resumed.status_code, resumed.json()["status"]) == (200, "active")
    (update,) = subscribers.shop.stripe.made(f"/v1/subscriptions/{subscriber.id}")
    assert update.params == {"cancel_at": ""}
    assert (subscriber.row["cancel_at"], subscriber.row["canceled_at"]) == (None, None)
    assert subscriber.profile["plan_expires_at"] > datetime.fromtimestamp(date, UTC)
    # And then there is nothing to take back.
    assert refusal(subscriber.post("resume")) == (409, "subscription_not_changeable")


def test_canceled_now_it_ends_now_and_the_credits_stay_to_their_date(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user)
    before = subscribers.shop.balance(user)
    answer = subscriber.post("cancel", when="now")
    assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    assert subscriber.plan == "free"
    assert subscriber.profile["subscription_status"] == "canceled"
    assert subscribers.shop.balance(user) == before
    assert posted(subscriber)[-1] == "DELETE"


def test_after_it_ended_one_can_subscribe_again(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user)
    subscriber.post("cancel", when="now")
    again = subscribers.new(user, plan="business")
    assert again.id != subscriber.id
    assert again.plan == "business"


# Pausing ----------------------------------------------------------------------------------------


def test_a_pause_leaves_what_is_paid(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user)
    answer = subscriber.post("pause")
    assert (answer.status_code, answer.json()["is_paused"]) == (200, True)
    assert answer.json()["kept_until"] == answer.json()["current_period_end"]
    assert subscriber.plan == "pro"
    assert refusal(subscriber.post("pause")) == (409, "subscription_not_changeable")
    assert refusal(subscriber.post("change", plan="business")) == (
        409,
        "subscription_not_changeable",
    )
    resumed = subscriber.post("resume")
    assert (resumed.status_code, resumed.json()["is_paused"]) == (200, False)
    assert len(subscriber.invoices()) == 1  # within what is paid nothing is charged


def test_a_pause_does_not_forget_the_larger_plan_that_is_paid(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user, plan="business")
    subscriber.post("change", plan="pro")
    assert subscriber.post("pause").status_code == 200
    assert subscriber.plan == "business"
    resumed = subscriber.post("resume")
    assert (resumed.json()["plan"], resumed.json()["kept_plan"]) == ("pro", "business")
    assert subscriber.plan == "business"


def test_a_pause_does_not_bring_back_a_larger_plan_of_a_period_before(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = changed_down(subscribers, user)
    assert subscriber.post("pause").status_code == 200
    assert (subscriber.plan, subscriber.row["paid_plan_id"]) == ("pro", None)
    assert subscriber.post("resume").json()["kept_plan"] is None
    assert subscriber.plan == "pro"


def paused_for_long(subscribers: Subscribers, user: User) -> Subscriber:
    """Paused in a period that has ended since; the next one was not collected."""
    subscriber = subscribers.new(user, at=days_ago(31))
    assert subscriber.post("pause").status_code == 200
    invoice = subscriber.world.renew(subscriber.id)
    assert invoice["status"] == "void"
    subscriber.later()
    subscribers.shop.result(subscribers.shop.event("invoice.voided", invoice))
    assert subscriber.told() == "applied"
    return subscriber


def test_in_a_pause_nothing_is_had_beyond_what_was_paid(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = paused_for_long(subscribers, user)
    assert (subscriber.row["status"], subscriber.plan) == ("active", "free")
    assert len(subscriber.lots()) == 1


def test_what_is_not_paid_yet_is_not_kept_by_pausing(subscribers: Subscribers, user: User) -> None:
    """The period has begun, and Stripe collects it in an hour."""
    subscriber = subscribers.new(user, at=days_ago(31))
    draft = subscriber.world.renew(subscriber.id) | {"status": "draft", "number": None}
    subscriber.later()
    assert subscriber.told() == "applied"
    assert refusal(subscriber.post("pause")) == (409, "subscription_not_changeable")
    subscribers.shop.result(subscribers.shop.event("invoice.created", draft))
    assert refusal(subscriber.post("pause")) == (409, "subscription_not_changeable")
    assert posted(subscriber) == []
    subscriber.deliver(subscriber.invoiced())
    assert subscriber.post("pause").status_code == 200


def test_a_pause_that_ends_within_minutes_begins_a_new_period(
    subscribers: Subscribers, user: User
) -> None:
    """Carried out a minute later, it would be the next period for nothing."""
    subscriber = subscribers.new(user, at=days_ago(30) + 300)
    subscriber.post("pause")
    assert subscriber.post("resume").status_code == 200
    invoice = subscriber.world.of_type("invoice")[-1]
    assert invoice["billing_reason"] == "subscription_update"
    (update,) = subscribers.shop.stripe.made(f"/v1/subscriptions/{subscriber.id}")[1:]
    assert update.params["billing_cycle_anchor"] == {"type": "now"}


def test_after_a_long_pause_a_new_period_is_charged(subscribers: Subscribers, user: User) -> None:
    subscriber = paused_for_long(subscribers, user)
    answer = subscriber.post("resume")
    assert (answer.status_code, answer.json()["is_paused"]) == (200, False)
    start = datetime.fromisoformat(answer.json()["current_period_start"])
    assert datetime.now(UTC) - start < timedelta(seconds=60)
    subscriber.deliver(subscriber.invoiced())
    assert subscriber.plan == "pro"
    assert len(subscriber.lots()) == 2


def test_a_resumption_that_is_declined_changes_nothing(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = paused_for_long(subscribers, user)
    subscriber.world.declining.add(subscriber.state["customer"])
    answer = subscriber.post("resume")
    assert refusal(answer) == (402, "payment_declined")
    assert answer.json()["remedy"] == "update_payment_method"
    assert (subscriber.row["is_paused"], subscriber.plan) == (True, "free")
    # With a good card the same request goes through.
    subscriber.world.declining.clear()
    assert subscriber.post("resume").status_code == 200


def test_a_resumption_that_is_asked_for_twice_charges_one_period(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = paused_for_long(subscribers, user)
    before = len(subscriber.world.of_type("invoice"))
    subscribers.shop.stripe.latency_seconds = 0.3  # both are decided before either is done
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda _: subscriber.post("resume"), range(2)))
    assert {answer.status_code for answer in answers} <= {200, 409, 503}
    assert 200 in {answer.status_code for answer in answers}
    assert len(subscriber.world.of_type("invoice")) == before + 1


def test_a_trial_that_ended_without_a_card_is_resumed(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user)
    subscriber.world.change(subscriber.id, status="paused")
    subscriber.told("customer.subscription.paused")
    assert subscriber.plan == "free"
    answer = subscriber.post("resume")
    assert (answer.status_code, answer.json()["status"]) == (200, "active")
    assert subscriber.plan == "pro"


# Stripe's answers -------------------------------------------------------------------------------


def test_an_event_of_the_same_change_changes_nothing_more(
    subscribers: Subscribers, user: User
) -> None:
    subscriber = subscribers.new(user)
    subscriber.post("cancel", when="period_end")
    before = subscriber.row
    subscriber.later()
    assert subscriber.told() == "applied"
    assert {**subscriber.row, "updated_at": None} == {**before, "updated_at": None}


def test_when_stripe_does_not_answer_nothing_changes(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user)
    subscribers.shop.stripe.failures[:] = [503] * 3
    answer = subscriber.post("cancel", when="now")
    assert refusal(answer) == (503, "payment_provider_unavailable")
    assert (subscriber.row["status"], subscriber.plan) == ("active", "pro")


# The portal -------------------------------------------------------------------------------------


def portal(subscribers: Subscribers, user: User, **body: object) -> httpx.Response:
    return subscribers.shop.http.post(
        "/billing/portal",
        json={"return_url": "http://localhost:3000/account"} | body,
        headers=user.headers,
    )


def test_the_portal_is_for_customers(subscribers: Subscribers, user: User) -> None:
    assert refusal(portal(subscribers, user)) == (404, "customer_not_found")
    assert refusal(portal(subscribers, user, return_url="https://evil.example")) == (
        400,
        "url_not_allowed",
    )
    subscribers.new(user)
    answer = portal(subscribers, user)
    assert answer.status_code == 200
    (made,) = subscribers.shop.stripe.made("/v1/billing_portal/sessions")
    assert made.params["return_url"] == "http://localhost:3000/account"
    assert answer.json()["url"].startswith(subscribers.shop.stripe.url)


def test_the_portal_of_an_organization_is_for_its_admins(
    subscribers: Subscribers, user: User, new_user: NewUser
) -> None:
    made = new_user().client.rpc(
        "create_organization", {"p_name": "Theirs", "p_slug": f"o-{user.id[-12:]}"}
    )
    organization = made.execute().data["id"]
    assert refusal(portal(subscribers, user, organization=organization)) == (403, "not_a_member")


# Organizations ----------------------------------------------------------------------------------


def organization_of(
    subscribers: Subscribers, owner: User, **members: User
) -> tuple[Subscriber, str]:
    """An organization with a subscription to pro, in which others have a role; its slug."""
    slug = make_organization(subscribers.shop, owner, **members)
    return subscribers.new(owner, organization=slug), slug


ACTIONS: list[tuple[str, dict[str, object]]] = [
    ("change", {"plan": "business"}),
    ("pause", {}),
    ("resume", {}),
    ("cancel", {"when": "period_end"}),
    ("cancel", {"when": "now"}),
]
"""In an order in which an admin can do all of them."""


@pytest.mark.parametrize(("action", "body"), ACTIONS)
def test_a_plain_member_changes_nothing_of_an_organizations_subscription(
    subscribers: Subscribers, user: User, new_user: NewUser, action: str, body: dict[str, object]
) -> None:
    subscriber, _ = organization_of(subscribers, new_user(), member=user)
    if action == "resume":
        assert subscriber.post("pause").status_code == 200
    subscribers.shop.stripe.requests.clear()
    before = subscriber.row
    subscriber.user = user
    assert refusal(subscriber.post(action, **body)) == (403, "not_an_admin")
    assert posted(subscriber) == []
    assert subscriber.row == before


def test_an_admin_changes_an_organizations_subscription(
    subscribers: Subscribers, user: User, new_user: NewUser
) -> None:
    subscriber, _ = organization_of(subscribers, new_user(), admin=user)
    subscriber.user = user
    for action, body in ACTIONS:
        answer = subscriber.post(action, **body)
        assert answer.status_code == 200, (action, answer.text)
    assert (subscriber.row["status"], subscriber.row["slug"]) == ("canceled", "business")


def test_an_organizations_portal_is_opened_by_its_admins_and_by_no_plain_member(
    subscribers: Subscribers, user: User, new_user: NewUser
) -> None:
    admin = new_user()
    subscriber, slug = organization_of(subscribers, new_user(), member=user, admin=admin)
    assert refusal(portal(subscribers, user, organization=slug)) == (403, "not_an_admin")
    assert subscribers.shop.stripe.made("/v1/billing_portal/sessions") == []
    assert portal(subscribers, admin, organization=slug).status_code == 200
    (made,) = subscribers.shop.stripe.made("/v1/billing_portal/sessions")
    assert made.params["customer"] == subscriber.state["customer"]
