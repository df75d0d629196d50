"""The one typed Settings: the only place that reads the environment.

Every setting is a variable `QUERNEL_<NAME>` listed in `.env.example` and `docs/settings.md`. The
defaults suit `make dev`. A feature whose secret or address is missing is switched off, and
production refuses to start on placeholders instead of running with them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import sys
from collections.abc import Iterator
from email.headerregistry import Address
from email.utils import parseaddr
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from functions.core.mail_server import MailServer, parse_mail_server

STRIPE_API_VERSION = "2026-10-28.endive"
"""Version of Stripe's API: of our requests, and of the webhook endpoint that an operator makes."""

LOCAL_ORIGINS = ("http://localhost:3000", "http://127.0.0.1:3000")
"""Browser origins allowed in local and test while `allowed_origins` is not set."""

JWT_SECRET_MIN_BYTES = 32
"""An HS256 key must be at least as long as its hash (RFC 7518 section 3.2)."""

SIGNING_KEY_MIN_BYTES = 32
"""As long as the hash it is used with (RFC 2104 section 3)."""

API_KEY_MIN_CHARACTERS = 24
"""Keys of Supabase and Stripe are longer than this; what people type for a test is not."""

_PLACEHOLDER = re.compile(
    r"change[-_ ]?me|replace[-_ ]?me|super-secret-jwt-token|^<.*>$|(?<![a-z0-9])x{3,}$"
    r"|(?<![a-z0-9])(?:your|example|dummy|todo|placeholder)(?![a-z0-9])",
    re.IGNORECASE,
)
"""What people write where a value is to come.

Anchored at word ends: random keys must not match by accident.
"""

_HOST_AND_PORT = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")

STACK_FILE = "functions.env"
"""What the embedded stack writes into its state folder while it runs, for commands to reach it."""

_PROJECT = Path(__file__).resolve().parents[2]

_COMMON_PASSWORDS = frozenset(
    {"", "postgres", "password", "secret", "supabase", "admin", "quernel"}
)


class SettingsError(Exception):
    """The environment does not make a valid configuration.

    The message names the variables, never their values.
    """


def _split(value: object) -> object:
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


