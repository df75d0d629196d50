"""The vault: what it must not open, first; then that it opens what it sealed."""

from __future__ import annotations

import os
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from functions.core.errors import OperatorError
from functions.provider_keys.master_keys import KeyRing, MasterKeyMissingError
from functions.provider_keys.vault import (
    MAX_SECRET_BYTES,
    Place,
    Sealed,
    UnreadableSecretError,
    Vault,
)

pytestmark = pytest.mark.anyio

CANARY = "sk-canary-0123456789-abcdefghijklmnopqrstuvwxyz"
PLACE = Place(uuid4(), "user", uuid4(), "openai")
OLD, NEW = os.urandom(32), os.urandom(32)


def vault(current: str = "old", **keys: bytes) -> Vault:
    return Vault(KeyRing(keys or {"old": OLD}, current))


async def sealed(place: Place = PLACE) -> Sealed:
    return await vault().seal(SecretStr(CANARY), place)


# What does not open -----------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["wrapped_key", "nonce", "ciphertext"])
async def test_every_flipped_bit_of_every_field_fails(field: str) -> None:
    stored = await sealed()
    value: bytes = getattr(stored, field)
    for bit in range(len(value) * 8):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UnreadableSecretError):
            await vault().open(replace(stored, **{field: bytes(flipped)}), PLACE)


async def test_every_flipped_bit_of_the_kid_fails() -> None:
    stored = await sealed()
    for bit in range(len(stored.kid) * 8):
        flipped = bytearray(stored.kid.encode())
        flipped[bit // 8] ^= 1 << bit % 8
        kid = flipped.decode("latin-1")
        with pytest.raises(MasterKeyMissingError):
            await vault().open(replace(stored, kid=kid), PLACE)
        # Even where that name is the same key.
        with pytest.raises(UnreadableSecretError):
            await vault(kid, **{kid: OLD}).open(replace(stored, kid=kid), PLACE)


@pytest.mark.parametrize("field", ["wrapped_key", "nonce", "ciphertext"])
@pytest.mark.parametrize("length", [0, 1, 11, 12, 13, 27, 28])
async def test_what_was_cut_short_fails(field: str, length: int) -> None:
    stored = await sealed()
    value: bytes = getattr(stored, field)
    if len(value) <= length:
        value = b"x" * 8 + value
    with pytest.raises(UnreadableSecretError):
        await vault().open(replace(stored, **{field: value[:length]}), PLACE)


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(PLACE, row_id=uuid4()),
        replace(PLACE, owner_id=uuid4()),
        replace(PLACE, owner="organization"),
        replace(PLACE, provider="openrouter"),
        replace(PLACE, provider=f"openai\n{PLACE.row_id}"),
    ],
    ids=["row", "owner", "kind of owner", "provider", "separator"],
)
async def test_a_ciphertext_moved_elsewhere_fails(elsewhere: Place) -> None:
    stored = await sealed()
    with pytest.raises(UnreadableSecretError):
        await vault().open(stored, elsewhere)
    with pytest.raises(UnreadableSecretError):
        await vault().rewrap(stored, elsewhere)


async def test_parts_of_two_rows_do_not_mix() -> None:
    one, other = await sealed(), await sealed()
    for field in ("wrapped_key", "nonce", "ciphertext"):
        mixed = replace(one, **{field: getattr(other, field)})
        with pytest.raises(UnreadableSecretError):
            await vault().open(mixed, PLACE)


async def test_a_master_key_of_the_same_name_is_another() -> None:
    with pytest.raises(UnreadableSecretError):
        await vault(old=NEW).open(await sealed(), PLACE)


async def test_a_missing_master_key_is_an_operators_error_and_hurts_no_other_row() -> None:
    lost = await sealed()
    ring = vault("new", new=NEW)
    kept = await ring.seal(SecretStr("another"), PLACE)
    with pytest.raises(MasterKeyMissingError) as info:
        await ring.open(lost, PLACE)
    assert (info.value.operator_code, info.value.status) == ("master_key_missing", 500)
    assert "'old'" in info.value.operator_message
    assert "old" not in info.value.message  # callers are told nothing
    assert (await ring.open(kept, PLACE)).get_secret_value() == "another"


@pytest.mark.parametrize("secret", ["", "x" * (MAX_SECRET_BYTES + 1)])
async def test_a_secret_has_a_length(secret: str) -> None:
    with pytest.raises(ValueError, match="A secret has 1 to"):
        await vault().seal(SecretStr(secret), PLACE)


@pytest.mark.parametrize(
    ("keys", "current"),
    [({"a": b"short"}, "a"), ({"a": b"x" * 33}, "a"), ({"a": b"x" * 32}, "b"), ({}, "a")],
)
def test_a_key_ring_that_makes_no_sense(keys: dict[str, bytes], current: str) -> None:
    with pytest.raises(ValueError, match="master key"):
        KeyRing(keys, current)


# What opens -------------------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=200), st.uuids(), st.uuids())
async def test_what_was_sealed_opens(secret: str, row_id: UUID, owner_id: UUID) -> None:
    try:
        secret.encode()
    except UnicodeEncodeError:
        return
    place = Place(row_id, "organization", owner_id, "anthropic")
    stored = await vault().seal(SecretStr(secret), place)
    assert (await vault().open(stored, place)).get_secret_value() == secret


async def test_the_same_secret_is_never_sealed_alike() -> None:
    rows = [await sealed() for _ in range(50)]
    for field in ("wrapped_key", "nonce", "ciphertext"):
        assert len({getattr(row, field) for row in rows}) == 50


async def test_rotation_changes_the_wrapping_alone() -> None:
    before = await sealed()
    ring = vault("new", old=OLD, new=NEW)
    assert (await ring.open(before, PLACE)).get_secret_value() == CANARY
    after = await ring.rewrap(before, PLACE)
    assert (before.kid, after.kid) == ("old", "new")
    assert (after.nonce, after.ciphertext) == (before.nonce, before.ciphertext)
    assert after.wrapped_key != before.wrapped_key
    # The old row still opens while the old key is there, the new one also without it.
    assert (await ring.open(before, PLACE)).get_secret_value() == CANARY
    assert (await vault("new", new=NEW).open(after, PLACE)).get_secret_value() == CANARY


# What is said -----------------------------------------------------------------------------------


async def test_nothing_that_is_stored_or_said_holds_the_plaintext() -> None:
    stored = await sealed()
    ring = KeyRing({"old": OLD}, "old")
    opened = await Vault(ring).open(stored, PLACE)
    texts = [repr(stored), repr(opened), str(opened), repr(ring), repr(Vault(ring)), repr(PLACE)]
    try:
        await vault(old=NEW).open(stored, PLACE)
    except OperatorError as error:
        texts += [repr(error), str(error), error.operator_message, repr(error.__cause__)]
    assert CANARY not in "".join(texts)
    assert CANARY.encode() not in stored.wrapped_key + stored.nonce + stored.ciphertext
    assert OLD.hex() not in "".join(texts)
    assert repr(OLD)[2:-1] not in "".join(texts)
