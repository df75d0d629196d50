"""The gateway answers the official clients as hosted Supabase does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import jwt
import psycopg
import pytest
from postgrest import APIError
from supabase_auth.errors import AuthApiError

from local.stack import Stack
from tests.local.clients import operator, signed_in

# Privileges, row security, policies and function definitions outside Postgres's own schemas.
EVERYTHING_GRANTED = """
select
  'relation ' || c.oid::regclass, c.relacl::text, c.relrowsecurity::text, c.relowner::regrole::text
from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
where n.nspname in ('public', 'backend', 'private', 'auth', 'storage', 'extensions')
union all
select 'column ' || a.attrelid::regclass || '.' || a.attname, a.attacl::text, '', ''
from pg_attribute as a where a.attacl is not null
union all
select 'function ' || p.oid::regprocedure, p.proacl::text, p.prosrc, p.proowner::regrole::text
from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
where n.nspname in ('public', 'backend', 'private', 'auth', 'storage')
union all
select 'schema ' || n.nspname, n.nspacl::text, '', n.nspowner::regrole::text from pg_namespace as n
where n.nspname !~ '^pg_(toast_)?temp_'
union all
select 'default ' || d.oid, d.defaclacl::text, d.defaclobjtype::text, d.defaclrole::regrole::text
from pg_default_acl as d
union all
select 'policy ' || p.polrelid::regclass || ' ' || p.polname, p.polroles::text, '', ''
from pg_policy as p
order by 1
"""


@pytest.fixture(scope="module")
def notes(private_stack: Callable[..., Stack]) -> Stack:
    return private_stack().start()


def granted(stack: Stack) -> list[tuple[str, ...]]:
    with psycopg.connect(stack.admin_dsn) as connection:
        return connection.execute(EVERYTHING_GRANTED).fetchall()


def test_a_gateway_start_changes_no_privilege(private_stack: Callable[..., Stack]) -> None:
    stack = private_stack()
    stack.start_database()
    before = granted(stack)
    stack.start_gateway()
    signed_in(stack).table("notes").select("*").execute()
    assert granted(stack) == before
    assert any("notes" in row[0] for row in before)


def test_the_product_is_granted_what_its_migrations_grant(
    stack: Stack, private_stack: Callable[..., Stack]
) -> None:
    untouched = private_stack(migrations=stack.migrations)
    untouched.start_database()
    expected = {row for row in granted(untouched) if "private.usage_logs_" not in row[0]}
    actual = {row for row in granted(stack) if "private.usage_logs_" not in row[0]}
    assert actual == expected


def test_row_level_security_separates_two_people(notes: Stack) -> None:
    first, second = signed_in(notes), signed_in(notes)
    first.table("notes").insert({"body": "mine"}).execute()
    assert [row["body"] for row in first.table("notes").select("body").execute().data] == ["mine"]
    assert second.table("notes").select("*").execute().data == []


def test_claims_reach_sql_as_on_the_hosted_platform(notes: Stack) -> None:
    client = signed_in(notes)
    session = client.auth.get_session()
    assert session is not None
    assert client.rpc("who_am_i").execute().data == {
        "uid": session.user.id,
        "role": "authenticated",
        "email": session.user.email,
        "session": jwt.decode(session.access_token, options={"verify_signature": False})[
            "session_id"
        ],
    }


def test_timestamps_are_rfc3339_in_utc(notes: Stack) -> None:
    row = signed_in(notes).table("notes").insert({"body": "now"}).execute().data[0]
    created = datetime.fromisoformat(row["created_at"])
    assert "T" in row["created_at"]
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)


@pytest.mark.parametrize("data", [{"a": [1, None, "x"]}, [1, 2], 7, True, None], ids=repr)
def test_json_arguments_arrive_as_sent(notes: Stack, data: object) -> None:
    answer = operator(notes).schema("backend").rpc("echo", {"p_data": data}).execute().data
    assert answer["data"] == data
    assert answer["type"] != "string"


def test_json_columns_arrive_as_sent(notes: Stack) -> None:
    data = {"nested": {"list": [1, "two"]}, "text": "ünï\u2028"}
    row = signed_in(notes).table("notes").insert({"body": "json", "data": data}).execute().data[0]
    assert row["data"] == data


def test_numbers_keep_every_digit(notes: Stack) -> None:
    headers = {"apikey": notes.keys.secret_key, "Content-Profile": "backend"}
    url = f"{notes.supabase_url}/rest/v1/rpc/amount"
    body = httpx.post(url, json={}, headers=headers, trust_env=False).text
    assert '"exact":12345678901234.123450' in body
    assert '"price":1.50' in body


def test_numeric_columns_are_json_numbers(notes: Stack) -> None:
    row = signed_in(notes).table("notes").insert({"body": "n", "amount": 100}).execute().data[0]
    assert row["amount"] == 100


def test_business_errors_keep_status_and_code(notes: Stack) -> None:
    headers = {"apikey": notes.keys.secret_key, "Content-Profile": "backend"}
    url = f"{notes.supabase_url}/rest/v1/rpc/refuse"
    answer = httpx.post(url, json={}, headers=headers, trust_env=False)
    assert answer.status_code == 402
    assert answer.json()["details"] == '{"code": "insufficient_credits"}'


@pytest.mark.parametrize("who", ["stranger", "person"])
def test_backend_is_closed_to_clients(notes: Stack, who: str) -> None:
    client = signed_in(notes)
    if who == "stranger":
        client.auth.sign_out()
    with pytest.raises(APIError) as refused:
        client.schema("backend").rpc("echo", {"p_data": {}}).execute()
    assert refused.value.code == "42501"


def test_a_table_without_any_grant_is_not_shown(notes: Stack) -> None:
    with pytest.raises(APIError) as refused:
        signed_in(notes).table("closed").select("*").execute()
    assert refused.value.code in {"42501", "PGRST205"}


def test_schemas_that_are_not_exposed_are_refused(notes: Stack) -> None:
    with pytest.raises(APIError) as refused:
        operator(notes).schema("auth").table("users").select("*").execute()
    assert refused.value.code == "PGRST106"


def test_admin_api_manages_users(notes: Stack) -> None:
    admin = operator(notes).auth.admin
    email = "managed@example.com"
    user = admin.create_user(
        {
            "email": email,
            "password": "a good password",
            "email_confirm": True,
            "user_metadata": {"n": 1},
        }
    ).user
    assert user.email_confirmed_at is not None
    with pytest.raises(AuthApiError) as twice:
        admin.create_user({"email": email, "password": "a good password"})
    assert twice.value.code == "email_exists"
    assert admin.get_user_by_id(user.id).user.user_metadata == {"n": 1}
    changed = admin.update_user_by_id(user.id, {"app_metadata": {"team": "x"}}).user
    assert changed.app_metadata["team"] == "x"
    assert email in {each.email for each in admin.list_users(per_page=1000)}

    client = signed_in(notes)
    client.auth.sign_in_with_password({"email": email, "password": "a good password"})
    client.table("notes").insert({"body": "soon gone"}).execute()
    admin.delete_user(user.id)
    with pytest.raises(AuthApiError):
        admin.get_user_by_id(user.id)
    with pytest.raises(AuthApiError):
        client.auth.sign_in_with_password({"email": email, "password": "a good password"})


def test_an_unconfirmed_user_cannot_be_mistaken_for_a_confirmed_one(notes: Stack) -> None:
    user = operator(notes).auth.admin.create_user({"email": "new@example.com"}).user
    assert user.email_confirmed_at is None


def test_admin_api_refuses_everybody_else(notes: Stack) -> None:
    client = signed_in(notes)
    with pytest.raises(AuthApiError) as refused:
        client.auth.admin.list_users()
    assert refused.value.status in {401, 403}
    session = client.auth.get_session()
    assert session is not None
    forged = jwt.encode(
        {"role": "service_role"}, "another secret of the same length.......", "HS256"
    )
    for bearer in (session.access_token, forged, "nonsense"):
        answer = httpx.get(
            f"{notes.supabase_url}/auth/v1/admin/users",
            headers={"apikey": notes.keys.publishable_key, "Authorization": f"Bearer {bearer}"},
            trust_env=False,
        )
        assert answer.status_code in {401, 403}


def test_storage_signs_urls_that_the_client_library_can_use(notes: Stack) -> None:
    storage = operator(notes).storage
    storage.create_bucket("papers")
    bucket = storage.from_("papers")
    bucket.upload("folder/über uns.txt", b"hello", {"content-type": "text/plain"})

    one = bucket.create_signed_url("folder/über uns.txt", 60)["signedURL"]
    assert httpx.get(one, trust_env=False).content == b"hello"

    found, missing = bucket.create_signed_urls(["folder/über uns.txt", "absent.txt"], 60)
    assert httpx.get(found["signedURL"], trust_env=False).content == b"hello"
    assert missing["error"]

    upload = bucket.create_signed_upload_url("folder/second.txt")
    bucket.upload_to_signed_url(upload["path"], upload["token"], b"second")
    assert bucket.download("folder/second.txt") == b"second"


def test_storage_is_closed_without_a_policy(notes: Stack) -> None:
    operator(notes).storage.create_bucket("closed")
    with pytest.raises(Exception, match=r"row-level security|Unauthorized|not authorized"):
        signed_in(notes).storage.from_("closed").upload("x.txt", b"x")


def test_objects_lie_in_the_state_folder(notes: Stack) -> None:
    storage = operator(notes).storage
    storage.create_bucket("kept")
    storage.from_("kept").upload("where.txt", b"here")
    stored = [path for path in (notes.state / "gateway").rglob("*") if path.is_file()]
    assert b"here" in [path.read_bytes() for path in stored]
