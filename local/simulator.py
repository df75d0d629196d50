"""A simulated model server: the OpenAI protocol over made-up text, with faults on request.

    python -m local.simulator --port 8400 --seed 7

It stands in for a real model where there is none (`make demo`, tests, benchmarks) and never
pretends to be one: text begins with "[simulated]", every answer carries the header `x-simulated:
true` and `system_fingerprint: "simulated"` (JSON answers and tool calls have no room for a label).

The same seed, messages and parameters give the same answer. A token is up to six word characters
with the space before them, or one other character: never more of them than UTF-8 bytes.

Streams report usage with every chunk where `stream_options.continuous_usage_stats` asks for it.

Faults and timing are chosen per request by a header or inside the last user message:

    X-Simulate: tokens=50 token_ms=20          simulate: status=429 retry_after=3

    tokens=N       length of the answer (default 24)
    first_ms=N     wait before the first byte
    token_ms=N     wait before each token
    slow           the same as first_ms=300 token_ms=100
    chunk=N        tokens per chunk (default 1)
    cite=N         end the text with [N], as whoever cites a passage does
    cached=N       prompt tokens reported as cached (default 0)
    status=N       refuse with this HTTP status, and with retry_after=N seconds
    after=N        tokens before a fault in mid-stream (default 3)
    fault=         empty (no content), drop (connection reset before the first byte), reset
                   (connection closed in the middle), stall (silence), malformed (a chunk that is
                   not JSON), error (an error frame), cut (no finish reason), context (prompt too
                   long), prose (where JSON was asked for), no_vectors (for any text), no_usage,
                   negative_usage, huge_usage, text_usage
    times=N        fail only the first N requests with the same body

Started with --steady it obeys lengths and pauses, and fails nobody: a second provider.

`/v1/embeddings` gives each text a unit vector made of its digest; texts steer it as messages do.

Asked what an image shows (gpu/vision.py) it names the colours that cover it: see simulated_sight.

`GET /_stats` counts requests: open, completed, cancelled (the caller left), failed.
`?contains=TEXT` counts only those whose body contains TEXT; `/_requests?contains=TEXT` shows them.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import math
import random
import re
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from local.simulated_sight import NoPictureError, picture_in, sight_of, without_pictures

LABEL = "[simulated]"
HEADERS = {"x-simulated": "true"}
DEFAULT_TOKENS = 24
DEFAULT_DIMENSIONS = 2560
MESSAGE_OVERHEAD = 4  # tokens, for the role and the delimiters around a message
KEPT_REQUESTS = 1_000  # bodies shown by /_requests
STALL_SECONDS = 600
MAX_DEPTH = 8  # of an example for a JSON schema
TOKEN = re.compile(r" ?\w{1,6}|.", re.DOTALL)
DIRECTIVE = re.compile(r"\bsimulate:([^\n]*)")
WORDS = ("river", "stone", "lantern", "harbour", "copper", "meadow", "signal", "orchard", "ember")
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 seconds; closing is a reset then
SHORT = tuple(word for word in WORDS if len(word) <= 6)  # one token each


def tokens_of(text: str) -> list[str]:
    """Split a text into the simulator's tokens; joined again they are the text."""
    return TOKEN.findall(text)


@dataclass
class Plan:
    """What one request asked to have simulated."""

    tokens: int | None = None
    first_ms: int = 0
    token_ms: int = 0
    status: int = 0
    retry_after: int | None = None
    fault: str = ""
    after: int = 3
    chunk: int = 1
    cite: int = 0
    cached: int = 0
    times: int | None = None

    @classmethod
    def read(cls, directives: str) -> Plan:
        plan = cls()
        for word in directives.split():
            name, _, value = word.partition("=")
            if name == "slow":
                plan.first_ms, plan.token_ms = 300, 100
            elif name == "fault":
                plan.fault = value
            elif name in cls.__dataclass_fields__ and value.isdigit():
                setattr(plan, name, int(value))
        return plan


@dataclass
class Record:
    """One request that arrived, for /_stats and /_requests."""

    body: dict[str, Any]
    text: str
    headers: dict[str, str]
    state: str = "open"  # then completed, cancelled or failed


@dataclass
class Choice:
    """One answer: pieces of text, or tool calls, and why it ended."""

    pieces: list[str]
    tool_calls: list[dict[str, Any]]
    finish_reason: str

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def token_count(self) -> int:
        calls = (call["function"] for call in self.tool_calls)
        return len(self.pieces) + sum(
            len(tokens_of(call["name"])) + len(tokens_of(call["arguments"])) for call in calls
        )


