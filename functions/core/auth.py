"""Who is calling: the bearer credential of a request becomes a Principal, or is refused with 401.

Kinds of credential are verifiers in a list (Authenticator): access tokens of Supabase Auth, and API
keys, which stand for themselves until the database has looked them up. Suspension, membership and
limits are not checked here: the database does that in the transaction that acts.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeAlias
from uuid import UUID

import jwt
from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from functions.core.api_keys import ApiKeyCaller
from functions.core.errors import QuernelError, UnauthenticatedError
from functions.core.jwks import KeySet
from functions.core.settings import Settings

LEEWAY_SECONDS = 10
"""Clock difference tolerated in `exp`, `nbf` and `iat`."""

TOKEN_MAX_CHARACTERS = 8192
"""Longer credentials are refused unread: the servers in front of us do not pass such a header."""

CACHE_SIZE = 4096
CACHE_SECONDS = 300
"""How long a verified token is believed without looking again; never beyond its own expiry.

Verifying costs 70 µs (HS256) to 130 µs (ES256), a tenth of what the app spends on a request.
"""

_TOKEN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*){2}")


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated user. Holds no credential."""

    user_id: UUID
    email: str | None = None
    session_id: str | None = None
    is_anonymous: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """What tells a backend function who is calling."""
        return {"p_user_id": self.user_id}


Principal: TypeAlias = Caller | ApiKeyCaller
"""Whoever is calling: a person who is signed in, or a program."""


class CredentialVerifier(Protocol):
    """One kind of credential."""

    def accepts(self, credential: str) -> bool:
        """Whether the credential is of this kind, by its shape alone."""
        ...

    async def verify(self, credential: str) -> Principal:
        """Raise UnauthenticatedError unless the credential is valid."""
        ...


class Authenticator:
    """Asks the first verifier that accepts the credential."""

    def __init__(self, verifiers: Sequence[CredentialVerifier]) -> None:
        self._verifiers = tuple(verifiers)

    async def authenticate(self, credential: str) -> Principal:
        """The caller. Raises UnauthenticatedError, or UnavailableError when keys cannot be had."""
        if len(credential) <= TOKEN_MAX_CHARACTERS:
            for verifier in self._verifiers:
                if verifier.accepts(credential):
                    return await verifier.verify(credential)
        raise _invalid()


class AccessTokenVerifier:
    """Access tokens of Supabase Auth: a shared HS256 secret, or ES256 and RS256 public keys.

    The key decides the algorithm, never the token: `none` and an HMAC made with a public key find
    no key. Only tokens of users pass: role `authenticated`, `sub` a UUID.
    """

    def __init__(self, settings: Settings, keys: KeySet | None) -> None:
        secret = settings.supabase_jwt_secret
        self._secret = None if secret is None else secret.get_secret_value()
        self._keys = keys
        self._audience = settings.jwt_audience
        self._issuer = settings.jwt_issuer
        self._verified: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    def accepts(self, credential: str) -> bool:
        return _TOKEN.fullmatch(credential) is not None

    async def verify(self, credential: str) -> Caller:
        # The token itself is not kept: a digest is enough to recognise it.
        digest = hashlib.sha256(credential.encode()).digest()
        known = self._verified.get(digest)
        if known is not None:
            believed_until, caller = known
            if time.time() < believed_until:
                self._verified.move_to_end(digest)
                return caller
            del self._verified[digest]
        claims = await self._claims(credential)
        caller = _caller(claims)
        self._remember(digest, claims, caller)
        return caller

    def _remember(self, digest: bytes, claims: dict[str, object], caller: Caller) -> None:
        expires_at = claims["exp"]
        assert isinstance(expires_at, int | float)  # noqa: S101 - jwt.decode has checked it
        self._verified[digest] = (min(expires_at, time.time() + CACHE_SECONDS), caller)
        if len(self._verified) > CACHE_SIZE:
            self._verified.popitem(last=False)

    async def _claims(self, token: str) -> dict[str, object]:
        try:
            header = jwt.get_unverified_header(token)
            key, algorithm = await self._key(header)
            claims: dict[str, object] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise UnauthenticatedError("expired_token", "The access token has expired.") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError):
            # A token is hostile input: whatever parsing it raises, it is not valid.
            raise _invalid() from None
        return claims

    async def _key(self, header: dict[str, object]) -> tuple[str | jwt.PyJWK, str]:
        """The key that must have signed, and the one algorithm that key is for."""
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm == "HS256" and self._secret is not None:
            return self._secret, "HS256"
        if algorithm in ("ES256", "RS256") and self._keys is not None and isinstance(key_id, str):
            key = await self._keys.get(key_id)
            if key is not None:
                return key, key.algorithm_name
        raise _invalid()


def _caller(claims: dict[str, object]) -> Caller:
    subject, email, session_id = (claims.get(name) for name in ("sub", "email", "session_id"))
    if claims.get("role") != "authenticated":
        raise UnauthenticatedError("invalid_token", "The token does not belong to a user.")
    try:
        user_id = UUID(subject) if isinstance(subject, str) else None
    except ValueError:
        user_id = None
    if user_id is None:
        raise _invalid()
    return Caller(
        user_id=user_id,
        email=email if isinstance(email, str) and email else None,
        session_id=session_id if isinstance(session_id, str) else None,
        is_anonymous=claims.get("is_anonymous") is True,
    )


def _invalid() -> UnauthenticatedError:
    return UnauthenticatedError("invalid_token", "The access token is not valid.")


_bearer = HTTPBearer(
    scheme_name="access token or API key",
    description="The access token of a signed-in user, as Supabase Auth issues it. What is for "
    "programs as well takes an API key (qk_...) too.",
    auto_error=False,
)


async def authenticate(request: Request, _: Annotated[object, Security(_bearer)]) -> Principal:
    """Dependency: the caller of this request.

    401 missing_credentials, invalid_token, expired_token or invalid_api_key.
    """
    headers = request.headers.getlist("authorization")
    if not headers:
        raise UnauthenticatedError(
            "missing_credentials", "Send an access token or an API key as a bearer token."
        )
    scheme, _space, credential = headers[0].partition(" ")
    if len(headers) > 1 or scheme.lower() != "bearer" or not credential.strip():
        raise _invalid()
    authenticator: Authenticator = request.app.state.authenticator
    return await authenticator.authenticate(credential.strip())


async def authenticate_if_asked(
    request: Request, bearer: Annotated[object, Security(_bearer)]
) -> Principal | None:
    """Dependency: the caller, or nobody where no credential is shown. A wrong one is refused."""
    if "authorization" not in request.headers:
        return None
    return await authenticate(request, bearer)


async def _person(principal: Annotated[Principal, Depends(authenticate)]) -> Caller:
    if isinstance(principal, ApiKeyCaller):
        raise QuernelError(
            "api_key_not_accepted", 403, "This is for people: send an access token instead."
        )
    return principal


CurrentCaller = Annotated[Caller, Depends(_person)]
"""Parameter type of a route that needs a signed-in user."""

CurrentPrincipal = Annotated[Principal, Depends(authenticate)]
"""Parameter type of a route that programs may use as well, by API key."""

OptionalPrincipal = Annotated[Principal | None, Depends(authenticate_if_asked)]
"""Parameter type of a route that shows what is public to everybody."""
