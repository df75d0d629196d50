"""The use cases of conversations: each is one function of the database."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from functions.conversations.schemas import (
    ConversationChanges,
    ConversationQuery,
    ConversationRequest,
    Message,
)
from functions.core.auth import Principal
from functions.core.database import Database
from functions.core.json import Json


class ConversationService:
    """Conversations, for people and for API keys with the scope `chat`.

    Every method raises QuernelError: account_suspended, insufficient_scope; not_a_member where an
    organization is named; conversation_not_found and not_the_author where a conversation is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, caller: Principal, request: ConversationRequest) -> dict[str, Any]:
        """Begin one. Raises invalid_argument, agent_not_found, model_not_found too."""
        conversation: dict[str, Any] = await self._database.rpc(
            "conversation_create",
            **caller.arguments,
            p_values=request.values_set,
            p_organization=request.organization,
        )
        return conversation

    async def list(self, caller: Principal, query: ConversationQuery) -> dict[str, Any]:
        """A page of those the caller reads, newest activity first: {conversations, next}."""
        page: dict[str, Any] = await self._database.rpc(
            "conversation_list",
            **caller.arguments,
            p_organization=query.organization,
            p_status=query.status,
            p_query=query.query,
            p_limit=query.limit,
            p_after=query.after,
        )
        return page

    async def read(self, caller: Principal, conversation_id: UUID) -> dict[str, Any]:
        """One of them."""
        conversation: dict[str, Any] = await self._database.rpc(
            "conversation_read", **caller.arguments, p_conversation_id=conversation_id
        )
        return conversation

    async def update(
        self, caller: Principal, conversation_id: UUID, changes: ConversationChanges
    ) -> dict[str, Any]:
        """Change what is named. Raises invalid_argument, message_not_found and so on too."""
        conversation: dict[str, Any] = await self._database.rpc(
            "conversation_update",
            **caller.arguments,
            p_conversation_id=conversation_id,
            p_changes=changes.values_set,
        )
        return conversation

    async def delete(self, caller: Principal, conversation_id: UUID) -> dict[str, Any]:
        """Make one invisible; it is purged after the retention."""
        deleted: dict[str, Any] = await self._database.rpc(
            "conversation_delete", **caller.arguments, p_conversation_id=conversation_id
        )
        return deleted

    async def restore(self, caller: Principal, conversation_id: UUID) -> dict[str, Any]:
        """Bring a deleted one back, until it is purged."""
        conversation: dict[str, Any] = await self._database.rpc(
            "conversation_restore", **caller.arguments, p_conversation_id=conversation_id
        )
        return conversation

    async def messages(
        self, caller: Principal, conversation_id: UUID, limit: int, before: UUID | None
    ) -> dict[str, Any]:
        """A page of the branch that is shown, from its end. Raises message_not_found too."""
        page: dict[str, Any] = await self._database.rpc(
            "conversation_messages",
            **caller.arguments,
            p_conversation_id=conversation_id,
            p_limit=limit,
            p_before=before,
        )
        return page


def start_arguments(
    message: Message,
    caller: Principal,
    conversation_id: UUID,
    request_id: str,
    *,
    ip: str | None,
    user_agent: str | None,
) -> dict[str, Json]:
    """What message_start is called with."""
    request = message.request
    return {
        **caller.arguments,
        "p_request_id": request_id,
        "p_conversation_id": conversation_id,
        "p_content": message.text,
        "p_parts": message.parts,
        "p_message_id": request.id,
        "p_parent_id": request.parent_id,
        "p_is_branch": "parent_id" in request.model_fields_set,
        "p_regenerate": request.regenerate,
        "p_models": message.models,
        "p_max_tokens": request.max_tokens,
        "p_parameters": message.parameters,
        "p_stream": message.streams,
        "p_credential": request.credential or "auto",
        # In an object: PostgREST takes one as JSON, whatever is in it; a bare text not everywhere.
        "p_documents": request.model_dump(mode="json", include={"documents"}, exclude_none=True),
        "p_ip": ip,
        "p_user_agent": user_agent,
    }
