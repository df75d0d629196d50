"""The use cases of provider keys: ask the provider, seal, store; never keep or show a secret."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from uuid import UUID, uuid4

from pydantic import SecretStr

from functions.core.database import Database
from functions.core.errors import InvalidRequestError
from functions.core.http import SafeClient
from functions.core.json import Json
from functions.provider_keys.checks import KeyCheck, KeyChecker
from functions.provider_keys.rows import packed, place_of, sealed_of
from functions.provider_keys.schemas import KeyChanges, KeyRequest, SecretRequest, TestRequest
from functions.provider_keys.vault import Place, Vault

SHOWN_CHARACTERS = 4
SHORTEST_SHOWN = 16
"""Of a shorter secret the last four characters would be too large a part."""


class ProviderKeyService:
    """Provider keys of the caller, and of organizations they administer.

    Every method raises QuernelError: account_suspended; not_a_member and not_an_admin where an
    organization is named or the key is one's; provider_key_not_found where a key is.
    """

    def __init__(
        self, database: Database, vault: Vault, checker: KeyChecker, safe_client: SafeClient
    ) -> None:
        self._database = database
        self._vault = vault
        self._checker = checker
        self._safe_client = safe_client

    async def add(self, user_id: UUID, request: KeyRequest) -> dict[str, Json]:
        """Ask the provider about a key, seal and store it.

        A provider that is out of reach says nothing about a key: it is stored, with `is_valid`
        null. Raises provider_key_rejected, provider_not_found, base_url_required,
        base_url_not_allowed, url_refused, invalid_argument, provider_key_limit_reached,
        rate_limited too.
        """
        check, owner = await self._tried(user_id, request, request.organization)
        _refuse_rejected(check)
        key_id = uuid4()
        place = Place(key_id, owner["owner"], UUID(owner["owner_id"]), request.provider)
        sealed = await self._vault.seal(request.api_key, place)
        key: dict[str, Json] = await self._database.rpc(
            "provider_key_add",
            p_user_id=user_id,
            p_id=key_id,
            p_provider=request.provider,
            p_name=request.name,
            p_last_four=last_four(request.api_key),
            p_sealed=packed(sealed),
            p_outcome=check.outcome,
            p_error_code=check.error_code,
            p_priority=request.priority,
            p_base_url=request.base_url,
            p_models=list(check.models),
            p_organization=request.organization,
        )
        return key

    async def test(self, user_id: UUID, request: TestRequest) -> dict[str, Json]:
        """Ask the provider about a key that is not kept: outcome, is_valid, error_code, models."""
        check, _ = await self._tried(user_id, request, None)
        return asdict(check) | {"is_valid": check.is_valid}

    async def list(
        self, user_id: UUID, organization: str | None, provider: str | None
    ) -> list[dict[str, Json]]:
        """Those of the caller, or of an organization they belong to, masked."""
        keys: list[dict[str, Json]] = await self._database.rpc(
            "provider_key_list",
            p_user_id=user_id,
            p_organization=organization,
            p_provider=provider,
        )
        return keys

    async def read(self, user_id: UUID, key_id: UUID) -> dict[str, Json]:
        """One of them."""
        key: dict[str, Json] = await self._database.rpc(
            "provider_key_read", p_user_id=user_id, p_id=key_id
        )
        return key

    async def update(self, user_id: UUID, key_id: UUID, changes: KeyChanges) -> dict[str, Json]:
        """Change name, priority or whether it is used. Raises invalid_argument too."""
        key: dict[str, Json] = await self._database.rpc(
            "provider_key_update", p_user_id=user_id, p_id=key_id, p_changes=changes.values_set
        )
        return key

    async def replace(self, user_id: UUID, key_id: UUID, request: SecretRequest) -> dict[str, Json]:
        """A new secret for a key. Raises as `add`, and provider_key_changed."""
        stored = await self._stored(user_id, key_id)
        if request.base_url is not None:
            self._safe_client.vet(request.base_url)
        base_url = request.base_url or stored["base_url"]
        check = await self._checker.check(stored["provider"], request.api_key, base_url)
        _refuse_rejected(check)
        sealed = await self._vault.seal(request.api_key, place_of(stored))
        key: dict[str, Json] = await self._database.rpc(
            "provider_key_replace",
            p_user_id=user_id,
            p_id=key_id,
            p_secret_version=stored["secret_version"],
            p_last_four=last_four(request.api_key),
            p_sealed=packed(sealed),
            p_outcome=check.outcome,
            p_error_code=check.error_code,
            p_base_url=base_url,
            p_models=list(check.models),
        )
        return key

    async def validate(self, user_id: UUID, key_id: UUID) -> dict[str, Json]:
        """Ask the provider about a stored key, and mark it by the answer."""
        return await checked(
            self._database,
            self._vault,
            self._checker,
            await self._stored(user_id, key_id),
            user_id,
        )

    async def delete(self, user_id: UUID, key_id: UUID) -> dict[str, Json]:
        """Delete it with its secret."""
        deleted: dict[str, Json] = await self._database.rpc(
            "provider_key_delete", p_user_id=user_id, p_id=key_id
        )
        return deleted

    async def uses(
        self,
        user_id: UUID,
        key_id: UUID | None,
        organization: str | None,
        limit: int,
        after: UUID | None,
    ) -> dict[str, Json]:
        """What keys were used for, newest first: {uses, next}."""
        page: dict[str, Json] = await self._database.rpc(
            "provider_key_uses",
            p_user_id=user_id,
            p_id=key_id,
            p_organization=organization,
            p_limit=limit,
            p_after=after,
        )
        return page

    async def _tried(
        self, user_id: UUID, request: TestRequest, organization: str | None
    ) -> tuple[KeyCheck, dict[str, Any]]:
        if request.base_url is not None:
            self._safe_client.vet(request.base_url)
        owner: dict[str, Any] = await self._database.rpc(
            "provider_key_prepare",
            p_user_id=user_id,
            p_provider=request.provider,
            p_base_url=request.base_url,
            p_organization=organization,
        )
        return await self._checker.check(request.provider, request.api_key, request.base_url), owner

    async def _stored(self, user_id: UUID, key_id: UUID) -> dict[str, Any]:
        stored: dict[str, Any] = await self._database.rpc(
            "provider_key_check", p_user_id=user_id, p_id=key_id
        )
        return stored


async def checked(
    database: Database,
    vault: Vault,
    checker: KeyChecker,
    stored: dict[str, Any],
    user_id: UUID | None,
) -> dict[str, Json]:
    """Open a stored key, ask its provider and record the answer; the key, masked.

    `user_id` is who asked for it; None: the check of an idle key. Raises OperatorError where the
    key does not open.
    """
    secret = await vault.open(sealed_of(stored), place_of(stored))
    check = await checker.check(stored["provider"], secret, stored["base_url"])
    key: dict[str, Json] = await database.rpc(
        "provider_key_checked",
        p_id=stored["id"],
        p_secret_version=stored["secret_version"],
        p_outcome=check.outcome,
        p_error_code=check.error_code,
        p_models=list(check.models),
        p_user_id=user_id,
    )
    return key | {"check": asdict(check) | {"is_valid": check.is_valid}}


def last_four(secret: SecretStr) -> str:
    """What is shown of a secret: its last four characters, nothing of a short one."""
    text = secret.get_secret_value()
    shown = text[-SHOWN_CHARACTERS:]
    # Of a service account's file the end is a brace, which tells nobody anything.
    return shown if len(text) >= SHORTEST_SHOWN and shown.isalnum() else ""


def _refuse_rejected(check: KeyCheck) -> None:
    if check.outcome == "rejected":
        raise InvalidRequestError(
            "provider_key_rejected",
            "The provider does not accept this key; it was not stored.",
            {"param": "api_key"},
        )
