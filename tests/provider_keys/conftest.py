"""A stack of its own for tests that rotate every key there is, and keys to rotate."""

from __future__ import annotations

import base64
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row
from pydantic import SecretStr

from functions.core.settings import Settings
from functions.provider_keys.vault import Place, Vault
from local.paths import state_dir
from local.stack import Ports, Stack

RING = {kid: base64.b64encode(os.urandom(32)).decode() for kid in ("old", "new")}
"""Master keys of these tests: kid → base64."""


@pytest.fixture(scope="module")
def alone() -> Iterator[Stack]:
    """A database that nobody else uses, reached without PostgREST."""
    state = state_dir() / "tests" / f"keys-{os.getpid()}"
    stack = Stack(
        state=state, ports=Ports.free(), durable=False, services=False, transport="direct"
    )
    try:
        yield stack.start()
    finally:
        stack.stop()
        stack.postgres.destroy()
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture
def books(alone: Stack) -> Iterator[psycopg.Connection]:
    """The superuser's connection to it; keys are gone afterwards."""
    with psycopg.connect(alone.admin_dsn, autocommit=True, row_factory=dict_row) as connection:
        yield connection
        connection.execute("delete from public.provider_keys")


def settings_for(stack: Stack, current: str, **changes: object) -> Settings:
    """The settings of a process whose ring is RING."""
    values = {
        "environment": "test",
        "database_url": stack.functions_dsn,
        "supabase_url": stack.supabase_url,
        "supabase_secret_key": stack.keys.secret_key,
        "master_keys": dict(RING),
        "master_key_current": current,
    }
    return Settings(**(values | changes))  # type: ignore[arg-type]


def environment_of(stack: Stack, current: str) -> dict[str, str]:
    """The same for a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if name[:8] != "QUERNEL_"}
    pairs = ",".join(f'"{kid}": "{text}"' for kid, text in RING.items())
    return inherited | {
        "QUERNEL_ENVIRONMENT": "test",
        "QUERNEL_DATABASE_URL": stack.functions_dsn,
        "QUERNEL_SUPABASE_URL": stack.supabase_url,
        "QUERNEL_SUPABASE_SECRET_KEY": stack.keys.secret_key,
        "QUERNEL_MASTER_KEYS": f"{{{pairs}}}",
        "QUERNEL_MASTER_KEY_CURRENT": current,
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }


async def bring_many(
    connection: psycopg.Connection, vault: Vault, count: int, pattern: str = "sk-{}"
) -> dict[str, str]:
    """So many keys of one new person for OpenAI; id → secret."""
    user = uuid.uuid4()
    connection.execute(
        "insert into auth.users (id, email, email_confirmed_at, raw_app_meta_data)"
        ' values (%s, %s, now(), \'{"provider": "email"}\')',
        [user, f"{user}@quernel.test"],
    )
    provider = connection.execute(
        "select id from public.model_providers where slug = 'openai'"
    ).fetchone()
    assert provider is not None
    secrets, keys, rows = {}, [], []
    for number in range(count):
        key_id = uuid.uuid4()
        text = pattern.format(number)
        sealed = await vault.seal(SecretStr(text), Place(key_id, "user", user, "openai"))
        secrets[str(key_id)] = text
        keys.append((key_id, user, provider["id"], f"Key {number}", text[-4:]))  # type: ignore[call-overload]
        rows.append((key_id, sealed.kid, sealed.wrapped_key, sealed.nonce, sealed.ciphertext))
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "insert into public.provider_keys (id, user_id, provider_id, name, last_four)"
            " values (%s, %s, %s, %s, %s)",
            keys,
        )
        cursor.executemany(
            "insert into private.provider_key_secrets"
            " (provider_key_id, kid, wrapped_key, nonce, ciphertext) values (%s, %s, %s, %s, %s)",
            rows,
        )
    return secrets
