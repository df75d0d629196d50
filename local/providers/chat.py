"""Chat and embeddings: in OpenAI's shape by most, in Anthropic's own by Anthropic."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from local.providers.double import Double, Record, route

TEXT = "It is."
VECTOR = [0.25, -0.5, 0.125]
CALL = ("call_1", "weather", {"city": "Lyon"})
"""Id, name and arguments of the tool call that is made where tools are offered."""

PROMPT_TOKENS, CACHED_TOKENS, COMPLETION_TOKENS = 21, 8, 5


async def _complete(_: Double, record: Record) -> web.StreamResponse:
    body = record.body
    call_id, name, arguments = CALL
    message: dict[str, Any] = {"role": "assistant", "content": TEXT}
    reason = "stop"
    if body.get("tools"):
        function = {"name": name, "arguments": json.dumps(arguments)}
        calls = [{"id": call_id, "type": "function", "function": function}]
        message, reason = {"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls"
    usage = {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": COMPLETION_TOKENS,
        "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
        "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
    }
    head = {"id": "chatcmpl-1", "created": 1767225600, "model": body["model"]}
    if not body.get("stream"):
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return web.json_response(
            head | {"object": "chat.completion", "choices": [choice], "usage": usage}
        )
    head |= {"object": "chat.completion.chunk"}
    delta = dict(message)
    if "tool_calls" in delta:
        delta["tool_calls"] = [{"index": 0} | delta["tool_calls"][0]]
    chunks = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
    ]
    # Mistral sends figures unasked; the others where they are asked to.
    if record.provider == "mistral":
        chunks[-1]["usage"] = usage  # type: ignore[assignment]
    elif (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({"choices": [], "usage": usage})  # type: ignore[dict-item]
    texts = [f"data: {json.dumps(head | chunk)}" for chunk in chunks]
    return _events([*texts, "data: [DONE]"])


async def _embed(_: Double, record: Record) -> web.Response:
    given = record.body["input"]
    texts = given if isinstance(given, list) else [given]
    rows = [
        {"object": "embedding", "index": place, "embedding": VECTOR}
        for place, _ in enumerate(texts)
    ]
    usage = {"prompt_tokens": 3 * len(texts), "total_tokens": 3 * len(texts)}
    return web.json_response(
        {"object": "list", "data": rows, "model": record.body["model"], "usage": usage}
    )


for _slug, _below in (
    ("openai", ""),
    ("google", "/openai"),
    ("xai", ""),
    ("mistral", ""),
    ("openrouter", ""),
):
    route(_slug, "POST", f"{_below}/chat/completions")(_complete)
    route(_slug, "POST", f"{_below}/embeddings")(_embed)


@route("anthropic", "POST", "/messages")
async def _message(_: Double, record: Record) -> web.StreamResponse:
    body = record.body
    call_id, name, arguments = CALL
    blocks: list[dict[str, Any]] = [{"type": "text", "text": TEXT}]
    reason = "end_turn"
    if body.get("tools"):
        blocks = [{"type": "tool_use", "id": call_id, "name": name, "input": arguments}]
        reason = "tool_use"
    usage = {
        "input_tokens": PROMPT_TOKENS - CACHED_TOKENS,
        "cache_read_input_tokens": CACHED_TOKENS,
        "cache_creation_input_tokens": 0,
        "output_tokens": COMPLETION_TOKENS,
    }
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": blocks,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": usage,
    }
    if not body.get("stream"):
        return web.json_response(message)
    begun = message | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
    for place, block in enumerate(blocks):
        if block["type"] == "text":
            empty = block | {"text": ""}
            deltas = [{"type": "text_delta", "text": part} for part in ("It ", "is.")]
        else:
            empty = block | {"input": {}}
            raw = json.dumps(block["input"])
            deltas = [
                {"type": "input_json_delta", "partial_json": part} for part in (raw[:5], raw[5:])
            ]
        events.append({"type": "content_block_start", "index": place, "content_block": empty})
        events += [{"type": "content_block_delta", "index": place, "delta": d} for d in deltas]
        events.append({"type": "content_block_stop", "index": place})
    events.append(
        {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": None},
            "usage": {"output_tokens": COMPLETION_TOKENS},
        }
    )
    events.append({"type": "message_stop"})
    return _events(f"event: {event['type']}\ndata: {json.dumps(event)}" for event in events)


def _events(texts: Iterable[str]) -> web.Response:
    body = "".join(f"{text}\n\n" for text in texts)
    return web.Response(text=body, content_type="text/event-stream")
