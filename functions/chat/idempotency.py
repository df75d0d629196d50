"""Idempotency-Key: which requests are the same, and how an answer is kept for a replay.

Answers are kept as JSON text inside JSON, so that a replay has the bytes of the first answer, and
because Postgres's jsonb cannot hold an escaped NUL, which a model may well produce.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from functions.chat import wire
from functions.core.errors import InvalidRequestError, QuernelError

MAX_STORED_BYTES = 1024 * 1024
_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")


def read_key(header: str | None) -> str | None:
    """The key of a request. Raises InvalidRequestError unless it is short printable ASCII."""
    if header is None or _KEY.fullmatch(header):
        return header
    message = "Idempotency-Key must be 1 to 255 printable ASCII characters."
    raise InvalidRequestError("invalid_idempotency_key", message, {"param": "Idempotency-Key"})


def fingerprint(payload: dict[str, Any]) -> str:
    """SHA-256 of the request's meaning: its body, whatever the order of members.

    Who pays is not in it, since one organization has two names; the database keeps the keys of each
    payer apart.
    """
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


@dataclass
class StoredAnswer:
    """An answer on its way into or out of the database. Credits are added anew at each replay."""

    events: list[str]  # chunks before the last one, as sent; none for an answer in one piece
    last: dict[str, Any]  # the answer, or the last chunk, without usage
    usage: dict[str, Any]

    def pack(self) -> dict[str, Any]:
        """What chat_finish stores: the answer, or why there is none."""
        last, usage = wire.dumps(self.last), wire.dumps(self.usage)
        if sum(len(text.encode()) for text in (*self.events, last)) > MAX_STORED_BYTES:
            return not_stored("too_large")
        return {"events": self.events, "last": last, "usage": usage}

    @classmethod
    def unpack(cls, packed: dict[str, Any]) -> StoredAnswer:
        """The stored answer. Raises QuernelError 409 where it was charged but not kept."""
        if reason := packed.get("not_stored"):
            raise QuernelError(
                "answer_not_stored",
                409,
                "This request was answered and charged, but its answer was not kept. "
                "Use a new Idempotency-Key to ask again.",
                {"reason": reason},
            )
        return cls(packed["events"], json.loads(packed["last"]), json.loads(packed["usage"]))


def not_stored(reason: str) -> dict[str, Any]:
    """What chat_finish stores for a charged request whose answer is not kept."""
    return {"not_stored": reason}
