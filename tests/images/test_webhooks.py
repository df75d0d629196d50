"""What a client's own server is told when a generation ends, signed, and nobody else's."""

from __future__ import annotations

from typing import Any

import pytest
from standardwebhooks import Webhook

from functions.notifications.signing import endpoint_secret, shown_secret
from tests.chat.conftest import wait_for
from tests.images.conftest import NewPainter, Painter
from tests.notifications.conftest import (
    MASTER_KEY,
    Courier,
    Hook,
    authority,
    courier,
    database,
    hook,
    settings,
)

__all__ = ["authority", "courier", "database", "hook", "settings"]

pytestmark = pytest.mark.anyio


def endpoint_of(painter: Painter, url: str) -> Any:
    """An endpoint of theirs, past the vetting of its URL; its id."""
    row = painter.payer.connection.execute(
        "insert into public.webhook_endpoints (user_id, url) values (%s, %s) returning id",
        [painter.id, url],
    ).fetchone()
    assert row is not None
    return row["id"]


def tasks_of(painter: Painter, endpoint_id: Any) -> list[dict[str, Any]]:
    """What is to be sent to it."""
    return painter.payer.connection.execute(
        "select t.* from private.tasks as t"
        " inner join public.webhook_deliveries as d on d.id::text = t.payload ->> 'delivery_id'"
        " where t.kind = 'webhook' and d.endpoint_id = %s",
        [endpoint_id],
    ).fetchall()


def ended(painter: Painter, event: str) -> dict[str, Any]:
    """A generation that has ended so, as it is stored."""
    prompt = {
        "image_completed": "a lighthouse",
        "image_failed": "a lighthouse. simulate: refuse=2",
        "image_cancelled": "a lighthouse. simulate: steps=200 step_ms=100",
    }[event]
    answer = painter.start(prompt, metadata={"order": 7}, num_outputs=2)
    assert answer.status_code == 202, answer.text
    generation_id = answer.json()["id"]
    if event == "image_cancelled":
        painter.http.post(f"/images/generations/{generation_id}/cancel")
    return painter.ended(generation_id)


@pytest.mark.parametrize("event", ["image_completed", "image_failed", "image_cancelled"])
async def test_an_endpoint_is_told_how_a_generation_ended(
    painter: Painter, hook: Hook, courier: Courier, event: str
) -> None:
    endpoint_id = endpoint_of(painter, hook.url)
    generation = ended(painter, event)
    assert f"image_{generation['status']}" == event
    [task] = wait_for(lambda: tasks_of(painter, endpoint_id))
    await courier.send(task)

    _, headers, body = hook.requests[-1]
    secret = shown_secret(endpoint_secret(MASTER_KEY, endpoint_id, 1))
    message = Webhook(secret).verify(body, headers)
    data = message["data"]
    assert message["type"] == event
    assert data["generation_id"] == str(generation["id"])
    assert (data["model"], data["metadata"]) == ("flux-schnell", {"order": 7})
    if event == "image_completed":
        images = painter.images(generation["id"])
        assert sorted(data["images"]) == sorted(str(image["id"]) for image in images)
        assert float(data["credits_charged"]) == 2
    if event == "image_failed":
        assert data["error_code"] == generation["error_code"]
    assert b"lighthouse" not in body


async def test_nobody_is_told_of_anothers_images(
    painter: Painter, new_painter: NewPainter, hook: Hook
) -> None:
    other = new_painter()
    theirs, mine = endpoint_of(other, hook.url), endpoint_of(painter, hook.url)
    painter.made()
    wait_for(lambda: tasks_of(painter, mine))
    assert tasks_of(painter, theirs) == []
