"""Bodies of the routes of conversations, and examples of their answers.

Shapes are checked here; what a value may be is the database's to say, which answers
`invalid_argument` with the `param`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from functions.chat.schemas import (
    MAX_MODEL_NAME,
    MAX_TOKENS,
    Part,
    PayingCredential,
    check_parts,
)
from functions.core.errors import InvalidRequestError
from functions.core.json import Json

MAX_PARTS = 100
MAX_STOPS = 4  # as OpenAI has it
MAX_DOCUMENTS = 50
_PARAMETERS = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "stop",
    "seed",
)
"""Members of a message that reach the model, and are kept with its answer."""

BRANCHES = (
    "str",
    "list[Part]",
    "list[constrained-str]",
    "literal['all']",
    "list[uuid]",
)
"""Names that pydantic gives to kinds of `content`, `stop`, `documents`; clients know none."""

ModelName = Annotated[str, Field(min_length=1, max_length=MAX_MODEL_NAME)]
Number = Annotated[float, Field(strict=True)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]
Documents = Literal["all"] | Annotated[list[UUID], Field(max_length=MAX_DOCUMENTS)]
"""Ids of those to answer from, "all" that there are, or none (an empty list)."""


class ConversationChanges(BaseModel):
    """What may be set of a conversation; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, Field(max_length=2000)] | None = None
    agent_id: UUID | None = None
    model: ModelName | None = None
    system_prompt: str | None = None
    is_shared: StrictBool | None = None
    status: Literal["active", "archived"] | None = None
    head_message_id: UUID | None = None
    documents: Documents | None = None

    @property
    def values_set(self) -> dict[str, Any]:
        """What the client named, null included."""
        return self.model_dump(mode="json", exclude_unset=True)


class ConversationRequest(BaseModel):
    """A new conversation; `organization` is the id or slug of the one that pays."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, Field(max_length=2000)] | None = None
    agent_id: UUID | None = None
    model: ModelName | None = None
    system_prompt: str | None = None
    is_shared: StrictBool | None = None
    documents: Documents | None = None
    organization: Annotated[str | None, Field(min_length=1, max_length=100)] = None

    @property
    def values_set(self) -> dict[str, Any]:
        """What the client gave a value."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"organization"})


class ConversationQuery(BaseModel):
    """Which conversations to list, and which page of them."""

    model_config = ConfigDict(extra="forbid")

    organization: Annotated[
        str | None,
        Field(min_length=1, max_length=100, description="Id or slug: only this one's."),
    ] = None
    status: Literal["active", "archived", "all"] = "active"
    query: Annotated[str | None, Field(max_length=400)] = None
    limit: Annotated[int, Field(ge=1, le=100)] = 50
    after: Annotated[
        str | None, Field(max_length=100, description="The `next` of the page before.")
    ] = None


class MessageRequest(BaseModel):
    """A message of the user's, or a new answer to one (`regenerate`)."""

    model_config = ConfigDict(extra="forbid")

    content: str | Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)] | None = None
    role: str | None = None
    id: UUID | None = None
    parent_id: UUID | None = None
    regenerate: UUID | None = None
    documents: Documents | None = None
    model: ModelName | None = None
    models: Annotated[list[ModelName], Field(max_length=3)] | None = None
    credential: PayingCredential | None = None
    stream: StrictBool | None = None
    max_tokens: Annotated[int | None, Field(strict=True, ge=1, le=MAX_TOKENS)] = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    seed: Annotated[int | None, Field(strict=True, ge=-(2**63), lt=2**63)] = None


@dataclass(frozen=True)
class Message:
    """A message that has been checked."""

    text: str | None  # None: the answer to `regenerate` is made anew
    parts: list[dict[str, Any]] | None  # where there are images
    request: MessageRequest

    @property
    def streams(self) -> bool:
        return self.request.stream is not False

    @property
    def models(self) -> list[str]:
        """The model asked for and those that stand in for it; none leaves it to the agent."""
        first = [] if self.request.model is None else [self.request.model]
        return first + (self.request.models or [])

    @property
    def parameters(self) -> dict[str, Any]:
        """What reaches the model beside the messages."""
        values = self.request.model_dump(include=set(_PARAMETERS), exclude_none=True)
        return dict(values)


