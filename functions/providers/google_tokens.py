"""Access tokens for Google Cloud, from the service account that a customer brought.

A service account's file says where its tokens are to be asked for. That is not believed: whoever
wrote the file would choose whom we call, from inside. So google-auth, which goes there, is not used
(docs/decisions/0030). https://developers.google.com/identity/protocols/oauth2/service-account
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from time import time

import httpx
import jwt
from pydantic import SecretStr

from functions.core.errors import InvalidRequestError
from functions.core.http_answers import asked

TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
LIFE_SECONDS = 600
"""Of an assertion; Google allows an hour."""

MAX_TOKEN_BYTES = 64 * 1024
"""Of an answer; a token has one to two kB."""

_PROJECT = re.compile(r"[a-z][a-z0-9-]{4,61}[a-z0-9](?::[a-z0-9.-]+)?")
_ACCOUNT = re.compile(r"[A-Za-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com")


@dataclass(frozen=True)
class ServiceAccount:
    """What is needed of a service account's file."""

    project: str
    email: str
    key_id: str | None
    private_key: SecretStr = field(repr=False)

    @classmethod
    def read(cls, secret: SecretStr) -> ServiceAccount:
        """Raises InvalidRequestError for anything but a service account's file; shows nothing."""
        try:
            found = json.loads(secret.get_secret_value())
            project, email = found["project_id"], found["client_email"]
            private_key = found["private_key"]
            is_one = (
                found.get("type") == "service_account"
                and _PROJECT.fullmatch(project)
                and _ACCOUNT.fullmatch(email)
                and private_key.startswith("-----BEGIN PRIVATE KEY-----")
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            is_one = False
        if not is_one:
            raise InvalidRequestError(
                "invalid_argument",
                "The key for Vertex AI is the JSON file of a service account.",
                {"param": "api_key"},
            )
        return cls(project, email, found.get("private_key_id"), SecretStr(private_key))

    def assertion(self) -> str:
        """A JWT that is exchanged for an access token (RFC 7523). Raises InvalidRequestError."""
        now = int(time())
        claims = {
            "iss": self.email,
            "scope": SCOPE,
            "aud": TOKEN_URL,
            "iat": now,
            "exp": now + LIFE_SECONDS,
        }
        headers = {} if self.key_id is None else {"kid": self.key_id}
        try:
            return jwt.encode(
                claims, self.private_key.get_secret_value(), algorithm="RS256", headers=headers
            )
        except (ValueError, TypeError, jwt.PyJWTError):
            raise InvalidRequestError(
                "invalid_argument",
                "The private key of the service account cannot be read.",
                {"param": "api_key"},
            ) from None


async def ask_for_token(
    http: httpx.AsyncClient, account: ServiceAccount, token_url: str = TOKEN_URL
) -> httpx.Response:
    """Google's answer to an assertion; `access_token` is in its JSON where the status is 200.

    Raises httpx.HTTPError, AnswerTooLargeError, InvalidRequestError.
    """
    return await asked(
        http,
        "POST",
        token_url,
        max_bytes=MAX_TOKEN_BYTES,
        data={
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": account.assertion(),
        },
    )
