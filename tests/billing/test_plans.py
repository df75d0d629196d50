"""Plans: what is seeded, whose plan rules, and that a profile shows its own."""

from __future__ import annotations

import pytest

from tests.billing.shop import Shop
from tests.conftest import User


def plan_of(shop: Shop, user: User | None, organization: str | None = None) -> str:
    row = shop.row(
        "select slug from private.plan_of(%s, %s)", user.id if user else None, organization
    )
    return str(row["slug"])


def give_plan(shop: Shop, user: User, slug: str | None, expires: str | None = None) -> None:
    shop.rows(
        "update public.profiles set plan_id = (select id from public.plans where slug = %s),"
        " plan_expires_at = now() + %s::interval where id = %s",
        slug,
        expires,
        user.id,
    )


def test_the_limits_and_prices_of_the_specification(shop: Shop) -> None:
    plans = shop.rows(
        "select slug, monthly_tokens, max_agents, max_documents, price_monthly_minor,"
        " price_yearly_minor, has_api_access, has_workflows, currency"
        " from public.plans where slug in ('free', 'pro', 'business', 'enterprise') and is_active"
        " order by sort_order"
    )
    assert [tuple(plan.values()) for plan in plans] == [
        ("free", 10_000, 1, 0, 0, 0, False, False, "eur"),
        ("pro", 100_000, 5, 50, 2900, 29_000, False, False, "eur"),
        ("business", 500_000, 20, 500, 9900, 99_000, True, True, "eur"),
        ("enterprise", -1, -1, -1, None, None, True, True, "eur"),
    ]


def test_without_a_plan_it_is_the_free_one(shop: Shop, user: User) -> None:
    assert plan_of(shop, user) == "free"
    assert plan_of(shop, None) == "free"


def test_a_plan_rules_until_it_expires(shop: Shop, user: User) -> None:
    give_plan(shop, user, "pro")
    assert plan_of(shop, user) == "pro"
    give_plan(shop, user, "pro", "1 hour")
    assert plan_of(shop, user) == "pro"
    give_plan(shop, user, "pro", "-1 second")
    assert plan_of(shop, user) == "free"


def test_the_payers_plan_rules(shop: Shop, user: User) -> None:
    organization = (
        user.client.rpc("create_organization", {"p_name": "Org", "p_slug": f"plan-{user.id[-12:]}"})
        .execute()
        .data["id"]
    )
    give_plan(shop, user, "pro")
    assert plan_of(shop, user, organization) == "free"
    shop.rows(
        "update public.organizations"
        " set plan_id = (select id from public.plans where slug = 'business') where id = %s",
        organization,
    )
    assert plan_of(shop, user, organization) == "business"
    shop.rows(
        "update public.organizations set plan_expires_at = now() - interval '1 s' where id = %s",
        organization,
    )
    assert plan_of(shop, user, organization) == "free"


def test_the_tier_follows_the_plan(shop: Shop, user: User) -> None:
    def tier() -> str:
        profile = user.client.table("profiles").select("subscription_tier").execute().data[0]
        return str(profile["subscription_tier"])

    assert tier() == "free"
    give_plan(shop, user, "business")
    assert tier() == "business"
    shop.rows("update public.profiles set subscription_tier = 'pro' where id = %s", user.id)
    assert tier() == "business"
    give_plan(shop, user, None)
    assert tier() == "free"


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("monthly_tokens = -2", "monthly_tokens_are_a_limit_or_unlimited"),
        ("max_agents = -2", "max_agents_is_a_limit_or_unlimited"),
        ("max_team_members = 0", "max_team_members_is_a_limit_or_unlimited"),
        ("concurrent_requests = -2", "concurrent_requests_are_a_limit_or_unlimited"),
        ("price_monthly_minor = -1", "prices_are_not_negative"),
        ("credits_per_month = -1", "credits_are_not_negative"),
        ("currency = 'EUR'", "currency_is_lower_case_iso_4217"),
    ],
)
def test_limits_that_make_no_sense(shop: Shop, change: str, constraint: str) -> None:
    with pytest.raises(Exception, match=constraint):
        shop.rows("update public.plans set " + change + " where slug = 'pro'")  # noqa: S608


def test_there_is_always_a_free_plan(shop: Shop) -> None:
    for change in ("is_active = false", "price_monthly_minor = 100"):
        with pytest.raises(Exception, match="the_free_plan_is_free_and_active"):
            shop.rows("update public.plans set " + change + " where slug = 'free'")  # noqa: S608


@pytest.mark.parametrize("change", ["price_minor = 0", "price_minor = -1", "credits = 0"])
def test_a_pack_costs_something_and_gives_something(shop: Shop, change: str) -> None:
    with pytest.raises(Exception, match=r"is_positive|are_positive"):
        shop.rows("update public.credit_packs set " + change + " where slug = 'starter'")  # noqa: S608
