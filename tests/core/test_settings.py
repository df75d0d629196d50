"""Settings: what production refuses, that nothing shows a secret, that the example file is true."""

from __future__ import annotations

import ast
import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from functions.core import settings as module
from functions.core.settings import (
    Settings,
    SettingsError,
    get_operator_settings,
    get_settings,
    load_settings,
)

ROOT = Path(__file__).resolve().parents[2]
SECRET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEF"

DEPLOYED = {
    "QUERNEL_ENVIRONMENT": "production",
    "QUERNEL_PUBLIC_URL": "https://api.quernel.app",
    "QUERNEL_SUPABASE_URL": "https://abcdefgh.supabase.co",
    "QUERNEL_SUPABASE_SECRET_KEY": f"sb_secret_{SECRET}",
    "QUERNEL_STRIPE_SECRET_KEY": f"sk_live_{SECRET}",
    "QUERNEL_STRIPE_WEBHOOK_SECRET": f"whsec_{SECRET}",
    "QUERNEL_LLM_URL": "https://models.quernel.app/v1",
    "QUERNEL_SMTP_URL": f"smtp://quernel:{SECRET}@mail.quernel.app",
    "QUERNEL_EMAIL_FROM": "Quernel <hello@quernel.app>",
    "QUERNEL_APP_URL": "https://quernel.app",
    "QUERNEL_WEBHOOK_SIGNING_KEY": base64.b64encode(SECRET.encode()).decode(),
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"QUERNEL_{field.upper()}", raising=False)


def deploy(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> Settings:
    for name, value in (DEPLOYED | changes).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    return load_settings()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"QUERNEL_SUPABASE_SECRET_KEY": "changeme"}, "QUERNEL_SUPABASE_SECRET_KEY is a placehold"),
        ({"QUERNEL_SUPABASE_SECRET_KEY": "<secret>"}, "QUERNEL_SUPABASE_SECRET_KEY is a placehold"),
        ({"QUERNEL_SUPABASE_SECRET_KEY": "hunter2"}, "QUERNEL_SUPABASE_SECRET_KEY is too short"),
        (
            {"QUERNEL_SUPABASE_SECRET_KEY": None},
            "QUERNEL_SUPABASE_SECRET_KEY or QUERNEL_DATABASE_U",
        ),
        (
            {"QUERNEL_SUPABASE_JWT_SECRET": "correct-horse"},
            "QUERNEL_SUPABASE_JWT_SECRET is shorter than 32",
        ),
        (
            {
                "QUERNEL_SUPABASE_JWT_SECRET": "super-secret-jwt-token-with-at-least-32-characters-"
                "long"
            },
            "QUERNEL_SUPABASE_JWT_SECRET is a placeholder",
        ),
        (
            {"QUERNEL_STRIPE_SECRET_KEY": "sk_test_xxx"},
            "QUERNEL_STRIPE_SECRET_KEY is a placeholder",
        ),
        ({"QUERNEL_STRIPE_SECRET_KEY": f"sk_test_{SECRET}"}, "QUERNEL_STRIPE_SECRET_KEY is a test"),
        ({"QUERNEL_STRIPE_WEBHOOK_SECRET": SECRET}, "QUERNEL_STRIPE_WEBHOOK_SECRET is not a sign"),
        ({"QUERNEL_STRIPE_WEBHOOK_SECRET": None}, "belong together"),
        ({"QUERNEL_STRIPE_SECRET_KEY": None}, "belong together"),
        ({"QUERNEL_PUBLIC_URL": "http://api.quernel.app"}, "QUERNEL_PUBLIC_URL must be https"),
        ({"QUERNEL_LLM_URL": "http://models.quernel.app/v1"}, "QUERNEL_LLM_URL must be https"),
        (
            {"QUERNEL_SUPABASE_URL": "https://your-project.supabase.co"},
            "SUPABASE_URL is a placehol",
        ),
        (
            {"QUERNEL_PROVIDERS": '{"openai": {"url": "http://models.quernel.app/v1"}}'},
            "QUERNEL_PROVIDERS must give openai an https URL",
        ),
        (
            {"QUERNEL_PROVIDERS": '{"openai": {"url": "https://m.app/v1", "api_key": "changeme"}}'},
            "QUERNEL_PROVIDERS has a placeholder as the key of openai",
        ),
        ({"QUERNEL_ALLOWED_ORIGINS": "*"}, "QUERNEL_ALLOWED_ORIGINS must list origins"),
        (
            {"QUERNEL_DATABASE_URL": "postgresql://q:postgres@db.quernel.app/postgres"},
            "QUERNEL_DATABASE_URL has a well-known password",
        ),
        ({"QUERNEL_EMAIL_FROM": None}, "QUERNEL_SMTP_URL and QUERNEL_EMAIL_FROM belong together"),
        ({"QUERNEL_SMTP_URL": None}, "QUERNEL_SMTP_URL and QUERNEL_EMAIL_FROM belong together"),
        ({"QUERNEL_SMTP_URL": "mail.quernel.app"}, "QUERNEL_SMTP_URL must be smtp://host or smtps"),
        ({"QUERNEL_SMTP_URL": "smtp://mail.quernel.app?starttls=off"}, "SMTP_URL must use TLS in"),
        ({"QUERNEL_EMAIL_FROM": "Quernel"}, "QUERNEL_EMAIL_FROM is not an address"),
        ({"QUERNEL_EMAIL_FROM": "you@example.com"}, "QUERNEL_EMAIL_FROM is a placeholder"),
        ({"QUERNEL_APP_URL": None}, "QUERNEL_APP_URL must be https: links in emails lead there"),
        ({"QUERNEL_WEBHOOK_SIGNING_KEY": "correct-horse"}, "SIGNING_KEY is not base64 of at least"),
        ({"QUERNEL_WEBHOOK_SIGNING_KEY": "c2hvcnQ="}, "SIGNING_KEY is not base64 of at least 32"),
    ],
)
def test_production_refuses(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None], complaint: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(complaint)) as caught:
        deploy(monkeypatch, **changes)
    for value in changes.values():
        if value is not None and len(value) > 2 and not value.startswith("http"):
            assert value not in str(caught.value)


