"""Making, changing, rotating and revoking keys: who may, what is refused, what is kept."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from postgrest import APIError

from functions.core.api_keys import checksum
from tests.api_keys.conftest import Keys, refusal
from tests.conftest import User


def refuse(act: Callable[[], object], status: int, code: str) -> APIError:
    with pytest.raises(APIError) as info:
        act()
    assert info.value.code == f"PT{status}", info.value
    assert f'"{code}"' in str(info.value.details)
    return info.value


def change(user: User, key: dict[str, Any], **changes: Any) -> dict[str, Any]:
    arguments = {"p_id": key["id"], "p_changes": changes}
    return dict(user.client.rpc("update_api_key", arguments).execute().data)


def rotate(user: User, key: dict[str, Any], grace: int | None = None) -> dict[str, Any]:
    arguments = {"p_id": key["id"], "p_grace_seconds": grace}
    return dict(user.client.rpc("rotate_api_key", arguments).execute().data)


def revoke(user: User, key: dict[str, Any]) -> dict[str, Any]:
    return dict(user.client.rpc("revoke_api_key", {"p_id": key["id"]}).execute().data)


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", ""),
        ("name", " padded "),
        ("name", "x" * 101),
        ("name", None),
        ("scopes", []),
        ("scopes", ["chat", "everything"]),
        ("scopes", None),
        ("scopes", "chat"),
        ("rate_limit_per_minute", 0),
        ("rate_limit_per_minute", -1),
        ("rate_limit_per_minute", "many"),
        ("rate_limit_per_day", 0),
        ("rate_limit_per_month", 1.5),
        ("tokens_per_minute", -5),
        ("max_concurrent_requests", 0),
        ("monthly_credit_budget", -0.000001),
        ("monthly_credit_budget", "NaN"),
        ("monthly_credit_budget", 10**15),
        ("expires_at", "2020-01-01T00:00:00Z"),
        ("expires_at", "soon"),
        ("user_id", "01234567-89ab-7def-8123-456789abcdef"),
        ("revoked_at", None),
    ],
)
def test_values_that_make_no_sense(keys: Keys, name: str, value: Any) -> None:
    user = keys.person()
    refuse(lambda: keys.make(user, **{name: value}), 400, "invalid_argument")
    key = keys.make(user)
    refuse(lambda: change(user, key, **{name: value}), 400, "invalid_argument")
    assert keys.rows("select count(*) from public.api_keys where user_id = %s", user.id) == [
        {"count": 1}
    ]


@pytest.mark.parametrize("values", [[], None, 5])
def test_values_that_are_no_object(keys: Keys, values: Any) -> None:
    user = keys.person()
    arguments = {"p_name": "a program", "p_values": values}
    refuse(lambda: user.client.rpc("create_api_key", arguments).execute(), 400, "invalid_argument")


@pytest.mark.parametrize("plan", ["free", "pro"])
def test_a_plan_without_api_access(keys: Keys, plan: str) -> None:
    user = keys.person(plan)
    error = refuse(lambda: keys.make(user), 402, "plan_limit_reached")
    assert '"plan.has_api_access"' in str(error.details)
    assert '"upgrade_plan"' in str(error.details)


def test_a_suspended_person_makes_none(keys: Keys) -> None:
    user = keys.person()
    keys.rows("update public.profiles set is_active = false where id = %s", user.id)
    refuse(lambda: keys.make(user), 403, "account_suspended")


def test_only_admins_make_an_organizations(keys: Keys) -> None:
    owner, member, stranger = keys.person(), keys.person(), keys.person()
    organization = keys.organization(owner, member)
    refuse(lambda: keys.make(member, organization), 403, "not_an_admin")
    refuse(lambda: keys.make(stranger, organization), 403, "not_a_member")
    assert keys.make(owner, organization)["organization_id"] == organization


@pytest.mark.parametrize("act", [change, rotate, revoke])
def test_a_strangers_key_is_not_there(keys: Keys, act: Callable[..., Any]) -> None:
    owner, member, stranger = keys.person(), keys.person(), keys.person()
    organization = keys.organization(owner, member)
    mine, ours = keys.make(owner), keys.make(owner, organization)
    for who, key in ((stranger, mine), (stranger, ours), (member, ours), (member, mine)):
        refuse(lambda who=who, key=key: act(who, key), 404, "api_key_not_found")
        assert who.client.table("api_keys").select("*").execute().data == []
    refuse(lambda: act(owner, {"id": str(uuid4())}), 404, "api_key_not_found")


def test_a_revoked_key_is_not_changed(keys: Keys) -> None:
    user = keys.person()
    key = keys.make(user)
    revoke(user, key)
    refuse(lambda: change(user, key, name="again"), 409, "api_key_revoked")
    refuse(lambda: rotate(user, key), 409, "api_key_revoked")
    assert revoke(user, key)["revoked_at"] is not None  # again: nothing changes


@pytest.mark.parametrize("grace", [-1, 2_592_001])
def test_a_grace_out_of_range(keys: Keys, grace: int) -> None:
    user = keys.person()
    key = keys.make(user)
    refuse(lambda: rotate(user, key, grace), 400, "invalid_argument")


def test_there_is_an_end_to_the_number_of_keys(keys: Keys) -> None:
    user = keys.person()
    keys.rows("update private.settings set value = '2' where name = 'api_keys_per_owner'")
    try:
        first = keys.make(user)
        keys.make(user)
        refuse(lambda: keys.make(user), 409, "too_many_api_keys")
        revoke(user, first)
        assert keys.make(user)["key"]
    finally:
        keys.rows("update private.settings set value = '100' where name = 'api_keys_per_owner'")


@pytest.mark.parametrize(
    ("verb", "values"),
    [
        ("insert", {"name": "mine", "key_prefix": "qk_live_", "scopes": ["chat"]}),
        ("update", {"rate_limit_per_minute": 1_000_000}),
        ("delete", None),
    ],
)
def test_clients_write_no_keys_past_the_functions(
    keys: Keys, verb: str, values: dict[str, Any] | None
) -> None:
    user = keys.person()
    key = keys.make(user)
    table = user.client.table("api_keys")
    statement: Any
    if verb == "insert":
        statement = table.insert({"user_id": user.id} | (values or {}))
    elif verb == "update":
        statement = table.update(values or {}).eq("id", key["id"])
    else:
        statement = table.delete().eq("id", key["id"])
    with pytest.raises(APIError) as info:
        statement.execute()
    assert info.value.code == "42501"


# What a key is ----------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_kept_as_a_digest(keys: Keys) -> None:
    user = keys.person()
    made = keys.make(user)
    secret = made["key"]
    assert re.fullmatch(r"qk_(live|test)_[0-9A-Za-z]{49}", secret)
    assert checksum(secret[:-6]) == secret[-6:]
    assert made["key_prefix"] == secret[:12]
    (kept,) = keys.rows(
        "select key_hash, expires_at from private.api_key_hashes where api_key_id = %s", made["id"]
    )
    assert kept == {"key_hash": hashlib.sha256(secret.encode()).hexdigest(), "expires_at": None}
    (seen,) = user.client.table("api_keys").select("*").execute().data
    assert secret[12:] not in str(seen)
    assert seen["scopes"] == ["chat"]
    assert seen["rate_limit_per_minute"] == 60


def test_no_table_holds_the_secret(keys: Keys) -> None:
    user = keys.person()
    secret = keys.make(user)["key"]
    keys.ask(secret)
    tables = keys.rows(
        "select format('%%I.%%I', schemaname, tablename) as name from pg_tables"
        " where schemaname in ('public', 'private')"
    )
    for table in tables:
        found = keys.rows(
            f"select count(*) from {table['name']} as t where t::text like %s",  # noqa: S608
            f"%{secret[12:40]}%",
        )
        assert found == [{"count": 0}], table["name"]


def test_every_key_is_another(keys: Keys) -> None:
    made = keys.rows("select private.new_api_key() as key from generate_series(1, 200)")
    assert len({row["key"] for row in made}) == 200
    assert all(checksum(row["key"][:-6]) == row["key"][-6:] for row in made)


@pytest.mark.parametrize("text", ["", "a", "123456789", "qk_live_é", "x" * 500])
def test_the_checksum_is_zlibs(keys: Keys, text: str) -> None:
    assert keys.rows("select private.crc32(%s) as crc", text) == [
        {"crc": zlib.crc32(text.encode())}
    ]


def test_the_mode_is_the_deployments(keys: Keys) -> None:
    with keys.connection.transaction(force_rollback=True):
        keys.rows("update private.settings set value = '\"test\"' where name = 'api_key_mode'")
        (row,) = keys.rows("select private.new_api_key() as key")
    assert row["key"].startswith("qk_test_")


def test_scopes_are_a_set(keys: Keys) -> None:
    key = keys.make(keys.person(), scopes=["images", "chat", "images"])
    assert key["scopes"] == ["chat", "images"]


def test_a_change_leaves_what_it_does_not_name(keys: Keys) -> None:
    user = keys.person()
    key = keys.make(user, rate_limit_per_day=5, monthly_credit_budget=2.5)
    changed = change(user, key, name="renamed", rate_limit_per_day=None)
    assert changed["name"] == "renamed"
    assert changed["rate_limit_per_day"] is None
    assert changed["monthly_credit_budget"] == 2.5
    assert "key" not in changed


def test_a_key_without_limits_of_its_own(keys: Keys) -> None:
    assert keys.make(keys.person(), rate_limit_per_minute=None)["rate_limit_per_minute"] is None


# Rotation ---------------------------------------------------------------------------------------


def test_the_old_secret_works_until_the_end_of_its_grace(keys: Keys) -> None:
    user = keys.person()
    old = keys.make(user)
    new = rotate(user, old)
    assert new["id"] == old["id"]
    assert new["key"] != old["key"]
    assert keys.ask(old["key"]).status_code == 200
    assert keys.ask(new["key"]).status_code == 200
    assert len(keys.usage(old)) == 2  # one key, one set of limits and totals
    keys.rows(
        "update private.api_key_hashes set expires_at = now() - interval '1 second'"
        " where api_key_id = %s and expires_at is not null",
        old["id"],
    )
    assert refusal(keys.ask(old["key"])) == (401, "api_key_expired")
    assert keys.ask(new["key"]).status_code == 200


def test_without_grace_the_old_secret_ends_at_once(keys: Keys) -> None:
    user = keys.person()
    old = keys.make(user)
    new = rotate(user, old, 0)
    assert refusal(keys.ask(old["key"])) == (401, "invalid_api_key")
    assert keys.ask(new["key"]).status_code == 200


def test_only_the_newest_of_the_old_secrets_goes_on(keys: Keys) -> None:
    user = keys.person()
    first = keys.make(user)
    second = rotate(user, first)
    third = rotate(user, first)
    assert refusal(keys.ask(first["key"])) == (401, "invalid_api_key")
    assert keys.ask(second["key"]).status_code == 200
    assert keys.ask(third["key"]).status_code == 200


# Their end --------------------------------------------------------------------------------------


def test_keys_go_with_their_person(keys: Keys) -> None:
    user = keys.person()
    key = keys.make(user)
    assert keys.ask(key["key"]).status_code == 200
    keys.rows("delete from auth.users where id = %s", user.id)
    assert refusal(keys.ask(key["key"])) == (401, "invalid_api_key")
    assert keys.rows("select 1 from private.api_key_states where api_key_id = %s", key["id"]) == []


def test_an_organizations_key_outlives_its_author(keys: Keys) -> None:
    owner, author = keys.person(), keys.person()
    organization = keys.organization(owner, author)
    keys.rows("update public.organization_members set role = 'admin' where user_id = %s", author.id)
    key = keys.make(author, organization)
    keys.rows("delete from auth.users where id = %s", author.id)
    assert keys.ask(key["key"]).status_code == 200
    (seen,) = owner.client.table("api_keys").select("id,created_by").execute().data
    assert seen == {"id": key["id"], "created_by": None}


def test_totals_are_their_owners_to_read(keys: Keys) -> None:
    user, stranger = keys.person(), keys.person()
    key = keys.make(user)
    answer = keys.ask(key["key"])
    charged = answer.json()["usage"]["credits_charged"]
    columns = "id,total_requests,total_tokens,total_credits,last_used_at"
    (seen,) = user.client.table("api_keys").select(columns).execute().data
    assert seen["total_requests"] == 1
    assert seen["total_tokens"] == answer.json()["usage"]["total_tokens"]
    assert seen["total_credits"] == charged
    assert seen["last_used_at"] is not None
    assert stranger.client.table("api_keys").select(columns).execute().data == []
    with psycopg.connect(keys.connection.info.dsn, password=keys.connection.info.password) as own:
        own.execute("set role authenticated")
        own.execute(
            "select set_config('request.jwt.claims', %s, true)", [f'{{"sub":"{stranger.id}"}}']
        )
        row = own.execute(
            "select (private.api_key_usage(%s)).total_requests", [key["id"]]
        ).fetchone()
        assert row == (None,)