def check_message(request: MessageRequest) -> Message:
    """Raises QuernelError 400: `invalid_argument`, `unsupported_content`.

    Whoever sends a message speaks as the user. What is in it, marks of a chat template included,
    is text of theirs: a message has no other role, and no way to bring another message along.
    """
    if request.role not in (None, "user"):
        raise _refusal("A message is the user's: other roles are not taken.", "role")
    if (request.content is None) == (request.regenerate is None):
        raise _refusal("Send content, or regenerate with the id of a message.", "content")
    if request.regenerate is not None and "parent_id" in request.model_fields_set:
        raise _refusal("A new answer has the place of the old one: no parent_id.", "parent_id")
    content: Any = request.model_dump()["content"]
    if not isinstance(content, list):
        return Message(content, None, request)
    has_images = check_parts([{"content": content}])
    texts = [text for part in content if isinstance(text := part.get(part["type"]), str)]
    return Message("\n".join(texts), content if has_images else None, request)


def _refusal(message: str, param: str) -> InvalidRequestError:
    return InvalidRequestError("invalid_argument", message, {"param": param})


CONVERSATION_EXAMPLE: dict[str, Json] = {
    "id": "01999c5e-0000-7000-8000-000000000002",
    "user_id": "7f4df0a4-0000-4000-8000-000000000001",
    "organization_id": None,
    "is_shared": False,
    "agent_id": None,
    "title": "Why is the sky blue?",
    "title_source": "generated",
    "system_prompt": None,
    "model": None,
    "status": "active",
    "message_count": 2,
    "total_tokens": 37,
    "head_message_id": "01999c5e-0000-7000-8000-000000000004",
    "documents": None,
    "last_message_at": "2026-01-01T00:00:00Z",
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
    "archived_at": None,
    "deleted_at": None,
}
MESSAGE_EXAMPLE: dict[str, Json] = {
    "id": "01999c5e-0000-7000-8000-000000000004",
    "conversation_id": CONVERSATION_EXAMPLE["id"],
    "parent_id": "01999c5e-0000-7000-8000-000000000003",
    "user_id": CONVERSATION_EXAMPLE["user_id"],
    "role": "assistant",
    "content": "Because of Rayleigh scattering.",
    "parts": None,
    "status": "completed",
    "prompt_tokens": 13,
    "completion_tokens": 24,
    "tokens_used": 37,
    "model_used": "Qwen2.5-32B-Instruct-AWQ",
    "metadata": {"max_tokens": 2048},
    "credits": 0.0051,
    "hold_id": "01999c5e-0000-7000-8000-000000000005",
    "finish_reason": "stop",
    "error_code": None,
    "citations": [],
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:01Z",
}
THREAD_EXAMPLE: dict[str, Json] = {
    "conversation_id": CONVERSATION_EXAMPLE["id"],
    "head_message_id": MESSAGE_EXAMPLE["id"],
    "messages": [MESSAGE_EXAMPLE | {"siblings": [MESSAGE_EXAMPLE["id"]]}],
    "next": None,
}
ANSWER_EXAMPLE: dict[str, Json] = {
    "conversation_id": CONVERSATION_EXAMPLE["id"],
    "user_message_id": MESSAGE_EXAMPLE["parent_id"],
    "message_id": MESSAGE_EXAMPLE["id"],
    "title": CONVERSATION_EXAMPLE["title"],
    "message": MESSAGE_EXAMPLE,
    "usage": {
        "prompt_tokens": 13,
        "completion_tokens": 24,
        "total_tokens": 37,
        "credits_charged": 0.0051,
        "credits_remaining": 99.9949,
    },
}
DELETED_EXAMPLE: dict[str, Json] = {
    "id": CONVERSATION_EXAMPLE["id"],
    "deleted": True,
    "purged_after": "2026-01-31T00:00:00Z",
}