def test_what_is_unsafe_in_production_works_on_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    deploy(
        monkeypatch,
        QUERNEL_ENVIRONMENT="local",
        QUERNEL_STRIPE_SECRET_KEY="sk_test_xxx",
        QUERNEL_PUBLIC_URL="http://127.0.0.1:1",
    )


def test_production_accepts_a_complete_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = deploy(monkeypatch)
    assert settings.is_deployed
    assert settings.browser_origins == ()
    assert settings.jwks_url == "https://abcdefgh.supabase.co/auth/v1/.well-known/jwks.json"
    assert settings.mail_server is not None
    assert str(settings.email_sender) == "Quernel <hello@quernel.app>"
    assert settings.webhook_master_key == SECRET.encode()


def test_random_keys_are_never_taken_for_placeholders() -> None:
    # Every pair of characters next to every other, as base64url writes keys.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    for first in alphabet:
        key = "sb_secret_" + "".join(first + second + "xxx" + second for second in alphabet)
        assert not module._PLACEHOLDER.search(key)


@pytest.mark.parametrize("url", ["ftp://a.b", "nonsense", "https://u:p@a.b", "https://a.b/?x=1"])
def test_refuses_what_is_not_a_base_url(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("QUERNEL_SUPABASE_URL", url)
    with pytest.raises(SettingsError, match="QUERNEL_SUPABASE_URL must"):
        load_settings()


def test_a_wrong_value_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUERNEL_MAX_BODY_BYTES", "s3cr3t-by-mistake")
    with pytest.raises(SettingsError, match="QUERNEL_MAX_BODY_BYTES") as caught:
        load_settings()
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_defaults_just_work() -> None:
    settings = load_settings()
    assert settings.environment == "local"
    assert settings.stripe_secret_key is None
    assert settings.llm_url is None
    assert settings.browser_origins == module.LOCAL_ORIGINS


def test_an_empty_variable_switches_the_feature_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STRIPE_SECRET_KEY", "LLM_URL", "DATABASE_URL", "ALLOWED_ORIGINS", "JWT_ISSUER",
                 "SMTP_URL", "EMAIL_FROM", "WEBHOOK_SIGNING_KEY"):  # fmt: skip
        monkeypatch.setenv(f"QUERNEL_{name}", "  ")
    settings = load_settings()
    assert settings == Settings()
    assert (settings.mail_server, settings.webhook_master_key) == (None, None)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("openai", "QUERNEL_PROVIDERS must be a JSON object"),
        ('["openai"]', "QUERNEL_PROVIDERS Input should be a valid dictionary"),
        ('{"openai": {}}', "QUERNEL_PROVIDERS.url Field required"),
        ('{"openai": {"url": "ftp://a.b"}}', "QUERNEL_PROVIDERS.url must be an absolute http"),
        ('{"openai": {"url": "https://a.b", "base": 1}}', "QUERNEL_PROVIDERS Extra inputs are not"),
        ('{"Open AI": {"url": "https://a.b"}}', "QUERNEL_PROVIDERS String should match"),
        ('{"quernel": {"url": "https://a.b"}}', "QUERNEL_PROVIDERS must not name quernel: that is"),
    ],
)
def test_refuses_what_are_no_providers(
    monkeypatch: pytest.MonkeyPatch, value: str, complaint: str
) -> None:
    monkeypatch.setenv("QUERNEL_PROVIDERS", value)
    with pytest.raises(SettingsError, match=re.escape(complaint)):
        load_settings()


