"""The admin API of Supabase Auth: the only door through which users are deleted.

https://supabase.com/docs/reference/api (Auth). It takes the secret key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from uuid import UUID

import httpx

from functions.core.errors import UnavailableError
from functions.core.http_answers import AnswerTooLargeError, asked
from functions.core.http_session import open_client
from functions.core.settings import Settings, SettingsError

SILENCE_SECONDS = 30.0
MAX_ANSWER_BYTES = 1024 * 1024


class AuthAdminError(UnavailableError):
    """503: Supabase Auth does not answer, or refuses what it should not."""

    def __init__(self) -> None:
        super().__init__("auth_unavailable", "Accounts cannot be changed now.", 5)


class AuthAdmin:
    """Users, as the service sees them."""

    def __init__(self, http: httpx.AsyncClient, url: str, secret_key: str) -> None:
        """`url`: of the project."""
        self._http = http
        self._url = f"{url}/auth/v1/admin"
        self._headers = {"apikey": secret_key, "Authorization": f"Bearer {secret_key}"}

    async def delete_user(self, user_id: UUID) -> None:
        """Delete a user with their sessions, for good; one that is gone is no error.

        Raises AuthAdminError.
        """
        try:
            answer = await asked(
                self._http,
                "DELETE",
                f"{self._url}/users/{user_id}",
                max_bytes=MAX_ANSWER_BYTES,
                headers=self._headers,
                # Else Auth may keep the row and only blank the address.
                json={"should_soft_delete": False},
            )
        except (httpx.HTTPError, AnswerTooLargeError):
            raise AuthAdminError from None
        if not answer.is_success and answer.status_code != HTTPStatus.NOT_FOUND:
            raise AuthAdminError


@asynccontextmanager
async def open_auth_admin(settings: Settings) -> AsyncIterator[AuthAdmin]:
    """The admin API, with connections that are closed at the end.

    Raises SettingsError without a secret key.
    """
    if settings.supabase_secret_key is None:
        raise SettingsError("QUERNEL_SUPABASE_SECRET_KEY is required to delete users")
    async with open_client(SILENCE_SECONDS) as http:
        yield AuthAdmin(
            http, str(settings.supabase_url), settings.supabase_secret_key.get_secret_value()
        )
