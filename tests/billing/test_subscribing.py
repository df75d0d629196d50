"""Buying a subscription: who may, what is refused before Stripe hears of it, one page at most."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.billing.shop import ORIGIN
from tests.billing.subscribers import CREDITS, Subscribers, own_plan, price_id
from tests.billing.test_checkout import make_organization
from tests.conftest import NewUser, User


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"plan": "no-such-plan"}, 404, "plan_not_found"),
        ({"plan": "free"}, 409, "plan_not_on_sale"),
        ({"plan": "enterprise"}, 409, "plan_not_on_sale"),
        ({"interval": "week"}, 422, "invalid_request"),
        ({"plan": ""}, 422, "invalid_request"),
        ({"currency": "usd"}, 409, "currency_mismatch"),
        ({"currency": "euros"}, 422, "invalid_request"),
        ({"success_url": "https://evil.example/"}, 400, "url_not_allowed"),
        ({"cancel_url": "javascript:alert(1)"}, 400, "url_not_allowed"),
        ({"price": "price_pro_month"}, 422, "invalid_request"),
        ({"amount_minor": -1}, 422, "invalid_request"),
        ({"organization": "nobody-s-organization"}, 403, "not_a_member"),
    ],
)
def test_what_is_refused_never_reaches_stripe(
    subscribers: Subscribers, user: User, change: dict[str, object], status: int, code: str
) -> None:
    answer = subscribers.request(user, **change)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert subscribers.shop.stripe.requests == []


def test_nobody_subscribes_without_a_token(subscribers: Subscribers) -> None:
    assert subscribers.request(None).status_code == 401


def test_a_stranger_cannot_subscribe_an_organization(
    subscribers: Subscribers, user: User, new_user: NewUser
) -> None:
    slug = f"org-{uuid.uuid4().hex[:12]}"
    new_user().client.rpc("create_organization", {"p_name": "Theirs", "p_slug": slug}).execute()
    answer = subscribers.request(user, organization=slug)
    assert (answer.status_code, answer.json()["code"]) == (403, "not_a_member")
    assert subscribers.shop.stripe.requests == []


def test_a_plan_that_is_no_longer_offered_is_not_sold(subscribers: Subscribers, user: User) -> None:
    slug = own_plan(subscribers.shop, is_active=False)
    assert subscribers.request(user, plan=slug).json()["code"] == "plan_not_found"


@pytest.mark.parametrize(
    ("amount", "currency", "interval"),
    [(999, "eur", "month"), (1000, "usd", "month"), (1000, "eur", "year")],
)
def test_a_plan_whose_price_at_stripe_has_drifted_is_not_sold(
    subscribers: Subscribers, user: User, amount: int, currency: str, interval: str
) -> None:
    shop = subscribers.shop
    slug = own_plan(shop)
    price = shop.row("select stripe_price_id_monthly as id from public.plans where slug = %s", slug)
    shop.stripe.world.recurring_price(price["id"], amount, currency, interval)
    answer = subscribers.request(user, plan=slug)
    assert (answer.status_code, answer.json()["code"]) == (409, "plan_price_mismatch")
    assert [r for r in shop.stripe.requests if r.method == "POST"] == []


def test_a_page_that_asks_for_another_price_is_ended(
    subscribers: Subscribers, user: User, new_user: NewUser
) -> None:
    """The price was believed, and the page says otherwise."""
    shop = subscribers.shop
    slug = own_plan(shop)
    price = shop.row("select stripe_price_id_monthly as id from public.plans where slug = %s", slug)
    assert subscribers.request(new_user(), plan=slug).status_code == 200
    shop.stripe.world.recurring_price(price["id"], 999, "eur", "month")
    answer = subscribers.request(user, plan=slug)
    assert (answer.status_code, answer.json()["code"]) == (409, "plan_price_mismatch")
    (session,) = [
        s for s in shop.stripe.world.of_type("checkout.session") if s["amount_total"] == 999
    ]
    assert session["status"] == "expired"


def test_a_plan_whose_price_is_unknown_at_stripe_makes_nothing_there(
    subscribers: Subscribers, user: User
) -> None:
    shop = subscribers.shop
    slug = own_plan(shop)
    price = shop.row("select stripe_price_id_yearly as id from public.plans where slug = %s", slug)
    del shop.stripe.world.prices[price["id"]]
    answer = subscribers.request(user, plan=slug, interval="year")
    assert (answer.status_code, answer.json()["code"]) == (409, "price_not_available")
    assert [r.method for r in shop.stripe.requests] == ["GET"]


def test_an_archived_price_is_not_sold(
    subscribers: Subscribers, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = subscribers.shop.stripe.world
    slug = own_plan(subscribers.shop)
    price = world.price
    monkeypatch.setattr(world, "price", lambda price_id: price(price_id) | {"active": False})
    answer = subscribers.request(user, plan=slug)
    assert (answer.status_code, answer.json()["code"]) == (409, "price_not_available")


def test_a_price_is_asked_about_once(
    subscribers: Subscribers, user: User, new_user: NewUser
) -> None:
    slug = own_plan(subscribers.shop)
    for buyer in (user, new_user()):
        assert subscribers.request(buyer, plan=slug).status_code == 200
    paths = [r.path for r in subscribers.shop.stripe.requests]
    assert len([path for path in paths if path.startswith("/v1/prices/")]) == 1


def test_a_price_of_nothing_cannot_be_set(subscribers: Subscribers) -> None:
    """It would grant credits for nothing."""
    with pytest.raises(Exception, match="amount_is_positive"):
        own_plan(subscribers.shop, price_monthly_minor=0)


@pytest.mark.parametrize("change", ["price_monthly_minor = 2000", "currency = 'usd'"])
def test_a_price_that_is_being_paid_keeps_its_amount(
    subscribers: Subscribers, user: User, change: str
) -> None:
    """Stripe's never changes, and credits are counted by it."""
    slug = own_plan(subscribers.shop)
    subscribers.shop.rows(
        "update public.plans set price_monthly_minor = 1100 where slug = %s", slug
    )
    subscribers.shop.rows(
        "update public.plans set price_monthly_minor = 1000 where slug = %s", slug
    )
    subscriber = subscribers.new(user, plan=slug)
    with pytest.raises(Exception, match="plan_price_in_use"):
        subscribers.shop.rows(
            f"update public.plans set {change} where slug = %s",  # noqa: S608 - ours
            slug,
        )
    subscribers.shop.rows(
        "update public.plans set price_monthly_minor = 2000, stripe_price_id_monthly = %s"
        " where slug = %s",
        f"price_{uuid.uuid4().hex}",
        slug,
    )
    assert subscriber.row["amount_minor"] == 1000
    subscriber.deliver(subscriber.invoiced(subscriber.world.renew(subscriber.id)))
    assert [lot["amount"] for lot in subscriber.lots()] == [1000, 1000]


