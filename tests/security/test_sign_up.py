"""What somebody writes about themselves at sign-up or later gives them no right."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import jwt
import pytest

from local.stack import Stack
from tests.conftest import PASSWORD, NewUser
from tests.security.conftest import Cast

CLAIMS = {
    "is_admin": True,
    "is_active": True,
    "role": "service_role",
    "plan": "enterprise",
    "plan_id": "enterprise",
    "subscription_tier": "enterprise",
    "credits_balance": 1_000_000,
    "ads_credits_earned": 1_000_000,
    "email_verified_at": "2020-01-01",
    "marketing_emails_enabled": True,
    "organization_id": str(uuid.uuid4()),
    "app_metadata": {"role": "service_role"},
}
ORDINARY = {
    "is_admin": False,
    "is_active": True,
    "plan_id": None,
    "subscription_tier": "free",
    "ads_credits_earned": 0,
    "marketing_emails_enabled": False,
    "credits_balance": 100,
}


def profile(url: str, headers: dict[str, str]) -> dict[str, Any]:
    columns = ",".join(ORDINARY)
    answer = httpx.get(f"{url}/rest/v1/profiles?select={columns}", headers=headers, trust_env=False)
    (row,) = answer.json()
    found: dict[str, Any] = row
    return found


def test_metadata_at_sign_up_gives_no_right(new_user: NewUser) -> None:
    user = new_user(**CLAIMS)
    assert profile(user.url, {"apikey": user.publishable_key} | user.headers) == ORDINARY


def test_fields_beside_the_metadata_give_no_right(stack: Stack) -> None:
    email = f"{uuid.uuid4().hex}@example.com"
    key = {"apikey": stack.keys.publishable_key}
    session = httpx.post(
        f"{stack.supabase_url}/auth/v1/signup",
        json=CLAIMS | {"email": email, "password": PASSWORD, "id": str(uuid.uuid4()), "aud": "all"},
        headers=key,
        trust_env=False,
    ).json()
    token = jwt.decode(session["access_token"], options={"verify_signature": False})
    assert (token["role"], token["aud"]) == ("authenticated", "authenticated")
    mine = key | {"Authorization": f"Bearer {session['access_token']}"}
    assert profile(stack.supabase_url, mine) == ORDINARY


def test_a_user_who_rewrites_their_auth_record_gains_nothing(cast: Cast, new_user: NewUser) -> None:
    user = new_user()
    mine = {"apikey": user.publishable_key} | user.headers
    changes = CLAIMS | {
        "id": cast.owner.id,
        "data": CLAIMS,
        "aud": "all",
        "email_confirmed_at": "1",
    }
    cast.http.put(f"{user.url}/auth/v1/user", json=changes, headers=mine)
    session = cast.http.post(
        f"{user.url}/auth/v1/token?grant_type=password",
        json={"email": user.email, "password": PASSWORD},
        headers={"apikey": user.publishable_key},
    ).json()
    token = jwt.decode(session["access_token"], options={"verify_signature": False})
    assert (token["sub"], token["role"]) == (user.id, "authenticated")
    mine["Authorization"] = f"Bearer {session['access_token']}"
    assert profile(user.url, mine) == ORDINARY


def test_signing_up_again_under_the_same_address_grants_nothing_again(
    cast: Cast, new_user: NewUser
) -> None:
    user = new_user()
    for email in (user.email, user.email.upper()):
        cast.http.post(
            f"{user.url}/auth/v1/signup",
            json={"email": email, "password": PASSWORD},
            headers={"apikey": user.publishable_key},
        )
    rows = user.client.table("credit_transactions").select("type,amount").execute().data
    assert rows == [{"type": "bonus", "amount": 100}]


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize("actor", ["visitor", "owner", "admin"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "users"),
        ("POST", "users"),
        ("GET", "users/{owner}"),
        ("PUT", "users/{owner}"),
        ("DELETE", "users/{owner}"),
    ],
)
def test_the_admin_api_of_auth_is_for_the_secret_key(
    cast: Cast, actor: str, method: str, path: str
) -> None:
    body = {"email": "made@example.com", "role": "service_role", "email_confirm": True}
    answer = cast.http.request(
        method,
        f"{cast.url}/auth/v1/admin/{path.format(owner=cast.owner.id)}",
        json=None if method == "GET" else body,
        headers=cast.headers(actor),
    )
    assert answer.status_code in {401, 403}
    assert cast.owner.email not in answer.text
