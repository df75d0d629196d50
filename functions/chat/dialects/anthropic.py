"""Anthropic's Messages API, for clients that speak OpenAI's protocol.

https://platform.claude.com/docs/en/api/messages. What it has no word for (`n`, `logprobs`, `seed`,
penalties ...) the catalog says (docs/models.md), and is refused before the call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from time import time
from typing import Any

from functions.chat import wire
from functions.chat.dialects.base import Object, Reader
from functions.chat.templates import Template
from functions.chat.upstream_errors import UpstreamError, broken, malformed
from functions.core.errors import InvalidRequestError

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_DATA_URL = re.compile(r"data:(image/(?:png|jpeg|gif|webp));base64,([A-Za-z0-9+/=]+)", re.DOTALL)
# Members of the same name and meaning in both, and Anthropic's own; what they are when nobody says
# anything is not said, because its newer models take no sampling parameters at all.
_PASSED = {"temperature": 1, "top_p": 1, "top_k": None, "thinking": None}
_OVERLOADED = "overloaded_error"
# OpenAI's that Anthropic does not have; what neither has is the provider's to refuse.
_EFFORTS = {"none": "low", "minimal": "low"}
# https://platform.claude.com/docs/en/api/errors
_STATUSES: Mapping[str, int] = {
    "invalid_request_error": HTTPStatus.BAD_REQUEST,
    "authentication_error": HTTPStatus.UNAUTHORIZED,
    "billing_error": HTTPStatus.PAYMENT_REQUIRED,
    "permission_error": HTTPStatus.FORBIDDEN,
    "not_found_error": HTTPStatus.NOT_FOUND,
    "request_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "rate_limit_error": HTTPStatus.TOO_MANY_REQUESTS,
    "timeout_error": HTTPStatus.GATEWAY_TIMEOUT,
}


class AnthropicDialect:
    """See the module."""

    chat_path = "/messages"

    def body(self, template: Template, upstream_model: str, max_tokens: int | None) -> bytes:
        try:
            return wire.dumps(_body(template, upstream_model, max_tokens)).encode()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidRequestError(
                "invalid_request",
                "The messages or the tools are not in OpenAI's shape.",
                {"param": "messages"},
            ) from error

    def answer(self, body: Object) -> Object:
        try:
            return self._translated(body)
        except (AttributeError, KeyError, TypeError) as error:
            raise malformed() from error

    def status_inside(self, answer: Object) -> int | None:
        if answer.get("type") != "error":
            return None
        error = answer.get("error")
        kind = error.get("type") if isinstance(error, dict) else None
        return _STATUSES.get(kind) if isinstance(kind, str) else None

    def _translated(self, body: Object) -> Object:
        if body.get("type") == "error":
            raise _failure(body.get("error"))
        content = body.get("content")
        if not isinstance(content, list):
            raise malformed()
        texts, calls = [], []
        for block in content:
            kind = block.get("type") if isinstance(block, dict) else None
            if kind == "text":
                texts.append(block["text"])
            elif kind == "tool_use":
                calls.append(
                    _call(block.get("id"), block.get("name"), wire.dumps(block.get("input") or {}))
                )
        message: Object = {"role": "assistant", "content": "".join(texts) if texts else None}
        if calls:
            message["tool_calls"] = calls
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": _FINISH_REASONS.get(body.get("stop_reason") or "", "stop"),
        }
        return {
            "object": "chat.completion",
            "created": int(time()),
            "choices": [choice],
            "usage": _usage(body.get("usage")),
        }

    def reader(self) -> Reader:
        return _Reader()


class _Reader:
    """Events of one answer to chunks."""

    def __init__(self) -> None:
        self.is_over = False
        self._head = {"object": "chat.completion.chunk", "created": int(time())}
        self._usage: Object = {}
        self._calls: dict[int, int] = {}  # block → place among the tool calls
        self._without: set[int] = set()  # blocks of calls whose arguments have not begun

    def take(self, event: Object) -> list[Object]:
        try:
            return self._translated(event)
        except (AttributeError, KeyError, TypeError) as error:
            raise malformed() from error

    def _translated(self, event: Object) -> list[Object]:
        kind = event.get("type")
        if kind == "message_start":
            self._count(event.get("message", {}).get("usage"))
            return [self._chunk({"role": "assistant", "content": ""})]
        if kind == "content_block_start":
            return self._begin(event)
        if kind == "content_block_delta":
            return self._continue(event)
        if kind == "content_block_stop" and event.get("index") in self._without:
            return [self._arguments(event["index"], "{}")]
        if kind == "message_delta":
            self._count(event.get("usage"))
            reason = event.get("delta", {}).get("stop_reason")
            return [
                self._chunk({}, _FINISH_REASONS.get(reason or "", "stop")),
                self._head | {"choices": [], "usage": _usage(self._usage)},
            ]
        if kind == "message_stop":
            self.is_over = True
        elif kind == "error":
            raise _failure(event.get("error"))
        return []  # a ping, the end of a block, or what is yet to be invented

    def _begin(self, event: Object) -> list[Object]:
        block = event["content_block"]
        if block.get("type") == "text" and block.get("text"):
            return [self._chunk({"content": block["text"]})]
        if block.get("type") != "tool_use":
            return []
        place = self._calls[event["index"]] = len(self._calls)
        self._without.add(event["index"])
        call = {"index": place} | _call(block.get("id"), block.get("name"), "")
        return [self._chunk({"tool_calls": [call]})]

    def _continue(self, event: Object) -> list[Object]:
        delta = event["delta"]
        if delta.get("type") == "text_delta":
            return [self._chunk({"content": delta["text"]})]
        if delta.get("type") == "input_json_delta" and event.get("index") in self._calls:
            # The first piece is often empty, and the only one where there are no arguments.
            if not delta["partial_json"]:
                return []
            return [self._arguments(event["index"], delta["partial_json"])]
        return []  # thinking and its signature are nobody's to see

    def _arguments(self, block: int, part: str) -> Object:
        self._without.discard(block)
        call = {"index": self._calls[block], "function": {"arguments": part}}
        return self._chunk({"tool_calls": [call]})

    def _chunk(self, delta: Object, finish_reason: str | None = None) -> Object:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return self._head | {"choices": [choice]}

    def _count(self, usage: object) -> None:
        # Figures of message_delta are cumulative and may leave out what has not changed.
        if isinstance(usage, dict):
            self._usage |= {name: value for name, value in usage.items() if value is not None}


def _body(template: Template, upstream_model: str, max_tokens: int | None) -> Object:
    asked = template.passed
    system, messages = _messages(asked["messages"])
    body: Object = {
        "model": upstream_model,
        "max_tokens": max_tokens,
        "messages": messages,
        "stream": template.streams,
    }
    if system:
        body["system"] = system
    for name, usual in _PASSED.items():
        if asked.get(name) not in (None, usual):
            body[name] = asked[name]
    if asked.get("stop") is not None:
        stop = asked["stop"]
        body["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    if asked.get("tools"):
        body["tools"] = [_tool(tool) for tool in asked["tools"]]
        choice = _tool_choice(asked.get("tool_choice"), asked.get("parallel_tool_calls"))
        if choice is not None:
            body["tool_choice"] = choice
    config = _output_config(asked.get("response_format"), asked.get("reasoning_effort"))
    if config:
        body["output_config"] = config
    return body


def _messages(messages: list[Object]) -> tuple[list[Object], list[Object]]:
    """System blocks, and turns in which no two of one side follow each other."""
    system: list[Object] = []
    turns: list[Object] = []
    for message in messages:
        role = message["role"]
        if role in ("system", "developer"):
            system += _blocks(message.get("content"))
            continue
        side = "assistant" if role == "assistant" else "user"
        blocks = list(_turn(message))
        if turns and turns[-1]["role"] == side:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": side, "content": blocks})
    return system, turns


def _turn(message: Object) -> Iterator[Object]:
    if message["role"] in ("tool", "function"):
        yield {
            "type": "tool_result",
            "tool_use_id": message.get("tool_call_id") or message.get("name"),
            "content": list(_blocks(message.get("content"))),
        }
        return
    yield from _blocks(message.get("content"))
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        try:
            arguments = wire.loads((function.get("arguments") or "{}").encode())
        except ValueError:
            raise InvalidRequestError(
                "invalid_request",
                "The arguments of a tool call are not JSON.",
                {"param": "messages"},
            ) from None
        yield {
            "type": "tool_use",
            "id": call.get("id"),
            "name": function.get("name"),
            "input": arguments,
        }


def _blocks(content: object) -> list[Object]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    parts = content if isinstance(content, list) else []
    # A text without any is refused there.
    return [block for block in map(_block, parts) if block.get("text") != ""]


def _block(part: Object) -> Object:
    if part.get("type") == "image_url":
        data = _DATA_URL.fullmatch(part["image_url"]["url"])
        if data is None:
            raise InvalidRequestError(
                "unsupported_content",
                "This model reads PNG, JPEG, GIF and WebP, inline in base64.",
                {"param": "messages"},
            )
        source = {"type": "base64", "media_type": data[1], "data": data[2]}
        return {"type": "image", "source": source}
    return {"type": "text", "text": part.get("text") or part.get("refusal") or ""}


def _tool(tool: Object) -> Object:
    function = tool.get("function") or {}
    made = {
        "name": function.get("name"),
        "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
    }
    if function.get("description"):
        made["description"] = function["description"]
    if function.get("strict"):
        made["strict"] = True
    return made


def _tool_choice(choice: object, parallel: object) -> Object | None:
    made: Object | None = None
    if choice in ("auto", "none"):
        made = {"type": choice}
    elif choice == "required":
        made = {"type": "any"}
    elif isinstance(choice, dict):
        made = {"type": "tool", "name": (choice.get("function") or {}).get("name")}
    if parallel is False and (made is None or made["type"] != "none"):
        made = (made or {"type": "auto"}) | {"disable_parallel_tool_use": True}
    return made


def _output_config(response_format: object, effort: object) -> Object:
    config: Object = {}
    if isinstance(response_format, dict) and response_format.get("type") == "json_schema":
        schema = (response_format.get("json_schema") or {}).get("schema")
        config["format"] = {"type": "json_schema", "schema": schema}
    elif isinstance(response_format, dict) and response_format.get("type") == "json_object":
        raise InvalidRequestError(
            "unsupported_parameter",
            "This model takes a JSON schema, and no json_object without one.",
            {"param": "response_format"},
        )
    if isinstance(effort, str):
        config["effort"] = _EFFORTS.get(effort, effort)
    return config


def _call(call_id: object, name: object, arguments: str) -> Object:
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _usage(usage: Any) -> Object:  # noqa: ANN401 - whatever the server sent
    """Anthropic counts what was cached apart from the rest of the prompt, OpenAI as part of it."""
    counts = usage if isinstance(usage, dict) else {}

    def count(name: str) -> int:
        value = counts.get(name)
        return value if isinstance(value, int) and value > 0 else 0

    cached = count("cache_read_input_tokens")
    prompt = count("input_tokens") + cached + count("cache_creation_input_tokens")
    completion = count("output_tokens")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _failure(error: object) -> UpstreamError:
    kind = error.get("type") if isinstance(error, dict) else None
    if kind in (_OVERLOADED, "rate_limit_error"):
        return UpstreamError(
            "upstream_rate_limited",
            503,
            "The model server is busy. Try again later.",
            {"retry_after": 1},
        )
    return broken("The model server failed while it answered.")