def test_a_price_belongs_to_one_plan(subscribers: Subscribers) -> None:
    with pytest.raises(Exception, match="one plan"):
        own_plan(subscribers.shop, stripe_price_id_monthly=price_id("pro"))


def test_the_page_asks_stripe_for_what_was_ordered(subscribers: Subscribers, user: User) -> None:
    answer = subscribers.request(user, plan="business", interval="year", currency="EUR")
    page = answer.json()
    assert (page["plan"], page["interval"], page["amount_minor"]) == ("business", "year", 99000)
    (made,) = subscribers.shop.stripe.made("/v1/checkout/sessions")
    assert made.params["mode"] == "subscription"
    assert made.params["line_items"] == [{"quantity": "1", "price": price_id("business", "year")}]
    assert made.params["adaptive_pricing"] == {"enabled": "false"}
    assert made.params["client_reference_id"] == page["checkout_id"]
    assert (
        made.params["subscription_data"]["metadata"]["quernel_checkout_id"] == page["checkout_id"]
    )
    assert made.headers["idempotency-key"] == f"quernel-subscribe-{page['checkout_id']}"


def test_while_a_page_is_open_it_is_the_same_page(subscribers: Subscribers, user: User) -> None:
    first, second = subscribers.request(user), subscribers.request(user)
    assert first.json() == second.json()
    assert len(subscribers.shop.stripe.made("/v1/checkout/sessions")) == 1


def test_many_first_requests_at_once_make_one_customer_and_one_page(
    subscribers: Subscribers, user: User
) -> None:
    subscribers.shop.stripe.latency_seconds = 0.05
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: subscribers.request(user), range(10)))
    assert {answer.status_code for answer in answers} <= {200, 409, 503}
    urls = {answer.json()["url"] for answer in answers if answer.status_code == 200}
    assert len(urls) == 1
    world = subscribers.shop.stripe.world
    mine = [c for c in world.of_type("customer") if c["metadata"].get("quernel_user_id") == user.id]
    assert len(mine) == 1
    assert (
        len([s for s in world.of_type("checkout.session") if s["customer"] == mine[0]["id"]]) == 1
    )


