"""The checks of keys: one cheap call to the provider, and what its answer says of the key."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx
from pydantic import SecretStr

from functions.core.errors import InvalidRequestError, NotFoundError, QuernelError
from functions.core.http import SafeClient
from functions.core.http_answers import AnswerTooLargeError, asked
from functions.core.http_session import open_client
from functions.core.settings import Settings
from functions.provider_keys.checks import CheckOutcome, KeyCheck
from functions.provider_keys.vault import MAX_SECRET_BYTES
from functions.providers.definitions import DEFINITIONS, OWN_SERVER, Definition, base_url_of
from functions.providers.google_tokens import TOKEN_URL, ServiceAccount, ask_for_token
from functions.providers.refusals import Meaning, understand

VERTEX = "google-vertex"
CHECK_SECONDS = 10.0
"""For the whole of a check."""

MAX_BYTES = 2 * 1024 * 1024
"""Of an answer: a list of some hundred models is about 100 kB."""

MAX_MODELS = 500
_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
MODEL_ID_MAX_CHARACTERS = 180
"""With the provider's name before it, an id of the catalog has at most 200."""

_SECRET = re.compile(r"[\x21-\x7e]+")
_MISSING_SCOPE = re.compile(r"missing scopes|insufficient permissions", re.IGNORECASE)
_ERROR_CODES = {
    "rejected": "provider_key_rejected",
    "quota_exceeded": "provider_quota_exceeded",
    "rate_limited": "provider_rate_limited",
}
_OUTCOMES: dict[Meaning, CheckOutcome] = {
    Meaning.KEY: "rejected",
    Meaning.QUOTA: "quota_exceeded",
    Meaning.RATE: "rate_limited",
}


def _always(_: Mapping[str, Any]) -> CheckOutcome:
    return "completed"


def _xai(body: Mapping[str, Any]) -> CheckOutcome:
    blocked = ("api_key_blocked", "api_key_disabled", "team_blocked")
    return "rejected" if any(body.get(name) is True for name in blocked) else "completed"


def _openrouter(body: Mapping[str, Any]) -> CheckOutcome:
    data = body.get("data")
    left = data.get("limit_remaining") if isinstance(data, dict) else None
    spent = isinstance(left, int | float) and left <= 0
    return "quota_exceeded" if spent else "completed"


def _stability(body: Mapping[str, Any]) -> CheckOutcome:
    credits_left = body.get("credits")
    spent = isinstance(credits_left, int | float) and credits_left <= 0
    return "quota_exceeded" if spent else "completed"


@dataclass(frozen=True)
class _Probe:
    path: str
    reads: Callable[[Mapping[str, Any]], CheckOutcome] = _always
    """What the body of a success says."""


# The cheapest call of each that needs the key. Sources: the API references, as of November 2026.
PROBES: Mapping[str, _Probe] = {
    "openai": _Probe("/models"),
    "google": _Probe("/models?pageSize=1"),
    "xai": _Probe("/api-key", _xai),
    "anthropic": _Probe("/models?limit=1"),
    "mistral": _Probe("/models"),
    "openrouter": _Probe("/key", _openrouter),
    "replicate": _Probe("/account"),
    "stability": _Probe("/v1/user/balance", _stability),
}


