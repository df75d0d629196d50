"""Authentication: every token that is not a valid user token is refused with 401."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import anyio
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.core import auth, jwks
from functions.core.auth import AccessTokenVerifier, Authenticator, Caller
from functions.core.errors import QuernelError
from functions.core.jwks import KeySet
from functions.core.settings import Settings

pytestmark = pytest.mark.anyio

SECRET = "a-shared-secret-of-more-than-32-bytes-for-hs256"
USER = UUID("0f3c5e3e-3a61-4f0e-9c39-2f6f1d0f5a11")
ISSUER = "https://abcdefgh.supabase.co/auth/v1"
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    return {
        "sub": str(USER),
        "aud": "authenticated",
        "role": "authenticated",
        "iat": now,
        "exp": now + 3600,
        "email": "ada@quernel.app",
        "session_id": "8a6ab8a4-6a5c-4ab9-a25b-3d2ee1f2a9b5",
    } | changes


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in claims().items() if name not in names}


def signed(payload: dict[str, Any] | None = None, *, key: Any = SECRET, alg: str = "HS256") -> str:
    return jwt.encode(claims() if payload is None else payload, key, alg)


def asymmetric(
    key: Any, alg: str, kid: str, payload: dict[str, Any] | None = None, **header: Any
) -> str:
    return jwt.encode(payload or claims(), key, alg, headers={"kid": kid} | header)


def raw(header: dict[str, Any], payload: Any, signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(payload).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def public_jwk(key: Any, kid: str, **changes: Any) -> dict[str, Any]:
    algorithm = {
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    for kind, handler in algorithm.items():
        if isinstance(key, kind):
            return handler.to_jwk(key.public_key(), as_dict=True) | {"kid": kid} | changes
    raise AssertionError(key)


class KeyServer:
    """Answers the key set; counts how often it is asked."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.fails = False
        self.answer: Callable[[], httpx.Response] | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.fails:
            raise httpx.ConnectError("down", request=request)
        return self.answer() if self.answer else httpx.Response(200, json={"keys": self.keys})

    def key_set(self) -> KeySet:
        client = httpx.AsyncClient(transport=httpx.MockTransport(self))
        return KeySet("https://abcdefgh.supabase.co/jwks.json", client)


def hs256(**settings: Any) -> AccessTokenVerifier:
    return AccessTokenVerifier(Settings(supabase_jwt_secret=SECRET, **settings), None)


def by_keys(server: KeyServer, **settings: Any) -> AccessTokenVerifier:
    return AccessTokenVerifier(Settings(**settings), server.key_set())


async def verify(verifier: AccessTokenVerifier, token: str) -> Caller:
    return await Authenticator([verifier]).authenticate(token)


async def refused(verifier: AccessTokenVerifier, token: str, code: str = "invalid_token") -> None:
    with pytest.raises(QuernelError) as caught:
        await verify(verifier, token)
    assert (caught.value.status, caught.value.code) == (401, code)
    assert "www-authenticate" in {name.lower() for name in caught.value.headers}
    # Nothing that was sent, and nothing about why, comes back.
    assert token[:20] not in f"{caught.value}{caught.value.headers}" or len(token) < 20


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        claims(aud="anon"),
        claims(aud=["other"]),
        claims(role="anon"),
        claims(role="service_role"),
        claims(role="supabase_admin"),
        claims(role=["authenticated"]),
        claims(sub="not-a-uuid"),
        claims(sub=""),
        claims(sub=7),
        claims(sub=None),
        claims(exp="tomorrow"),
        claims(exp=None),
        claims(exp=float("inf")),
        claims(nbf=int(time.time()) + 86_400),
        claims(iat=int(time.time()) + 86_400),
        without("sub"),
        without("aud"),
        without("exp"),
        without("role"),
        {},
    ],
)
async def test_claims_that_do_not_name_a_user_are_refused(payload: dict[str, Any]) -> None:
    await refused(hs256(), signed(payload))


@pytest.mark.parametrize("ago", [11, 3600, 10**9])
async def test_expired(ago: int) -> None:
    await refused(hs256(), signed(claims(exp=int(time.time()) - ago)), "expired_token")


async def test_a_clock_that_is_a_little_off_is_tolerated() -> None:
    assert (await verify(hs256(), signed(claims(exp=int(time.time()) - 3)))).user_id == USER


