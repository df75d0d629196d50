"""Payloads of the chat routes: what is checked here, and what passes through to the model.

Quernel checks the members that decide who pays what, and refuses the few that would make the
upstream do something that is not priced, or keep something that is not promised. All others, known
or not, pass through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from functions.chat.counting import PromptSize, prompt_size
from functions.core.errors import InvalidRequestError, QuernelError
from functions.core.request_body import invalid_fields, parse_json

MAX_MESSAGES = 10_000
MAX_CHOICES = 8
MAX_TOP_LOGPROBS = 20  # as OpenAI has it
MAX_TOKENS = 1_000_000  # the model's own limit is checked with its price
MAX_MODEL_NAME = 200  # characters
MAX_FALLBACKS = 3  # as OpenRouter has it; chat_candidates refuses more

# Members that are refused unless they say what happens anyway.
_UNSUPPORTED: Final[dict[str, tuple[Any, ...]]] = {
    "audio": (),
    "background": (False,),
    "best_of": (1,),
    "cache_control": (),
    "cache_salt": (),
    "chat_template": (),
    "deferred": (False,),
    "echo": (False,),
    "kv_transfer_params": (),
    "logits_processors": (),
    "media_io_kwargs": (),
    "mm_processor_kwargs": (),
    "modalities": (["text"],),
    "moderation": (),
    "plugins": ([],),
    "prediction": (),
    "preset": (),
    "priority": (0,),
    "prompt_logprobs": (),
    "provider": (),
    "request_id": (),
    "route": ("fallback",),
    "search_parameters": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}
# What a model may call that the client runs; others are run, and billed, by the provider.
_CLIENT_TOOLS: Final = ("function", "custom")
# Members of chat_template_kwargs that stall or replace vLLM's rendering (CVE-2025-62426).
_UNSUPPORTED_TEMPLATE_ARGUMENTS: Final = ("chat_template", "tokenize")
_BRANCHES = ("str", "list[Part]")
# What each kind of part carries, and nothing else: beside a `uuid`, vLLM does not look at `type`
# but takes whatever it finds under image_url, image_embeds, audio_url and their like.
_PARTS: Final = {"text": str, "refusal": str, "image_url": dict}
_IMAGE_MEMBERS: Final = frozenset({"url", "detail"})
_CACHE_HINT: Final = "prompt_cache_breakpoint"  # OpenAI's clients may set it; it is not sent on


PayingCredential = Literal["auto", "own", "platform", "own_first"]
"""Who pays: one's own key where there is one (auto), only that, only credits, or credits where
one's own keys fail.
"""

ModelName = Annotated[str, Field(min_length=1, max_length=MAX_MODEL_NAME)]


class Part(BaseModel):
    """One part of a message's content."""

    model_config = ConfigDict(extra="allow")

    type: str


class Message(BaseModel):
    """One message; tool calls, names and other members pass through."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None


class CompletionRequest(BaseModel):
    """Body of a chat completion, as in OpenAI's API. Other members pass through to the model."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "model": "Qwen2.5-32B-Instruct-AWQ",
                "messages": [{"role": "user", "content": "Why is the sky blue?"}],
                "stream": True,
            }
        },
    )

    model: ModelName
    models: Annotated[list[ModelName] | None, Field(max_length=MAX_FALLBACKS)] = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[int | None, Field(strict=True, ge=1, le=MAX_TOKENS)] = None
    max_completion_tokens: Annotated[int | None, Field(strict=True, ge=1, le=MAX_TOKENS)] = None
    n: Annotated[int | None, Field(strict=True, ge=1, le=MAX_CHOICES)] = None
    top_logprobs: Annotated[int | None, Field(strict=True, ge=0, le=MAX_TOP_LOGPROBS)] = None
    stream: StrictBool | None = None
    credential: PayingCredential | None = None
    stream_options: dict[str, Any] | None = None


