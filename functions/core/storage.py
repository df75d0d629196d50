"""Objects of Supabase Storage, read and written by the service: the only door to it.

https://supabase.com/docs/reference/api (Storage). It takes the secret key, which the database's
direct transport does without.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx

from functions.core.errors import QuernelError, UnavailableError
from functions.core.http_answers import AnswerTooLargeError, asked
from functions.core.http_session import open_client
from functions.core.settings import Settings, SettingsError

SILENCE_SECONDS = 30.0
MAX_OBJECT_BYTES = 64 * 1024 * 1024
MAX_MESSAGE_BYTES = 1024 * 1024
"""Of an answer that is no object: a list of deleted ones, a signed address."""


UPLOAD_SECONDS = 7200
"""For how long an address to upload to is good: as Storage makes them, which takes no wish."""


class StorageError(UnavailableError):
    """503: Storage does not answer, or refuses what it should not."""

    def __init__(self, message: str = "The files cannot be reached now.") -> None:
        super().__init__("storage_unavailable", message, 5)


class NoObjectError(QuernelError):
    """404: there is no such object."""

    def __init__(self) -> None:
        super().__init__("object_not_found", 404, "There is no such file.")


class StorageNotConfiguredError(UnavailableError):
    """503: there is no secret key for Storage."""

    def __init__(self) -> None:
        super().__init__("storage_not_configured", "Files cannot be kept here.", 60)


@dataclass(frozen=True)
class Upload:
    """Where a file is put, by whoever has the address: no other credential is asked for."""

    bucket: str
    path: str
    url: str = field(repr=False)
    token: str = field(repr=False)

    def answer(self, media_type: str, max_bytes: int) -> dict[str, Any]:
        """As routes tell it: a PUT of the bytes, or `uploadToSignedUrl(path, token, file)`."""
        return {
            "method": "PUT",
            "url": self.url,
            "headers": {"content-type": media_type},
            "bucket": self.bucket,
            "path": self.path,
            "token": self.token,
            "expires_in": UPLOAD_SECONDS,
            "max_bytes": max_bytes,
        }


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

    async def signed_upload(self, path: str, *, replaces: bool = False) -> Upload:
        """An address that takes the object from whoever has it, for UPLOAD_SECONDS.

        With `replaces` in the place of one that is there. Raises StorageError, also where there is
        one and it is not to be replaced.
        """
        answer = await self._ask(
            "POST",
            f"/object/upload/sign/{self._bucket}/{quote(path)}",
            headers={"x-upsert": "true"} if replaces else None,
        )
        try:
            url = json.loads(answer.content)["url"]
            [token] = parse_qs(urlsplit(url).query)["token"]
        except (ValueError, KeyError, TypeError):
            raise StorageError from None
        return Upload(self._bucket, path, f"{self._url}{url}", token)

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


@asynccontextmanager
async def storage_if_any(settings: Settings, bucket: str) -> AsyncIterator[Storage | None]:
    """A bucket; None without a secret key."""
    if settings.supabase_secret_key is None:
        yield None
        return
    async with open_storage(settings, bucket) as storage:
        yield storage


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
