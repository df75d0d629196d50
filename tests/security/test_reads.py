"""Nobody reads another's rows: not by id, filter, embedding, count, order or computed field."""

from __future__ import annotations

import httpx
import psycopg
import pytest

from tests.security import matrix
from tests.security.conftest import REFUSED, Cast

TABLES = sorted(
    name.split(".")[1] for name in matrix.expected()["tables"] if name.startswith("public.")
)
SHARED = ["credit_packs", "model_providers", "models", "plans"]
PRIVATE = sorted(
    name.split(".")[1] for name in matrix.expected()["tables"] if name.startswith("private.")
)
# What clients may read of the price list; the rest is the operators'.
COLUMNS = {
    name.split(".")[1]: roles["anon"].replace(" ", ",")
    for name, roles in matrix.expected()["select_columns"].items()
}
OPERATORS = {
    "credit_packs": ["stripe_price_id"],
    "model_providers": ["api_base_url"],
    "models": ["upstream_model"],
    "plans": ["stripe_price_id_monthly", "stripe_price_id_yearly", "metadata"],
}
# What of a colleague's a member does not see either.
LEDGER = ["api_usage", "credit_lots", "credit_transactions", "credit_purchases", "usage_logs"]


def everything(table: str) -> str:
    """The path to all that a client may read of a table."""
    return f"{table}?select={COLUMNS.get(table, '*')}"


def shown(answer: httpx.Response) -> list[object]:
    """The rows of an answer; none where it is a refusal."""
    if answer.status_code in REFUSED:
        return []
    assert answer.status_code == 200, answer.text
    rows: list[object] = answer.json()
    return rows


def assert_tells_nothing(cast: Cast, answer: httpx.Response) -> None:
    for mark in cast.marks:
        assert mark not in answer.text.replace(answer.request.url.path, ""), mark


@pytest.mark.parametrize("table", TABLES)
def test_a_stranger_reads_no_row_of_anybody(cast: Cast, table: str) -> None:
    answer = cast.rest("stranger", "GET", everything(table))
    assert answer.status_code == 200
    assert_tells_nothing(cast, answer)


@pytest.mark.parametrize("table", TABLES)
def test_a_visitor_reads_the_price_list_and_nothing_else(cast: Cast, table: str) -> None:
    answer = cast.rest("visitor", "GET", everything(table))
    assert bool(shown(answer)) == (table in SHARED)
    assert_tells_nothing(cast, answer)


@pytest.mark.parametrize("table", SHARED)
@pytest.mark.parametrize("actor", ["visitor", "stranger", "admin"])
def test_an_operators_column_is_not_read_filtered_or_ordered_by(
    cast: Cast, actor: str, table: str
) -> None:
    for column in OPERATORS[table]:
        for path in (
            f"{table}?select={column}",
            f"{table}?select=id&{column}=not.is.null",
            f"{table}?select=id&order={column}",
            f"{table}?select=*",
        ):
            assert cast.rest(actor, "GET", path).status_code in REFUSED, path
        assert cast.rest("service", "GET", f"{table}?select={column}").status_code == 200


@pytest.mark.parametrize("table", TABLES)
def test_a_suspended_user_reads_not_even_their_own(cast: Cast, table: str) -> None:
    answer = cast.rest("suspended", "GET", everything(table))
    assert answer.status_code == 200
    assert_tells_nothing(cast, answer)
    if table not in ("credit_packs", "plans"):
        assert answer.json() == []


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("profiles", "id"),
        ("credit_accounts", "user_id"),
        ("usage_logs", "user_id"),
        ("api_usage", "user_id"),
        ("credit_purchases", "user_id"),
        ("user_preferences", "user_id"),
        ("user_model_preferences", "user_id"),
        ("agents", "user_id"),
        ("conversations", "user_id"),
        ("messages", "user_id"),
    ],
)
@pytest.mark.parametrize("actor", ["visitor", "stranger", "member", "admin", "suspended"])
def test_nobody_reads_another_persons_row_by_id(
    cast: Cast, actor: str, table: str, column: str
) -> None:
    assert shown(cast.rest(actor, "GET", f"{table}?{column}=eq.{cast.owner.id}")) == []
    assert len(cast.rest("owner", "GET", f"{table}?{column}=eq.{cast.owner.id}").json()) > 0


@pytest.mark.parametrize("table", LEDGER)
@pytest.mark.parametrize("actor", ["visitor", "stranger", "owner", "member", "suspended"])
def test_only_admins_read_the_books_of_an_organization(cast: Cast, actor: str, table: str) -> None:
    account = cast.accounts[cast.organization_id]
    assert shown(cast.rest(actor, "GET", f"{table}?account_id=eq.{account}")) == []
    assert len(cast.rest("admin", "GET", f"{table}?account_id=eq.{account}").json()) > 0


def test_an_admin_does_not_read_the_private_account_of_a_member(cast: Cast) -> None:
    for table in LEDGER:
        account = cast.accounts[cast.member.id]
        assert shown(cast.rest("admin", "GET", f"{table}?account_id=eq.{account}")) == []
    answer = cast.rest("admin", "GET", f"credit_accounts?user_id=eq.{cast.member.id}")
    assert shown(answer) == []


def test_a_member_sees_no_colleague_invitation_or_budget(cast: Cast) -> None:
    members = cast.rest("member", "GET", "organization_members?select=user_id").json()
    assert members == [{"user_id": cast.member.id}]
    assert cast.rest("member", "GET", "organization_invitations").json() == []


