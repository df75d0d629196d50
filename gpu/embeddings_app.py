"""OpenAI's /v1/embeddings over one Embedder. Imports no torch: whoever starts it brings the model.

Beside OpenAI's members it takes `input_type`: `query` puts the instruction before each text,
`instruction` says another; without it texts are embedded as documents.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Literal, Protocol

from anyio import to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gpu.request_body import read_body

MAX_TEXTS = 2_048  # as OpenAI's
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_INSTRUCTION = 1_000  # characters

Text = Annotated[str, Field(min_length=1)]


class Vectors(Protocol):
    """What an Embedder answers."""

    @property
    def vectors(self) -> list[list[float]]: ...
    @property
    def tokens(self) -> int: ...


class Model(Protocol):
    """What is asked of an Embedder."""

    @property
    def dimensions(self) -> int: ...
    def embed(self, texts: Sequence[str], dimensions: int) -> Vectors: ...


class EmbeddingJob(BaseModel):
    """The body of a request. Members that are not listed are ignored, as OpenAI's server does."""

    model_config = ConfigDict(frozen=True)

    model: Text
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(strict=True, ge=1)] | None = None
    input_type: Literal["query", "document"] = "document"
    instruction: Annotated[str, Field(min_length=1, max_length=MAX_INSTRUCTION)] | None = None

    @model_validator(mode="after")
    def _instruction_needs_a_query(self) -> EmbeddingJob:
        if self.instruction is not None and self.input_type != "query":
            raise ValueError("instruction needs input_type query")
        return self

    def texts(self, as_query: Callable[..., str]) -> list[str]:
        """What the model reads."""
        texts = [self.input] if isinstance(self.input, str) else self.input
        if self.input_type == "document":
            return texts
        if self.instruction is None:
            return [as_query(text) for text in texts]
        return [as_query(text, self.instruction) for text in texts]


def embeddings_app(
    embedder: Model, names: Sequence[str], as_query: Callable[..., str], minimum: int
) -> Starlette:
    """The application. `names` are those of the model; `minimum` its shortest vectors."""

    async def embed(request: Request) -> Response:
        body = await read_body(request, MAX_BODY_BYTES)
        if body is None:
            return _refused(413, "The request is too large.")
        try:
            job = EmbeddingJob.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"][:1]))
            return _refused(400, f"{where}: {first['msg']}" if where else first["msg"], where)
        if job.model not in names:
            return _refused(404, "There is no such model.", "model")
        dimensions = job.dimensions or embedder.dimensions
        if not min(minimum, embedder.dimensions) <= dimensions <= embedder.dimensions:
            message = f"dimensions must be {minimum} to {embedder.dimensions}."
            return _refused(400, message, "dimensions")
        try:
            result = await to_thread.run_sync(embedder.embed, job.texts(as_query), dimensions)
        except ValueError as error:  # a text that is too long
            return _refused(400, str(error), "input")
        usage = {"prompt_tokens": result.tokens, "total_tokens": result.tokens}
        form = _packed if job.encoding_format == "base64" else list
        return JSONResponse(
            {
                "object": "list",
                "model": job.model,
                "data": [
                    {"object": "embedding", "index": index, "embedding": form(vector)}
                    for index, vector in enumerate(result.vectors)
                ],
                "usage": usage,
            }
        )

    async def models(_: Request) -> Response:
        return JSONResponse(
            {"object": "list", "data": [{"object": "model", "id": name} for name in names]}
        )

    async def health(_: Request) -> Response:
        return JSONResponse({"model": names[0], "is_warm": True})

    handlers: dict[tuple[str, str], Callable[[Request], Awaitable[Response]]] = {
        ("POST", "/v1/embeddings"): embed,
        ("GET", "/v1/models"): models,
        ("GET", "/health"): health,
    }
    return Starlette(
        routes=[
            Route(path, handler, methods=[method]) for (method, path), handler in handlers.items()
        ]
    )


def _packed(vector: Sequence[float]) -> str:
    """Floats of 32 bits, little-endian, as OpenAI's clients unpack them."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _refused(status: int, message: str, param: str = "") -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": param or None}
    return JSONResponse({"error": error}, status_code=status)
