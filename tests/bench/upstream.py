"""A model server that answers at once, always the same: only the gateway is measured.

A stream has 64 deltas, with usage in each as vLLM sends it, and `pace_ms` of the body between them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

DELTAS = 64
USAGE = {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18}
NAMES = {"id": "chatcmpl-static", "created": 1_700_000_000, "model": "static"}
MESSAGE = {"role": "assistant", "content": "Static answer of the benchmark."}
COMPLETION = NAMES | {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
    "usage": USAGE,
}
BODY = json.dumps(COMPLETION).encode()
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)
) + BODY
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(delta: dict[str, str], tokens: int, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    usage = {"prompt_tokens": 12, "completion_tokens": tokens, "total_tokens": 12 + tokens}
    value = NAMES | {"object": "chat.completion.chunk", "choices": [choice], "usage": usage}
    return _sized(b"data: %s\n\n" % json.dumps(value).encode())


def _sized(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


PIECES = [_chunk({"content": f"word{number} "}, number) for number in range(1, DELTAS + 1)]
END = _chunk({}, DELTAS, "stop") + _sized(b"data: [DONE]\n\n") + b"0\r\n\r\n"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request of one keep-alive connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (
                    int(line.split(b":", 1)[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                ),
                0,
            )
            body = await reader.readexactly(length)
            if b'"stream":true' in body.replace(b" ", b""):
                await stream(writer, json.loads(body))
            else:
                writer.write(ANSWER)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def stream(writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    """The deltas, each at its time: a late one does not delay those that follow."""
    loop = asyncio.get_running_loop()
    pace = asked.get("pace_ms", 0) / 1000
    writer.write(STREAM)
    began = loop.time()
    for number, piece in enumerate(PIECES):
        if (wait := began + number * pace - loop.time()) > 0:
            await asyncio.sleep(wait)
        writer.write(piece)
    writer.write(END)


async def main(port: int) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