@dataclass
class Simulator:
    """The server's memory: its seed and the requests it saw."""

    seed: int = 0
    is_steady: bool = False
    records: deque[Record] = field(default_factory=lambda: deque(maxlen=KEPT_REQUESTS))
    totals: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("open", "completed", "cancelled", "failed"), 0)
    )

    def application(self) -> ASGIApp:
        return _with_transport(
            Starlette(
                routes=[
                    Route("/v1/chat/completions", self.complete, methods=["POST"]),
                    Route("/v1/embeddings", self.embed, methods=["POST"]),
                    Route("/v1/models", self.models),
                    Route("/health", self.health),
                    Route("/_stats", self.stats),
                    Route("/_requests", self.requests),
                ]
            )
        )

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "simulated": True}, headers=HEADERS)

    async def models(self, _: Request) -> Response:
        model = {"id": "simulated", "object": "model", "created": 0, "owned_by": "simulator"}
        return JSONResponse({"object": "list", "data": [model]}, headers=HEADERS)

    async def stats(self, request: Request) -> Response:
        contains = request.query_params.get("contains")
        if contains is None:
            return JSONResponse(self.totals, headers=HEADERS)
        counts = dict.fromkeys(self.totals, 0)
        for record in self._matching(contains):
            counts[record.state] += 1
        return JSONResponse(counts, headers=HEADERS)

    async def requests(self, request: Request) -> Response:
        found = self._matching(request.query_params.get("contains", ""))
        rows = [{"state": r.state, "body": r.body, "headers": r.headers} for r in found]
        return JSONResponse(rows, headers=HEADERS)

    def _matching(self, text: str) -> list[Record]:
        return [record for record in self.records if text in record.text]

    async def complete(self, request: Request) -> Response:
        try:
            raw = await request.body()
            body = json.loads(raw)
            messages = [message for message in body["messages"] if isinstance(message, dict)]
        except (ValueError, KeyError, TypeError):
            return _refusal(400, "The body is not a chat completion request.")
        shown = without_pictures(body)
        if shown is not body:
            raw = json.dumps(shown).encode()  # a thousand of them are not to be remembered
        record, plan = self._note(request, raw, shown, _last_user_text(messages))
        try:
            picture = picture_in(body)
            seen = None if picture is None else await asyncio.to_thread(sight_of, picture, LABEL)
        except NoPictureError:
            self.enter(record, "failed")
            return _refusal(400, "The image cannot be read.")
        return Answer(self, record, shown, plan, seen)

    async def embed(self, request: Request) -> Response:
        try:
            raw = await request.body()
            body = json.loads(raw)
            texts = [body["input"]] if isinstance(body["input"], str) else list(body["input"])
        except (ValueError, KeyError, TypeError):
            return _refusal(400, "The body is not an embedding request.")
        record, plan = self._note(request, raw, body, " ".join(map(str, texts)))
        return Vectors(self, record, body, plan)

    def _note(
        self, request: Request, raw: bytes, body: dict[str, Any], prompt: str
    ) -> tuple[Record, Plan]:
        """Remember a request, and read what it asked to have simulated."""
        shown = {"user-agent", "x-request-id", "content-type"}
        headers = {name: value for name, value in request.headers.items() if name in shown}
        record = Record(body, raw.decode(errors="replace"), headers)
        self.records.append(record)
        self.enter(record, "open", None)
        directives = request.headers.get("x-simulate", "")
        for found in DIRECTIVE.findall(prompt):
            directives += found
        plan = Plan.read(directives)
        if self.is_steady:
            plan = Plan(
                tokens=plan.tokens, token_ms=plan.token_ms, chunk=plan.chunk, cite=plan.cite
            )
        if plan.times is not None:
            same = sum(one.text == record.text for one in self.records)
            if same > plan.times:
                plan.status, plan.fault = 0, ""
        return record, plan

    def enter(self, record: Record, state: str, previous: str | None = "open") -> None:
        if previous is not None:
            self.totals[previous] -= 1
        self.totals[state] += 1
        record.state = state


