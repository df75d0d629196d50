"""What /docs says about the chat routes: descriptions, request body, examples."""

from __future__ import annotations

from typing import Any

from functions.chat.embedding_schemas import EmbeddingRequest
from functions.chat.schemas import CompletionRequest
from functions.core.openapi import body_of, example

IDEMPOTENCY_KEY = (
    "1 to 255 printable characters. The same key and body within a day give the stored answer, "
    "without a second charge."
)
ORGANIZATION = (
    "Id or slug of the organization that pays; you have to be a member. Default: you pay."
)
COMPLETE = """\
OpenAI's chat completions. Before the model is called, the most the request can cost is held;
afterwards what it used is charged and the rest returned. `usage` also says `credits_charged` and
`credits_remaining`; in a stream it is in the last chunk. An error or an empty answer costs nothing.
If you leave a stream, or it grows beyond what is carried, the model is stopped and what it had
produced is charged. Members that are not listed pass through to the model.

`models` names up to three models that are asked, in that order, where the first does not answer.
`model` of the answer, `x-quernel-provider` and `x-quernel-credential` say who did and whose key it
was.
"""
EMBED = """\
OpenAI's embeddings: a text, or up to 2,048 of them, and one vector for each. Before the model is
called, a bound of their tokens is held; afterwards what the model counted is charged. An API key
needs the scope `chat`. Lists of tokens are refused.
"""
QUOTE = """\
Takes the body of a completion. Holds nothing and charges nothing. `prompt_tokens` is an upper
bound: the UTF-8 bytes of everything that reaches the model and a fixed overhead per message, at
most the context window. The prompt has about a quarter of it, and is charged for what it has.
"""

_USAGE = {
    "prompt_tokens": 13,
    "completion_tokens": 24,
    "total_tokens": 37,
    "credits_charged": 0.0051,
    "credits_remaining": 99.9949,
}
_MODEL = {
    "object": "model",
    "id": "Qwen2.5-32B-Instruct-AWQ",
    "kind": "chat",
    "created": 1767225600,
    "owned_by": "quernel",
    "context_length": 32768,
    "max_output_tokens": 8192,
    "default_output_tokens": 2048,
    "pricing": {
        "prompt": 60,
        "cached_prompt": 30,
        "completion": 180,
        "unit": "credits per 1M tokens",
    },
}
_NAMES = {"id": "chatcmpl-0199", "created": 1767225600, "model": "Qwen2.5-32B-Instruct-AWQ"}
_COMPLETION = _NAMES | {
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Because of Rayleigh scattering."},
            "finish_reason": "stop",
        }
    ],
    "usage": _USAGE,
}


REQUEST_BODY = body_of(CompletionRequest)
EMBEDDING_BODY = body_of(EmbeddingRequest)

COMPLETION_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer, or a stream of chunks when `stream` is true.",
        "content": {
            "application/json": {"example": _COMPLETION},
            "text/event-stream": {"example": 'data: {"choices":[…]}\n\ndata: [DONE]\n\n'},
        },
    }
}
QUOTE_RESPONSES = example(
    "The quote. `refusal` says what stands in the way when it is not affordable.",
    {
        "model": "Qwen2.5-32B-Instruct-AWQ",
        "prompt_tokens": 187,
        "max_tokens": 2048,
        "choices": 1,
        "credits_max": 0.37986,
        "available": 100,
        "affordable": True,
        "refusal": None,
    },
)
EMBEDDING_RESPONSES = example(
    "The vectors, in the order of the texts.",
    {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.013, -0.021]}],
        "model": "Qwen3-Embedding-4B",
        "usage": {
            "prompt_tokens": 7,
            "total_tokens": 7,
            "credits_charged": 0.000028,
            "credits_remaining": 99.999972,
        },
    },
)
MODELS_RESPONSES = example("The models.", {"object": "list", "data": [_MODEL]})
MODEL_RESPONSES = example("The model.", _MODEL)