async def test_token_of_another_project() -> None:
    await refused(hs256(), signed(key="another-projects-secret-of-more-than-32-bytes"))


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None, 1, ["HS256"]])
async def test_alg_none_in_every_spelling(alg: Any) -> None:
    for signature in (b"", b"x" * 32):
        await refused(hs256(), raw({"alg": alg, "typ": "JWT"}, claims(), signature))


@pytest.mark.parametrize("alg", ["HS384", "HS512"])
async def test_other_algorithms_of_the_same_key(alg: str) -> None:
    key = SECRET * 2
    verifier = AccessTokenVerifier(Settings(supabase_jwt_secret=key), None)
    await refused(verifier, signed(key=key, alg=alg))


def _hmac_with(key: bytes, header: dict[str, Any]) -> str:
    head = raw(header | {"alg": "HS256"}, claims()).rsplit(".", 1)[0]
    mac = hmac.new(key, head.encode(), hashlib.sha256).digest()
    return f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


async def test_hmac_made_with_a_public_key() -> None:
    server = KeyServer(public_jwk(EC_KEY, "e"), public_jwk(RSA_KEY, "r"))
    for key, kid in ((EC_KEY, "e"), (RSA_KEY, "r")):
        public = key.public_key()
        pem = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        der = public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        jwk = json.dumps(public_jwk(key, kid)).encode()
        for material in (pem, pem.strip(), der, jwk):
            await refused(by_keys(server), _hmac_with(material, {"kid": kid}))


async def test_hs256_is_refused_where_no_secret_is_configured() -> None:
    await refused(by_keys(KeyServer(public_jwk(EC_KEY, "e"))), signed())
    await refused(by_keys(KeyServer(public_jwk(EC_KEY, "e"))), _hmac_with(b"", {"kid": "e"}))


async def test_public_keys_are_refused_where_none_are_configured() -> None:
    await refused(hs256(), asymmetric(EC_KEY, "ES256", "e"))


async def test_algorithm_of_another_key() -> None:
    server = KeyServer(public_jwk(EC_KEY, "e"), public_jwk(RSA_KEY, "r"))
    await refused(by_keys(server), asymmetric(RSA_KEY, "RS256", "e"))
    await refused(by_keys(server), asymmetric(EC_KEY, "ES256", "r"))


async def test_symmetric_and_foreign_keys_in_a_key_set_are_not_believed() -> None:
    server = KeyServer(
        {"kty": "oct", "kid": "o", "alg": "HS256", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2Vj"},
        public_jwk(ED_KEY, "d"),
        public_jwk(EC_KEY, "x", use="enc"),
        public_jwk(ec.generate_private_key(ec.SECP384R1()), "p"),
        {"kty": "EC", "kid": "broken", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "kid": ["list"]},
        "not a key",  # type: ignore[arg-type]
    )
    await refused(by_keys(server), _hmac_with(b"secretsecretsecretsecretsec", {"kid": "o"}))
    await refused(by_keys(server), asymmetric(ED_KEY, "EdDSA", "d"))
    await refused(by_keys(server), asymmetric(EC_KEY, "ES256", "x"))
    await refused(by_keys(server), asymmetric(EC_KEY, "ES256", "broken"))


@pytest.mark.parametrize("header", [{"kid": None}, {"kid": 7}, {"kid": "unknown"}, {}])
async def test_key_ids_that_name_no_key(header: dict[str, Any]) -> None:
    token = jwt.encode(claims(), EC_KEY, "ES256")
    body = token.split(".")
    head = json.dumps({"alg": "ES256"} | header).encode()
    body[0] = base64.urlsafe_b64encode(head).rstrip(b"=").decode()
    await refused(by_keys(KeyServer(public_jwk(EC_KEY, "e"))), ".".join(body))


async def test_keys_that_a_token_brings_along_are_ignored() -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    server = KeyServer(public_jwk(EC_KEY, "e"))
    for header in (
        {"jwk": public_jwk(stranger, "e")},
        {"jku": "https://evil.app/jwks.json"},
        {"x5u": "https://evil.app/cert.pem"},
    ):
        await refused(by_keys(server), asymmetric(stranger, "ES256", "e", **header))
    assert server.asked == 3


async def test_critical_headers_that_nobody_knows() -> None:
    await refused(hs256(), jwt.encode(claims(), SECRET, headers={"crit": ["exp"], "exp": 1}))


async def test_issuer_is_checked_where_configured() -> None:
    verifier = hs256(jwt_issuer=ISSUER)
    await refused(verifier, signed())
    await refused(verifier, signed(claims(iss="https://evil.supabase.co/auth/v1")))
    assert (await verify(verifier, signed(claims(iss=ISSUER)))).user_id == USER


async def test_audience_is_configurable() -> None:
    await refused(hs256(jwt_audience="mobile"), signed())
    assert (await verify(hs256(jwt_audience="mobile"), signed(claims(aud=["mobile"])))).email


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "..",
        "a.b.c",
        "a.b.c.d",
        "sb_secret_0123456789abcdefghijkl_01234567",
        "sb_publishable_0123456789abcdefghijkl_01234567",
        "qk_live_0123456789",
        "Bearer x",
        "\x00.\x00.\x00",
        "é.é.é",
        "=.=.=",
        "e30.e30.e30",
        "bnVsbA.bnVsbA.bnVsbA",
        "W10.W10.W10",
        "A" * 9000,
        "A" * 4000 + "." + "A" * 4000 + ".AAA",
    ],
    ids=lambda token: token[:16],
)
async def test_what_is_not_a_token(token: str) -> None:
    await refused(hs256(), token)