EMBEDDINGS = [
    "profiles?select=id,credit_accounts(*,credit_lots(*),credit_transactions(*))",
    "profiles?select=id,user_preferences(*),user_model_preferences(*)",
    "profiles?select=id,usage_logs(*)",
    "organizations?select=id,organization_members(*),organization_invitations(*)",
    "organizations?select=id,credit_accounts(*,credit_lots(*))",
    "plans?select=slug,profiles!profiles_plan_id_fkey(*)",
    "plans?select=slug,profiles!profiles_subscription_tier_fkey(*)",
    "plans?select=slug,organizations(*)",
    "models?select=id,user_model_preferences(*)",
    "credit_packs?select=slug,credit_purchases(*)",
    "profiles?select=id,conversations(*,messages(*),agents(*))",
    "agents?select=id,conversations(*,messages(*))",
    "organizations?select=id,agents(*),conversations(*)",
    "credit_packs?select=slug,credit_purchases!inner(id,profiles!credit_purchases_user_id_fkey(*))",
]


@pytest.mark.parametrize("path", EMBEDDINGS)
@pytest.mark.parametrize("actor", ["visitor", "stranger", "suspended"])
def test_embedding_opens_no_other_table(cast: Cast, actor: str, path: str) -> None:
    answer = cast.rest(actor, "GET", path)
    assert answer.status_code < 500
    assert_tells_nothing(cast, answer)


def test_embedding_works_for_those_whose_rows_they_are(cast: Cast) -> None:
    rows = cast.rest("owner", "GET", "profiles?select=id,credit_accounts(credit_lots(*))").json()
    assert [row["id"] for row in rows] == [cast.owner.id]
    assert rows[0]["credit_accounts"]["credit_lots"]


@pytest.mark.parametrize(
    "path",
    [
        "profiles?select=credits_balance,lifetime_credits",
        "profiles?select=email&or=(is_admin.eq.true,is_active.eq.true)",
        "profiles?select=email&email=like.*example.com",
        "profiles?select=email&email=not.is.null&order=created_at.desc",
        "credit_accounts?select=balance.sum()",
        "credit_accounts?select=balance&balance=gt.0",
        "organizations?select=slug&slug=like.*",
        "usage_logs?select=ip_address,user_agent",
    ],
)
@pytest.mark.parametrize("actor", ["visitor", "stranger"])
def test_filters_orders_and_aggregates_stay_within_ones_own_rows(
    cast: Cast, actor: str, path: str
) -> None:
    answer = cast.rest(actor, "GET", path)
    assert answer.status_code < 500
    assert_tells_nothing(cast, answer)
    if answer.status_code == 200:
        assert len(answer.json()) <= (1 if actor == "stranger" else 0)


@pytest.mark.parametrize("actor", ["visitor", "stranger", "suspended"])
def test_counts_and_heads_tell_nothing(cast: Cast, actor: str) -> None:
    for path in (
        f"profiles?id=eq.{cast.owner.id}",
        f"organizations?slug=eq.{cast.slug}",
        f"credit_accounts?user_id=eq.{cast.owner.id}&balance=gt.1",
    ):
        for method in ("GET", "HEAD"):
            answer = cast.rest(actor, method, path, headers={"Prefer": "count=exact"})
            total = answer.headers.get("content-range", "*/0").split("/")[1]
            assert answer.status_code in REFUSED or total == "0", path


def test_the_computed_balance_of_another_is_not_to_be_had_as_a_function(
    cast: Cast, admin_connection: psycopg.Connection
) -> None:
    width = admin_connection.execute(
        "select count(*) from information_schema.columns"
        " where table_schema = 'public' and table_name = 'profiles'"
    ).fetchone()
    assert width is not None
    forged = f"({cast.owner.id}{',' * (width[0] - 1)})"
    for name in ("credits_balance", "lifetime_credits"):
        assert cast.rpc("owner", name, p_profile=forged).json() > 0
        for actor in ("stranger", "member", "admin", "suspended"):
            assert cast.rpc(actor, name, p_profile=forged).json() is None
        assert cast.rpc("visitor", name, p_profile=forged).status_code in REFUSED


@pytest.mark.parametrize("schema", ["private", "auth", "storage", "extensions", "pg_catalog"])
@pytest.mark.parametrize("actor", ["visitor", "owner", "service"])
def test_no_other_schema_is_exposed(cast: Cast, actor: str, schema: str) -> None:
    for table in (*PRIVATE, "users", "objects", "pg_authid"):
        assert cast.rest(actor, "GET", table, schema=schema).status_code in {404, 406}


@pytest.mark.parametrize("actor", ["visitor", "owner", "service"])
def test_private_tables_are_not_in_public_by_another_name(cast: Cast, actor: str) -> None:
    for table in (*PRIVATE, "private.credit_holds", '"private"."tasks"', "auth.users", "users"):
        assert cast.rest(actor, "GET", table).status_code == 404


@pytest.mark.parametrize("actor", ["visitor", "owner"])
def test_the_backend_schema_is_closed_to_clients(cast: Cast, actor: str) -> None:
    answer = cast.rest(actor, "GET", "", schema="backend")
    assert answer.status_code in REFUSED
    assert "chat_start" not in answer.text
