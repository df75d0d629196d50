"""Nobody writes through the REST API what is not theirs, and nothing changes when they try."""

from __future__ import annotations

from typing import Any

import httpx
import psycopg
import pytest
from postgrest import APIError

from tests.security import matrix
from tests.security.conftest import REFUSED, Cast

pytestmark = pytest.mark.usefixtures("nothing_changes")

MATRIX = matrix.expected()
TABLES = sorted(name for name in MATRIX["tables"] if name.startswith("public."))
WRITABLE = set(MATRIX["insert_columns"]) | set(MATRIX["update_columns"])
READ_ONLY = [name for name in TABLES if name not in WRITABLE]
# Their owner deletes them, and whoever else tries finds nothing (tests/images/test_suggestions.py).
DELETABLE = {"public.prompt_suggestions"}
ACTORS = ["visitor", "stranger", "owner", "member", "admin", "founder", "suspended", "service"]

# For each table, a change somebody would like, and which rows to make it on.
WISHES: dict[str, tuple[dict[str, Any], str]] = {
    "public.api_keys": (
        {"scopes": ["images"], "rate_limit_per_minute": None},
        "user_id=eq.{owner}",
    ),
    "public.api_usage": ({"credits": 0, "request_count": 0}, "account_id=eq.{account}"),
    "public.agents": ({"system_prompt": "Obey me.", "is_public": True}, "user_id=eq.{owner}"),
    "public.auto_top_ups": ({"is_enabled": True, "failures": 0}, "user_id=eq.{owner}"),
    "public.conversations": (
        {"user_id": None, "is_shared": True, "total_tokens": 0},
        "user_id=eq.{owner}",
    ),
    "public.credit_accounts": ({"balance": 1_000_000, "debt": 0}, "user_id=eq.{owner}"),
    "public.credit_lots": (
        {"remaining": 1_000_000, "amount": 1_000_000},
        "account_id=eq.{account}",
    ),
    "public.credit_packs": ({"price_minor": 1, "credits": 1_000_000}, "slug=eq.starter"),
    "public.credit_purchases": ({"status": "paid"}, "user_id=eq.{owner}"),
    "public.credit_transactions": ({"amount": 1_000_000}, "account_id=eq.{account}"),
    "public.document_chunks": ({"content": "Obey me."}, "user_id=eq.{owner}"),
    "public.documentation_chunks": ({"content": "Obey me.", "flags": []}, "content_type=eq.guide"),
    "public.image_analysis": ({"raw_response": {}}, "analysis_type=eq.color"),
    "public.invoices": ({"status": "paid", "credits": 1_000_000}, "user_id=eq.{owner}"),
    "public.libraries": ({"trust_score": 10, "moved_to": None}, "source_kind=eq.git"),
    "public.library_versions": ({"is_latest": False}, "version=eq.1.0"),
    "public.messages": ({"content": "I never said so.", "credits": 0}, "user_id=eq.{owner}"),
    "public.model_providers": ({"api_base_url": "https://evil.example"}, "slug=eq.quernel"),
    "public.models": ({"prompt_price": 0, "completion_price": 0}, "kind=eq.chat"),
    "public.organization_invitations": ({"role": "admin"}, "organization_id=eq.{organization}"),
    "public.organization_members": (
        {"role": "owner", "monthly_credit_budget": None},
        "organization_id=eq.{organization}",
    ),
    "public.organizations": ({"plan_id": None, "name": "Mine"}, "id=eq.{organization}"),
    "public.payment_methods": ({"provider_method_id": "pm_mine"}, "user_id=eq.{owner}"),
    "public.payments": ({"status": "succeeded", "amount_minor": 1}, "user_id=eq.{owner}"),
    "public.plans": ({"monthly_tokens": -1, "requests_per_minute": -1}, "slug=eq.free"),
    "public.prompt_suggestions": (
        {"suggested_prompt": "mine", "used_count": 0, "completed_count": 0},
        "user_id=eq.{owner}",
    ),
    "public.provider_key_uses": ({"outcome": "completed"}, "owner_id=eq.{owner}"),
    "public.subscriptions": (
        {"status": "active", "paid_until": "2100-01-01T00:00:00Z"},
        "user_id=eq.{owner}",
    ),
    "public.usage_logs": ({"credits": 0, "credits_held": 0}, "account_id=eq.{account}"),
    "public.webhook_deliveries": ({"status": "queued"}, "endpoint_id=eq.{endpoint}"),
    "public.webhook_endpoints": ({"url": "https://evil.example/"}, "id=eq.{endpoint}"),
}


def wish(cast: Cast, table: str) -> tuple[dict[str, Any], str]:
    change, rows = WISHES[table]
    return change, rows.format(
        owner=cast.owner.id,
        account=cast.accounts[cast.owner.id],
        organization=cast.organization_id,
        endpoint=cast.endpoint_id,
    )


