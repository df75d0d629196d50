"""Starting a checkout: who may, for what, and that nothing is made twice at Stripe."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from functions.core.settings import STRIPE_API_VERSION
from local.stripe_world import UnknownPriceError, World
from tests.billing.shop import ORIGIN, PRICE, Shop
from tests.conftest import NewUser, User

SESSIONS = "/v1/checkout/sessions"
CUSTOMERS = "/v1/customers"


def assert_refused(shop: Shop, user: User | None, status: int, code: str, **body: object) -> None:
    answer = shop.checkout(user, **body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert shop.stripe.requests == []
    if user is not None:
        assert (
            shop.rows("select 1 from public.credit_purchases where bought_by = %s", user.id) == []
        )


def make_organization(shop: Shop, owner: User, **members: User) -> str:
    slug = f"org-{owner.id[-12:]}"
    owner.client.rpc("create_organization", {"p_name": "Org", "p_slug": slug}).execute()
    shop.rows(
        "update public.organizations"
        " set plan_id = (select id from public.plans where slug = 'business') where slug = %s",
        slug,
    )
    for role, member in members.items():
        shop.rows(
            "insert into public.organization_members (organization_id, user_id, role)"
            " select id, %s, %s from public.organizations where slug = %s",
            member.id,
            role,
            slug,
        )
    return slug


# Refusals ---------------------------------------------------------------------------------------


def test_nobody(shop: Shop) -> None:
    assert_refused(shop, None, 401, "missing_credentials")


def test_a_pack_in_another_currency_than_was_shown(shop: Shop, user: User) -> None:
    assert_refused(shop, user, 409, "currency_mismatch", currency="usd")


def test_an_unknown_pack(shop: Shop, user: User) -> None:
    assert_refused(shop, user, 404, "pack_not_found", pack="unheard-of")


def test_a_pack_that_is_off_sale(shop: Shop, user: User) -> None:
    slug = f"gone-{user.id[-12:]}"
    shop.rows(
        "insert into public.credit_packs (slug, name, credits, price_minor, is_active)"
        " values (%s, 'Gone', 1, 1, false)",
        slug,
    )
    assert_refused(shop, user, 404, "pack_not_found", pack=slug)


def test_a_strangers_organization(shop: Shop, user: User, new_user: NewUser) -> None:
    slug = make_organization(shop, new_user())
    assert_refused(shop, user, 403, "not_a_member", organization=slug)


def test_an_organization_that_does_not_exist(shop: Shop, user: User) -> None:
    assert_refused(shop, user, 403, "not_a_member", organization="nobodys")


def test_a_member_who_is_no_admin(shop: Shop, user: User, new_user: NewUser) -> None:
    slug = make_organization(shop, new_user(), member=user)
    assert_refused(shop, user, 403, "not_an_admin", organization=slug)


def test_a_suspended_user(shop: Shop, user: User) -> None:
    shop.rows("update public.profiles set is_active = false where id = %s", user.id)
    assert_refused(shop, user, 403, "account_suspended")


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "http://localhost:3001/",
        "https://localhost:3000/",
        "http://localhost.evil.example:3000/",
        "http://localhost:3000@evil.example/",
        "http://localhost:3000\\@evil.example/",
        "http://evil.example/#http://localhost:3000/",
        "//localhost:3000/",
        "/credits",
        "javascript:alert(1)",
        "http://localhost:99999/",
        "http://local\thost:3000/",
        "http://[/",
    ],
)
@pytest.mark.parametrize("param", ["success_url", "cancel_url"])
def test_a_page_of_another_origin(shop: Shop, user: User, param: str, url: str) -> None:
    assert_refused(shop, user, 400, "url_not_allowed", **{param: url})


@pytest.mark.parametrize(
    "body",
    [
        {"pack": 1},
        {"pack": ""},
        {"pack": "x" * 51},
        {"success_url": None},
        {"price_minor": 1},
        {"credits": 1_000_000},
        {"organization": ""},
        {"success_url": f"{ORIGIN}/" + "x" * 2048},
    ],
)
def test_a_body_that_does_not_fit(shop: Shop, user: User, body: dict[str, object]) -> None:
    assert_refused(shop, user, 422, "invalid_request", **body)


@pytest.mark.parametrize("key", ["x" * 256, "é", "a\tb"])
def test_a_key_that_does_not_fit(shop: Shop, user: User, key: str) -> None:
    answer = shop.http.post(
        "/billing/checkout",
        json={},
        headers=[(b"Idempotency-Key", key.encode()), *user.headers.items()],
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")


# What is made -----------------------------------------------------------------------------------


def test_what_stripe_is_asked_for(shop: Shop, user: User) -> None:
    answer = shop.checkout(user, success_url=f"{ORIGIN}/done?s={{CHECKOUT_SESSION_ID}}")
    assert answer.status_code == 200
    checkout = answer.json()
    assert checkout["status"] == "pending"
    assert (checkout["credits"], checkout["price_minor"], checkout["currency"]) == (
        1000,
        PRICE,
        "eur",
    )
    assert checkout["url"].startswith(shop.stripe.url)

    (customer,) = shop.stripe.made(CUSTOMERS)
    assert customer.params == {"email": user.email, "metadata": {"quernel_user_id": user.id}}
    (session,) = shop.stripe.made(SESSIONS)
    reference = {"quernel_purchase_id": checkout["purchase_id"]}
    made = shop.purchase(checkout["purchase_id"])
    customer_id = shop.stripe.world.get(made["stripe_checkout_session_id"])["customer"]
    assert session.params == {
        "mode": "payment",
        "customer": customer_id,
        "client_reference_id": checkout["purchase_id"],
        "metadata": reference,
        "payment_intent_data": {"metadata": reference},
        "invoice_creation": {"enabled": "true", "invoice_data": {"metadata": reference}},
        "line_items": [
            {
                "quantity": "1",
                "price_data": {
                    "currency": "eur",
                    "unit_amount": str(PRICE),
                    "product_data": {"name": "1,000 credits"},
                },
            }
        ],
        "adaptive_pricing": {"enabled": "false"},
        "success_url": f"{ORIGIN}/done?s={{CHECKOUT_SESSION_ID}}",
        "cancel_url": f"{ORIGIN}/",
    }
    for request in (customer, session):
        assert request.headers["stripe-version"] == STRIPE_API_VERSION
        assert request.headers["idempotency-key"].startswith("quernel-")


def test_an_admin_buys_for_the_organization(shop: Shop, user: User, new_user: NewUser) -> None:
    slug = make_organization(shop, new_user(), admin=user)
    purchase = shop.purchase(shop.buy(user, organization=slug).id)
    assert purchase["user_id"] is None
    assert str(purchase["bought_by"]) == user.id
    (customer,) = shop.stripe.made(CUSTOMERS)
    assert customer.params["metadata"] == {
        "quernel_organization_id": str(purchase["organization_id"])
    }
    assert customer.params["name"] == "Org"


def test_a_pack_with_a_price_at_stripe(shop: Shop, user: User) -> None:
    slug = f"priced-{user.id[-12:]}"
    price = f"price_{user.id[-12:]}"
    shop.stripe.world.prices[price] = (700, "eur")
    shop.rows(
        "insert into public.credit_packs (slug, name, credits, price_minor, stripe_price_id)"
        " values (%s, 'Priced', 10, 700, %s)",
        slug,
        price,
    )
    shop.buy(user, pack=slug)
    (session,) = shop.stripe.made(SESSIONS)
    assert session.params["line_items"] == [{"quantity": "1", "price": price}]


def priced_pack(shop: Shop, user: User, price: str) -> str:
    """A pack for 7 euros that has a price at Stripe; its slug."""
    slug = f"priced-{user.id[-12:]}"
    shop.rows(
        "insert into public.credit_packs (slug, name, credits, price_minor, stripe_price_id)"
        " values (%s, 'Priced', 10, 700, %s)",
        slug,
        price,
    )
    return slug


@pytest.mark.parametrize(
    ("there", "interval"), [((699, "eur"), None), ((700, "usd"), None), ((700, "eur"), "month")]
)
def test_a_price_at_stripe_that_has_drifted_is_not_sold(
    shop: Shop, user: User, there: tuple[int, str], interval: str | None
) -> None:
    price = f"price_drift_{user.id[-12:]}"
    shop.stripe.world.prices[price] = there
    if interval is not None:
        shop.stripe.world.intervals[price] = interval
    answer = shop.checkout(user, pack=priced_pack(shop, user, price))
    assert (answer.status_code, answer.json()["code"]) == (409, "pack_price_mismatch")
    assert [r for r in shop.stripe.requests if r.method == "POST"] == []


def test_a_page_that_asks_for_another_price_is_ended(shop: Shop, user: User) -> None:
    """The price was believed, and the page says otherwise."""
    price = f"price_believed_{user.id[-12:]}"
    shop.stripe.world.prices[price] = (700, "eur")
    slug = priced_pack(shop, user, price)
    shop.buy(user, pack=slug)
    shop.stripe.world.prices[price] = (699, "eur")
    answer = shop.checkout(user, pack=slug)
    assert (answer.status_code, answer.json()["code"]) == (409, "pack_price_mismatch")
    (session,) = [
        s for s in shop.stripe.world.of_type("checkout.session") if s["amount_total"] == 699
    ]
    assert session["status"] == "expired"


def test_a_price_unknown_at_stripe_makes_nothing_there(shop: Shop, user: User) -> None:
    answer = shop.checkout(user, pack=priced_pack(shop, user, "price_nowhere"))
    assert (answer.status_code, answer.json()["code"]) == (409, "price_not_available")
    assert "price_nowhere" not in answer.text
    assert [r.method for r in shop.stripe.requests] == ["GET"]
    # Once the price is there, the same request is served.
    shop.stripe.world.prices["price_nowhere"] = (700, "eur")
    assert shop.checkout(user, pack=f"priced-{user.id[-12:]}").status_code == 200
    del shop.stripe.world.prices["price_nowhere"]


def test_the_double_refuses_an_unknown_price() -> None:
    with pytest.raises(UnknownPriceError):
        World().session("http://double", {"mode": "payment", "line_items": [{"price": "price_x"}]})


# Idempotency ------------------------------------------------------------------------------------


def test_the_same_key_gets_the_same_page(shop: Shop, user: User) -> None:
    first = shop.checkout(user, key="one")
    second = shop.checkout(user, key="one")
    assert first.json() == second.json()
    assert len(shop.stripe.made(SESSIONS)) == 1


def test_the_same_key_at_once_makes_one_purchase_and_one_session(shop: Shop, user: User) -> None:
    shop.stripe.latency_seconds = 0.1
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: shop.checkout(user, key="at-once"), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    (purchase,) = shop.rows("select * from public.credit_purchases where bought_by = %s", user.id)
    sessions = [
        s
        for s in shop.stripe.world.of_type("checkout.session")
        if s["client_reference_id"] == str(purchase["id"])
    ]
    assert len(sessions) == 1


def test_the_same_key_for_something_else_is_a_conflict(shop: Shop, user: User) -> None:
    shop.checkout(user, key="two")
    shop.stripe.requests.clear()
    answer = shop.checkout(user, key="two", pack="volume")
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")
    assert shop.stripe.requests == []


def test_the_same_key_of_somebody_else_is_another_purchase(
    shop: Shop, user: User, new_user: NewUser
) -> None:
    mine, theirs = shop.checkout(user, key="three"), shop.checkout(new_user(), key="three")
    assert mine.json()["purchase_id"] != theirs.json()["purchase_id"]


def test_a_checkout_that_stripe_did_not_answer_goes_on_with_its_key(shop: Shop, user: User) -> None:
    shop.stripe.failures[:] = [500] * 3
    answer = shop.checkout(user, key="four")
    assert (answer.status_code, answer.json()["code"]) == (503, "payment_provider_unavailable")
    assert answer.headers["retry-after"]
    answer = shop.checkout(user, key="four")
    assert answer.status_code == 200
    assert (
        len(shop.rows("select 1 from public.credit_purchases where bought_by = %s", user.id)) == 1
    )


def test_a_checkout_that_was_not_recorded_is_found_again(shop: Shop, user: User) -> None:
    """A crash between Stripe's answer and ours: the same session, by the idempotency key."""
    first = shop.checkout(user, key="five").json()
    shop.rows(
        "update public.credit_purchases set stripe_checkout_session_id = null, checkout_url = null"
        " where id = %s",
        first["purchase_id"],
    )
    assert shop.checkout(user, key="five").json() == first
    shop.rows(
        "update public.credit_purchases set stripe_checkout_session_id = null where id = %s",
        first["purchase_id"],
    )
    answer = shop.checkout(user, key="five", success_url=f"{ORIGIN}/elsewhere")
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")


