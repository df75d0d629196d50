"""The admin API of Supabase Auth: who is gone is gone, and what fails is said to have failed."""

from __future__ import annotations

import json
import uuid

import httpx
import pytest

from functions.core.auth_admin import AuthAdmin, AuthAdminError, open_auth_admin
from functions.core.settings import Settings, SettingsError
from local.stack import Stack
from tests.conftest import NewUser

pytestmark = pytest.mark.anyio


def admin(handler: httpx.MockTransport) -> AuthAdmin:
    return AuthAdmin(httpx.AsyncClient(transport=handler), "http://auth.test", "secret")


@pytest.mark.parametrize("status", [401, 403, 422, 429, 500, 503])
async def test_a_refusal_is_an_error(status: int) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, json={}))
    with pytest.raises(AuthAdminError) as info:
        await admin(transport).delete_user(uuid.uuid4())
    assert (info.value.status, info.value.code) == (503, "auth_unavailable")


async def test_a_server_that_is_away_is_an_error() -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("away")

    with pytest.raises(AuthAdminError):
        await admin(httpx.MockTransport(fail)).delete_user(uuid.uuid4())


async def test_the_row_is_not_only_blanked() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={})

    user = uuid.uuid4()
    await admin(httpx.MockTransport(answer)).delete_user(user)
    (request,) = asked
    assert (request.method, request.url.path) == ("DELETE", f"/auth/v1/admin/users/{user}")
    assert json.loads(request.content) == {"should_soft_delete": False}
    assert request.headers["apikey"] == "secret"


async def test_a_user_is_deleted_and_may_be_deleted_again(stack: Stack, new_user: NewUser) -> None:
    user, other = new_user(), new_user()
    settings = Settings(
        _env_file=None,
        supabase_url=stack.supabase_url,
        supabase_secret_key=stack.keys.secret_key,
        supabase_jwt_secret=stack.keys.jwt_secret,
    )
    async with open_auth_admin(settings) as auth:
        for _ in range(2):
            await auth.delete_user(uuid.UUID(user.id))
    assert user.rest().get("/profiles").json() in ([], None)
    assert len(other.rest().get("/profiles").json()) == 1


async def test_without_a_secret_key_nothing_is_asked(stack: Stack) -> None:
    settings = Settings(
        _env_file=None,
        supabase_url=stack.supabase_url,
        supabase_secret_key=None,
        database_url=stack.functions_dsn,
        supabase_jwt_secret=stack.keys.jwt_secret,
    )
    with pytest.raises(SettingsError):
        async with open_auth_admin(settings):
            pass
