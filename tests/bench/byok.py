"""Own keys: what opening one costs, what a request pays for it, and how fast keys are rotated."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import statistics
import sys
import time
import uuid
from pathlib import Path
from uuid import UUID

import psycopg
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg.rows import dict_row
from pydantic import SecretStr

from functions.core.database import Database
from functions.core.settings import Settings
from functions.provider_keys.master_keys import KeyRing
from functions.provider_keys.rotation import rotate
from functions.provider_keys.vault import Place, Vault
from local.paths import ROOT
from local.processes import Child, answers, free_port
from local.stack import Stack
from tests.bench.books import report_books
from tests.bench.chat import rich_user
from tests.bench.load import post_many
from tests.support.provider_keys import bring_key, vault_of

PROVIDER = "keyed"
MODEL = f"{PROVIDER}/static"
KEYS = 2_000
OPENS = 20_000
REQUESTS = int(os.environ.get("QUERNEL_BENCH_REQUESTS", "1500"))
ROUNDS = 5  # A B A B ...: the difference is smaller than what two runs differ by
CONCURRENCY = (1, 16)


def bench_byok(state: Path) -> int:
    """Print the tables; how many books disagree afterwards."""
    asyncio.run(measure_vault())
    upstream_port = free_port()
    upstream_url = f"http://127.0.0.1:{upstream_port}/v1"
    upstream = Child(
        "Static upstream",
        [sys.executable, "-m", "tests.bench.upstream", str(upstream_port)],
        log=state / "logs" / "upstream.log",
        cwd=ROOT,
        env=dict(os.environ),
    )
    try:
        upstream.wait_until(lambda: answers(upstream_url), seconds=10)
        stack = Stack(
            state=state / "byok",
            rebuild=True,
            transport="direct",
            environment={
                "QUERNEL_LLM_URL": upstream_url,
                "QUERNEL_LOG_LEVEL": "WARNING",
                "QUERNEL_PROVIDERS": json.dumps(
                    {PROVIDER: {"url": upstream_url, "api_key": f"sk-{uuid.uuid4().hex}"}}
                ),
            },
        )
        try:
            with stack:
                answered = measure_requests(stack)
                asyncio.run(measure_rotation(stack))
                return report_books(stack, answered)
        finally:
            stack.postgres.destroy()
    finally:
        upstream.stop()


async def measure_vault() -> None:
    """Opens per second beside the one decryption that none can do without."""
    vault = Vault(KeyRing({"bench": os.urandom(32)}, "bench"))
    place = Place(UUID(int=1), "user", UUID(int=2), "openai")
    sealed = await vault.seal(SecretStr(f"sk-{uuid.uuid4().hex}"), place)
    cipher, nonce = AESGCM(os.urandom(32)), os.urandom(12)
    bare_text = cipher.encrypt(nonce, bytes(35), b"bound")
    opens, bare = [], []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for _ in range(OPENS):
            await vault.open(sealed, place)
        opens.append(OPENS / (time.perf_counter() - begun))
        begun = time.perf_counter()
        for _ in range(OPENS):
            cipher.decrypt(nonce, bare_text, b"bound")
        bare.append(OPENS / (time.perf_counter() - begun))
    rate, floor = statistics.median(opens), statistics.median(bare)
    print(
        f"Own keys\n\n  {rate:,.0f} opens/s ({1e6 / rate:.0f} µs each), one AES-256-GCM decryption "
        f"{floor:,.0f}/s: {rate / floor:.2f} of it"
    )


def measure_requests(stack: Stack) -> int:
    """What an own key adds to the latency of the same request on the operator's."""
    token = rich_user(stack)
    with psycopg.connect(stack.admin_dsn, autocommit=True, row_factory=dict_row) as connection:
        offer(connection)
        user = connection.execute("select id::text from public.profiles limit 1").fetchone()
        assert user is not None
        asyncio.run(
            bring_key(
                connection,
                vault_of(settings_of(stack)),
                PROVIDER,
                f"sk-{uuid.uuid4().hex}",
                user=user["id"],
            )
        )
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    url = f"{stack.functions_url}/v1/chat/completions"
    message = {"role": "user", "content": "Say something static."}
    answered = 0

    def run(credential: str, requests: int, connections: int) -> tuple[float, float]:
        nonlocal answered
        body = {
            "model": MODEL,
            "max_tokens": 64,
            "messages": [message],
            "credential": credential,
        }
        load = asyncio.run(
            post_many(
                url,
                json.dumps(body).encode(),
                headers,
                requests=requests,
                connections=connections,
            )
        )
        assert load.refused == 0
        answered += load.answered
        return load.p50_ms, load.p99_ms

    run("own", 100, 4)  # warm
    print(
        f"\n  {'concurrency':>11} {'platform p50':>13} {'own p50':>9} {'added p50':>10} "
        f"{'platform p99':>13} {'own p99':>9}   (ms, database direct)"
    )
    for connections in CONCURRENCY:
        requests = REQUESTS // 3
        loads: dict[str, list[tuple[float, float]]] = {"platform": [], "own": []}
        for _ in range(ROUNDS):
            for credential, measured in loads.items():
                measured.append(run(credential, requests, connections))
        middle = {
            name: [statistics.median(column) for column in zip(*measured, strict=True)]
            for name, measured in loads.items()
        }
        platform, own = middle["platform"], middle["own"]
        print(
            f"  {connections:>11} {platform[0]:>13.2f} {own[0]:>9.2f} "
            f"{own[0] - platform[0]:>10.2f} {platform[1]:>13.2f} {own[1]:>9.2f}"
        )
    return answered


