"""Settings: whether what is secret is there and has its shape. Never shows any of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import SecretStr

from functions.core.settings import (
    Settings,
    SettingsError,
    credential_problems,
    vault_problems,
)
from functions.doctor.findings import Area, Finding, count_of, listed

SETTINGS = Area("settings")
_STRIPE_KEY = re.compile(r"(sk|rk)_(test|live)_[A-Za-z0-9_]{10,}")
_SUPABASE_SECRET = re.compile(r"sb_secret_[A-Za-z0-9_-]{16,}")
_SUPABASE_PUBLISHABLE = re.compile(r"sb_publishable_[A-Za-z0-9_-]{16,}")
_LEGACY_KEY = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_DEPLOY = "set it in the environment (Modal's secret `quernel`) and deploy again"


def examine_settings(settings: Settings, kids: dict[str, int] | None) -> list[Finding]:
    """Each secret. `kids` are the master keys that provider keys are wrapped by, if known."""
    return [
        *_refused(settings),
        *_supabase_keys(settings),
        *_stripe_key(settings),
        *_master_keys(settings, kids),
        *_features(settings),
    ]


def _refused(settings: Settings) -> Iterator[Finding]:
    """What staging and production would refuse to start with, here too."""
    problems = [*credential_problems(settings), *vault_problems(settings)]
    try:
        _ = settings.webhook_master_key, settings.mail_server
    except SettingsError as error:
        problems.append(str(error))
    for problem in problems:
        yield SETTINGS.wrong("setting_refused", problem, "mend the variable that is named")
    if not problems:
        yield SETTINGS.ok("setting_refused", f"a deployment would start ({settings.environment})")


def _supabase_keys(settings: Settings) -> Iterator[Finding]:
    secret = _shown(settings.supabase_secret_key)
    public = settings.supabase_publishable_key
    if secret is None:
        yield SETTINGS.warning(
            "supabase_secret_key",
            "there is none: Storage cannot be reached, whatever the database is reached by",
            f"take `sb_secret_…` from Project Settings, API Keys; {_DEPLOY}",
        )
    elif secret == public or _SUPABASE_PUBLISHABLE.fullmatch(secret):
        yield SETTINGS.wrong(
            "supabase_secret_key", "it is a publishable key", "take the secret one"
        )
    elif not _SUPABASE_SECRET.fullmatch(secret) and not _LEGACY_KEY.fullmatch(secret):
        yield SETTINGS.wrong(
            "supabase_secret_key",
            "it has the shape of no key of Supabase",
            f"take `sb_secret_…` from Project Settings, API Keys; {_DEPLOY}",
        )
    else:
        yield SETTINGS.ok("supabase_secret_key", "there, and of its shape")
    if public is not None and _SUPABASE_SECRET.fullmatch(public):
        yield SETTINGS.wrong(
            "supabase_publishable_key",
            "it is a secret key, and clients are handed it",
            "revoke that key at Supabase now, then set the publishable one",
        )
    elif public is not None:
        yield SETTINGS.ok("supabase_publishable_key", "there")


def _stripe_key(settings: Settings) -> Iterator[Finding]:
    key = _shown(settings.stripe_secret_key)
    if key is None:
        yield SETTINGS.ok("stripe_secret_key", "payments are off")
        return
    match = _STRIPE_KEY.fullmatch(key)
    if match is None:
        yield SETTINGS.wrong(
            "stripe_secret_key",
            "it has the shape of no key of Stripe (sk_live_…, rk_live_…, sk_test_…)",
            f"make a restricted key at Stripe, Developers, API keys; {_DEPLOY}",
        )
    elif match[2] == "live" and settings.environment != "production":
        yield SETTINGS.wrong(
            "stripe_secret_key",
            f"a live key in {settings.environment}: what is tried out takes people's money",
            "set a test key, or QUERNEL_ENVIRONMENT=production",
        )
    else:
        yield SETTINGS.ok("stripe_secret_key", f"a {match[2]} key in {settings.environment}")


def _master_keys(settings: Settings, kids: dict[str, int] | None) -> Iterator[Finding]:
    missing = sorted(set(kids or {}) - set(settings.master_keys))
    if missing:
        yield SETTINGS.wrong(
            "master_keys",
            f"{count_of(sum((kids or {})[kid] for kid in missing), 'provider key')} cannot be "
            f"opened: QUERNEL_MASTER_KEYS lacks {listed(missing)}",
            "put the master key back; without it those keys are lost (docs/master-keys.md)",
        )
    elif not settings.master_keys:
        yield SETTINGS.ok("master_keys", "there are none: own keys of customers are off")
    else:
        said = count_of(len(settings.master_keys), "master key")
        yield SETTINGS.ok("master_keys", f"{said}, {settings.master_key_current} wraps")


def _features(settings: Settings) -> Iterator[Finding]:
    for name, is_set, what in (
        ("llm_url", settings.llm_url, "chat with models of our own"),
        ("images_url", settings.images_url, "images by models of our own"),
        ("smtp_url", settings.smtp_url, "email"),
        ("webhook_signing_key", settings.webhook_signing_key, "webhooks of customers"),
        ("telemetry_url", settings.telemetry_url, "traces and metrics"),
    ):
        yield SETTINGS.ok(name, f"{what}: {'on' if is_set is not None else 'off'}")
    if settings.is_deployed and settings.smtp_url is None:
        yield SETTINGS.warning(
            "smtp_url",
            "nobody is told of invitations, receipts and alerts",
            "set QUERNEL_SMTP_URL and QUERNEL_EMAIL_FROM (docs/notifications.md)",
        )


def _shown(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
