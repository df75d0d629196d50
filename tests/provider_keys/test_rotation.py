"""Rotation: everything goes on meanwhile, whatever becomes of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from functions.core.database import Database
from functions.core.errors import OperatorError
from functions.core.settings import Settings
from functions.provider_keys.master_keys import KeyRing, MasterKeyMissingError, unreadable
from functions.provider_keys.rotation import Report, check, rotate
from functions.provider_keys.rows import place_of, sealed_of
from functions.provider_keys.sources import open_master_keys
from functions.provider_keys.vault import Vault
from local.paths import ROOT
from local.stack import Stack
from tests.provider_keys.conftest import bring_many, environment_of, settings_for

pytestmark = pytest.mark.anyio

KEYS = 1000
READS_PER_SECOND = 50


def vault_of(settings: Settings) -> Vault:
    keys = open_master_keys(settings)
    assert keys is not None
    return Vault(keys)


@asynccontextmanager
async def opened(stack: Stack, current: str, **changes: object) -> AsyncIterator[Any]:
    """A database and a vault of one process: (database, vault)."""
    settings = settings_for(stack, current, **changes)
    database = await Database.open(settings)
    try:
        yield database, vault_of(settings)
    finally:
        await database.aclose()


def kids(connection: psycopg.Connection) -> dict[str, int]:
    row = connection.execute("select backend.provider_key_kids() as kids").fetchone()
    assert row is not None
    found: dict[str, int] = row["kids"]  # type: ignore[call-overload]
    return found


async def read(database: Database, vault: Vault, key_id: str) -> str:
    row = await database.rpc("provider_key_idle", p_id=key_id)
    return (await vault.open(sealed_of(row), place_of(row))).get_secret_value()


async def test_a_thousand_keys_are_rotated_while_they_are_used(
    alone: Stack, books: psycopg.Connection
) -> None:
    async with opened(alone, "old") as (database, old), opened(alone, "new") as (_, new):
        secrets = await bring_many(books, old, KEYS)
        assert kids(books) == {"old": KEYS}
        ids, reads = list(secrets), 0
        stop = asyncio.Event()

        async def use() -> None:
            # Processes of before and after the change of the current key, as while it is deployed.
            nonlocal reads
            begun = time.monotonic()
            while not stop.is_set():
                key_id = ids[reads * 7919 % KEYS]
                vault = old if reads % 2 else new
                assert await read(database, vault, key_id) == secrets[key_id]
                reads += 1
                await asyncio.sleep(max(0, begun + reads / READS_PER_SECOND - time.monotonic()))

        using = asyncio.create_task(use())
        rounds = 0
        while reads < 2 * READS_PER_SECOND or rounds % 2 == 0:
            vault = old if rounds % 2 else new
            report = await rotate(database, vault, batch=25)
            assert (report.done, report.changed, report.failures) == (KEYS, 0, [])
            rounds += 1
        stop.set()
        await using
        assert kids(books) == {"new": KEYS}
        assert reads >= 2 * READS_PER_SECOND
        # Again there is nothing to do.
        assert (await rotate(database, new)).seen == 0


async def test_only_the_wrapped_key_changes(alone: Stack, books: psycopg.Connection) -> None:
    query = "select nonce, ciphertext, sealed_at from private.provider_key_secrets order by 1"
    async with opened(alone, "old") as (database, old), opened(alone, "new") as (_, new):
        await bring_many(books, old, 3)
        before = books.execute(query).fetchall()
        assert (await rotate(database, new)).done == 3
        assert books.execute(query).fetchall() == before


async def test_two_rotations_at_once_do_each_key_once(
    alone: Stack, books: psycopg.Connection
) -> None:
    async with opened(alone, "old") as (database, old), opened(alone, "new") as (_, new):
        secrets = await bring_many(books, old, 200)
        reports = await asyncio.gather(*(rotate(database, new, batch=10) for _ in range(3)))
        assert sum(report.done for report in reports) == 200
        assert all(not report.failures for report in reports)
        for key_id, secret in secrets.items():
            assert await read(database, new, key_id) == secret


async def test_a_key_that_was_replaced_or_deleted_meanwhile_is_left_alone(
    alone: Stack, books: psycopg.Connection
) -> None:
    async with opened(alone, "old") as (database, old), opened(alone, "new") as (_, new):
        replaced, deleted, kept = sorted(await bring_many(books, old, 3))

        class Meddling(Vault):
            async def rewrap(self, sealed: Any, place: Any) -> Any:
                if str(place.row_id) == replaced:
                    books.execute(
                        "update private.provider_key_secrets"
                        " set wrapped_key = wrapped_key || '\\x00' where provider_key_id = %s",
                        [replaced],
                    )
                if str(place.row_id) == deleted:
                    books.execute("delete from public.provider_keys where id = %s", [deleted])
                return await super().rewrap(sealed, place)

        report = await rotate(database, Meddling(new._master_keys))
        assert (report.done, report.changed, report.failures) == (1, 2, [])
        assert kids(books) == {"old": 1, "new": 1}
        assert await read(database, new, kept)


async def test_a_missing_master_key_is_told_and_no_other_key_suffers(
    alone: Stack, books: psycopg.Connection
) -> None:
    lost = Vault(KeyRing({"lost": os.urandom(32)}, "lost"))
    async with opened(alone, "old") as (database, old), opened(alone, "new") as (_, new):
        secrets = await bring_many(books, old, 20)
        unreadable = await bring_many(books, lost, 2)
        report = await rotate(database, new, batch=3)
        assert report.done == 20
        assert {one["id"] for one in report.failures} == set(unreadable)
        assert {one["code"] for one in report.failures} == {"master_key_missing"}
        for key_id, secret in secrets.items():
            assert await read(database, new, key_id) == secret
        with pytest.raises(MasterKeyMissingError) as caught:
            await read(database, new, next(iter(unreadable)))
        assert "'lost'" in caught.value.operator_message
        assert caught.value.code == "internal_error"
        examined = await check(database, new)
        assert (examined.done, len(examined.failures)) == (20, 2)


async def test_every_flipped_bit_of_every_stored_field_fails(
    alone: Stack, books: psycopg.Connection
) -> None:
    async with opened(alone, "old") as (database, old):
        secrets = await bring_many(books, old, 1, pattern="sk-flip")
        [key_id] = secrets
        row = await database.rpc("provider_key_idle", p_id=key_id)
        sealed, place = sealed_of(row), place_of(row)
        assert (await old.open(sealed, place)).get_secret_value() == "sk-flip"
        for name in ("wrapped_key", "nonce", "ciphertext"):
            value: bytes = getattr(sealed, name)
            for bit in range(len(value) * 8):
                flipped = bytearray(value)
                flipped[bit // 8] ^= 1 << bit % 8
                with pytest.raises(OperatorError):
                    await old.open(replace(sealed, **{name: bytes(flipped)}), place)


async def test_a_row_under_another_owner_provider_or_id_does_not_open(
    alone: Stack, books: psycopg.Connection
) -> None:
    async with opened(alone, "old") as (database, old):
        first, second = [next(iter(await bring_many(books, old, 1))) for _ in range(2)]
        rows = [await database.rpc("provider_key_idle", p_id=one) for one in (first, second)]
        moves: list[dict[str, Any]] = [
            {"id": rows[1]["id"]},
            {"owner_id": rows[1]["owner_id"]},
            {"owner": "organization"},
            {"provider": "anthropic"},
        ]
        for move in moves:
            with pytest.raises(OperatorError):
                await old.open(sealed_of(rows[0]), place_of(rows[0] | move))
        # As somebody would do it who can write to the table.
        books.execute(
            "update private.provider_key_secrets as t set kid = s.kid, nonce = s.nonce,"
            " wrapped_key = s.wrapped_key, ciphertext = s.ciphertext"
            " from private.provider_key_secrets as s"
            " where t.provider_key_id = %s and s.provider_key_id = %s",
            [second, first],
        )
        with pytest.raises(OperatorError):
            await read(database, old, second)


def test_a_rotation_that_was_killed_is_gone_on_with(
    alone: Stack, books: psycopg.Connection
) -> None:
    async def bring() -> None:
        await bring_many(books, vault_of(settings_for(alone, "old")), KEYS)

    asyncio.run(bring())
    command = [sys.executable, "-m", "functions.cli", "keys", "rotate", "--batch", "2"]
    environment = environment_of(alone, "new")
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 60
        while kids(books).get("new", 0) < 10:
            assert time.monotonic() < deadline
            assert child.poll() is None
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.communicate(timeout=30)
    left = kids(books)
    assert 0 < left["old"] < KEYS
    done = subprocess.run(
        [*command[:-2], "--json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f'"rewrapped":{left["old"]}' in done.stdout.replace(" ", "")
    assert f"{left['old']:,} of {left['old']:,}" in done.stderr
    assert kids(books) == {"new": KEYS}
    checked = subprocess.run(
        [*command[:4], "check"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
    assert "1000" in checked.stdout


def test_keys_that_do_not_open_are_named_and_the_command_fails(
    alone: Stack, books: psycopg.Connection
) -> None:
    async def bring() -> list[str]:
        lost = Vault(KeyRing({"lost": os.urandom(32)}, "lost"))
        return list(await bring_many(books, lost, 1))

    [key_id] = asyncio.run(bring())
    failed = subprocess.run(
        [sys.executable, "-m", "functions.cli", "keys", "rotate"],
        cwd=ROOT,
        env=environment_of(alone, "new"),
        capture_output=True,
        timeout=60,
        check=False,
        text=True,
    )
    assert failed.returncode == 1
    assert f"{key_id} (master_key_missing)" in failed.stderr
    in_json = subprocess.run(
        [sys.executable, "-m", "functions.cli", "keys", "rotate", "--json"],
        cwd=ROOT,
        env=environment_of(alone, "new"),
        capture_output=True,
        timeout=60,
        check=False,
        text=True,
    )
    error = json.loads(in_json.stderr.splitlines()[-1])["error"]
    assert error["failures"] == [{"id": key_id, "code": "master_key_missing"}]


async def test_a_current_key_that_cannot_be_had_is_told_once(
    alone: Stack, books: psycopg.Connection
) -> None:
    """It is not the rows' fault, and none of them is gone through."""
    async with opened(alone, "old") as (database, old):
        await bring_many(books, old, 3)

        class Away(KeyRing):
            async def wrap(self, *_: bytes) -> tuple[str, bytes]:
                raise unreadable("new", "it is gone")

        away = Vault(Away({"new": os.urandom(32)}, "new"))
        seen: list[Report] = []
        with pytest.raises(OperatorError) as caught:
            await rotate(database, away, tell=seen.append)
    assert caught.value.operator_code == "master_key_unreadable"
    assert seen == []