def test_a_key_is_free_again_after_a_checkout_without_payment(shop: Shop, user: User) -> None:
    first = shop.buy(user)
    shop.rows("update public.credit_purchases set idempotency_key = 'six' where id = %s", first.id)
    session = shop.stripe.world.expire(first.session_id)
    shop.result(shop.event("checkout.session.expired", session))
    again = shop.checkout(user, key="six", pack="volume")
    assert again.status_code == 200
    assert again.json()["purchase_id"] != first.id


# One customer per owner -------------------------------------------------------------------------


def test_the_second_checkout_uses_the_first_ones_customer(shop: Shop, user: User) -> None:
    first, second = shop.buy(user), shop.buy(user)
    assert len(shop.stripe.made(CUSTOMERS)) == 1
    customers = {shop.stripe.world.get(p.session_id)["customer"] for p in (first, second)}
    profile = shop.row("select stripe_customer_id from public.profiles where id = %s", user.id)
    assert customers == {profile["stripe_customer_id"]}


def test_stripe_is_told_no_address_that_nobody_has_confirmed(shop: Shop, user: User) -> None:
    """Invoices are sent there, and it may be somebody else's."""
    shop.rows("update public.profiles set email_verified_at = null where id = %s", user.id)
    shop.buy(user)
    (made,) = shop.stripe.made(CUSTOMERS)
    assert "email" not in made.params


