"""What the worker does for notifications."""

from __future__ import annotations

from uuid import UUID

from functions.core.http import SafeClient
from functions.core.json import Json
from functions.notifications.emails import EmailSender
from functions.notifications.events import EventSender
from functions.notifications.retries import try_again
from functions.notifications.tls import public_tls
from functions.tasks.context import TaskContext, TaskRejectedError


async def send_email(payload: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Send an email. Raises TaskRetryError while the mail server does not take it.

    An operator learns of a mail server that never does: the task dies. A recipient who is refused
    is no concern of theirs: the task is done, and the delivery failed.
    """
    outcome = await EmailSender(context.database, context.settings).send(_delivery_id(payload))
    if outcome.status == "queued":
        raise try_again(f"the mail server: {outcome.reason}", attempt=context.attempt)
    return {"status": outcome.status}


async def send_event(payload: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Send an event to a webhook endpoint. Raises TaskRetryError while it does not answer 2xx.

    After the last attempt the task is done: whose endpoint it is, is told.
    """
    client = SafeClient(ssl_context=public_tls())
    try:
        sender = EventSender(context.database, client, context.settings.webhook_master_key)
        status = await sender.send(_delivery_id(payload))
    finally:
        await client.aclose()
    if status == "queued":
        raise try_again("the endpoint did not take the event", attempt=context.attempt)
    return {"status": status}


def _delivery_id(payload: dict[str, Json]) -> UUID:
    try:
        return UUID(payload["delivery_id"])
    except (KeyError, ValueError, TypeError, AttributeError):
        raise TaskRejectedError("the payload names no delivery") from None