def _blank_is_none(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


def _base_url(value: object) -> object:
    """An absolute HTTP URL without credentials, query or fragment; a trailing slash is dropped."""
    if not isinstance(value, str):
        return value
    parts = urlsplit(value.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an absolute http(s) URL")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must not carry credentials, a query or a fragment")
    return value.strip().rstrip("/")


def _host_and_port(value: str | None) -> str | None:
    """`host:port`, an IPv6 address in brackets."""
    match = None if value is None else _HOST_AND_PORT.fullmatch(value.strip())
    if value is not None and (match is None or not 0 < int(match[1]) < 65_536):
        raise ValueError("must be host:port")
    return None if match is None else match[0]


Url = Annotated[str, BeforeValidator(_base_url)]
OptionalUrl = Annotated[str | None, BeforeValidator(_base_url), BeforeValidator(_blank_is_none)]
OptionalText = Annotated[str | None, BeforeValidator(_blank_is_none)]
OptionalSecret = Annotated[SecretStr | None, BeforeValidator(_blank_is_none)]
CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
ModelId = Annotated[Annotated[str, Field(max_length=100)] | None, BeforeValidator(_blank_is_none)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


def _object(value: object) -> object:
    """A JSON object; nothing is an empty one."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return {}
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("must be a JSON object") from None


class ProviderSettings(BaseModel):
    """Where a provider of models is, and how it is asked: any server of the OpenAI protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: Url
    api_key: OptionalSecret = None
    connect_timeout_seconds: Seconds = 5.0
    timeout_seconds: Seconds = 120.0
    max_connections: Annotated[int, Field(ge=1)] = 512
    continuous_usage: bool = False
    limit_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"


OWN_PROVIDER = "quernel"
"""Slug of the provider whose server QUERNEL_LLM_URL names."""

MASTER_KEY_BYTES = 32
"""AES-256 takes no other length."""

Kid = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
MasterKeyTexts = Annotated[dict[Kid, SecretStr], NoDecode, BeforeValidator(_object)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=63)]
Headers = Annotated[dict[str, SecretStr], NoDecode, BeforeValidator(_object)]
Providers = Annotated[dict[Slug, ProviderSettings], NoDecode, BeforeValidator(_object)]


class Settings(BaseSettings):
    """Configuration of one process. Immutable; `repr`, `str` and `model_dump` show no secret."""

    model_config = SettingsConfigDict(
        env_prefix="QUERNEL_",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    environment: Literal["local", "test", "staging", "production"] = "local"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Annotated[Literal["json", "text"] | None, BeforeValidator(_blank_is_none)] = None

    # The web app
    public_url: Url = "http://127.0.0.1:54330"
    allowed_origins: Annotated[CommaSeparated | None, BeforeValidator(_blank_is_none)] = None
    max_body_bytes: Annotated[int, Field(ge=1024)] = 4 * 1024 * 1024

    # Supabase
    supabase_url: Url = "http://127.0.0.1:54321"
    supabase_publishable_key: OptionalText = None
    supabase_secret_key: OptionalSecret = None
    supabase_jwt_secret: OptionalSecret = None
    supabase_jwks_url: OptionalUrl = None
    jwt_audience: str = "authenticated"
    jwt_issuer: OptionalText = None

    # The database: PostgREST unless a URL selects the pooled direct connection
    database_url: OptionalSecret = None
    database_timeout_seconds: Seconds = 10.0
    database_max_connections: Annotated[int, Field(ge=1, le=500)] = 16

    # The database's owner, for `quernel doctor` alone
    owner_database_url: OptionalSecret = None

    # Chat upstream: any OpenAI-compatible server
    llm_url: OptionalUrl = None
    llm_api_key: OptionalSecret = None
    llm_connect_timeout_seconds: Seconds = 5.0
    llm_timeout_seconds: Seconds = 120.0
    llm_max_connections: Annotated[int, Field(ge=1)] = 512
    llm_continuous_usage: bool = True
    llm_attempts_timeout_seconds: Seconds = 180.0

    # What looks at images, behind the same address; empty: nobody does
    vision_model: ModelId = "Qwen3-VL-8B-Instruct-FP8"
    embedding_model: ModelId = "Qwen3-Embedding-4B"

    # What documentation is searched with beside its words, and where packages are described
    documentation_embedding_model: ModelId = "lexical-hash-1"
    python_registry_url: OptionalUrl = None
    npm_registry_url: OptionalUrl = None

    # Who looks for viruses in documents: ClamAV's daemon
    clamd_address: Annotated[
        str | None, AfterValidator(_host_and_port), BeforeValidator(_blank_is_none)
    ] = None

    # The image server (gpu/), and what its door asks for: a bearer token, or Modal's proxy tokens
    images_url: OptionalUrl = None
    images_api_key: OptionalSecret = None
    images_proxy_key: OptionalSecret = None
    images_proxy_secret: OptionalSecret = None
    abandoned_answer_seconds: Seconds = 120.0

    # Further providers of models, and how long one that fails is left alone
    providers: Providers = {}
    breaker_failures: Annotated[int, Field(ge=0, le=1000)] = 5
    breaker_seconds: Seconds = 10.0

    # Stripe
    stripe_secret_key: OptionalSecret = None
    stripe_webhook_secret: OptionalSecret = None
    stripe_api_base: OptionalUrl = None
    stripe_portal_configuration: OptionalText = None
    stripe_timeout_seconds: Seconds = 20.0

    # Email: off until both are set
    smtp_url: OptionalSecret = None
    email_from: OptionalText = None
    smtp_timeout_seconds: Seconds = 20.0
    app_url: Url = "http://localhost:3000"

    # Outgoing webhooks
    webhook_signing_key: OptionalSecret = None

    google_oauth_url: OptionalUrl = None

    # The vault of provider keys: off until there are master keys
    master_keys: MasterKeyTexts = {}
    master_key_current: OptionalText = None
    master_key_source: Literal["environment", "aws-kms", "hashicorp-vault"] = "environment"
    aws_region: OptionalText = None
    aws_kms_key_id: OptionalText = None
    aws_kms_endpoint: OptionalUrl = None
    hashicorp_url: OptionalUrl = None
    hashicorp_token: OptionalSecret = None
    hashicorp_mount: Annotated[str, Field(pattern=r"^[\w-]+(/[\w-]+)*$")] = "transit"
    hashicorp_key_name: Annotated[
        Annotated[str, Field(pattern=r"^[\w-]+$")] | None, BeforeValidator(_blank_is_none)
    ] = None
    hashicorp_namespace: OptionalText = None

    # Traces and metrics: off until there is an address
    telemetry_url: OptionalUrl = None
    telemetry_headers: Headers = {}
    telemetry_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0

    # The embedded stack, for commands that are told of no other
    state_dir: OptionalText = None

    @property
    def is_deployed(self) -> bool:
        """Whether strangers can reach this process: staging and production."""
        return self.environment in ("staging", "production")

    @property
    def log_form(self) -> Literal["json", "text"]:
        """How log lines look: text for somebody who watches a terminal of their own, else JSON."""
        is_watched = self.environment == "local" and sys.stderr.isatty()
        return self.log_format or ("text" if is_watched else "json")

    @property
    def names_a_database(self) -> bool:
        """Whether anything says which database is meant, be it only half of what is needed."""
        return (
            self.supabase_secret_key is not None
            or self.database_url is not None
            or self.supabase_url != Settings.model_fields["supabase_url"].default
        )

    @property
    def browser_origins(self) -> tuple[str, ...]:
        """Origins that browser clients may call from."""
        if self.allowed_origins is not None:
            return self.allowed_origins
        return () if self.is_deployed else LOCAL_ORIGINS

    @property
    def jwks_url(self) -> str | None:
        """Where the project's public signing keys are.

        The well-known address of the project unless one is set. None where only a shared secret is
        configured.
        """
        if self.supabase_jwks_url is not None:
            return self.supabase_jwks_url
        if self.supabase_jwt_secret is not None:
            return None
        return f"{self.supabase_url}/auth/v1/.well-known/jwks.json"

    @property
    def authorization_server(self) -> str:
        """The issuer of access tokens: Supabase Auth of the project."""
        return self.jwt_issuer or f"{self.supabase_url}/auth/v1"

    @property
    def model_servers(self) -> dict[str, ProviderSettings]:
        """Every provider that is configured, by the slug it has in model_providers."""
        if self.llm_url is None:
            return dict(self.providers)
        own = ProviderSettings(
            url=self.llm_url,
            api_key=self.llm_api_key,
            connect_timeout_seconds=self.llm_connect_timeout_seconds,
            timeout_seconds=self.llm_timeout_seconds,
            max_connections=self.llm_max_connections,
            continuous_usage=self.llm_continuous_usage,
        )
        return {OWN_PROVIDER: own} | self.providers

    @property
    def clamd(self) -> tuple[str, int] | None:
        """Host and port of the virus scanner; None where there is none."""
        if self.clamd_address is None:
            return None
        host, _, port = self.clamd_address.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def images_headers(self) -> dict[str, str]:
        """What the image server's door asks for. Secret.

        https://modal.com/docs/guide/webhook-proxy-auth
        """
        shown = {
            "Authorization": f"Bearer {key}" if (key := _reveal(self.images_api_key)) else None,
            "Modal-Key": _reveal(self.images_proxy_key),
            "Modal-Secret": _reveal(self.images_proxy_secret),
        }
        return {name: value for name, value in shown.items() if value is not None}

    @property
    def mail_server(self) -> MailServer | None:
        """Where email is handed over; None while email is off. Raises SettingsError."""
        url = _reveal(self.smtp_url)
        if url is None or self.email_from is None:
            return None
        try:
            return parse_mail_server(url)
        except ValueError as error:
            raise SettingsError(f"{_variable('smtp_url')} {error}") from None

    @property
    def email_sender(self) -> Address:
        """The name and address that emails come from. Raises SettingsError."""
        name, address = parseaddr(self.email_from or "")
        try:
            sender = Address(display_name=name, addr_spec=address)
        except (ValueError, IndexError):
            sender = Address()
        if not sender.username or not sender.domain:
            raise SettingsError(f"{_variable('email_from')} is not an address or Name <address>")
        return sender

    @property
    def webhook_master_key(self) -> bytes | None:
        """What the secrets of webhook endpoints are derived from; None while webhooks are off.

        Raises SettingsError.
        """
        text = _reveal(self.webhook_signing_key)
        if text is None:
            return None
        try:
            key = base64.b64decode(text, validate=True)
        except binascii.Error:
            key = b""
        if len(key) < SIGNING_KEY_MIN_BYTES:
            raise SettingsError(
                f"{_variable('webhook_signing_key')} is not base64 of at least "
                f"{SIGNING_KEY_MIN_BYTES} bytes"
            )
        return key

    @model_validator(mode="after")
    def _refuse_two_of_ones_own(self) -> Self:
        if OWN_PROVIDER in self.providers:
            raise ValueError(
                f"{_variable('providers')} must not name {OWN_PROVIDER}: that is "
                f"{_variable('llm_url')}"
            )
        return self

    @model_validator(mode="after")
    def _refuse_the_unsafe(self) -> Self:
        if self.is_deployed:
            problems = list(_problems(self))
            if problems:
                raise ValueError("; ".join(problems))
        return self


def _problems(settings: Settings) -> Iterator[str]:
    """What must not reach a deployment; sentences that name the variable, never its value."""
    where = settings.environment
    for name, value in _texts(settings):
        if _PLACEHOLDER.search(value):
            yield f"{_variable(name)} is a placeholder"
    for name in (
        "public_url",
        "supabase_url",
        "supabase_jwks_url",
        "llm_url",
        "images_url",
        "python_registry_url",
        "npm_registry_url",
        "stripe_api_base",
        "google_oauth_url",
        "aws_kms_endpoint",
        "hashicorp_url",
    ):
        url: str | None = getattr(settings, name)
        if url is not None and not url.startswith("https://"):
            yield f"{_variable(name)} must be https in {where}"
    url = settings.telemetry_url
    if url is not None and not url.startswith("https://") and not _is_loopback(url):
        yield f"{_variable('telemetry_url')} must be https, or on this machine, in {where}"
    for slug, provider in settings.providers.items():
        if not provider.url.startswith("https://"):
            yield f"{_variable('providers')} must give {slug} an https URL in {where}"
        if _PLACEHOLDER.search(_reveal(provider.api_key) or ""):
            yield f"{_variable('providers')} has a placeholder as the key of {slug}"
    if "*" in settings.browser_origins:
        yield f"{_variable('allowed_origins')} must list origins; * allows every site"
    yield from credential_problems(settings)
    yield from _notification_problems(settings)
    yield from vault_problems(settings)


def _is_loopback(url: str) -> bool:
    """A collector beside the process hears plain http."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def vault_problems(settings: Settings) -> Iterator[str]:
    """What is wrong with the master keys; sentences that name the variable, never its value."""
    name = _variable("master_keys")
    if settings.master_keys and settings.master_key_current not in settings.master_keys:
        yield f"{_variable('master_key_current')} must name one of {name}"
    for kid, text in settings.master_keys.items():
        value = text.get_secret_value()
        if _PLACEHOLDER.search(value):
            yield f"{name} has a placeholder as the key {kid}"
        elif settings.master_key_source == "environment" and not _is_master_key(value):
            yield f"{name} must give {kid} base64 of {MASTER_KEY_BYTES} bytes"
    if settings.master_key_source == "hashicorp-vault" and None in (
        settings.hashicorp_url,
        settings.hashicorp_token,
        settings.hashicorp_key_name,
    ):
        yield (
            f"{_variable('hashicorp_url')}, {_variable('hashicorp_token')} and "
            f"{_variable('hashicorp_key_name')} belong together"
        )


def _is_master_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == MASTER_KEY_BYTES
    except binascii.Error:
        return False


def _notification_problems(settings: Settings) -> Iterator[str]:
    if (settings.smtp_url is None) != (settings.email_from is None):
        yield f"{_variable('smtp_url')} and {_variable('email_from')} belong together"
    elif settings.smtp_url is not None:
        try:
            server, _ = settings.mail_server, settings.email_sender
        except SettingsError as error:
            yield str(error)
        else:
            if server is not None and server.security == "none":
                yield f"{_variable('smtp_url')} must use TLS in {settings.environment}"
        if not settings.app_url.startswith("https://"):
            yield f"{_variable('app_url')} must be https: links in emails lead there"
    try:
        _ = settings.webhook_master_key
    except SettingsError as error:
        yield str(error)


def credential_problems(settings: Settings) -> Iterator[str]:
    """What is wrong with the keys of Supabase and Stripe; the same kind of sentences."""
    if settings.supabase_secret_key is None and settings.database_url is None:
        yield f"{_variable('supabase_secret_key')} or {_variable('database_url')} is required"
    if (key := _reveal(settings.supabase_secret_key)) and len(key) < API_KEY_MIN_CHARACTERS:
        yield f"{_variable('supabase_secret_key')} is too short to be a key of Supabase"
    if (key := _reveal(settings.supabase_jwt_secret)) and len(key.encode()) < JWT_SECRET_MIN_BYTES:
        yield f"{_variable('supabase_jwt_secret')} is shorter than {JWT_SECRET_MIN_BYTES} bytes"
    if url := _reveal(settings.database_url):
        password = _password(url)
        if password is not None and password.lower() in _COMMON_PASSWORDS:
            yield f"{_variable('database_url')} has a well-known password"
    if (settings.stripe_secret_key is None) != (settings.stripe_webhook_secret is None):
        yield (
            f"{_variable('stripe_secret_key')} and {_variable('stripe_webhook_secret')} "
            "belong together: one without the other takes money and grants nothing"
        )
    if key := _reveal(settings.stripe_secret_key):
        if settings.environment == "production" and "_test_" in key:
            yield f"{_variable('stripe_secret_key')} is a test key"
        if len(key) < API_KEY_MIN_CHARACTERS:
            yield f"{_variable('stripe_secret_key')} is too short to be a key of Stripe"
    if (key := _reveal(settings.stripe_webhook_secret)) and (
        not key.startswith("whsec_") or len(key) < API_KEY_MIN_CHARACTERS
    ):
        yield f"{_variable('stripe_webhook_secret')} is not a signing secret of Stripe (whsec_…)"


def _texts(settings: Settings) -> Iterator[tuple[str, str]]:
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            yield name, value.get_secret_value()
        elif isinstance(value, str):
            yield name, value


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _password(url: str) -> str | None:
    """The password inside a database URL.

    None when it has none or is a key=value connection string.
    """
    try:
        return urlsplit(url).password
    except ValueError:
        return None


def _variable(field: str) -> str:
    return f"QUERNEL_{field.upper()}"


def load_settings(*env_files: str | Path) -> Settings:
    """Read the environment, and below it the files, of which later ones win.

    Raises SettingsError naming each wrong variable.
    """
    try:
        return Settings(_env_file=env_files)
    except ValidationError as error:
        complaints = [_complaint(detail["loc"], detail["msg"]) for detail in error.errors()]
        raise SettingsError("Configuration refused: " + "; ".join(complaints)) from None


def _complaint(location: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not location:
        return message
    # Inside a value only names of ours are repeated: the rest is what somebody typed.
    parts = [str(part) for part in location[1:] if part in ProviderSettings.model_fields]
    return f"{'.'.join([_variable(str(location[0])), *parts])} {message}"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process: the environment, and a `.env` file where there is one."""
    return load_settings(".env")


def get_operator_settings() -> Settings:
    """The settings of a command: those of this process or, where they name no database at all,
    those of the embedded stack that runs here. Half a configuration is never completed this way.

    Raises SettingsError when there is neither.
    """
    settings = get_settings()
    if settings.names_a_database:
        return settings
    state = Path(settings.state_dir) if settings.state_dir else _PROJECT / ".quernel"
    running = state / STACK_FILE
    if not running.is_file():
        raise SettingsError(
            "No database is configured and no stack runs here. Start one with `make dev`, or set "
            "QUERNEL_SUPABASE_URL and QUERNEL_SUPABASE_SECRET_KEY (or QUERNEL_DATABASE_URL)"
        )
    return load_settings(".env", running)