async def test_headers_that_break_parsers() -> None:
    for header in ('{"alg":"HS256"' + ',"a":[' * 500 + "]" * 500 + "}", '{"alg":"HS256","alg":1}'):
        part = base64.urlsafe_b64encode(header.encode()).rstrip(b"=").decode()
        await refused(hs256(), f"{part}.e30.AA")


@settings(deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,40}){2}"))
def test_any_text_is_refused(token: str) -> None:
    anyio.run(refused, hs256(), token)


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=10**6))
def test_any_changed_character_is_refused(position: int) -> None:
    token = signed(claims(exp=4_000_000_000))
    at = position % len(token)
    changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
    # The last character of a part may hold bits that base64url does not use.
    if at + 1 < len(token) and "." not in (token[at], token[at + 1]):
        anyio.run(refused, hs256(), changed)


# Callers ------------------------------------------------------------------------------------------


async def test_hs256_user() -> None:
    caller = await verify(hs256(), signed())
    assert caller == Caller(USER, "ada@quernel.app", claims()["session_id"])


@pytest.mark.parametrize(("key", "alg"), [(EC_KEY, "ES256"), (RSA_KEY, "RS256")])
async def test_user_by_public_key(key: Any, alg: str) -> None:
    server = KeyServer(public_jwk(EC_KEY, "ES256"), public_jwk(RSA_KEY, "RS256"))
    assert (await verify(by_keys(server), asymmetric(key, alg, alg))).user_id == USER


async def test_secret_and_keys_side_by_side_during_a_migration() -> None:
    server = KeyServer(public_jwk(EC_KEY, "e"))
    settings = Settings(supabase_jwt_secret=SECRET, supabase_jwks_url="https://a.app/jwks.json")
    verifier = AccessTokenVerifier(settings, server.key_set())
    assert (await verify(verifier, signed())).user_id == USER
    assert (await verify(verifier, asymmetric(EC_KEY, "ES256", "e"))).user_id == USER


async def test_anonymous_user_without_an_address() -> None:
    caller = await verify(hs256(), signed(claims(email="", is_anonymous=True)))
    assert caller.email is None
    assert caller.is_anonymous


async def test_a_kind_of_credential_is_added_in_one_place() -> None:
    class ApiKeys:
        def accepts(self, credential: str) -> bool:
            return credential.startswith("qk_")

        async def verify(self, credential: str) -> Caller:  # noqa: ARG002
            return Caller(UUID(int=1))

    both = Authenticator([ApiKeys(), hs256()])
    assert (await both.authenticate("qk_abc")).user_id == UUID(int=1)
    assert (await both.authenticate(signed())).user_id == USER


# What is remembered -------------------------------------------------------------------------------


async def test_a_verified_token_is_believed_without_verifying_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verifier = hs256()
    token = signed()
    first = await verify(verifier, token)
    monkeypatch.setattr(jwt, "decode", None)
    assert await verify(verifier, token) is first


async def test_but_never_beyond_its_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = hs256()
    token = signed(claims(exp=int(time.time()) + 5))
    await verify(verifier, token)
    later = time.time() + 16
    monkeypatch.setattr(auth.time, "time", lambda: later)
    monkeypatch.setattr(jwt.api_jwt, "datetime", _Clock(later))
    await refused(verifier, token, "expired_token")


