"""Webhook endpoints through the API: whose they may be, where they may lead, and who sees them."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from postgrest import APIError

from functions.notifications.signing import endpoint_secret, shown_secret
from local.stack import Stack
from tests.billing.conftest import running_app
from tests.conftest import NewUser, User
from tests.notifications.conftest import Desk

PATH = "/notifications/webhooks"
URL = "https://hooks.quernel.app/in"


@pytest.fixture
def http(functions_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=functions_url, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def user(new_user: NewUser) -> User:
    return new_user()


def make(http: httpx.Client, user: User, **body: Any) -> httpx.Response:
    return http.post(PATH, json={"url": URL} | body, headers=user.headers)


def made(http: httpx.Client, user: User, **body: Any) -> dict[str, Any]:
    answer = make(http, user, **body)
    assert answer.status_code == 201, answer.text
    endpoint: dict[str, Any] = answer.json()
    return endpoint


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def found(db: Callable[[], psycopg.Connection], owner: User, **members: User) -> tuple[str, str]:
    """An organization of the owner; its id and slug."""
    slug = f"org-{owner.id[-12:]}"
    row = owner.client.rpc("create_organization", {"p_name": "Org", "p_slug": slug}).execute().data
    db().execute(
        "update public.organizations"
        " set plan_id = (select id from public.plans where slug = 'business') where slug = %s",
        [slug],
    )
    for role, member in members.items():
        db().execute(
            "insert into public.organization_members (organization_id, user_id, role)"
            " values (%s, %s, %s)",
            [row["id"], member.id, role],
        )
    return row["id"], slug


def calls(endpoint_id: str) -> list[tuple[str, str, Any]]:
    """Everything that can be asked of an endpoint."""
    path = f"{PATH}/{endpoint_id}"
    return [
        ("GET", path, None),
        ("PATCH", path, {"is_active": False}),
        ("GET", f"{path}/secret", None),
        ("POST", f"{path}/rotate-secret", None),
        ("POST", f"{path}/test", None),
        ("DELETE", path, None),
    ]


# Refusals ---------------------------------------------------------------------------------------


def test_nobody(http: httpx.Client) -> None:
    answer = http.post(PATH, json={"url": URL})
    assert told(answer) == (401, "missing_credentials")


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.quernel.app/in",
        "ftp://hooks.quernel.app/in",
        "https://127.0.0.1/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/",
        "https://2130706433/",
        "https://localhost/",
        "https://db.internal/",
        "https://hooks.quernel.app:8443/",
        "https://user:password@hooks.quernel.app/",
        "https://hooks.quernel.app/\r\nX: y",
        "hooks.quernel.app",
    ],
)
def test_a_url_that_is_not_https_and_public(
    http: httpx.Client, user: User, desk: Desk, url: str
) -> None:
    assert told(make(http, user, url=url)) == (400, "url_refused")
    endpoint = made(http, user)
    moved = http.patch(f"{PATH}/{endpoint['id']}", json={"url": url}, headers=user.headers)
    assert told(moved) == (400, "url_refused")
    rows = desk.rows("select url from public.webhook_endpoints where user_id = %s", user.id)
    assert rows == [{"url": URL}]


@pytest.mark.parametrize(
    "body",
    [
        {"url": ""},
        {"url": "https://" + "x" * 2048},
        {"url": None},
        {"description": "x" * 201},
        {"event_types": []},
        {"event_types": "receipt"},
        {"event_types": ["receipt"] * 51},
        {"organization": ""},
        {"secret": "mine"},
        {"user_id": str(uuid.uuid4())},
        {"is_active": 1},
    ],
)
def test_a_body_that_does_not_fit(http: httpx.Client, user: User, body: dict[str, Any]) -> None:
    assert told(make(http, user, **body)) == (422, "invalid_request")


@pytest.mark.parametrize(
    "types", [["unheard_of"], ["receipt", "ping"], ["invitation"], ["Receipt"]]
)
def test_an_event_type_nobody_knows(http: httpx.Client, user: User, types: list[str]) -> None:
    answer = make(http, user, event_types=types)
    assert told(answer) == (400, "invalid_argument")
    assert answer.json()["param"] == "event_types"


def test_a_strangers_organization_and_one_that_does_not_exist_are_alike(
    http: httpx.Client, user: User, new_user: NewUser, db: Callable[[], psycopg.Connection]
) -> None:
    organization, slug = found(db, new_user())
    answers = [make(http, user, organization=name) for name in (organization, slug, "nobodys")] + [
        http.get(PATH, params={"organization": name}, headers=user.headers)
        for name in (organization, slug, "nobodys")
    ]
    assert {told(answer) for answer in answers} == {(403, "not_a_member")}


def test_a_member_who_is_no_admin(
    http: httpx.Client, user: User, new_user: NewUser, db: Callable[[], psycopg.Connection]
) -> None:
    owner = new_user()
    _, slug = found(db, owner, member=user)
    endpoint = made(http, owner, organization=slug)
    assert told(make(http, user, organization=slug)) == (403, "not_an_admin")
    for method, path, body in calls(endpoint["id"]):
        answer = http.request(method, path, json=body, headers=user.headers)
        assert told(answer) == (404, "webhook_endpoint_not_found")


def test_a_strangers_endpoint_and_one_that_does_not_exist_are_alike(
    http: httpx.Client, user: User, new_user: NewUser, desk: Desk
) -> None:
    endpoint = made(http, new_user())
    before = desk.reread(endpoint)
    for real, unreal in zip(calls(endpoint["id"]), calls(str(uuid.uuid4())), strict=True):
        answers = [
            http.request(method, path, json=body, headers=user.headers)
            for method, path, body in (real, unreal)
        ]
        assert [told(a) for a in answers] == [(404, "webhook_endpoint_not_found")] * 2
        assert answers[0].json() == answers[1].json()
    assert desk.reread(endpoint) == before


def test_a_suspended_user(http: httpx.Client, user: User, desk: Desk) -> None:
    endpoint = made(http, user)
    desk.rows("update public.profiles set is_active = false where id = %s", user.id)
    assert told(make(http, user)) == (403, "account_suspended")
    assert told(http.get(PATH, headers=user.headers)) == (403, "account_suspended")
    for method, path, body in calls(endpoint["id"]):
        answer = http.request(method, path, json=body, headers=user.headers)
        assert told(answer) == (403, "account_suspended")


def test_more_than_ten(http: httpx.Client, user: User, desk: Desk) -> None:
    """Asked for at once, so that nobody slips through."""
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: make(http, user), range(12)))
    refused = [answer for answer in answers if answer.status_code != 201]
    assert [told(answer) for answer in refused] == [(403, "webhook_limit_reached")] * 2
    assert refused[0].json()["available"] == 10
    rows = desk.rows("select 1 from public.webhook_endpoints where user_id = %s", user.id)
    assert len(rows) == 10


def test_a_test_of_an_endpoint_that_is_switched_off(http: httpx.Client, user: User) -> None:
    endpoint = made(http, user)
    path = f"{PATH}/{endpoint['id']}"
    http.patch(path, json={"is_active": False}, headers=user.headers).raise_for_status()
    answer = http.post(f"{path}/test", headers=user.headers)
    assert told(answer) == (409, "webhook_endpoint_disabled")


def test_more_than_ten_tests_in_an_hour(http: httpx.Client, user: User, desk: Desk) -> None:
    endpoint = made(http, user)
    desk.rows(
        "update public.webhook_endpoints set url = 'https://hooks.quernel.test/' where id = %s",
        endpoint["id"],
    )
    path = f"{PATH}/{endpoint['id']}/test"
    answers = [http.post(path, headers=user.headers) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [202] * 10 + [429]
    assert answers[-1].json()["code"] == "rate_limited"
    assert 0 < int(answers[-1].headers["retry-after"]) <= 3600


@pytest.mark.parametrize("table", ["webhook_endpoints", "webhook_deliveries"])
def test_clients_write_no_row_themselves(user: User, table: str) -> None:
    id_ = str(uuid.uuid4())
    for attempt in (
        user.client.table(table).insert({"id": id_}),
        user.client.table(table).update({"id": id_}).eq("id", id_),
        user.client.table(table).delete().eq("id", id_),
    ):
        with pytest.raises(APIError, match="permission denied"):
            attempt.execute()


# What is made -----------------------------------------------------------------------------------


def test_an_endpoint_of_ones_own(http: httpx.Client, user: User, stack: Stack) -> None:
    endpoint = made(http, user, description=" Accounting ", event_types=["receipt"])
    assert (endpoint["user_id"], endpoint["organization_id"]) == (user.id, None)
    assert (endpoint["description"], endpoint["event_types"]) == ("Accounting", ["receipt"])
    master_key = base64.b64decode(stack.keys.webhook_signing_key)
    secret = shown_secret(endpoint_secret(master_key, uuid.UUID(endpoint["id"]), 1))
    assert endpoint["secret"] == secret
    told_again = http.get(f"{PATH}/{endpoint['id']}/secret", headers=user.headers)
    assert told_again.json() == {"secret": secret}
    assert told_again.headers["cache-control"] == "no-store"


def test_the_secret_is_told_only_where_it_is_asked_for(http: httpx.Client, user: User) -> None:
    endpoint = made(http, user)
    path = f"{PATH}/{endpoint['id']}"
    answers = [
        http.get(path, headers=user.headers),
        http.get(PATH, headers=user.headers),
        http.patch(path, json={}, headers=user.headers),
    ]
    rows = user.client.table("webhook_endpoints").select("*").execute().data
    for text in [*(answer.text for answer in answers), str(rows)]:
        assert endpoint["id"] in text
        assert endpoint["secret"] not in text


def test_an_endpoint_of_an_organization_is_for_its_admins(
    http: httpx.Client, user: User, new_user: NewUser, db: Callable[[], psycopg.Connection]
) -> None:
    admin, member = new_user(), new_user()
    organization, slug = found(db, user, admin=admin, member=member)
    endpoint = made(http, admin, organization=slug)
    assert (endpoint["user_id"], endpoint["organization_id"]) == (None, organization)
    for reader, seen in ((user, 1), (admin, 1), (member, 0), (new_user(), 0)):
        rows = reader.client.table("webhook_endpoints").select("id").execute().data
        assert len(rows) == seen
    listed = http.get(PATH, params={"organization": slug}, headers=user.headers).json()
    assert [one["id"] for one in listed] == [endpoint["id"]]
    assert http.get(PATH, headers=user.headers).json() == []


def test_a_change_leaves_the_rest_as_it_is(http: httpx.Client, user: User) -> None:
    endpoint = made(http, user, description="Mine", event_types=["receipt"])
    path = f"{PATH}/{endpoint['id']}"
    same = {name: endpoint[name] for name in ("url", "description", "event_types", "is_active")}
    for change in (
        {},
        {"url": "https://hooks.quernel.app/other"},
        {"description": None},
        {"event_types": None},
        {"is_active": False},
    ):
        answer = http.patch(path, json=change, headers=user.headers)
        assert answer.status_code == 200, answer.text
        same |= change
        assert same.items() <= answer.json().items()


@pytest.mark.parametrize("change", [{"url": None}, {"is_active": None}, {"secret_version": 1}])
def test_a_change_that_does_not_fit(http: httpx.Client, user: User, change: dict[str, Any]) -> None:
    endpoint = made(http, user)
    answer = http.patch(f"{PATH}/{endpoint['id']}", json=change, headers=user.headers)
    assert told(answer) == (422, "invalid_request")


def test_switching_on_forgets_why_it_was_off(http: httpx.Client, user: User, desk: Desk) -> None:
    endpoint = made(http, user)
    desk.rows(
        "update public.webhook_endpoints set is_active = false, disabled_at = now(),"
        " disabled_reason = 'failing', consecutive_failures = 5 where id = %s",
        endpoint["id"],
    )
    path = f"{PATH}/{endpoint['id']}"
    assert http.get(path, headers=user.headers).json()["disabled_reason"] == "failing"
    now = http.patch(path, json={"is_active": True}, headers=user.headers).json()
    assert (now["is_active"], now["disabled_at"], now["disabled_reason"]) == (True, None, None)
    assert now["consecutive_failures"] == 0


def test_a_rotation_gives_another_secret(http: httpx.Client, user: User) -> None:
    endpoint = made(http, user)
    path = f"{PATH}/{endpoint['id']}"
    rotated = http.post(f"{path}/rotate-secret", headers=user.headers).json()
    assert rotated["secret_version"] == 2
    assert rotated["secret"] != endpoint["secret"]
    assert http.get(f"{path}/secret", headers=user.headers).json()["secret"] == rotated["secret"]


def test_a_deleted_endpoint_is_gone(http: httpx.Client, user: User) -> None:
    endpoint = made(http, user)
    path = f"{PATH}/{endpoint['id']}"
    answer = http.delete(path, headers=user.headers)
    assert (answer.status_code, answer.json()) == (200, {"id": endpoint["id"]})
    assert told(http.get(path, headers=user.headers)) == (404, "webhook_endpoint_not_found")


def test_a_ping_is_sent_whatever_the_event_types_and_seen_by_the_owner(
    http: httpx.Client, user: User, new_user: NewUser, desk: Desk
) -> None:
    endpoint = made(http, user, event_types=["receipt"])
    # Whose server must not be asked: the worker refuses a name that cannot be public.
    desk.rows(
        "update public.webhook_endpoints set url = 'https://hooks.quernel.test/' where id = %s",
        endpoint["id"],
    )
    answer = http.post(f"{PATH}/{endpoint['id']}/test", headers=user.headers)
    assert answer.status_code == 202, answer.text
    table = user.client.table("webhook_deliveries")
    (row,) = table.select("*").eq("id", answer.json()["delivery_id"]).execute().data
    assert (row["event_type"], row["endpoint_id"]) == ("ping", endpoint["id"])
    assert row["status"] == "queued"
    assert new_user().client.table("webhook_deliveries").select("*").execute().data == []


def test_an_owner_has_one_limit_of_pings_for_all_their_endpoints(
    http: httpx.Client, user: User, new_user: NewUser, desk: Desk
) -> None:
    """Else a new endpoint, or the same one made again, would send any number to a stranger."""

    def ping(owner: User, *, stays: bool = True) -> httpx.Response:
        endpoint = made(http, owner)
        desk.rows(
            "update public.webhook_endpoints set url = 'https://hooks.quernel.test/' where id = %s",
            endpoint["id"],
        )
        path = f"{PATH}/{endpoint['id']}"
        answer = http.post(f"{path}/test", headers=owner.headers)
        if not stays:
            http.delete(path, headers=owner.headers)
        return answer

    answers = [ping(user, stays=number % 2 == 0) for number in range(10)]
    assert {answer.status_code for answer in answers} == {202}
    answer = ping(user)
    assert told(answer) == (429, "rate_limited")
    assert answer.json()["limit_source"] == "webhook_pings_per_hour"
    assert 0 < int(answer.headers["retry-after"]) <= 3600
    assert ping(new_user()).status_code == 202


def test_where_no_key_is_set_there_are_no_webhooks(
    user: User, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = tmp_path_factory.mktemp("notifications") / "functions.log"
    environment = stack.functions_environment() | {
        "QUERNEL_ENVIRONMENT": "test",
        "QUERNEL_WEBHOOK_SIGNING_KEY": "",
    }
    with running_app(environment, log) as url, httpx.Client(trust_env=False) as client:
        answer = client.get(f"{url}{PATH}", headers=user.headers)
    assert told(answer) == (503, "webhooks_not_configured")
