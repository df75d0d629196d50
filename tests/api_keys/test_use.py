"""Using a key: what is refused before and by the database, and who pays."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import openai
import pytest

from functions.core.api_keys import ApiKeyVerifier
from functions.core.auth import Authenticator
from functions.core.errors import UnauthenticatedError
from tests.api_keys.conftest import Keys, refusal, well_formed
from tests.api_keys.test_making import revoke

FREE_OF_CHARGE = Decimal(100)


def balance(keys: Keys, user_id: str) -> Decimal:
    (row,) = keys.rows(
        "select balance, held, active_holds from public.credit_accounts where user_id = %s", user_id
    )
    assert (row["held"], row["active_holds"]) == (0, 0)
    return Decimal(row["balance"])


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damaged",
    [
        "{key}0",
        "{head}{tail}",
        "{head}!{tail}",
        "{head}{other}{rest}",
        "qk_LIVE_{tail}",
        "{head}000000",
        "qk_live_",
        "qk_live_éééééééééééééééééééééééééééééééééééééééééééééééééé",
    ],
)
def test_a_damaged_key_is_refused_without_a_query(keys: Keys, damaged: str) -> None:
    key = keys.make(keys.person())["key"]
    text = damaged.format(
        key=key,
        head=key[:20],
        tail=key[21:],
        other="a" if key[20] != "a" else "b",
        rest=key[21:],
    )

    with pytest.raises(UnauthenticatedError) as info:
        asyncio.run(Authenticator([ApiKeyVerifier()]).authenticate(text))
    assert (info.value.status, info.value.code) == (401, "invalid_api_key")
    assert key[8:20] not in str(info.value)
    program = keys.program("x")
    del program.headers["Authorization"]
    answer = program.get("/models", headers=[(b"authorization", f"Bearer {text}".encode())])
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_a_well_formed_key_that_nobody_has(keys: Keys) -> None:
    answer = keys.ask(well_formed())
    assert refusal(answer) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_a_revoked_key_ends_at_once(keys: Keys) -> None:
    user = keys.person()
    key = keys.make(user)
    assert keys.ask(key["key"]).status_code == 200
    before = balance(keys, user.id)
    revoke(user, key)
    assert refusal(keys.ask(key["key"])) == (401, "api_key_revoked")
    assert refusal(keys.program(key["key"]).get("/models")) == (401, "api_key_revoked")
    assert balance(keys, user.id) == before


def test_an_expired_key(keys: Keys) -> None:
    user = keys.person()
    key = keys.make(user, expires_at="2099-01-01T00:00:00Z")
    assert keys.ask(key["key"]).status_code == 200
    keys.rows("update public.api_keys set expires_at = now() where id = %s", key["id"])
    assert refusal(keys.ask(key["key"])) == (401, "api_key_expired")


@pytest.mark.parametrize("path", ["/chat/completions", "/quote"])
def test_a_key_for_something_else(keys: Keys, path: str) -> None:
    user = keys.person()
    key = keys.make(user, scopes=["documents", "images"])
    request = {"model": "Qwen2.5-32B-Instruct-AWQ", "messages": [{"role": "user", "content": "x"}]}
    answer = keys.program(key["key"]).post(path, json=request)
    assert refusal(answer) == (403, "insufficient_scope")
    assert answer.json()["error"]["required_scope"] == "chat"
    assert balance(keys, user.id) == FREE_OF_CHARGE
    assert keys.usage(key) == []


def test_a_plan_that_lost_its_api_access(keys: Keys) -> None:
    user = keys.person()
    key = keys.make(user)
    keys.rows(
        "update public.profiles set plan_id = p.id from public.plans as p"
        " where p.slug = 'free' and profiles.id = %s",
        user.id,
    )
    answer = keys.ask(key["key"])
    assert refusal(answer) == (402, "plan_limit_reached")
    assert answer.json()["error"]["limit_source"] == "plan.has_api_access"


@pytest.mark.parametrize("owner", ["person", "organization"])
def test_a_suspended_owner(keys: Keys, owner: str) -> None:
    user = keys.person()
    organization = keys.organization(user) if owner == "organization" else None
    key = keys.make(user, organization)
    if organization:
        keys.rows("update public.organizations set is_active = false where id = %s", organization)
    else:
        keys.rows("update public.profiles set is_active = false where id = %s", user.id)
    assert refusal(keys.ask(key["key"])) == (403, "account_suspended")
    assert refusal(keys.program(key["key"]).get("/models")) == (403, "account_suspended")


def test_what_is_for_people_takes_no_key(keys: Keys) -> None:
    user = keys.person()
    key = keys.make(user)["key"]
    for method, path in (("POST", "checkout"), ("GET", "webhooks"), ("POST", "portal")):
        prefix = "notifications" if path == "webhooks" else "billing"
        url = f"{keys.functions_url}/{prefix}/{path}"
        answer = keys.program(key).request(method, url, json={})
        assert (answer.status_code, answer.json()["code"]) == (403, "api_key_not_accepted"), path


def test_an_organizations_key_is_not_lent_to_another(keys: Keys) -> None:
    user = keys.person()
    ours, other = keys.organization(user), keys.organization(user)
    key = keys.make(user, ours)
    answer = keys.ask(key["key"], headers={"OpenAI-Organization": other})
    assert refusal(answer) == (403, "not_a_member")
    assert keys.ask(key["key"], headers={"OpenAI-Organization": ours}).status_code == 200


def test_a_personal_key_ends_for_an_organization_with_the_membership(keys: Keys) -> None:
    owner, member = keys.person(), keys.person()
    organization = keys.organization(owner, member)
    key = keys.make(member)
    headers = {"OpenAI-Organization": organization}
    assert keys.ask(key["key"], headers=headers).status_code == 200
    keys.rows("delete from public.organization_members where user_id = %s", member.id)
    assert refusal(keys.ask(key["key"], headers=headers)) == (403, "not_a_member")
    assert keys.ask(key["key"]).status_code == 200


# Who pays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_the_official_client_works_with_a_key(keys: Keys, *, stream: bool) -> None:
    user = keys.person()
    key = keys.make(user)
    with openai.OpenAI(
        base_url=f"{keys.functions_url}/v1", api_key=key["key"], max_retries=0
    ) as client:
        messages: Any = [{"role": "user", "content": "hello"}]
        model = "Qwen2.5-32B-Instruct-AWQ"
        if stream:
            chunks = list(
                client.chat.completions.create(model=model, messages=messages, stream=True)
            )
            assert any(c.choices and c.choices[0].delta.content for c in chunks)
        else:
            answer = client.chat.completions.create(model=model, messages=messages)
            assert answer.choices[0].message.content
        assert model in {m.id for m in client.models.list().data}
    (row,) = keys.usage(key)
    assert (str(row["user_id"]), row["status"]) == (user.id, "completed")
    assert balance(keys, user.id) == FREE_OF_CHARGE - row["credits"]
    state = keys.state(key)
    assert (state["total_credits"], state["total_tokens"]) == (row["credits"], row["tokens_used"])
    assert (state["held"], state["active_holds"]) == (0, 0)


def test_an_organizations_key_spends_its_credits_in_nobodys_name(keys: Keys) -> None:
    user = keys.person()
    organization = keys.organization(user)
    key = keys.make(user, organization)
    assert keys.ask(key["key"]).status_code == 200
    (row,) = keys.usage(key)
    assert (row["user_id"], str(row["organization_id"])) == (None, organization)
    assert row["credits"] > 0
    assert balance(keys, user.id) == FREE_OF_CHARGE
    (account,) = keys.rows(
        "select balance from public.credit_accounts where organization_id = %s", organization
    )
    assert account["balance"] == 100 - row["credits"]
    assert (
        keys.rows("select 1 from private.member_spending where organization_id = %s", organization)
        == []
    )
    (seen,) = user.client.table("usage_logs").select("api_key_id").execute().data
    assert seen["api_key_id"] == key["id"]


def test_a_personal_key_for_an_organization_counts_on_its_members_budget(keys: Keys) -> None:
    owner, member = keys.person(), keys.person()
    organization = keys.organization(owner, member)
    key = keys.make(member)
    keys.rows(
        "update public.organization_members set monthly_credit_budget = 0 where user_id = %s",
        member.id,
    )
    answer = keys.ask(key["key"], headers={"OpenAI-Organization": organization})
    assert refusal(answer) == (402, "budget_exceeded")
    assert answer.json()["error"]["limit_source"] == "member_budget"


def test_an_idempotency_key_replays_for_every_key_of_an_organization(keys: Keys) -> None:
    user = keys.person()
    organization = keys.organization(user)
    one, other = keys.make(user, organization), keys.make(user, organization)
    headers = {"Idempotency-Key": "the same"}
    first = keys.ask(one["key"], headers=headers)
    again = keys.ask(other["key"], headers=headers)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert len(keys.usage(one)) + len(keys.usage(other)) == 1
