"""The use cases of agents: each is one function of the database."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from functions.agents.schemas import AgentChanges, AgentRequest
from functions.core.auth import Principal
from functions.core.database import Database


class AgentService:
    """Agents, for people and for API keys with the scope `agents`.

    Every method raises QuernelError: account_suspended, insufficient_scope; not_a_member where an
    organization is named; agent_not_found and not_the_author where an agent is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, caller: Principal, request: AgentRequest) -> dict[str, Any]:
        """Make one. Raises invalid_argument, model_not_found, plan_limit_reached too."""
        agent: dict[str, Any] = await self._database.rpc(
            "agent_create",
            **caller.arguments,
            p_values=request.values_set,
            p_organization=request.organization,
        )
        return agent

    async def list(
        self, caller: Principal, organization: str | None, limit: int, after: UUID | None
    ) -> dict[str, Any]:
        """A page of the caller's own, or of the organization's: {agents, next}."""
        page: dict[str, Any] = await self._database.rpc(
            "agent_list",
            **caller.arguments,
            p_organization=organization,
            p_limit=limit,
            p_after=after,
        )
        return page

    async def find(
        self, caller: Principal, query: str | None, limit: int, after: UUID | None
    ) -> dict[str, Any]:
        """A page of public agents, by words, without their system prompts: {agents, next}."""
        page: dict[str, Any] = await self._database.rpc(
            "agent_find", **caller.arguments, p_query=query, p_limit=limit, p_after=after
        )
        return page

    async def read(self, caller: Principal, agent_id: UUID) -> dict[str, Any]:
        """One; its system prompt only for those who may change it."""
        agent: dict[str, Any] = await self._database.rpc(
            "agent_read", **caller.arguments, p_agent_id=agent_id
        )
        return agent

    async def update(
        self, caller: Principal, agent_id: UUID, changes: AgentChanges
    ) -> dict[str, Any]:
        """Change what is named. Raises invalid_argument, model_not_found too."""
        agent: dict[str, Any] = await self._database.rpc(
            "agent_update", **caller.arguments, p_agent_id=agent_id, p_changes=changes.values_set
        )
        return agent

    async def delete(self, caller: Principal, agent_id: UUID) -> dict[str, Any]:
        """Delete one; its conversations go on without it."""
        deleted: dict[str, Any] = await self._database.rpc(
            "agent_delete", **caller.arguments, p_agent_id=agent_id
        )
        return deleted