class Answer(Response):
    """Sends one answer and notices at once when the caller leaves."""

    def __init__(
        self,
        simulator: Simulator,
        record: Record,
        asked: dict[str, Any],
        plan: Plan,
        seen: dict[str, Any] | None = None,
    ) -> None:
        """`seen`: what to say of the image that was asked about."""
        super().__init__()
        self.simulator, self.record, self.asked, self.plan = simulator, record, asked, plan
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(scope, receive, send))
        leaving = asyncio.ensure_future(_disconnected(receive))
        state = "cancelled"
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                state = sending.result()
        finally:
            sending.cancel()
            leaving.cancel()
            self.simulator.enter(self.record, state)

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> str:
        plan, body = self.plan, self.asked
        await asyncio.sleep(plan.first_ms / 1000)
        if await self._refuse(scope, receive, send):
            return "failed"
        count = body.get("n") or 1
        choices = [
            _choice(self.simulator.seed, body, plan, index, self.seen) for index in range(count)
        ]
        usage = _usage(body, choices, plan)
        if body.get("stream"):
            return await self._stream(send, choices, usage)
        await asyncio.sleep(plan.token_ms * max(c.token_count for c in choices) / 1000)
        if plan.fault == "stall":
            await asyncio.sleep(STALL_SECONDS)
        if plan.fault == "reset":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b'{"id":', "more_body": True})
            return "failed"  # the server closes a connection whose answer did not end
        if plan.fault == "malformed":
            await Response(b'{"choices": [', headers=HEADERS)(scope, receive, send)
            return "failed"
        answer = self._envelope("chat.completion") | {
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": choice.text or None}
                    | ({"tool_calls": choice.tool_calls} if choice.tool_calls else {}),
                    "finish_reason": choice.finish_reason,
                }
                | ({"logprobs": _logprobs(choice.pieces)} if body.get("logprobs") else {})
                for index, choice in enumerate(choices)
            ]
        }
        if usage is not None:
            answer["usage"] = usage
        await JSONResponse(answer, headers=HEADERS)(scope, receive, send)
        return "completed"

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Whether the request was to be refused, and has been."""
        plan = self.plan
        if plan.fault == "drop":
            transport = scope["transport"]
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            transport.abort()
            return True
        if plan.fault == "context":
            refusal = _refusal(400, "This model's maximum context length is 10 tokens.")
        elif plan.status:
            refusal = _refusal(plan.status, f"Simulated status {plan.status}.")
        else:
            return False
        if plan.retry_after is not None:
            refusal.headers["retry-after"] = str(plan.retry_after)
        await refusal(scope, receive, send)
        return True

    async def _stream(
        self, send: Send, choices: list[Choice], usage: dict[str, object] | None
    ) -> str:
        plan = self.plan
        headers = HEADERS | {"content-type": "text/event-stream", "cache-control": "no-cache"}
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            }
        )

        async def emit(data: str) -> None:
            frame = f"data: {data}\n\n".encode()
            await send({"type": "http.response.body", "body": frame, "more_body": True})

        sent = 0
        options = self.asked.get("stream_options") or {}
        so_far = [0] * len(choices)
        async for chunk, tokens in self._chunks(choices):
            if tokens and plan.token_ms:
                await asyncio.sleep(plan.token_ms / 1000)
            if options.get("continuous_usage_stats") and usage is not None:
                index = chunk["choices"][0]["index"]
                so_far[index] += tokens
                chunk["usage"] = _usage_so_far(usage, so_far[index], plan)
            await emit(json.dumps(chunk))
            sent += bool(tokens)
            if sent < plan.after or not plan.fault:
                continue
            if plan.fault == "reset":
                return "failed"
            if plan.fault == "cut":
                break
            if plan.fault == "stall":
                await asyncio.sleep(STALL_SECONDS)
            if plan.fault == "malformed":
                await emit('{"choices": [')
            if plan.fault == "error":
                await emit('{"error": {"message": "Simulated error.", "code": 500}}')
        if options.get("include_usage") and usage is not None and plan.fault != "cut":
            tail = self._envelope("chat.completion.chunk") | {"choices": [], "usage": usage}
            await emit(json.dumps(tail))
        if plan.fault != "cut":
            await emit("[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return "completed"

    async def _chunks(self, choices: list[Choice]) -> AsyncIterator[tuple[dict[str, Any], int]]:
        """The chunks of a stream, choices taking turns, and how many tokens each carries."""
        envelope = self._envelope("chat.completion.chunk")
        wants_logprobs = bool(self.asked.get("logprobs"))

        def chunk(index: int, delta: dict[str, Any], **rest: object) -> dict[str, Any]:
            choice = {"index": index, "delta": delta, "finish_reason": None} | rest
            return envelope | {"choices": [choice]}

        for index in range(len(choices)):
            yield chunk(index, {"role": "assistant", "content": ""}), 0
        size = max(1, self.plan.chunk)
        longest = max(len(choice.pieces) for choice in choices)
        for start in range(0, longest, size):
            for index, choice in enumerate(choices):
                if pieces := choice.pieces[start : start + size]:
                    rest = {"logprobs": _logprobs(pieces)} if wants_logprobs else {}
                    yield chunk(index, {"content": "".join(pieces)}, **rest), len(pieces)
        for index, choice in enumerate(choices):
            for position, call in enumerate(choice.tool_calls):
                function = call["function"]
                opening = call | {"index": position, "function": function | {"arguments": ""}}
                yield chunk(index, {"tool_calls": [opening]}), len(tokens_of(function["name"]))
                for piece in tokens_of(function["arguments"]):
                    part = {"index": position, "function": {"arguments": piece}}
                    yield chunk(index, {"tool_calls": [part]}), 1
        for index, choice in enumerate(choices):
            yield chunk(index, {}, finish_reason=choice.finish_reason), 0

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-simulated-{id(self.record):x}",
            "object": kind,
            "created": int(time.time()),
            "model": str(self.asked.get("model", "simulated")),
            "system_fingerprint": "simulated",
        }


class Vectors(Answer):
    """Sends one vector for each text."""

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> str:
        await asyncio.sleep(self.plan.first_ms / 1000)
        if await self._refuse(scope, receive, send):
            return "failed"
        asked = self.asked["input"]
        texts = [asked] if isinstance(asked, str) else asked
        count = self.asked.get("dimensions") or DEFAULT_DIMENSIONS
        vectors: list[list[float] | str] = [_vector(text, count) for text in texts]
        if self.asked.get("encoding_format") == "base64":
            vectors = [
                base64.b64encode(struct.pack(f"<{count}f", *vector)).decode() for vector in vectors
            ]
        if self.plan.fault in ("empty", "no_vectors"):
            vectors = []
        tokens = sum(len(tokens_of(text)) for text in texts)
        if self.plan.fault == "huge_usage":
            tokens += 10**9
        answer: dict[str, Any] = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in enumerate(vectors)
            ],
            "model": str(self.asked.get("model", "simulated")),
        }
        if self.plan.fault != "no_usage":
            answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        await JSONResponse(answer, headers=HEADERS)(scope, receive, send)
        return "completed"


def _vector(text: str, count: int) -> list[float]:
    """A unit vector that depends on the text alone; a shorter one is the beginning of a longer."""
    chance = random.Random(hashlib.sha256(text.encode(errors="replace")).digest())  # noqa: S311
    numbers = [chance.uniform(-1, 1) for _ in range(count)]
    length = math.sqrt(sum(number * number for number in numbers))
    return [number / length for number in numbers]


def _with_transport(application: ASGIApp) -> ASGIApp:
    """Put the connection into the scope: ASGI itself has no way to reset one."""

    async def outermost(scope: Scope, receive: Receive, send: Send) -> None:
        # `send` is a method of uvicorn's state of one request.
        scope["transport"] = getattr(getattr(send, "__self__", None), "transport", None)
        await application(scope, receive, send)

    return outermost


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _refusal(status: int, message: str) -> JSONResponse:
    error = {"message": message, "type": "simulated_error", "param": None, "code": status}
    return JSONResponse({"error": error}, status, headers=HEADERS)


def _text_of(content: object) -> str:
    """The text of a message's content: a string, a list of parts, or nothing."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _last_user_text(messages: list[dict[str, Any]]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user":
            return _text_of(message.get("content"))
    return ""


