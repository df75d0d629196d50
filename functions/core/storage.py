"""Objects of Supabase Storage, read and written by the service: the only door to it.

https://supabase.com/docs/reference/api (Storage). It takes the secret key, which the database's
direct transport does without.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from urllib.parse import quote

import httpx

from functions.core.errors import QuernelError, UnavailableError
from functions.core.http_answers import AnswerTooLargeError, asked
from functions.core.http_session import open_client
from functions.core.settings import Settings, SettingsError

SILENCE_SECONDS = 30.0
MAX_OBJECT_BYTES = 64 * 1024 * 1024
MAX_MESSAGE_BYTES = 1024 * 1024
"""Of an answer that is no object: a list of deleted ones, a signed address."""


class StorageError(UnavailableError):
    """503: Storage does not answer, or refuses what it should not."""

    def __init__(self, message: str = "The files cannot be reached now.") -> None:
        super().__init__("storage_unavailable", message, 5)


class NoObjectError(QuernelError):
    """404: there is no such object."""

    def __init__(self) -> None:
        super().__init__("object_not_found", 404, "There is no such file.")


class Storage:
    """One bucket's objects."""

    def __init__(self, http: httpx.AsyncClient, url: str, bucket: str, secret_key: str) -> None:
        """`url`: of the project."""
        self._http = http
        self._url = f"{url}/storage/v1"
        self._bucket = bucket
        # A key of the new kind is no token: the gateway makes one of it.
        self._headers = {"apikey": secret_key, "Authorization": f"Bearer {secret_key}"}

    async def put(self, path: str, content: bytes, media_type: str) -> None:
        """Store an object, in the place of one that is there. Raises StorageError."""
        await self._ask(
            "POST",
            f"/object/{self._bucket}/{quote(path)}",
            headers={"content-type": media_type, "x-upsert": "true"},
            content=content,
        )

    async def get(self, path: str, *, max_bytes: int = MAX_OBJECT_BYTES) -> bytes:
        """An object's bytes. Raises NoObjectError, also for a larger one; StorageError."""
        answer = await self._ask(
            "GET", f"/object/{self._bucket}/{quote(path)}", max_bytes=max_bytes
        )
        return answer.content

    async def delete(self, paths: Sequence[str]) -> None:
        """Delete objects; those that are not there do no harm. Raises StorageError."""
        await self._ask("DELETE", f"/object/{self._bucket}", json={"prefixes": list(paths)})

    async def signed_url(self, path: str, *, seconds: int) -> str:
        """An address that shows the object to whoever has it, for so long.

        Raises NoObjectError, StorageError.
        """
        answer = await self._ask(
            "POST", f"/object/sign/{self._bucket}/{quote(path)}", json={"expiresIn": seconds}
        )
        try:
            signed = json.loads(answer.content)["signedURL"]
        except (ValueError, KeyError, TypeError):
            raise StorageError from None
        return f"{self._url}{signed}"

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        max_bytes: int = MAX_MESSAGE_BYTES,
        **body: object,
    ) -> httpx.Response:
        try:
            answer = await asked(
                self._http,
                method,
                self._url + path,
                max_bytes=max_bytes,
                headers=self._headers | (headers or {}),
                **body,
            )
        except AnswerTooLargeError:
            raise NoObjectError from None
        except httpx.HTTPError:
            raise StorageError from None
        if answer.is_success:
            return answer
        if _is_absence(answer):
            raise NoObjectError
        raise StorageError


@asynccontextmanager
async def open_storage(settings: Settings, bucket: str) -> AsyncIterator[Storage]:
    """A bucket, with connections that are closed at the end.

    Raises SettingsError without a secret key.
    """
    if settings.supabase_secret_key is None:
        raise SettingsError("QUERNEL_SUPABASE_SECRET_KEY is required for files")
    async with open_client(SILENCE_SECONDS) as http:
        yield Storage(
            http,
            str(settings.supabase_url),
            bucket,
            settings.supabase_secret_key.get_secret_value(),
        )


def _is_absence(answer: httpx.Response) -> bool:
    """Storage says so with 404, or with 400 and the status in words."""
    if answer.status_code == HTTPStatus.NOT_FOUND:
        return True
    if answer.status_code != HTTPStatus.BAD_REQUEST:
        return False
    try:
        body = json.loads(answer.content)
    except ValueError:
        return False
    return isinstance(body, dict) and str(body.get("statusCode")) == "404"
