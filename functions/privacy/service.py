"""The use cases of privacy: ask to be erased, look how far that is, and change one's mind."""

from __future__ import annotations

from uuid import UUID

from functions.core.database import Database
from functions.privacy.schemas import Erasure


class PrivacyService:
    """What a person may ask about themselves. Every method raises QuernelError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def request_erasure(self, user_id: UUID) -> Erasure:
        """Ask to be erased; asked again, the same request.

        Raises organization_needs_an_owner, user_not_found.
        """
        return Erasure.model_validate(
            await self._database.rpc("erasure_request", p_user_id=user_id)
        )

    async def erasure(self, user_id: UUID) -> Erasure:
        """The latest request. Raises erasure_not_found."""
        return Erasure.model_validate(await self._database.rpc("erasure_status", p_user_id=user_id))

    async def cancel_erasure(self, user_id: UUID) -> Erasure:
        """Everything stays as it is. Raises erasure_not_found, erasure_started."""
        return Erasure.model_validate(await self._database.rpc("erasure_cancel", p_user_id=user_id))