class _Clock:
    """Stands in for datetime in PyJWT."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self, tz: Any = None) -> Any:
        return datetime.fromtimestamp(self._now, tz)


async def test_a_refused_token_is_not_remembered() -> None:
    verifier = hs256()
    for _ in range(3):
        await refused(verifier, signed(claims(role="anon")))
    assert not verifier._verified


async def test_memory_is_bounded_and_holds_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "CACHE_SIZE", 5)
    verifier = hs256()
    tokens = [signed(claims(sub=str(uuid4()))) for _ in range(20)]
    for token in tokens:
        await verify(verifier, token)
    assert len(verifier._verified) == 5
    assert not any(token in repr(verifier._verified) for token in tokens)


# The key set --------------------------------------------------------------------------------------


async def test_keys_are_fetched_once_and_only_when_needed() -> None:
    server = KeyServer(public_jwk(EC_KEY, "e"))
    verifier = by_keys(server)
    assert server.asked == 0
    for _ in range(5):
        await verify(verifier, asymmetric(EC_KEY, "ES256", "e", claims(jti=str(uuid4()))))
    assert server.asked == 1


async def test_a_flood_of_unknown_key_ids_causes_no_flood_of_fetches() -> None:
    server = KeyServer(public_jwk(EC_KEY, "e"))
    verifier = by_keys(server)
    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(refused, verifier, asymmetric(EC_KEY, "ES256", f"unknown-{number}"))
    assert server.asked == 1


async def test_a_new_key_is_found_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    server = KeyServer(public_jwk(EC_KEY, "old"))
    verifier = by_keys(server)
    await verify(verifier, asymmetric(EC_KEY, "ES256", "old"))
    server.keys.append(public_jwk(RSA_KEY, "new"))
    await refused(verifier, asymmetric(RSA_KEY, "RS256", "new"))
    monkeypatch.setattr(jwks, "MIN_REFRESH_SECONDS", 0)
    assert (await verify(verifier, asymmetric(RSA_KEY, "RS256", "new"))).user_id == USER


async def test_a_removed_key_is_forgotten_when_the_set_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = KeyServer(public_jwk(EC_KEY, "old"), public_jwk(RSA_KEY, "new"))
    keys = server.key_set()
    assert await keys.get("old")
    server.keys.pop(0)
    monkeypatch.setattr(jwks, "MAX_AGE_SECONDS", 0)
    monkeypatch.setattr(jwks, "MIN_REFRESH_SECONDS", 0)
    assert await keys.get("old") is None
    assert await keys.get("new")


async def test_keys_outlive_an_outage_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    server = KeyServer(public_jwk(EC_KEY, "e"))
    keys = server.key_set()
    await keys.get("e")
    server.fails = True
    monkeypatch.setattr(jwks, "MAX_AGE_SECONDS", 0)
    monkeypatch.setattr(jwks, "MIN_REFRESH_SECONDS", 0)
    assert await keys.get("e")
    monkeypatch.setattr(jwks, "MAX_STALE_SECONDS", 0)
    with pytest.raises(QuernelError) as caught:
        await keys.get("e")
    assert (caught.value.status, caught.value.code) == (503, "signing_keys_unavailable")


@pytest.mark.parametrize(
    "answer",
    [
        lambda: httpx.Response(500),
        lambda: httpx.Response(302, headers={"location": "https://evil.app/"}),
        lambda: httpx.Response(200, text="<html>"),
        lambda: httpx.Response(200, json=[]),
        lambda: httpx.Response(200, json={"keys": "none"}),
        lambda: httpx.Response(200, content=b'{"keys":[' + b" " * 300_000 + b"]}"),
        lambda: httpx.Response(200, content=b"\xff"),
    ],
)
async def test_without_keys_the_answer_is_503_and_not_401(
    answer: Callable[[], httpx.Response],
) -> None:
    server = KeyServer()
    server.answer = answer
    verifier = by_keys(server)
    for _ in range(3):
        with pytest.raises(QuernelError) as caught:
            await verify(verifier, asymmetric(EC_KEY, "ES256", "e"))
        assert (caught.value.status, caught.value.code) == (503, "signing_keys_unavailable")
        assert caught.value.retry_after
    assert server.asked == 1
