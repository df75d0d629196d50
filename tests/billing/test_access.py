"""Clients read the price list and their own purchases, and write none of it."""

from __future__ import annotations

import pytest
from postgrest import APIError

import supabase
from local.stack import Stack
from tests.billing.shop import Shop
from tests.billing.test_checkout import make_organization
from tests.conftest import AsRole, NewUser, User


@pytest.fixture
def visitor(stack: Stack) -> supabase.Client:
    """The official client, not signed in."""
    return supabase.create_client(stack.supabase_url, stack.keys.publishable_key)


PLANS = ["free", "pro", "business", "enterprise"]
PACKS = ["starter", "standard", "volume"]
"""What the migrations put on sale; other tests add things of their own."""


def test_anybody_reads_the_plans_and_packs(visitor: supabase.Client, user: User) -> None:
    for client in (visitor, user.client):
        for table, slugs in (("plans", PLANS), ("credit_packs", PACKS)):
            query = client.table(table).select("slug").in_("slug", slugs).order("sort_order")
            assert [row["slug"] for row in query.execute().data] == slugs


def test_what_is_off_sale_is_not_shown(
    shop: Shop, visitor: supabase.Client, user: User, new_user: NewUser
) -> None:
    slug = f"private-{user.id[-12:]}"
    shop.rows(
        "insert into public.plans (slug, name, monthly_tokens, max_agents, max_documents,"
        " requests_per_minute, requests_per_month, concurrent_requests, is_active)"
        " values (%s, 'Private', 1, 1, 1, 1, 1, 1, false)",
        slug,
    )
    shop.rows(
        "update public.profiles set plan_id = (select id from public.plans where slug = %s)"
        " where id = %s",
        slug,
        user.id,
    )
    seen = {
        name: client.table("plans").select("slug").eq("slug", slug).execute().data
        for name, client in (
            ("visitor", visitor),
            ("owner", user.client),
            ("stranger", new_user().client),
        )
    }
    assert seen == {"visitor": [], "owner": [{"slug": slug}], "stranger": []}


def test_buyers_read_their_purchases_and_strangers_do_not(
    shop: Shop, user: User, new_user: NewUser
) -> None:
    purchase = shop.buy(user)
    mine = user.client.table("credit_purchases").select("*").execute().data
    assert [row["id"] for row in mine] == [purchase.id]
    assert new_user().client.table("credit_purchases").select("*").execute().data == []


def test_an_organizations_purchases_are_for_its_admins(
    shop: Shop, user: User, new_user: NewUser
) -> None:
    admin, member = new_user(), new_user()
    slug = make_organization(shop, user, admin=admin, member=member)
    purchase = shop.buy(user, organization=slug)
    for reader, expected in ((user, [purchase.id]), (admin, [purchase.id]), (member, [])):
        rows = reader.client.table("credit_purchases").select("id").execute().data
        assert [row["id"] for row in rows] == expected


def test_the_customer_of_an_organization_is_for_its_admins(
    shop: Shop, user: User, new_user: NewUser
) -> None:
    admin, member = new_user(), new_user()
    slug = make_organization(shop, user, admin=admin, member=member)
    purchase = shop.buy(user, organization=slug)
    customer = shop.stripe.world.get(purchase.session_id)["customer"]
    for reader, expected in ((user, customer), (admin, customer), (member, None)):
        table = reader.client.table("organizations")
        (row,) = table.select("*").eq("slug", slug).execute().data
        assert customer not in str(row)
        (row,) = table.select("name, stripe_customer_id").eq("slug", slug).execute().data
        assert row["stripe_customer_id"] == expected


WRITES = [
    "insert into public.plans (slug, name) values ('mine', 'Mine')",
    "update public.plans set monthly_tokens = -1",
    "delete from public.plans",
    "insert into public.credit_packs (slug, name, credits, price_minor) values ('m', 'M', 9, 1)",
    "update public.credit_packs set credits = 1e9",
    "delete from public.credit_packs",
    "update public.credit_purchases set status = 'paid'",
    "update public.credit_purchases set credits = 1e9",
    "delete from public.credit_purchases",
    "truncate public.credit_purchases",
    "update public.profiles set plan_id = (select id from public.plans where slug = 'business')",
    "update public.profiles set plan_expires_at = null",
    "update public.profiles set subscription_tier = 'enterprise'",
    "update public.profiles set subscription_status = 'active'",
    "update public.profiles set stripe_customer_id = 'cus_x'",
    "update public.organizations set plan_id = null",
    "select * from private.billing_rates",
    "select * from private.stripe_events",
    "select * from private.stripe_objects",
    "select * from private.stripe_customers",
    "insert into private.stripe_event_types values ('x', 'charge', 'x')",
    "select backend.stripe_event_receive('{}', false)",
    "select backend.stripe_object_apply('evt_x', '{}')",
    "select backend.checkout_start(gen_random_uuid(), 'starter')",
    "select backend.customer_attach(gen_random_uuid(), 'cus_x')",
    "select private.stripe_apply_event('evt_x', null)",
    "select private.purchase_apply_reversals(gen_random_uuid())",
    "select private.plan_of(gen_random_uuid(), null)",
]


@pytest.mark.parametrize("role", ["anon", "authenticated"])
@pytest.mark.parametrize("statement", WRITES)
def test_clients_write_nothing(as_role: AsRole, user: User, role: str, statement: str) -> None:
    with (
        as_role(role, {"sub": user.id}) as connection,
        pytest.raises(Exception, match="permission denied"),
    ):
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [s for s in WRITES if s.split()[1] in ("public.credit_purchases", "public.credit_packs")],
)
def test_the_service_role_writes_no_purchase(as_role: AsRole, statement: str) -> None:
    with as_role("service_role") as connection, pytest.raises(Exception, match="permission denied"):
        connection.execute(statement)


def test_the_official_client_cannot_buy_by_writing(user: User) -> None:
    with pytest.raises(APIError):
        user.client.table("credit_purchases").insert({"credits": 1000}).execute()
    with pytest.raises(APIError):
        user.client.table("profiles").update({"subscription_tier": "business"}).eq(
            "id", user.id
        ).execute()