def some_row(connection: psycopg.Connection, table: str) -> dict[str, Any]:
    """Any row of a table, without generated columns: those are refused for another reason."""
    row = connection.execute(
        f"select to_jsonb(t) - array("  # noqa: S608
        " select a.attname::text from pg_attribute as a"
        f" where a.attrelid = '{table}'::regclass and a.attgenerated <> ''"
        f") from {table} as t limit 1".encode()
    ).fetchone()
    assert row is not None
    found: dict[str, Any] = row[0]
    return found


def refused(answer: httpx.Response) -> bool:
    """By a privilege; an answer such as `[]` would say that only a policy was in the way."""
    return answer.status_code in REFUSED


def test_there_is_a_wish_for_every_table_that_clients_only_read() -> None:
    assert sorted(WISHES) == READ_ONLY


@pytest.mark.parametrize("table", READ_ONLY)
def test_nobody_inserts(cast: Cast, admin_connection: psycopg.Connection, table: str) -> None:
    change, _ = wish(cast, table)
    row = some_row(admin_connection, table)
    for actor in ACTORS:
        for body in (row | change, [change]):
            answer = cast.rest(actor, "POST", table.split(".")[1], json=body)
            assert refused(answer), (actor, answer.text)


@pytest.mark.parametrize("table", READ_ONLY)
def test_nobody_upserts(cast: Cast, admin_connection: psycopg.Connection, table: str) -> None:
    change, _ = wish(cast, table)
    row = some_row(admin_connection, table)
    for actor in ACTORS:
        answer = cast.rest(
            actor,
            "POST",
            table.split(".")[1],
            json=row | change,
            headers={"Prefer": "resolution=merge-duplicates"},
        )
        assert refused(answer), (actor, answer.text)


@pytest.mark.parametrize("table", READ_ONLY)
def test_nobody_updates(cast: Cast, table: str) -> None:
    change, rows = wish(cast, table)
    for actor in ACTORS:
        answer = cast.rest(actor, "PATCH", f"{table.split('.')[1]}?{rows}", json=change)
        assert refused(answer), (actor, answer.text)


@pytest.mark.parametrize("table", [name for name in READ_ONLY if name not in DELETABLE])
def test_nobody_deletes(cast: Cast, table: str) -> None:
    _, rows = wish(cast, table)
    for actor in ACTORS:
        answer = cast.rest(actor, "DELETE", f"{table.split('.')[1]}?{rows}")
        assert refused(answer), (actor, answer.text)


@pytest.mark.parametrize("table", READ_ONLY)
def test_nobody_replaces_a_row_with_put(cast: Cast, table: str) -> None:
    change, rows = wish(cast, table)
    for actor in ("stranger", "owner", "founder", "service"):
        answer = cast.rest(actor, "PUT", f"{table.split('.')[1]}?{rows}", json=change)
        assert answer.status_code >= 400, (actor, answer.text)


@pytest.mark.parametrize("table", TABLES)
def test_a_leaked_service_key_writes_no_table(
    cast: Cast, admin_connection: psycopg.Connection, table: str
) -> None:
    name, row = table.split(".")[1], some_row(admin_connection, table)
    assert refused(cast.rest("service", "POST", name, json=row))
    assert refused(cast.rest("service", "PATCH", f"{name}?created_at=lt.1970-01-01", json=row))
    assert refused(cast.rest("service", "DELETE", f"{name}?created_at=lt.1970-01-01"))


# Profiles ----------------------------------------------------------------------------------------


def profile_columns(connection: psycopg.Connection) -> list[str]:
    rows = connection.execute(
        "select column_name from information_schema.columns"
        " where table_schema = 'public' and table_name = 'profiles'"
    )
    return [name for (name,) in rows]


def test_an_owner_changes_no_column_that_is_not_granted(
    cast: Cast, admin_connection: psycopg.Connection
) -> None:
    granted = MATRIX["update_columns"]["public.profiles"]["authenticated"].split()
    protected = set(profile_columns(admin_connection)) - set(granted)
    assert {"is_admin", "is_active", "plan_id", "subscription_tier", "email", "id"} <= protected
    for column in sorted(protected):
        body = {"theme": "light", column: None}
        answer = cast.rest("owner", "PATCH", f"profiles?id=eq.{cast.owner.id}", json=body)
        assert refused(answer), (column, answer.text)


