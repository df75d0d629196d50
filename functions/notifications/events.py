"""Sends an event to a webhook endpoint, signed, and reports what became of it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.http import SafeClient
from functions.core.json import Json, dumps
from functions.core.logging import log_event
from functions.notifications.signing import endpoint_secret, signed_headers

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 15.0
"""From the first look-up to the status; Standard Webhooks proposes 15 to 30."""

MAX_ANSWER_BYTES = 2**31
"""The body of an answer is not read at all, so its announced length does not matter."""

SUCCESS = range(200, 300)
"""A redirect is not followed: it is a failure like any other status."""

USER_AGENT = "Quernel-Webhooks/1"

Status = Literal["sent", "queued", "failed", "suppressed"]


@dataclass(frozen=True)
class Answer:
    """What an endpoint said: a status, or the code of the reason why there is none."""

    status: int | None
    reason: str | None


class EventSender:
    """Delivers events. One per attempt."""

    def __init__(self, database: Database, client: SafeClient, master_key: bytes | None) -> None:
        self._database = database
        self._client = client
        self._master_key = master_key

    async def send(self, delivery_id: UUID) -> Status:
        """Make one attempt and report it; `queued` means that another is wanted.

        Raises QuernelError when the database does not take the report.
        """
        if self._master_key is None:
            return await self._report(delivery_id, "suppressed", Answer(None, "not_configured"))
        prepared = await self._database.rpc("webhook_prepare", p_delivery_id=delivery_id)
        if prepared["status"] != "queued":
            status: Status = prepared["status"]
            return status
        answer = await self._post(prepared, delivery_id, self._master_key)
        return await self._report(delivery_id, "queued" if answer.reason else "sent", answer)

    async def _post(self, event: dict[str, Json], delivery_id: UUID, master_key: bytes) -> Answer:
        body = dumps({name: event[name] for name in ("type", "timestamp", "data")})
        endpoint_id = UUID(event["endpoint_id"])
        headers = signed_headers(
            [endpoint_secret(master_key, endpoint_id, v) for v in event["secret_versions"]],
            message_id=str(delivery_id),
            timestamp=int(time.time()),
            body=body,
        )
        status: int | None = None
        try:
            async with self._client.stream(
                event["url"],
                method="POST",
                headers=headers | {"content-type": "application/json", "user-agent": USER_AGENT},
                content=body,
                max_bytes=MAX_ANSWER_BYTES,
                timeout_seconds=TIMEOUT_SECONDS,
            ) as response:
                status = response.status
        except QuernelError as error:
            if status is None:  # else the answer was there, and only its end went wrong
                return Answer(None, error.code)
        return Answer(status, None if status in SUCCESS else f"http_{status}")

    async def _report(self, delivery_id: UUID, status: Status, answer: Answer) -> Status:
        report = await self._database.rpc(
            "webhook_report",
            p_delivery_id=delivery_id,
            p_status=status,
            p_response_status=answer.status,
            p_reason=answer.reason,
        )
        ended: Status = report["status"]
        log_event(
            logger,
            logging.INFO,
            "event delivery",
            delivery_id=delivery_id,
            status=ended,
            reason=answer.reason,
        )
        return ended