def test_a_key_of_a_provider_is_shown_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    place = f'{{"url": "https://api.x.ai/v1/", "api_key": "{SECRET}", "timeout_seconds": 7}}'
    monkeypatch.setenv("QUERNEL_PROVIDERS", f'{{"xai": {place}}}')
    monkeypatch.setenv("QUERNEL_LLM_URL", "https://models.quernel.app/v1")
    settings = load_settings()
    assert list(settings.model_servers) == ["quernel", "xai"]
    xai = settings.model_servers["xai"]
    assert (xai.url, xai.timeout_seconds) == ("https://api.x.ai/v1", 7)
    assert xai.api_key == SecretStr(SECRET)
    shown = [repr(settings), settings.model_dump_json(), repr(settings.model_servers)]
    assert not any(SECRET in text for text in shown)
    # Nor when it stands where it does not belong.
    for wrong in (f'{{"{SECRET}": {place}}}', f'{{"xai": "{SECRET}"}}', f"{SECRET}",
                  f'{{"xai": {{"url": "{SECRET}", "{SECRET}": 1}}}}'):  # fmt: skip
        monkeypatch.setenv("QUERNEL_PROVIDERS", wrong)
        with pytest.raises(SettingsError) as caught:
            load_settings()
        assert SECRET not in str(caught.value)


def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUERNEL_ALLOWED_ORIGINS", "https://a.app, https://b.app,")
    assert load_settings().browser_origins == ("https://a.app", "https://b.app")


def test_a_shared_secret_replaces_the_well_known_key_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUERNEL_SUPABASE_JWT_SECRET", SECRET)
    assert load_settings().jwks_url is None
    monkeypatch.setenv("QUERNEL_SUPABASE_JWKS_URL", "https://keys.app/jwks.json")
    assert load_settings().jwks_url == "https://keys.app/jwks.json"


def test_nothing_shows_a_secret() -> None:
    names = [n for n, f in Settings.model_fields.items() if "SecretStr" in str(f.annotation)]
    assert len(names) >= 6
    values: dict[str, Any] = dict.fromkeys(names, SECRET)
    values |= {"master_keys": {"kid": SECRET}, "telemetry_headers": {"x-key": SECRET}}
    settings = Settings(**values)
    shown = [repr(settings), str(settings), f"{settings}", settings.model_dump_json()]
    shown += [str(settings.model_dump()), str(settings.model_dump(mode="json"))]
    assert not any(SECRET in text for text in shown)