class ProviderKeyChecker:
    """Asks providers about keys. One per process."""

    def __init__(
        self,
        settings: Settings,
        safe_client: SafeClient,
        http: httpx.AsyncClient,
        token_url: str = TOKEN_URL,
    ) -> None:
        self._settings = settings
        self._safe_client = safe_client
        self._http = http
        self._token_url = token_url

    async def check(self, provider: str, secret: SecretStr, base_url: str | None) -> KeyCheck:
        """See KeyChecker. Raises NotFoundError for a provider whose address nobody knows, too."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return await self._check(provider, secret, base_url)
        except (httpx.HTTPError, TimeoutError):
            return KeyCheck("failed", "upstream_unavailable")
        except AnswerTooLargeError:
            return KeyCheck("failed", "upstream_error")

    async def _check(self, provider: str, secret: SecretStr, base_url: str | None) -> KeyCheck:
        if provider == VERTEX:
            return await self._check_service_account(ServiceAccount.read(secret))
        _require_printable(secret)
        if provider == OWN_SERVER:
            return await self._check_own_server(secret, base_url or "")
        url = base_url_of(provider, self._settings)
        if url is None:
            raise NotFoundError(
                "provider_not_found", "Nobody here knows this provider.", {"param": "provider"}
            )
        definition = DEFINITIONS.get(provider) or Definition(provider, url)
        probe = PROBES.get(provider, _Probe("/models"))
        answer = await asked(
            self._http,
            "GET",
            url + probe.path,
            max_bytes=MAX_BYTES,
            headers=definition.auth(secret),
        )
        return _judged(answer.status_code, answer.headers, _json(answer.content), probe.reads)

    async def _check_service_account(self, account: ServiceAccount) -> KeyCheck:
        """A token is enough: what the account may do is seen when it is used."""
        response = await ask_for_token(self._http, account, self._token_url)
        body = _json(response.content)
        if response.status_code == HTTPStatus.OK and isinstance(body, dict):
            return KeyCheck("completed")
        if isinstance(body, dict) and body.get("error") == "invalid_grant":
            return KeyCheck("rejected", _ERROR_CODES["rejected"])
        return _judged(response.status_code, response.headers, body, _always)

    async def _check_own_server(self, secret: SecretStr, base_url: str) -> KeyCheck:
        self._safe_client.vet(base_url)
        try:
            answer = await self._safe_client.fetch(
                f"{base_url.rstrip('/')}/models",
                headers={"authorization": f"Bearer {secret.get_secret_value()}"},
                max_bytes=MAX_BYTES,
                timeout_seconds=CHECK_SECONDS,
            )
        except QuernelError as error:
            if error.code == "url_refused":
                raise
            return KeyCheck("failed", "upstream_unavailable")
        body = _json(answer.body)
        if answer.status != HTTPStatus.OK:
            return _judged(answer.status, answer.headers, body, _always)
        if not isinstance(body, dict) or not isinstance(body.get("data"), list):
            return KeyCheck("failed", "upstream_error")
        return KeyCheck("completed", models=tuple(_model_ids(body["data"])))


@asynccontextmanager
async def open_key_checker(
    settings: Settings, safe_client: SafeClient
) -> AsyncIterator[ProviderKeyChecker]:
    """The checker of a process."""
    async with open_client(CHECK_SECONDS) as http:
        token_url = settings.google_oauth_url or TOKEN_URL
        yield ProviderKeyChecker(settings, safe_client, http, token_url)


def _judged(
    status: int,
    headers: Mapping[str, str],
    body: object,
    reads: Callable[[Mapping[str, Any]], CheckOutcome],
) -> KeyCheck:
    if status == HTTPStatus.OK:
        if not isinstance(body, dict):
            return KeyCheck("failed", "upstream_error")
        return _checked(reads(body))
    refusal = understand(status, body, headers)
    if status == HTTPStatus.FORBIDDEN and _MISSING_SCOPE.search(refusal.message):
        return KeyCheck("completed")  # a key that may do other things than list models
    outcome = _OUTCOMES.get(refusal.meaning)
    return KeyCheck("failed", "upstream_error") if outcome is None else _checked(outcome)


def _checked(outcome: CheckOutcome) -> KeyCheck:
    return KeyCheck(outcome, _ERROR_CODES.get(outcome))


def _require_printable(secret: SecretStr) -> None:
    """A key goes into a header: what cannot stand there is no key."""
    text = secret.get_secret_value()
    if len(text) > MAX_SECRET_BYTES or not _SECRET.fullmatch(text):
        raise InvalidRequestError(
            "invalid_argument",
            "A key is printable ASCII without spaces.",
            {"param": "api_key"},
        )


def _model_ids(rows: list[Any]) -> list[str]:
    ids = (row.get("id") for row in rows if isinstance(row, dict))
    return [
        one
        for one in ids
        if isinstance(one, str) and len(one) <= MODEL_ID_MAX_CHARACTERS and _MODEL_ID.fullmatch(one)
    ][:MAX_MODELS]


def _json(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None