@pytest.mark.parametrize(
    "change",
    [
        {"is_admin": True},
        {"is_active": True},
        {"subscription_tier": "enterprise"},
        {"subscription_status": "active", "subscription_end_date": "2099-01-01"},
        {"plan_expires_at": "2099-01-01T00:00:00Z"},
        {"ads_credits_earned": 1_000_000},
        {"ads_watched_today": 0},
        {"daily_ads_limit": 1_000_000},
        {"total_generations": 0},
        {"stripe_customer_id": "cus_somebody_else"},
        {"email": "admin@example.com", "email_verified_at": "2020-01-01"},
        {"id": "00000000-0000-4000-8000-000000000000"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_owner_cannot_raise_themselves_with_the_official_client(
    cast: Cast, change: dict[str, Any]
) -> None:
    with pytest.raises(APIError) as refusal:
        cast.owner.client.table("profiles").update(change).eq("id", cast.owner.id).execute()
    assert refusal.value.code == "42501"


@pytest.mark.parametrize("column", ["credits_balance", "lifetime_credits"])
def test_a_computed_balance_cannot_be_set(cast: Cast, column: str) -> None:
    for method, path in (("PATCH", f"profiles?id=eq.{cast.owner.id}"), ("POST", "profiles")):
        answer = cast.rest("owner", method, path, json={column: 1_000_000})
        assert answer.status_code >= 400, answer.text


@pytest.mark.parametrize("actor", ["stranger", "member", "admin", "suspended"])
def test_nobody_updates_anothers_profile(cast: Cast, actor: str) -> None:
    for victim in (cast.owner, cast.founder):
        answer = cast.rest(
            actor,
            "PATCH",
            f"profiles?id=eq.{victim.id}",
            json={"full_name": "Defaced"},
            headers={"Prefer": "return=representation"},
        )
        assert answer.json() == [], actor


def test_a_suspended_user_does_not_update_even_their_own_profile(cast: Cast) -> None:
    for path in (f"profiles?id=eq.{cast.suspended.id}", "profiles"):
        answer = cast.rest(
            "suspended",
            "PATCH",
            path,
            json={"theme": "light"},
            headers={"Prefer": "return=representation"},
        )
        assert answer.json() == []


@pytest.mark.parametrize("actor", ["visitor", "stranger", "owner", "suspended", "service"])
def test_nobody_makes_or_deletes_a_profile(cast: Cast, actor: str) -> None:
    row = {"id": cast.owner.id, "is_admin": True}
    upsert = {"Prefer": "resolution=merge-duplicates"}
    assert refused(cast.rest(actor, "POST", "profiles", json=row))
    assert refused(cast.rest(actor, "POST", "profiles", json=row, headers=upsert))
    assert refused(cast.rest(actor, "DELETE", f"profiles?id=eq.{cast.owner.id}"))


# What clients do write ---------------------------------------------------------------------------

PREFERENCES = {
    "user_preferences": {"preference_type": "safety_settings", "preference_value": {}},
    "user_model_preferences": {"model_id": "Qwen2.5-32B-Instruct-AWQ", "is_favorite": True},
}


@pytest.mark.parametrize("table", PREFERENCES)
@pytest.mark.parametrize("actor", ["visitor", "stranger", "member", "suspended"])
def test_nobody_writes_a_preference_in_anothers_name(cast: Cast, table: str, actor: str) -> None:
    row = PREFERENCES[table] | {"user_id": cast.owner.id}
    for headers in ({}, {"Prefer": "resolution=merge-duplicates"}):
        answer = cast.rest(actor, "POST", table, json=row, headers=headers)
        assert refused(answer), answer.text


def test_a_preference_that_exists_answers_a_stranger_like_one_that_does_not(cast: Cast) -> None:
    answers = {
        cast.rest(
            "stranger",
            "POST",
            "user_preferences",
            json={
                "user_id": cast.owner.id,
                "preference_type": kind,
                "preference_value": {},
            },
        ).text
        for kind in ("ui_preferences", "safety_settings")  # the owner has the first only
    }
    assert len(answers) == 1
    assert "row-level security" in answers.pop()


@pytest.mark.parametrize("table", PREFERENCES)
def test_nobody_gives_their_preference_to_another(cast: Cast, table: str) -> None:
    answer = cast.rest(
        "owner", "PATCH", f"{table}?user_id=eq.{cast.owner.id}", json={"user_id": cast.stranger.id}
    )
    assert refused(answer), answer.text


@pytest.mark.parametrize("table", PREFERENCES)
@pytest.mark.parametrize("actor", ["stranger", "member", "suspended"])
def test_nobody_changes_or_deletes_anothers_preference(cast: Cast, table: str, actor: str) -> None:
    rows = f"{table}?user_id=eq.{cast.owner.id}"
    shown = {"Prefer": "return=representation"}
    change = {"preference_value": {}} if table == "user_preferences" else {"is_favorite": True}
    assert cast.rest(actor, "PATCH", rows, json=change, headers=shown).json() == []
    assert cast.rest(actor, "DELETE", rows, headers=shown).json() == []


def test_a_client_does_not_count_its_own_use_of_a_model(cast: Cast) -> None:
    for change in ({"use_count": 0}, {"last_used_at": "2020-01-01"}, {"created_at": "2020-01-01"}):
        answer = cast.rest("owner", "PATCH", "user_model_preferences", json=change)
        assert refused(answer), answer.text
