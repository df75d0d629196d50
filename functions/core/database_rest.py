"""The default transport: PostgREST, over one shared HTTP client with kept-alive connections."""

from __future__ import annotations

from http import HTTPStatus
from typing import Self

import aiohttp
from yarl import URL

from functions.core import json
from functions.core.database_errors import KEY_REFUSED, UNREACHABLE, DatabaseError
from functions.core.database_transport import Call
from functions.core.http_session import open_session
from functions.core.json import Json
from functions.core.logging import request_id_var
from functions.core.settings import Settings, SettingsError

CONNECT_TIMEOUT_SECONDS = 3.0


class RestTransport:
    """Calls `POST {supabase_url}/rest/v1/rpc/<function>` in schema `backend`."""

    def __init__(self, base_url: str, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._base_url = f"{base_url}/rest/v1/rpc/"
        self._urls: dict[str, URL] = {}

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Raises SettingsError without a secret key. Connects when the first call is made."""
        if settings.supabase_secret_key is None:
            raise SettingsError("QUERNEL_SUPABASE_SECRET_KEY (or QUERNEL_DATABASE_URL) is not set")
        key = settings.supabase_secret_key.get_secret_value()
        session = open_session(
            headers={
                "apikey": key,
                "Authorization": f"Bearer {key}",
                "Content-Profile": "backend",
                "Content-Type": "application/json",
                "Accept": "application/json",
            },
            max_connections=settings.database_max_connections,
            connect_seconds=CONNECT_TIMEOUT_SECONDS,
            decompress=True,
        )
        return cls(str(settings.supabase_url), session)

    async def aclose(self) -> None:
        await self._session.close()

    async def call(self, call: Call) -> Json:
        url = self._urls.get(call.function)
        if url is None:
            url = self._urls[call.function] = URL(self._base_url + call.function)
        try:
            response = await self._session.post(
                url, data=call.arguments, headers=_request_headers(), allow_redirects=False
            )
            try:
                content = await response.read()
            finally:
                response.close()
        except aiohttp.ServerTimeoutError as error:
            kind = (
                UNREACHABLE
                if isinstance(error, aiohttp.ConnectionTimeoutError)
                else "client_timeout"
            )
            raise DatabaseError(kind, type(error).__name__) from None
        except aiohttp.ClientError as error:
            raise DatabaseError(UNREACHABLE, f"{type(error).__name__}: {error}") from None
        if HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
            return _result(content)
        raise _failure(response, content)


def _request_headers() -> dict[str, str] | None:
    """What private.request_id() reads, and Supabase's own logs show."""
    request_id = request_id_var.get()
    return None if request_id is None else {"X-Request-Id": request_id}


def _result(content: bytes) -> Json:
    if not content:
        return None
    try:
        return json.loads(content)
    except ValueError:
        raise DatabaseError(UNREACHABLE, "the answer is not JSON") from None


def _failure(response: aiohttp.ClientResponse, content: bytes) -> DatabaseError:
    """Read PostgREST's error body; a body of another shape comes from a gateway in front of it."""
    retry_after = _seconds(response.headers.get("retry-after"))
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    if isinstance(body, dict) and isinstance(body.get("code"), str):
        details = body.get("details")
        # 401 is PostgREST's answer to a token it does not accept, and to one of the role `anon`,
        # which is what the publishable key is. A role that lacks a grant gets 403.
        refused = response.status == HTTPStatus.UNAUTHORIZED and body["code"][:2] != "PT"
        return DatabaseError(
            KEY_REFUSED if refused else body["code"],
            str(body.get("message") or ""),
            details if isinstance(details, str) else None,
            retry_after,
        )
    status = response.status
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return DatabaseError(KEY_REFUSED, f"the gateway answered {status}")
    overloaded = (
        status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS
    )
    kind = UNREACHABLE if overloaded else f"HTTP {status}"
    return DatabaseError(kind, f"the gateway answered {status}", retry_after=retry_after)


def _seconds(header: str | None) -> float | None:
    """Retry-After in its form of a number; the form of a date is not worth a parser here."""
    return float(header) if header is not None and header.isdigit() else None