def test_concurrent_first_checkouts_make_one_customer(shop: Shop, user: User) -> None:
    shop.stripe.latency_seconds = 0.2
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: shop.checkout(user), range(10)))
    assert {answer.status_code for answer in answers} == {200}
    customers = [
        c
        for c in shop.stripe.world.of_type("customer")
        if c["metadata"].get("quernel_user_id") == user.id
    ]
    assert len(customers) == 1
    ids = [answer.json()["purchase_id"] for answer in answers]
    sessions = [shop.purchase(id_)["stripe_checkout_session_id"] for id_ in ids]
    assert {shop.stripe.world.get(s)["customer"] for s in sessions} == {customers[0]["id"]}


def test_the_first_customer_attached_stays(shop: Shop, user: User) -> None:
    claim = shop.service.rpc("customer_claim", p_user_id=user.id)
    assert claim["email"] == user.email
    for offered in ("cus_first", "cus_second", "cus_first"):
        answer = shop.service.rpc(
            "customer_attach",
            p_claim_id=claim["claim_id"],
            p_customer_id=f"{offered}_{user.id[-12:]}",
        )
        assert answer["customer_id"].startswith("cus_first")
    kept = shop.row("select * from private.stripe_customers where id = %s", claim["claim_id"])
    assert (kept["email"], kept["name"]) == (None, None)


def test_a_changed_address_does_not_make_a_second_customer(shop: Shop, user: User) -> None:
    """Between a crash and the retry; the claim keeps what the first attempt was made with."""
    claim = shop.service.rpc("customer_claim", p_user_id=user.id)
    shop.rows("update public.profiles set email = null where id = %s", user.id)
    assert shop.service.rpc("customer_claim", p_user_id=user.id) == claim