def test_packs_and_plans_bought_by_all_its_admins_at_once_make_one_customer_of_an_organization(
    subscribers: Subscribers, user: User, new_user: NewUser
) -> None:
    shop = subscribers.shop
    admins = [user, *(new_user() for _ in range(3))]
    slug = make_organization(shop, user)
    for admin in admins[1:]:
        shop.rows(
            "insert into public.organization_members (organization_id, user_id, role)"
            " select id, %s, 'admin' from public.organizations where slug = %s",
            admin.id,
            slug,
        )
    shop.stripe.latency_seconds = 0.05
    with ThreadPoolExecutor(16) as threads:
        answers = [
            threads.submit(act, admin, organization=slug)
            for admin in admins
            for act in (shop.checkout, subscribers.request, shop.checkout, subscribers.request)
        ]
        answered = [answer.result() for answer in answers]
    assert {answer.status_code for answer in answered} <= {200, 409, 503}
    pages = {answer.json()["url"].rpartition("/")[2] for answer in answered if answer.is_success}
    assert len(pages) > 1
    world = shop.stripe.world
    organization = str(shop.row("select id from public.organizations where slug = %s", slug)["id"])
    (customer,) = [
        c
        for c in world.of_type("customer")
        if c["metadata"].get("quernel_organization_id") == organization
    ]
    assert {world.get(page)["customer"] for page in pages} == {customer["id"]}
    # And of the plan there is one page.
    modes = [world.get(page)["mode"] for page in pages]
    assert modes.count("subscription") <= 1
    # None of the admins became a customer for it.
    assert (
        shop.rows(
            "select from private.stripe_customers where user_id = any(%s::uuid[])",
            [admin.id for admin in admins],
        )
        == []
    )


def test_another_offer_ends_the_page_before(subscribers: Subscribers, user: User) -> None:
    first = subscribers.session_of(subscribers.request(user))
    second = subscribers.session_of(subscribers.request(user, plan="business"))
    assert first != second
    assert subscribers.shop.stripe.world.get(first)["status"] == "expired"


def test_a_page_that_could_not_be_ended_is_with_the_next_request(
    subscribers: Subscribers, user: User
) -> None:
    first = subscribers.session_of(subscribers.request(user))
    subscribers.shop.stripe.failures[:] = [503] * 3  # the SDK repeats twice
    assert subscribers.request(user, plan="business").status_code == 503
    assert subscribers.shop.stripe.world.get(first)["status"] == "open"
    second = subscribers.session_of(subscribers.request(user, plan="business"))
    assert subscribers.shop.stripe.world.get(first)["status"] == "expired"
    assert subscribers.shop.stripe.world.get(second)["status"] == "open"
    # What Stripe answered is known: it is not asked again.
    subscribers.shop.stripe.requests.clear()
    assert subscribers.session_of(subscribers.request(user, plan="business")) == second
    assert subscribers.shop.stripe.requests == []


def test_three_offers_leave_one_page_to_buy_on(subscribers: Subscribers, user: User) -> None:
    pages = [
        subscribers.session_of(subscribers.request(user, plan=plan, interval=interval))
        for plan, interval in (("pro", "month"), ("business", "month"), ("pro", "year"))
    ]
    world = subscribers.shop.stripe.world
    assert [world.get(page)["status"] for page in pages] == ["expired", "expired", "open"]


def test_a_page_is_made_again_with_the_addresses_it_was_begun_with(
    subscribers: Subscribers, user: User
) -> None:
    """Stripe refuses a key with other parameters, for a day."""
    subscribers.shop.stripe.latency_seconds = 0.3  # both begin before either has a page
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(
            lambda path: subscribers.request(user, success_url=f"{ORIGIN}/{path}"), ("a", "b")
        )
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json()["url"] == second.json()["url"]


def test_a_subscription_that_was_just_bought_is_not_bought_again(
    subscribers: Subscribers, user: User
) -> None:
    """Its page has told of it, and its own event is on the way."""
    slug = own_plan(subscribers.shop, trial_days=14)
    session = subscribers.session_of(subscribers.request(user, plan=slug))
    done = subscribers.shop.stripe.world.subscribe(session)
    event = subscribers.shop.event("checkout.session.completed", done)
    assert subscribers.shop.result(event) == "applied"
    answer = subscribers.request(user, plan=slug)
    assert (answer.status_code, answer.json()["code"]) == (409, "already_subscribed")
    # Never heard of again, it is no reason to sell nothing; a second trial it is not.
    subscribers.shop.rows("alter table private.subscription_checkouts disable trigger user")
    try:
        subscribers.shop.rows(
            "update private.subscription_checkouts set updated_at = now() - interval '25 hours'"
            " where stripe_checkout_session_id = %s",
            session,
        )
    finally:
        subscribers.shop.rows("alter table private.subscription_checkouts enable trigger user")
    assert subscribers.request(user, plan=slug).json()["trial_days"] == 0


def test_a_page_that_was_used_meanwhile_is_not_followed_by_another(
    subscribers: Subscribers, user: User
) -> None:
    first = subscribers.session_of(subscribers.request(user))
    subscribers.shop.stripe.world.subscribe(first)
    answer = subscribers.request(user, plan="business")
    assert (answer.status_code, answer.json()["code"]) == (409, "already_subscribed")


