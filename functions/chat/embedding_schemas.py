"""Payload of /v1/embeddings: what is checked here, and what passes through to the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from functions.chat import wire
from functions.chat.counting import PromptSize, measure, probable_tokens, text_bytes
from functions.chat.schemas import ModelName, PayingCredential
from functions.core.errors import InvalidRequestError
from functions.core.request_body import invalid_fields, parse_json

MAX_INPUTS = 2048  # as OpenAI has it
MAX_DIMENSIONS = 65_536  # the model's own limit is checked once it is known
INPUT_OVERHEAD = 16  # tokens: the marks at a text's beginning and end, and a template's

# Ours to decide, or about the person who asks.
_OURS = frozenset({"credential", "model", "user", "metadata", "safety_identifier"})
_REFUSED = frozenset({"messages", "truncate_prompt_tokens", "priority", "request_id", "cache_salt"})
_BRANCHES = frozenset({"str", "list[str]"})


class EmbeddingRequest(BaseModel):
    """Body of an embedding, as in OpenAI's API. Other members pass through to the model."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {"model": "Qwen3-Embedding-4B", "input": ["Why is the sky blue?"]}
        },
    )

    model: ModelName
    input: str | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int | None, Field(strict=True, ge=1, le=MAX_DIMENSIONS)] = None
    credential: PayingCredential | None = None


@dataclass(frozen=True)
class Embedding:
    """A request that has been checked."""

    model: str
    inputs: int
    dimensions: int | None
    is_base64: bool
    size: PromptSize
    passed: str  # the body without its model, as JSON
    credential: PayingCredential = "auto"

    def body(self, upstream_model: str) -> bytes:
        """The body to send."""
        return f"{self.passed[:-1]},{wire.dumps({'model': upstream_model})[1:]}".encode()


def parse_embedding(body: bytes) -> Embedding:
    """Check a request's body. Raises QuernelError 400 with the code that says what is wrong."""
    payload = parse_json(body)
    _refuse_tokens(payload.get("input"))
    for name in _REFUSED & payload.keys():
        raise InvalidRequestError(
            "unsupported_parameter", f"{name} is not supported here.", {"param": name}
        )
    try:
        request = EmbeddingRequest.model_validate(payload)
    except ValidationError as error:
        listed = error.errors(include_url=False, include_input=False)
        raise invalid_fields(
            [e | {"loc": tuple(x for x in e["loc"] if x not in _BRANCHES)} for e in listed], "/v1"
        ) from None
    texts = [request.input] if isinstance(request.input, str) else request.input
    for number, text in enumerate(texts):
        if not text:
            param = "input" if texts is not request.input else f"input[{number}]"
            raise InvalidRequestError(
                "invalid_request", "A text to embed is empty.", {"param": param}
            )
    return Embedding(
        model=request.model,
        inputs=len(texts),
        dimensions=request.dimensions,
        is_base64=request.encoding_format == "base64",
        size=_size(texts),
        passed=_passed(payload),
        credential=request.credential or "auto",
    )


def _refuse_tokens(value: object) -> None:
    """Numbers of another model's tokenizer: they would be embedded, as some other text."""
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, int | list):
        raise InvalidRequestError(
            "unsupported_content",
            "Send texts: lists of tokens mean something else to every model.",
            {"param": "input"},
        )


def _passed(payload: dict[str, Any]) -> str:
    try:
        return wire.dumps({name: part for name, part in payload.items() if name not in _OURS})
    except ValueError as error:
        raise InvalidRequestError(
            "invalid_request", "The body holds a number that JSON cannot carry."
        ) from error


def _size(texts: list[str]) -> PromptSize:
    measured = [measure(text) for text in texts]
    return PromptSize(
        bound=sum(map(text_bytes, texts)) + INPUT_OVERHEAD * len(texts),
        estimate=sum(probable_tokens(size, digits) for size, digits in measured) + len(texts),
    )
