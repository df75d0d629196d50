"""Events at webhook endpoints: signed, tried again, given up, and never sent to the wrong place."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from functions.core.database import Database
from functions.core.settings import Settings
from functions.notifications.retries import PAUSES_SECONDS
from functions.notifications.signing import endpoint_secret, shown_secret
from functions.tasks.context import TaskRetryError
from local.processes import free_port
from tests.notifications.conftest import HOST, MASTER_KEY, Courier, Desk, Hook
from tests.support.people import Person, Team

pytestmark = pytest.mark.anyio

FACTS = {"amount_minor": 2900, "currency": "eur", "credits": 12.5}


def event_of(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    (task,) = [task for task in tasks if task["kind"] == "webhook"]
    return task


def verified(hook: Hook, endpoint: dict[str, Any], version: int = 1) -> Any:
    """The latest message, as a receiver with the official library reads it."""
    _, headers, body = hook.requests[-1]
    secret = shown_secret(endpoint_secret(MASTER_KEY, endpoint["id"], version))
    return Webhook(secret).verify(body, headers)


async def retried(courier: Courier, task: dict[str, Any], number: int = 1) -> float:
    """Sends an event that is not taken; the pause until the next attempt."""
    with pytest.raises(TaskRetryError) as caught:
        await courier.send(task, number=number)
    return caught.value.seconds


# What is not sent -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/",
        "https://hooks.quernel.test/",
        "https://hooks.quernel.app:8443/",
    ],
)
async def test_the_clients_rules_hold_at_every_delivery(
    desk: Desk, person: Person, settings: Settings, database: Database, url: str
) -> None:
    """With the real client: what the vetting at creation let pass is refused again."""
    endpoint = desk.endpoint(person, url)
    task = event_of(desk.tell(person))
    with pytest.raises(TaskRetryError):
        await Courier(settings, database).send(task)
    row = desk.event(task)
    assert (row["status"], row["reason"], row["response_status"]) == ("queued", "url_refused", None)
    assert desk.reread(endpoint)["is_active"]


async def test_an_endpoint_that_was_switched_off_gets_nothing(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    desk.endpoint(person, hook.url)
    task = event_of(desk.tell(person))
    desk.rows("update public.webhook_endpoints set is_active = false where user_id = %s", person.id)
    assert await courier.send(task) == {"status": "suppressed"}
    assert hook.requests == []
    assert desk.event(task)["reason"] == "disabled"


async def test_an_endpoint_that_was_deleted_gets_nothing(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    desk.endpoint(person, hook.url)
    task = event_of(desk.tell(person))
    desk.rows("delete from public.webhook_endpoints where user_id = %s", person.id)
    assert await courier.send(task) == {"status": "suppressed"}
    assert hook.requests == []


async def test_a_suspended_person_gets_nothing(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    desk.endpoint(person, hook.url)
    task = event_of(desk.tell(person))
    desk.rows("update public.profiles set is_active = false where id = %s", person.id)
    assert await courier.send(task) == {"status": "suppressed"}
    assert (hook.requests, desk.event(task)["reason"]) == ([], "suspended")


async def test_a_suspended_organization_gets_nothing(
    desk: Desk, team: Team, courier: Courier, hook: Hook
) -> None:
    desk.endpoint(team, hook.url)
    task = event_of(desk.tell(team))
    desk.rows("update public.organizations set is_active = false where id = %s", team.id)
    assert await courier.send(task) == {"status": "suppressed"}
    assert (hook.requests, desk.event(task)["reason"]) == ([], "suspended")


async def test_without_a_signing_key_nothing_is_sent_unsigned(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    desk.endpoint(person, hook.url)
    task = event_of(desk.tell(person))
    assert await courier.send(task, webhook_signing_key=None) == {"status": "suppressed"}
    assert hook.requests == []
    assert desk.event(task)["reason"] == "not_configured"


# What is sent -----------------------------------------------------------------------------------


async def test_a_message_is_of_standard_webhooks(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    endpoint = desk.endpoint(person, hook.url)
    task = event_of(desk.tell(person, facts=FACTS))
    assert await courier.send(task) == {"status": "sent"}
    message = verified(hook, endpoint)
    assert message.keys() == {"type", "timestamp", "data"}
    assert message["type"] == "receipt"
    assert message["data"] == FACTS | {"user_id": person.id}
    assert datetime.fromisoformat(message["timestamp"]).tzinfo is not None
    first, headers, _ = hook.requests[0]
    assert first == b"POST /in?token=of-the-owner HTTP/1.1"
    assert headers["webhook-id"] == task["payload"]["delivery_id"]
    assert headers["content-type"] == "application/json"
    assert headers["host"] == f"{HOST}:{hook.port}"
    row = desk.event(task)
    assert (row["status"], row["attempts"], row["response_status"]) == ("sent", 1, 200)
    assert row["sent_at"] is not None


async def test_an_organizations_message_says_whose_it_is(
    desk: Desk, team: Team, courier: Courier, hook: Hook
) -> None:
    endpoint = desk.endpoint(team, hook.url)
    await courier.send(event_of(desk.tell(team, facts=FACTS)))
    assert verified(hook, endpoint)["data"] == FACTS | {"organization_id": team.id}


async def test_another_endpoints_secret_does_not_verify(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    endpoint = desk.endpoint(person, hook.url)
    await courier.send(event_of(desk.tell(person)))
    other = desk.endpoint(person, "https://quernel.test/")
    with pytest.raises(WebhookVerificationError):
        verified(hook, other)
    verified(hook, endpoint)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_every_2xx_is_success(
    desk: Desk, person: Person, courier: Courier, hook: Hook, status: int
) -> None:
    desk.endpoint(person, hook.url)
    task = event_of(desk.tell(person))
    hook.answers = [status]
    assert await courier.send(task) == {"status": "sent"}
    assert desk.event(task)["response_status"] == status


async def test_what_was_sent_is_not_sent_again(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    desk.endpoint(person, hook.url)
    task = event_of(desk.tell(person))
    for _ in range(2):
        assert await courier.send(task) == {"status": "sent"}
    assert len(hook.requests) == 1


# What is tried again ----------------------------------------------------------------------------


async def test_after_a_500_the_same_message_comes_again(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    endpoint = desk.endpoint(person, hook.url)
    task = event_of(desk.tell(person, facts=FACTS))
    hook.answers = [500, 503]
    assert 5 <= await retried(courier, task) <= 6
    await retried(courier, task, 2)
    row = desk.event(task)
    assert (row["status"], row["reason"], row["response_status"]) == ("queued", "http_503", 503)
    assert await courier.send(task, number=3) == {"status": "sent"}
    verified(hook, endpoint)
    assert len({body for _, _, body in hook.requests}) == 1
    assert len({headers["webhook-id"] for _, headers, _ in hook.requests}) == 1
    row = desk.event(task)
    assert (row["status"], row["attempts"], row["reason"]) == ("sent", 3, None)


@pytest.mark.parametrize("status", [301, 307, 400, 404, 429])
async def test_whatever_is_not_2xx_is_tried_again_and_no_redirect_followed(
    desk: Desk, person: Person, courier: Courier, hook: Hook, status: int
) -> None:
    desk.endpoint(person, hook.url)
    task = event_of(desk.tell(person))
    hook.answers = [status]
    await retried(courier, task)
    assert len(hook.requests) == 1
    row = desk.event(task)
    assert (row["reason"], row["response_status"]) == (f"http_{status}", status)


async def test_a_server_that_is_down_is_tried_again(
    desk: Desk, person: Person, courier: Courier
) -> None:
    desk.endpoint(person, f"https://{HOST}:{free_port()}/")
    task = event_of(desk.tell(person))
    assert await retried(courier, task, 4) >= PAUSES_SECONDS[3]
    row = desk.event(task)
    assert (row["status"], row["reason"], row["response_status"]) == (
        "queued",
        "url_unreachable",
        None,
    )


async def test_a_server_with_another_certificate_is_not_believed(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    desk.endpoint(person, f"https://other.quernel.app:{hook.port}/")
    task = event_of(desk.tell(person))
    await retried(courier, task)
    assert hook.requests == []
    assert desk.event(task)["reason"] == "url_unreachable"


# What is given up -------------------------------------------------------------------------------


async def test_410_switches_the_endpoint_off_and_tells_its_owner(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    endpoint = desk.endpoint(person, hook.url)
    task = event_of(desk.tell(person))
    hook.answers = [410]
    assert await courier.send(task) == {"status": "failed"}
    now = desk.reread(endpoint)
    assert (now["is_active"], now["disabled_reason"]) == (False, "gone")
    assert now["disabled_at"] is not None
    assert desk.event(task)["status"] == "failed"
    (told,) = desk.rows(
        "select facts from private.notifications where user_id = %s"
        " and template = 'webhook_disabled'",
        person.id,
    )
    assert told["facts"] == {
        "endpoint_id": str(endpoint["id"]),
        "host": f"{HOST}:{hook.port}",
        "reason": "gone",
    }


async def test_after_the_last_attempt_it_has_failed_and_the_task_is_done(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    endpoint = desk.endpoint(person, hook.url)
    task = event_of(desk.tell(person))
    desk.exhaust(task)
    hook.answers = [500]
    assert await courier.send(task, number=8) == {"status": "failed"}
    assert desk.event(task)["status"] == "failed"
    now = desk.reread(endpoint)
    assert (now["is_active"], now["consecutive_failures"]) == (True, 1)


async def test_five_events_given_up_in_a_row_switch_the_endpoint_off(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    endpoint = desk.endpoint(person, hook.url)
    waiting = event_of(desk.tell(person))
    for count in range(1, 6):
        assert desk.reread(endpoint)["is_active"]
        task = event_of(desk.tell(person))
        desk.exhaust(task)
        hook.answers = [500]
        await courier.send(task, number=8)
        assert desk.reread(endpoint)["consecutive_failures"] == count
    now = desk.reread(endpoint)
    assert (now["is_active"], now["disabled_reason"]) == (False, "failing")
    assert await courier.send(waiting) == {"status": "suppressed"}
    assert [t for t in desk.tell(person) if t["kind"] == "webhook"] == []


async def test_a_success_in_between_starts_the_count_anew(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    endpoint = desk.endpoint(person, hook.url, consecutive_failures=4)
    await courier.send(event_of(desk.tell(person)))
    assert desk.reread(endpoint)["consecutive_failures"] == 0


async def test_attempts_that_failed_do_not_count_before_the_event_is_given_up(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    endpoint = desk.endpoint(person, hook.url)
    task = event_of(desk.tell(person))
    hook.answers = [500] * 3
    for number in range(1, 4):
        await retried(courier, task, number)
    assert desk.reread(endpoint)["consecutive_failures"] == 0


# Rotation ---------------------------------------------------------------------------------------


async def test_after_a_rotation_both_secrets_verify_for_a_day(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    endpoint = desk.endpoint(person, hook.url)
    desk.rows("select backend.webhook_endpoint_rotate(%s, %s)", person.id, endpoint["id"])
    await courier.send(event_of(desk.tell(person)))
    assert verified(hook, endpoint, 1) == verified(hook, endpoint, 2)


async def test_a_day_later_only_the_new_one_does(
    desk: Desk, person: Person, courier: Courier, hook: Hook
) -> None:
    endpoint = desk.endpoint(person, hook.url)
    desk.rows("select backend.webhook_endpoint_rotate(%s, %s)", person.id, endpoint["id"])
    desk.rows(
        "update public.webhook_endpoints set secret_rotated_at = now() - interval '25 hours'"
        " where id = %s",
        endpoint["id"],
    )
    await courier.send(event_of(desk.tell(person)))
    verified(hook, endpoint, 2)
    with pytest.raises(WebhookVerificationError):
        verified(hook, endpoint, 1)


# What must not leak -----------------------------------------------------------------------------


async def test_no_log_and_no_table_holds_a_secret_or_what_the_endpoint_said(
    desk: Desk,
    person: Person,
    courier: Courier,
    hook: Hook,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "functions")
    endpoint = desk.endpoint(person, hook.url)
    task = event_of(desk.tell(person, facts=FACTS))
    hook.answers = [500]
    await retried(courier, task)
    await courier.send(task, number=2)
    secret = endpoint_secret(MASTER_KEY, endpoint["id"], 1)
    written = json.dumps(
        [
            desk.rows(f"select to_jsonb(t) from {table} as t")  # noqa: S608
            for table in (
                "private.tasks",
                "private.notifications",
                "public.webhook_endpoints",
                "public.webhook_deliveries",
            )
        ]
    )
    told = [str(vars(record)) for record in caplog.records if record.name.startswith("functions")]
    assert any("event delivery" in line for line in told)
    for text in [written, *told]:
        assert shown_secret(secret)[6:] not in text
        assert secret.hex() not in text
        assert "what nobody reads" not in text
    assert not any("of-the-owner" in line for line in told)
