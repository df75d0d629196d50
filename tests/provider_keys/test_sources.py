"""Master keys from AWS KMS and HashiCorp Vault: fetched once, and told apart when they are not."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from functions.core.errors import OperatorError, UnavailableError
from functions.core.settings import Settings, SettingsError
from functions.provider_keys import sources
from functions.provider_keys.hashicorp import HashicorpTransit
from functions.provider_keys.master_keys import MasterKeyMissingError
from functions.provider_keys.sources import open_key_source, open_master_keys
from functions.provider_keys.vault import Place, Vault
from tests.provider_keys.transit_double import TransitDouble, transit_double

pytestmark = pytest.mark.anyio

PLACE = Place(uuid4(), "user", uuid4(), "openai")
CANARY = "sk-canary-0123456789-abcdefghijklmnopqrstuvwxyz"


# AWS KMS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kms() -> Iterator[str]:
    """Address of moto's server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(kms: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a key of KMS and no master keys yet."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    client = boto3.client("kms", region_name="eu-central-1", endpoint_url=kms)
    key_id = client.create_key()["KeyMetadata"]["KeyId"]
    client.close()
    return Settings(
        master_key_source="aws-kms",
        aws_region="eu-central-1",
        aws_kms_endpoint=kms,
        aws_kms_key_id=key_id,
    )


async def made(settings: Settings, *kids: str) -> Settings:
    """The settings with new master keys of these names; the last wraps."""
    source = open_key_source(settings)
    keys = {kid: await source.new(kid) for kid in kids}
    return settings.model_copy(
        update={
            "master_keys": {kid: SecretStr(text) for kid, text in keys.items()},
            "master_key_current": kids[-1],
        }
    )


def vault_of(settings: Settings) -> Vault:
    keys = open_master_keys(settings)
    assert keys is not None
    return Vault(keys)


async def test_kms_decrypts_what_it_made(aws: Settings) -> None:
    settings = await made(aws, "2026-a", "2026-b")
    sealed = await vault_of(settings).seal(SecretStr(CANARY), PLACE)
    assert sealed.kid == "2026-b"
    # Another process, after a rotation of the current key.
    later = settings.model_copy(update={"master_key_current": "2026-a"})
    assert (await vault_of(later).open(sealed, PLACE)).get_secret_value() == CANARY
    rewrapped = await vault_of(later).rewrap(sealed, PLACE)
    assert rewrapped.kid == "2026-a"


async def test_kms_binds_a_master_key_to_its_name(aws: Settings) -> None:
    settings = await made(aws, "one")
    text = settings.master_keys["one"]
    renamed = settings.model_copy(
        update={"master_keys": {"two": text}, "master_key_current": "two"}
    )
    with pytest.raises(OperatorError) as caught:
        await vault_of(renamed).seal(SecretStr(CANARY), PLACE)
    assert caught.value.operator_code == "master_key_unreadable"
    assert "'two'" in caught.value.operator_message


async def test_a_key_that_kms_did_not_make_is_the_operators(aws: Settings) -> None:
    settings = await made(aws, "good")
    broken = settings.model_copy(
        update={
            "master_keys": settings.master_keys
            | {"bad": SecretStr(base64.b64encode(b"nothing of KMS's at all").decode())}
        }
    )
    vault = vault_of(broken)
    sealed = await vault.seal(SecretStr(CANARY), PLACE)
    assert (await vault.open(sealed, PLACE)).get_secret_value() == CANARY
    with pytest.raises(OperatorError, match="internal_error"):
        await vault_of(broken.model_copy(update={"master_key_current": "bad"})).seal(
            SecretStr(CANARY), PLACE
        )


async def test_kms_out_of_reach_is_told_and_comes_back(
    aws: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "RETRY_SECONDS", 0.0)
    settings = await made(aws, "one")
    away = settings.model_copy(update={"aws_kms_endpoint": "http://127.0.0.1:1"})
    vault = vault_of(away)
    with pytest.raises(UnavailableError) as caught:
        await vault.seal(SecretStr(CANARY), PLACE)
    assert caught.value.retry_after == 5
    ring: Any = vault._master_keys
    ring._source = open_key_source(settings)
    sealed = await vault.seal(SecretStr(CANARY), PLACE)
    assert sealed.kid == "one"


# HashiCorp Vault --------------------------------------------------------------------------------


@asynccontextmanager
async def transit(**changes: object) -> AsyncIterator[tuple[Settings, TransitDouble]]:
    async with transit_double() as double:
        settings = Settings(
            master_key_source="hashicorp-vault",
            hashicorp_url=double.url,
            hashicorp_token=double.token,
            hashicorp_key_name=double.key,
            **changes,  # type: ignore[arg-type]
        )
        yield settings, double