def test_what_is_named_like_a_secret_is_a_secret() -> None:
    public = {"supabase_publishable_key"}
    for name in Settings.model_fields.keys() - public:
        if re.search(r"secret|_key$|password|token|database_url", name):
            value = getattr(Settings(**{name: SECRET}), name)
            assert isinstance(value, SecretStr), name


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().environment = "production"


# The running stack, for commands ---------------------------------------------------------------


@pytest.fixture
def running_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The file of a running stack, and a working folder without a `.env`."""
    file = tmp_path / "state" / "functions.env"
    file.parent.mkdir()
    file.write_text(
        f"QUERNEL_SUPABASE_URL=http://127.0.0.1:7\nQUERNEL_SUPABASE_SECRET_KEY={SECRET}\n"
    )
    monkeypatch.setenv("QUERNEL_STATE_DIR", str(file.parent))
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    yield file
    get_settings.cache_clear()


def test_a_command_that_is_told_nothing_takes_the_running_stack(running_stack: Path) -> None:
    # As copied from .env.example: every value empty.
    Path(".env").write_text("QUERNEL_SUPABASE_SECRET_KEY=\nQUERNEL_LOG_LEVEL=ERROR\n")
    settings = get_operator_settings()
    assert settings.supabase_url == "http://127.0.0.1:7"
    assert settings.log_level == "ERROR"
    assert running_stack.exists()


@pytest.mark.parametrize("where", ["environment", "file"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QUERNEL_SUPABASE_URL", "https://abcdefgh.supabase.co"),
        ("QUERNEL_SUPABASE_SECRET_KEY", "sb_secret_of_a_project"),
        ("QUERNEL_DATABASE_URL", "postgresql://q:q@127.0.0.1:7/postgres"),
    ],
)
@pytest.mark.usefixtures("running_stack")
def test_half_a_configuration_is_not_completed_from_the_stack(
    monkeypatch: pytest.MonkeyPatch, where: str, name: str, value: str
) -> None:
    if where == "environment":
        monkeypatch.setenv(name, value)
    else:
        Path(".env").write_text(f"{name}={value}\n")
    assert get_operator_settings() == load_settings(".env")


@pytest.mark.usefixtures("running_stack")
def test_the_app_and_the_worker_never_take_the_running_stack() -> None:
    assert get_settings().supabase_secret_key is None


def test_without_a_configuration_and_a_stack_both_are_named(running_stack: Path) -> None:
    running_stack.unlink()
    with pytest.raises(SettingsError, match=r"`make dev`.*QUERNEL_SUPABASE_SECRET_KEY"):
        get_operator_settings()


# What documents say -----------------------------------------------------------------------------


def test_example_file_lists_exactly_the_settings() -> None:
    listed = re.findall(
        r"^#? ?(QUERNEL_[A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE
    )
    assert sorted(listed) == sorted(f"QUERNEL_{name.upper()}" for name in Settings.model_fields)


def test_documentation_lists_exactly_the_settings() -> None:
    listed = re.findall(
        r"^\| `(QUERNEL_[A-Z_]+)`", (ROOT / "docs/settings.md").read_text(), re.MULTILINE
    )
    assert sorted(listed) == sorted(f"QUERNEL_{name.upper()}" for name in Settings.model_fields)


def test_example_file_is_a_working_configuration() -> None:
    assert load_settings(str(ROOT / ".env.example")) == Settings()


def _reads_environment(tree: ast.AST) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"):
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            return any(alias.name in ("environ", "getenv") for alias in node.names)
        if isinstance(node, ast.Name) and node.id == "BaseSettings":
            return True
    return False


def test_nothing_else_reads_the_environment() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for folder in ("functions", "gpu")
        for path in (ROOT / folder).rglob("*.py")
        if _reads_environment(ast.parse(path.read_text()))
    }
    # quernel-mcp runs beside an editor, and has no settings of a server.
    assert readers == {"functions/core/settings.py", "functions/libraries/mcp/stdio.py"}
