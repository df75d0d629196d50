"""What strangers reach: PostgREST's schemas, Supabase Auth, and the functions app."""

from __future__ import annotations

from http import HTTPStatus

import httpx

from functions.core.http_session import open_client
from functions.core.settings import Settings
from functions.doctor.findings import Area, Finding

API = Area("api")
SECONDS = 10.0
NOT_EXPOSED = "PGRST106"
EXPOSE = "supabase/config.toml, [api] schemas; `supabase config push`"


async def examine_api(settings: Settings) -> list[Finding]:
    """Ask as anybody could, and as the service does."""
    async with open_client(SECONDS) as client:
        return [
            *await _schemas(client, settings),
            *await _auth(client, settings),
            await _app(client, settings),
        ]


async def _schemas(client: httpx.AsyncClient, settings: Settings) -> list[Finding]:
    public = settings.supabase_publishable_key
    secret = settings.supabase_secret_key
    if secret is None and settings.database_url is not None and public is None:
        return [
            API.unseen(
                "exposed_schemas",
                "which schemas the API exposes: the functions use a direct connection",
                "set the keys of Supabase as well, where there is an API",
            )
        ]
    found: list[Finding] = []
    try:
        for key in [key for key in (public, secret and secret.get_secret_value()) if key]:
            answer = await _ready(client, settings, "private", key)
            if _code(answer) != NOT_EXPOSED:
                found.append(
                    API.wrong(
                        "exposed_schemas",
                        "the API exposes the schema private",
                        f"take it out of the exposed schemas now ({EXPOSE})",
                    )
                )
                break
        else:
            found.append(API.ok("exposed_schemas", "private is not exposed"))
        if public:
            answer = await _ready(client, settings, "backend", public)
            is_refused = answer.status_code in (
                HTTPStatus.UNAUTHORIZED,
                HTTPStatus.FORBIDDEN,
            )
            found.append(
                API.ok("backend_is_closed", "strangers may not call backend")
                if is_refused or _code(answer) == NOT_EXPOSED
                else API.wrong(
                    "backend_is_closed",
                    f"strangers' calls of backend are answered {answer.status_code}",
                    "revoke usage on schema backend from anon, authenticated",
                )
            )
        if secret is not None:
            answer = await _ready(client, settings, "backend", secret.get_secret_value())
            found.append(_service(answer))
    except httpx.HTTPError as error:
        found.append(_away("exposed_schemas", "PostgREST", error))
    return found


def _service(answer: httpx.Response) -> Finding:
    if answer.is_success:
        return API.ok("service_key", "the secret key may call backend")
    if _code(answer) == NOT_EXPOSED:
        return API.wrong("service_key", "the API does not expose backend", f"expose it ({EXPOSE})")
    return API.wrong(
        "service_key",
        f"the secret key is refused ({answer.status_code})",
        "set the project's present secret key: it was revoked, or is another project's",
    )


async def _auth(client: httpx.AsyncClient, settings: Settings) -> list[Finding]:
    key = settings.supabase_publishable_key
    if key is None:
        return [
            API.unseen("auth", "whether people can sign in", "set QUERNEL_SUPABASE_PUBLISHABLE_KEY")
        ]
    try:
        answer = await client.get(
            f"{settings.supabase_url}/auth/v1/settings", headers={"apikey": key}
        )
        found = [
            API.ok("auth", "Supabase Auth knows the publishable key")
            if answer.is_success
            else API.wrong(
                "auth",
                f"Supabase Auth answers {answer.status_code} to the publishable key",
                "set the project's present publishable key",
            )
        ]
        if settings.jwks_url is not None:
            keys = await client.get(settings.jwks_url)
            count = len(keys.json().get("keys", [])) if keys.is_success else 0
            found.append(
                API.ok("signing_keys", f"{count} to verify access tokens with")
                if count
                else API.wrong(
                    "signing_keys",
                    "there is no key that access tokens could be verified with",
                    "rotate to asymmetric keys under JWT Keys, or set QUERNEL_SUPABASE_JWT_SECRET",
                )
            )
    except (httpx.HTTPError, ValueError) as error:
        return [_away("auth", "Supabase Auth", error)]
    return found


async def _app(client: httpx.AsyncClient, settings: Settings) -> Finding:
    try:
        answer = await client.get(f"{settings.public_url}/ready")
    except httpx.HTTPError as error:
        return _away("functions", "QUERNEL_PUBLIC_URL", error)
    if answer.is_success:
        return API.ok("functions", "the functions app answers, and its database does")
    return API.wrong(
        "functions",
        f"{settings.public_url}/ready answers {answer.status_code}",
        "read its log; docs/runbook.md, database_unavailable",
    )


def _away(name: str, what: str, error: Exception) -> Finding:
    return API.wrong(
        name,
        f"{what} cannot be reached ({type(error).__name__})",
        "look at its address in the settings, and whether it runs",
    )


async def _ready(
    client: httpx.AsyncClient, settings: Settings, schema: str, key: str
) -> httpx.Response:
    return await client.post(
        f"{settings.supabase_url}/rest/v1/rpc/ready",
        json={},
        headers={
            "apikey": key,
            "Authorization": f"Bearer {key}",
            "Content-Profile": schema,
            "Accept-Profile": schema,
        },
    )


def _code(answer: httpx.Response) -> str | None:
    try:
        body = answer.json()
    except ValueError:
        return None
    return body.get("code") if isinstance(body, dict) else None
