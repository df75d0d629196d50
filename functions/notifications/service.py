"""The use cases of webhook endpoints: vet the URL, ask the database, derive the secret."""

from __future__ import annotations

from uuid import UUID

from functions.core.database import Database
from functions.core.http import SafeClient
from functions.core.json import Json
from functions.notifications.schemas import (
    DeletedEndpoint,
    Endpoint,
    EndpointChanges,
    EndpointRequest,
    EndpointSecret,
    NewEndpoint,
    Ping,
)
from functions.notifications.signing import endpoint_secret, shown_secret


class EndpointService:
    """Webhook endpoints of the caller and of organizations they administer.

    Every method raises QuernelError: account_suspended; not_a_member and not_an_admin where an
    organization is named; webhook_endpoint_not_found where an endpoint is.
    """

    def __init__(self, database: Database, client: SafeClient, master_key: bytes) -> None:
        self._database = database
        self._client = client
        self._master_key = master_key

    async def create(self, user_id: UUID, request: EndpointRequest) -> NewEndpoint:
        """Make an endpoint. Raises url_refused, invalid_argument, webhook_limit_reached too."""
        self._client.vet(request.url)
        return self._with_secret(
            await self._database.rpc(
                "webhook_endpoint_create",
                p_user_id=user_id,
                p_url=request.url,
                p_description=request.description,
                p_event_types=request.event_types,
                p_organization=request.organization,
            )
        )

    async def list(self, user_id: UUID, organization: str | None) -> list[Endpoint]:
        """Those of the caller alone, or of the organization."""
        rows = await self._database.rpc(
            "webhook_endpoint_list", p_user_id=user_id, p_organization=organization
        )
        return [Endpoint.model_validate(row) for row in rows]

    async def read(self, user_id: UUID, endpoint_id: UUID) -> Endpoint:
        """One endpoint."""
        return Endpoint.model_validate(await self._read(user_id, endpoint_id))

    async def secret(self, user_id: UUID, endpoint_id: UUID) -> EndpointSecret:
        """The secret in use."""
        found = self._with_secret(await self._read(user_id, endpoint_id))
        return EndpointSecret(secret=found.secret)

    async def update(self, user_id: UUID, endpoint_id: UUID, changes: EndpointChanges) -> Endpoint:
        """Change what was sent. Raises url_refused and invalid_argument too."""
        if "url" in changes.model_fields_set:
            self._client.vet(changes.url)
        row = await self._database.rpc(
            "webhook_endpoint_update",
            p_user_id=user_id,
            p_endpoint_id=endpoint_id,
            p_changes=changes.model_dump(exclude_unset=True),
        )
        return Endpoint.model_validate(row)

    async def rotate(self, user_id: UUID, endpoint_id: UUID) -> NewEndpoint:
        """A new secret; the one before signs as well for a while."""
        return self._with_secret(
            await self._database.rpc(
                "webhook_endpoint_rotate", p_user_id=user_id, p_endpoint_id=endpoint_id
            )
        )

    async def ping(self, user_id: UUID, endpoint_id: UUID) -> Ping:
        """Have a ping sent. Raises webhook_endpoint_disabled and rate_limited too."""
        row = await self._database.rpc(
            "webhook_endpoint_ping", p_user_id=user_id, p_endpoint_id=endpoint_id
        )
        return Ping.model_validate(row)

    async def delete(self, user_id: UUID, endpoint_id: UUID) -> DeletedEndpoint:
        """The endpoint and its deliveries go."""
        row = await self._database.rpc(
            "webhook_endpoint_delete", p_user_id=user_id, p_endpoint_id=endpoint_id
        )
        return DeletedEndpoint.model_validate(row)

    async def _read(self, user_id: UUID, endpoint_id: UUID) -> dict[str, Json]:
        row: dict[str, Json] = await self._database.rpc(
            "webhook_endpoint_read", p_user_id=user_id, p_endpoint_id=endpoint_id
        )
        return row

    def _with_secret(self, row: dict[str, Json]) -> NewEndpoint:
        secret = endpoint_secret(self._master_key, UUID(row["id"]), row["secret_version"])
        return NewEndpoint.model_validate(row | {"secret": shown_secret(secret)})