def test_who_has_a_subscription_changes_that_one(subscribers: Subscribers, user: User) -> None:
    subscriber = subscribers.new(user)
    answer = subscribers.request(user, plan="business")
    assert (answer.status_code, answer.json()["code"]) == (409, "already_subscribed")
    assert answer.json()["subscription_id"] == str(subscriber.row["id"])


def test_a_key_repeats_its_page_and_refuses_another_order(
    subscribers: Subscribers, user: User
) -> None:
    first = subscribers.request(user, key="k")
    assert subscribers.request(user, key="k").json() == first.json()
    other = subscribers.request(user, key="k", plan="business")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


def test_a_page_that_expired_makes_room_for_another(subscribers: Subscribers, user: User) -> None:
    first = subscribers.session_of(subscribers.request(user, key="k"))
    session = subscribers.shop.stripe.world.expire(first)
    event = subscribers.shop.event("checkout.session.expired", session)
    assert subscribers.shop.result(event) == "applied"
    assert subscribers.session_of(subscribers.request(user, key="k")) != first


def test_the_first_subscription_has_a_trial_and_the_second_has_none(
    subscribers: Subscribers, user: User
) -> None:
    slug = own_plan(subscribers.shop, trial_days=14)
    subscriber = subscribers.new(user, plan=slug)
    assert (subscriber.row["status"], subscriber.plan) == ("trialing", slug)
    assert subscriber.lots() == []  # nothing was paid
    subscriber.world.end(subscriber.id)
    subscriber.told("customer.subscription.deleted")
    assert subscriber.plan == "free"
    assert subscribers.request(user, plan=slug).json()["trial_days"] == 0


def organization_of(user: User) -> str:
    slug = f"org-{uuid.uuid4().hex[:12]}"
    user.client.rpc("create_organization", {"p_name": "Ours", "p_slug": slug}).execute()
    return slug


def test_there_is_no_second_trial_through_an_organization(
    subscribers: Subscribers, user: User, new_user: NewUser
) -> None:
    slug = own_plan(subscribers.shop, trial_days=14)
    assert subscribers.new(user, plan=slug).row["status"] == "trialing"
    answer = subscribers.request(user, plan=slug, organization=organization_of(user))
    assert answer.json()["trial_days"] == 0
    other = new_user()
    answer = subscribers.request(other, plan=slug, organization=organization_of(other))
    assert answer.json()["trial_days"] == 14


def test_several_pages_with_a_trial_are_not_to_be_had_at_once(
    subscribers: Subscribers, user: User
) -> None:
    slug = own_plan(subscribers.shop, trial_days=14)
    assert subscribers.request(user, plan=slug).json()["trial_days"] == 14
    answer = subscribers.request(user, plan=slug, organization=organization_of(user))
    assert answer.json()["trial_days"] == 0
    assert subscribers.request(user, plan=slug).json()["trial_days"] == 14  # the same page


def test_an_admin_subscribes_their_organization(subscribers: Subscribers, user: User) -> None:
    slug = f"org-{uuid.uuid4().hex[:12]}"
    made = user.client.rpc("create_organization", {"p_name": "Ours", "p_slug": slug}).execute()
    organization = made.data["id"]
    before = subscribers.shop.balance(user)
    subscriber = subscribers.new(user, plan="business", organization=slug)
    row = subscriber.row
    assert (str(row["organization_id"]), row["user_id"]) == (organization, None)
    plan = subscribers.shop.row(
        "select (private.plan_of(%s, %s)).slug as plan", user.id, organization
    )
    assert plan["plan"] == "business"
    assert subscriber.plan == "free"  # their own is another matter
    assert subscribers.shop.balance(user) == before
    held = subscribers.shop.row(
        "select balance from public.credit_accounts where organization_id = %s", organization
    )
    assert held["balance"] == CREDITS["business"]


def test_the_owner_sees_what_they_have_and_nobody_else_does(
    subscribers: Subscribers, user: User, new_user: NewUser
) -> None:
    subscribers.new(user)
    for table in ("subscriptions", "invoices", "payments", "payment_methods"):
        assert len(user.client.table(table).select("id").execute().data) == 1, table
        assert new_user().client.table(table).select("id").execute().data == [], table
    (method,) = user.client.table("payment_methods").select("*").execute().data
    assert (method["brand"], method["last_four"], method["is_default"]) == ("visa", "4242", True)
    (row,) = user.client.table("subscriptions").select("*, plans!plan_id(slug)").execute().data
    assert row["status"] == "active"
    assert row["plans"] == {"slug": "pro"}