@dataclass(frozen=True)
class Completion:
    """A request that has been checked."""

    payload: dict[str, Any]  # the body as it came
    model: str
    choices: int
    max_tokens: int | None  # per choice; None leaves it to the model's default and the balance
    streams: bool
    wants_usage_chunk: bool
    has_images: bool
    size: PromptSize
    fallbacks: tuple[str, ...] = ()  # models that are asked where the first does not answer
    credential: PayingCredential = "auto"


def parse(body: bytes) -> Completion:
    """Check a request's body. Raises QuernelError 400 with the code that says what is wrong."""
    payload = parse_json(body)
    try:
        request = CompletionRequest.model_validate(payload)
    except ValidationError as error:
        raise _explain(error) from None
    _refuse_unsupported(payload)
    limits = [n for n in (request.max_tokens, request.max_completion_tokens) if n is not None]
    return Completion(
        payload=payload,
        model=request.model,
        choices=request.n or 1,
        max_tokens=min(limits, default=None),
        streams=request.stream or False,
        wants_usage_chunk=bool((request.stream_options or {}).get("include_usage")),
        has_images=check_parts(payload["messages"]),
        size=prompt_size(payload),
        fallbacks=tuple(request.models or ()),
        credential=request.credential or "auto",
    )


def _refusal(code: str, message: str, param: str) -> InvalidRequestError:
    return InvalidRequestError(code, message, {"param": param})


def _explain(error: ValidationError) -> QuernelError:
    # A union's branches add their type's name to the path; the client knows only its own members.
    listed = error.errors(include_url=False, include_input=False)
    return invalid_fields(
        [e | {"loc": tuple(x for x in e["loc"] if x not in _BRANCHES)} for e in listed], "/v1"
    )


def _refuse_unsupported(payload: dict[str, Any]) -> None:
    for name in _UNSUPPORTED.keys() & payload.keys():
        value = payload[name]
        allowed = _UNSUPPORTED[name]
        if value is not None and not any(type(value) is type(a) and value == a for a in allowed):
            raise _refusal("unsupported_parameter", f"{name} is not supported here.", name)
    tools = payload.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        kind = tool.get("type", "function") if isinstance(tool, dict) else None
        if kind not in _CLIENT_TOOLS:
            raise _refusal(
                "unsupported_parameter", "Tools that a provider runs are not supported.", "tools"
            )
    arguments = payload.get("chat_template_kwargs")
    for name in _UNSUPPORTED_TEMPLATE_ARGUMENTS:
        if isinstance(arguments, dict) and name in arguments:
            param = f"chat_template_kwargs.{name}"
            raise _refusal("unsupported_parameter", f"{param} is not supported here.", param)


def check_parts(messages: list[dict[str, Any]]) -> bool:
    """Whether there are images.

    Refuses other kinds, unknown members, and images by address: QuernelError 400
    `unsupported_content`.
    """
    has_images = False
    for number, message in enumerate(messages):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            param = f"messages[{number}].content"
            part.pop(_CACHE_HINT, None)
            kind = part["type"]
            if kind not in _PARTS:
                text = f"Content of type {kind[:40]} is not supported."
                raise _refusal("unsupported_content", text, param)
            _check_members(kind, part, {"type", kind}, param)
            if not isinstance(part.get(kind), _PARTS[kind]):
                raise _refusal(
                    "unsupported_content", f"Content of type {kind} is without its {kind}.", param
                )
            if kind == "image_url":
                has_images = True
                _check_members(kind, part[kind], _IMAGE_MEMBERS, param)
                url = part[kind].get("url")
                # A model server that fetches for strangers reaches what only it can reach.
                if not isinstance(url, str) or not url.startswith("data:image/"):
                    text = "Send images inline, as data: URLs; addresses are not fetched."
                    raise _refusal("unsupported_content", text, param)
    return has_images


def _check_members(
    kind: str, part: dict[str, Any], known: frozenset[str] | set[str], param: str
) -> None:
    for name in part:
        if name not in known:
            text = f"Content of type {kind} has no member {name[:40]}."
            raise _refusal("unsupported_content", text, param)