def _choice(
    seed: int, body: dict[str, Any], plan: Plan, index: int, seen: dict[str, Any] | None
) -> Choice:
    """The answer number `index` to a request: tool calls, JSON or labelled text."""
    if plan.fault == "empty":
        return Choice([], [], "stop")
    messages = body["messages"]
    prompt = _last_user_text(messages)
    chance = random.Random(  # noqa: S311 - the same seed, the same answer
        f"{seed}|{index}|{body.get('seed')}|{json.dumps(messages)}"
    )
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if tool := _wanted_tool(body, prompt):
        arguments = json.dumps(_example(tool.get("parameters") or {}, chance))
        function = {"name": tool["name"], "arguments": arguments}
        call = {"id": f"call_{chance.getrandbits(64):x}", "type": "function", "function": function}
        return Choice([], [call], "tool_calls")
    response_format = (body.get("response_format") or {}) if plan.fault != "prose" else {}
    if seen is not None:
        text = json.dumps(seen)
    elif response_format.get("type") == "json_schema":
        schema = response_format.get("json_schema", {}).get("schema") or {}
        text = json.dumps(_example(schema, chance))
    elif response_format.get("type") == "json_object":
        text = json.dumps({"simulated": True})
    else:
        text = _prose(plan.tokens or DEFAULT_TOKENS, messages, chance)
        text += f" [{plan.cite}]" if plan.cite else ""
    stop = body.get("stop") or []
    for mark in [stop] if isinstance(stop, str) else stop:
        text = text.split(mark, 1)[0] if mark else text
    pieces = tokens_of(text)
    if limit is not None and len(pieces) > limit:
        return Choice(pieces[:limit], [], "length")
    return Choice(pieces, [], "stop")