async def test_transit_decrypts_what_it_made_and_is_asked_once() -> None:
    async with transit() as (bare, double):
        settings = await made(bare, "a", "b")
        sealed = await vault_of(settings).seal(SecretStr(CANARY), PLACE)
        double.calls.clear()
        vault = vault_of(settings)
        opened = await asyncio.gather(*(vault.open(sealed, PLACE) for _ in range(50)))
        assert {one.get_secret_value() for one in opened} == {CANARY}
        assert double.calls == ["/v1/transit/decrypt/quernel"]


async def test_transit_binds_a_master_key_to_its_name() -> None:
    async with transit() as (bare, _):
        settings = await made(bare, "one")
        renamed = settings.model_copy(
            update={
                "master_keys": {"two": settings.master_keys["one"]},
                "master_key_current": "two",
            }
        )
        with pytest.raises(OperatorError) as caught:
            await vault_of(renamed).seal(SecretStr(CANARY), PLACE)
        assert caught.value.operator_code == "master_key_unreadable"


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_vault_that_is_away_is_left_alone_for_a_while(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with transit() as (bare, double):
        settings = await made(bare, "one")
        vault = vault_of(settings)
        double.trouble = status
        double.calls.clear()
        for _ in range(5):
            with pytest.raises(UnavailableError):
                await vault.seal(SecretStr(CANARY), PLACE)
        assert len(double.calls) == 1
        # What is remembered of it does not grow with everybody who meets it.
        lengths = set()
        for _ in range(3):
            with pytest.raises(UnavailableError) as caught:
                await vault.seal(SecretStr(CANARY), PLACE)
            lengths.add(len(caught.traceback))
        assert len(lengths) == 1
        double.trouble = None
        monkeypatch.setattr(sources, "monotonic", lambda: 1e9)
        await vault.seal(SecretStr(CANARY), PLACE)


@pytest.mark.parametrize(
    ("status", "code"), [(403, "invalid_settings"), (404, "master_key_unreadable")]
)
async def test_what_only_the_operator_can_mend_is_told_to_them(status: int, code: str) -> None:
    async with transit() as (bare, double):
        settings = await made(bare, "one")
        double.trouble = status
        with pytest.raises(OperatorError) as caught:
            await vault_of(settings).seal(SecretStr(CANARY), PLACE)
        assert caught.value.operator_code == code


async def test_a_wrong_token_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with transit() as (bare, double):
        settings = await made(bare, "one")
        wrong = settings.model_copy(update={"hashicorp_token": SecretStr("hvs.wrong-token-000")})
        with pytest.raises(OperatorError) as caught:
            await vault_of(wrong).seal(SecretStr(CANARY), PLACE)
        said = repr([caught.value, caught.value.operator_message, vault_of(settings)._master_keys])
        for secret in ("hvs.wrong-token-000", double.token, CANARY):
            assert secret not in said + caplog.text


def test_half_a_configuration_is_refused() -> None:
    settings = Settings(master_key_source="hashicorp-vault", hashicorp_url="http://127.0.0.1:1")
    with pytest.raises(SettingsError, match="QUERNEL_HASHICORP_TOKEN"):
        HashicorpTransit(settings)


# The environment --------------------------------------------------------------------------------


async def test_a_new_key_of_the_environment_is_one() -> None:
    settings = await made(Settings(), "today")
    sealed = await vault_of(settings).seal(SecretStr(CANARY), PLACE)
    with pytest.raises(MasterKeyMissingError):
        await vault_of(await made(Settings(), "tomorrow")).open(sealed, PLACE)


@pytest.mark.parametrize(
    ("keys", "current", "said"),
    [
        ({"a": "!"}, "a", "not base64"),
        ({"a": "c2hvcnQ="}, "a", "32 bytes"),
        ({"a": base64.b64encode(bytes(32)).decode()}, "b", "'b' is not among"),
        ({"a": base64.b64encode(bytes(32)).decode()}, None, "MASTER_KEY_CURRENT"),
    ],
    ids=["text", "short", "other", "none"],
)
def test_a_ring_that_cannot_be_is_refused(
    keys: dict[str, str], current: str | None, said: str
) -> None:
    settings = Settings(master_keys=keys, master_key_current=current)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=said) as caught:
        open_master_keys(settings)
    assert all(text not in str(caught.value) for text in keys.values() if len(text) > 1)
    assert all(text not in repr(settings) for text in keys.values() if len(text) > 1)