async def measure_rotation(stack: Stack) -> None:
    """Keys rotated per second, against the database."""
    settings = settings_of(stack)
    vault = vault_of(settings)
    keys = {
        kid: base64.b64decode(text.get_secret_value()) for kid, text in settings.master_keys.items()
    }
    with psycopg.connect(stack.admin_dsn, autocommit=True, row_factory=dict_row) as connection:
        connection.execute(
            "update private.settings set value = '100000' where name = 'provider_keys_per_owner'"
        )
        user = connection.execute("select id::text from public.profiles limit 1").fetchone()
        assert user is not None
        for _ in range(KEYS):
            await bring_key(connection, vault, PROVIDER, "sk-bench", user=user["id"])
    ring = KeyRing(keys | {"next": os.urandom(32)}, "next")
    database = await Database.open(settings)
    try:
        begun = time.perf_counter()
        report = await rotate(database, Vault(ring))
        seconds = time.perf_counter() - begun
    finally:
        await database.aclose()
    assert report.done >= KEYS
    print(f"\n  {report.done / seconds:,.0f} keys rotated per second")


def offer(connection: psycopg.Connection) -> None:
    """A provider that takes own keys, and a model of it."""
    connection.execute(
        "insert into public.model_providers (slug, name) values (%s, 'Keyed')", [PROVIDER]
    )
    row = {
        "id": MODEL,
        "provider": PROVIDER,
        "name": "Static",
        "kind": "chat",
        "upstream_model": "static",
        "context_length": 32768,
        "max_output_tokens": 8192,
        "default_output_tokens": 1024,
        "prompt_price": 60,
        "cached_prompt_price": 30,
        "completion_price": 180,
        "byok_allowed": True,
    }
    connection.execute(
        "select backend.model_upsert(p_model => %s, p_actor => 'bench')", [json.dumps(row)]
    )


def settings_of(stack: Stack) -> Settings:
    """The settings of the stack's functions app."""
    values = {
        name.removeprefix("QUERNEL_").lower(): value
        for name, value in stack.functions_environment().items()
        if name.startswith("QUERNEL_")
    }
    return Settings(**values)  # type: ignore[arg-type]