def _prose(count: int, messages: list[Any], chance: random.Random) -> str:
    """Labelled text of `count` tokens and whole words; after a tool's result, that result first."""
    pieces = tokens_of(LABEL)
    if messages and isinstance(messages[-1], dict) and messages[-1].get("role") == "tool":
        pieces += tokens_of(f" The tool said: {_text_of(messages[-1].get('content'))}")
        count = max(count, len(pieces))
    while len(pieces) < count:
        word = tokens_of(" " + chance.choice(WORDS))
        # What is left may have no room for a long word.
        pieces += (
            word if len(word) <= count - len(pieces) else tokens_of(f" {chance.choice(SHORT)}")
        )
    return "".join(pieces[:count])


def _wanted_tool(body: dict[str, Any], prompt: str) -> dict[str, Any] | None:
    """The tool to call: one that is required, or one that the prompt mentions by name."""
    functions: list[dict[str, Any]] = [
        tool["function"] for tool in body.get("tools") or [] if "function" in tool
    ]
    choice = body.get("tool_choice", "auto")
    if not functions or choice == "none":
        return None
    if isinstance(choice, dict):
        name = choice.get("function", {}).get("name")
        return next((f for f in functions if f["name"] == name), functions[0])
    if choice == "required":
        return next((f for f in functions if f["name"] in prompt), functions[0])
    if body["messages"][-1].get("role") == "tool":
        return None
    return next((f for f in functions if f["name"] in prompt), None)


def _example(schema: dict[str, Any], chance: random.Random, depth: int = 0) -> object:
    """A value that fits a simple JSON schema: the first of a choice, required keys only."""
    if "const" in schema or schema.get("enum"):
        return schema.get("const", (schema.get("enum") or [None])[0])
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return _example(schema[key][0], chance, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object" and depth < MAX_DEPTH:
        properties = schema.get("properties", {})
        names = schema.get("required", list(properties))
        return {name: _example(properties.get(name, {}), chance, depth + 1) for name in names}
    if kind == "array":
        count = max(1, schema.get("minItems", 1))
        return [_example(schema.get("items", {}), chance, depth + 1) for _ in range(count)]
    if kind in ("integer", "number"):
        return schema.get("minimum", chance.randint(1, 9))
    simple: dict[str, object] = {"boolean": True, "null": None, "object": {}}
    return simple[kind] if kind in simple else f"simulated {chance.choice(WORDS)}"


def _logprobs(pieces: list[str]) -> dict[str, Any]:
    return {
        "content": [
            {"token": piece, "logprob": -0.5, "bytes": list(piece.encode()), "top_logprobs": []}
            for piece in pieces
        ],
        "refusal": None,
    }


def _usage(body: dict[str, Any], choices: list[Choice], plan: Plan) -> dict[str, object] | None:
    """The usage object, or the wrong one that was asked for."""
    prompt = sum(
        len(tokens_of(_text_of(message.get("content")))) + MESSAGE_OVERHEAD
        for message in body["messages"]
    )
    if body.get("tools"):
        prompt += len(tokens_of(json.dumps(body["tools"])))
    completion = sum(choice.token_count for choice in choices)
    if plan.fault == "no_usage":
        return None
    if plan.fault == "text_usage":
        return {"prompt_tokens": "many", "completion_tokens": None, "total_tokens": 1.5}
    if plan.fault == "negative_usage":
        prompt, completion = -prompt, -500_000
    elif plan.fault == "huge_usage":
        prompt, completion = prompt + 10**9, completion + 10**12
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": plan.cached},
    }


def _usage_so_far(usage: dict[str, object], tokens: int, plan: Plan) -> dict[str, object]:
    """What vLLM sends with each chunk of a choice: the prompt, and that choice's tokens so far."""
    prompt = usage["prompt_tokens"]
    if plan.fault.endswith("_usage") or not isinstance(prompt, int):
        return usage
    return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description="Simulated OpenAI-compatible chat server.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steady", action="store_true", help="fail for nobody")
    options = parser.parse_args()
    application = Simulator(options.seed, options.steady).application()
    uvicorn.run(
        application,
        host=options.host,
        port=options.port,
        # A connection that is reset on purpose is not worth an error line.
        log_level="critical",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
