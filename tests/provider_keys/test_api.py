"""Provider keys over HTTP: who may do what, what providers are asked, what nobody ever sees."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import httpx
import jwt
import psycopg
import pytest
from psycopg.rows import dict_row

from functions.app import create_app
from functions.core.database import Database
from functions.core.http import SafeClient
from functions.core.settings import Settings
from functions.provider_keys.schemas import KeyRequest
from functions.provider_keys.service import ProviderKeyService
from functions.provider_keys.sources import open_vault
from functions.provider_keys.tasks import check_idle_key
from functions.tasks.context import TaskContext, TaskRejectedError, TaskRetryError
from local.postgres import wheel_binaries
from local.providers.double import OAUTH_PATH, Double
from local.stack import Stack
from tests.chat.conftest import settings_of
from tests.provider_keys.test_checker import EMAIL, PATHS, service_account
from tests.support.people import NewPerson, Person, Team, new_person, new_team
from tests.support.provider_keys import vault_of
from tests.support.providers import provider_double

__all__ = ["new_person", "new_team"]

pytestmark = pytest.mark.anyio

CANARY = "sk-canary-{}-abcdefghijklmnopqrstuvwxyz"


@dataclass
class Desk:
    """The app in this process, beside a double of the providers."""

    http: httpx.AsyncClient
    double: Double
    stack: Stack
    settings: Settings
    books: psycopg.Connection[dict[str, Any]]

    async def ask(
        self, person: Person, method: str, path: str = "", body: Any = None, **params: Any
    ) -> httpx.Response:
        now = int(time.time())
        claims = {
            "sub": person.id,
            "role": "authenticated",
            "aud": "authenticated",
            "iat": now,
            "exp": now + 600,
            "iss": f"{self.stack.supabase_url}/auth/v1",
        }
        token = jwt.encode(claims, self.stack.keys.jwt_secret, algorithm="HS256")
        return await self.http.request(
            method,
            f"/provider-keys{path}",
            json=body,
            params=params,
            headers={"Authorization": f"Bearer {token}"},
        )

    async def add(self, person: Person, treatment: str = "good", **body: Any) -> dict[str, Any]:
        """A key that was stored; its secret under `secret`."""
        secret = body.pop("api_key", None) or self.double.new_key(treatment)
        answer = await self.ask(
            person, "POST", body={"provider": "openai", "api_key": secret} | body
        )
        assert answer.status_code == 201, answer.text
        return {"secret": secret} | answer.json()

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        return self.books.execute(query, values).fetchall()


@pytest.fixture
async def desk(stack: Stack) -> AsyncIterator[Desk]:
    async with provider_double() as double:
        settings = settings_of(
            stack,
            providers=double.settings,
            google_oauth_url=f"{double.address}{OAUTH_PATH}",
        )
        app = create_app(settings)
        transport = httpx.ASGITransport(app=app)
        with psycopg.connect(stack.admin_dsn, autocommit=True, row_factory=dict_row) as books:
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://quernel.test") as http,
            ):
                yield Desk(http, double, stack, settings, books)


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["type"]) == (status, f"urn:quernel:error:{code}"), body
    return body


# A person's own ----------------------------------------------------------------------------------


async def test_the_life_of_a_key(desk: Desk, new_person: NewPerson) -> None:
    person = new_person()
    key = await desk.add(person, name="Mine", priority=5)
    assert key["last_four"] == key["secret"][-4:]
    assert (key["is_valid"], key["priority"], key["provider"]) == (True, 5, "openai")
    assert key["last_validated_at"] is not None
    listed = (await desk.ask(person, "GET")).json()
    assert [one["id"] for one in listed] == [key["id"]]
    assert (await desk.ask(person, "GET", f"/{key['id']}")).json()["name"] == "Mine"

    renamed = await desk.ask(person, "PATCH", f"/{key['id']}", {"name": "Spare", "priority": 9})
    assert (renamed.json()["name"], renamed.json()["priority"]) == ("Spare", 9)
    resting = await desk.ask(person, "PATCH", f"/{key['id']}", {"is_enabled": False})
    assert (resting.json()["is_enabled"], resting.json()["name"]) == (False, "Spare")

    second = desk.double.new_key()
    replaced = await desk.ask(person, "PUT", f"/{key['id']}/secret", {"api_key": second})
    assert replaced.status_code == 200, replaced.text
    assert (replaced.json()["last_four"], replaced.json()["secret_version"]) == (second[-4:], 2)
    validated = (await desk.ask(person, "POST", f"/{key['id']}/validate")).json()
    assert (validated["check"]["outcome"], validated["is_valid"]) == ("completed", True)
    assert desk.double.last("openai").headers["authorization"] == f"Bearer {second}"

    uses = (await desk.ask(person, "GET", f"/{key['id']}/uses")).json()
    assert [use["outcome"] for use in uses["uses"]] == ["completed"] * 3
    assert {use["action"] for use in uses["uses"]} == {"validation"}
    assert (await desk.ask(person, "DELETE", f"/{key['id']}")).json()["deleted"] is True
    refused(await desk.ask(person, "GET", f"/{key['id']}"), 404, "provider_key_not_found")
    assert (
        desk.rows(
            "select 1 from private.provider_key_secrets where provider_key_id = %s", key["id"]
        )
        == []
    )
    # What it was used for stays readable, by its owner.
    assert len((await desk.ask(person, "GET", "/uses")).json()["uses"]) == 3


@pytest.mark.parametrize(
    ("treatment", "status", "is_valid"),
    [("rejected", 400, None), ("out of quota", 201, False), ("outage", 201, None)],
    ids=["rejected", "quota", "outage"],
)
async def test_what_the_provider_says_decides(
    desk: Desk, new_person: NewPerson, treatment: str, status: int, is_valid: bool | None
) -> None:
    person = new_person()
    secret = desk.double.new_key(treatment)
    answer = await desk.ask(person, "POST", body={"provider": "mistral", "api_key": secret})
    assert answer.status_code == status, answer.text
    if status == 201:
        assert answer.json()["is_valid"] is is_valid
    else:
        refused(answer, 400, "provider_key_rejected")
        assert (await desk.ask(person, "GET")).json() == []
    assert secret not in answer.text


async def test_a_key_is_tried_without_being_kept(desk: Desk, new_person: NewPerson) -> None:
    person = new_person()
    for treatment, is_valid in (("good", True), ("rejected", False), ("outage", None)):
        body = {"provider": "anthropic", "api_key": desk.double.new_key(treatment)}
        answer = (await desk.ask(person, "POST", "/test", body)).json()
        assert answer["is_valid"] is is_valid
    assert (await desk.ask(person, "GET")).json() == []
    assert (await desk.ask(person, "GET", "/uses")).json()["uses"] == []


async def test_every_provider_takes_a_key(desk: Desk, new_person: NewPerson) -> None:
    person = new_person()
    for slug in PATHS:
        assert (await desk.add(person, provider=slug))["is_valid"] is True
    desk.double.keys[EMAIL] = "good"
    vertex = await desk.add(person, provider="google-vertex", api_key=service_account(EMAIL))
    # The end of a file tells nobody anything.
    assert (vertex["is_valid"], vertex["last_four"]) == (True, "")
    listed = (await desk.ask(person, "GET")).json()
    assert len(listed) == len(PATHS) + 1
    assert [one["provider"] for one in listed] == sorted(one["provider"] for one in listed)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"provider": "nobody"}, 404, "provider_not_found"),
        ({"provider": "quernel"}, 404, "provider_not_found"),
        ({"provider": "openai-compatible"}, 400, "base_url_required"),
        ({"base_url": "https://example.com/v1"}, 400, "base_url_not_allowed"),
        (
            {"provider": "openai-compatible", "base_url": "https://127.0.0.1/v1"},
            400,
            "url_refused",
        ),
        ({"provider": "openai-compatible", "base_url": "http://a.com"}, 400, "url_refused"),
        ({"name": " x"}, 400, "invalid_argument"),
        ({"priority": 1001}, 400, "invalid_argument"),
        ({"api_key": "a b"}, 400, "invalid_argument"),
        ({"api_key": ""}, 422, "invalid_request"),
        ({"api_key": 7}, 422, "invalid_request"),
        ({"surprise": 1}, 422, "invalid_request"),
    ],
    ids=range(12),
)
async def test_what_is_refused(
    desk: Desk, new_person: NewPerson, body: dict[str, Any], status: int, code: str
) -> None:
    person = new_person()
    whole = {"provider": "openai", "api_key": desk.double.new_key()} | body
    answer = await desk.ask(person, "POST", body=whole)
    refused(answer, status, code)
    assert str(whole["api_key"]) not in answer.text or whole["api_key"] in ("", 7)
    assert (await desk.ask(person, "GET")).json() == []


async def test_checks_are_limited_so_that_nobody_tries_out_keys(
    desk: Desk, new_person: NewPerson
) -> None:
    person = new_person()
    body = {"provider": "openai", "api_key": desk.double.new_key("rejected")}
    answers = [await desk.ask(person, "POST", "/test", body) for _ in range(21)]
    assert [one.status_code for one in answers[:20]] == [200] * 20
    assert refused(answers[20], 429, "rate_limited")["retry_after"] > 0
    assert (await desk.ask(new_person(), "POST", "/test", body)).status_code == 200


async def test_there_is_an_end_to_keys(desk: Desk, new_person: NewPerson) -> None:
    person = new_person()
    first = await desk.add(person)
    desk.rows(
        "insert into public.provider_keys (id, user_id, provider_id, name, last_four)"
        " select gen_random_uuid(), user_id, provider_id, 'x', '' from public.provider_keys,"
        " generate_series(1, 99) where id = %s returning id",
        first["id"],
    )
    body = {"provider": "openai", "api_key": desk.double.new_key()}
    refused(await desk.ask(person, "POST", body=body), 409, "provider_key_limit_reached")
    desk.rows("delete from public.provider_keys where user_id = %s returning id", person.id)


async def test_a_secret_that_was_replaced_meanwhile_is_not_overwritten(
    desk: Desk, new_person: NewPerson
) -> None:
    person = new_person()
    key = await desk.add(person)
    bodies = [{"api_key": desk.double.new_key()} for _ in range(4)]
    answers = await asyncio.gather(
        *(desk.ask(person, "PUT", f"/{key['id']}/secret", body) for body in bodies)
    )
    won = [n for n, answer in enumerate(answers) if answer.status_code == 200]
    assert won
    last = desk.rows(
        "select last_four, secret_version from public.provider_keys where id = %s", key["id"]
    )
    assert last[0]["secret_version"] == 1 + len(won)
    assert last[0]["last_four"] in [bodies[n]["api_key"][-4:] for n in won]
    for answer in answers:
        if answer.status_code != 200:
            refused(answer, 409, "provider_key_changed")


async def test_a_check_of_an_older_secret_says_nothing(desk: Desk, new_person: NewPerson) -> None:
    person = new_person()
    key = await desk.add(person)
    desk.rows(
        "select backend.provider_key_checked(%s, 0, 'rejected') as it",
        key["id"],
    )
    assert (await desk.ask(person, "GET", f"/{key['id']}")).json()["is_valid"] is True


# An organization's -------------------------------------------------------------------------------


async def test_admins_manage_members_see_and_nobody_else_does(
    desk: Desk, new_team: Callable[[], Team], new_person: NewPerson
) -> None:
    team, stranger = new_team(), new_person()
    key = await desk.add(team.admin, organization=team.slug)
    assert (key["organization_id"], key["user_id"]) == (team.id, None)
    for person in (team.owner, team.admin, team.member):
        listed = (await desk.ask(person, "GET", organization=team.id)).json()
        assert [one["id"] for one in listed] == [key["id"]]
        assert (await desk.ask(person, "GET", f"/{key['id']}")).status_code == 200
    # Not among anybody's own.
    assert (await desk.ask(team.admin, "GET")).json() == []
    path, body = f"/{key['id']}", {"api_key": desk.double.new_key()}
    calls: list[tuple[str, str, Any]] = [
        ("PATCH", path, {"name": "x"}),
        ("PUT", f"{path}/secret", body),
        ("POST", f"{path}/validate", None),
        ("DELETE", path, None),
    ]
    for method, where, what in calls:
        refused(await desk.ask(team.member, method, where, what), 403, "not_an_admin")
        refused(await desk.ask(stranger, method, where, what), 404, "provider_key_not_found")
    refused(await desk.ask(stranger, "GET", path), 404, "provider_key_not_found")
    refused(await desk.ask(stranger, "GET", organization=team.id), 403, "not_a_member")
    new = {"provider": "openai", "organization": team.id} | body
    refused(await desk.ask(team.member, "POST", body=new), 403, "not_an_admin")
    refused(await desk.ask(stranger, "POST", body=new), 403, "not_a_member")
    refused(await desk.ask(team.member, "GET", "/uses", organization=team.id), 403, "not_an_admin")
    uses = (await desk.ask(team.owner, "GET", "/uses", organization=team.id)).json()["uses"]
    assert [(use["user_id"], use["outcome"]) for use in uses] == [(team.admin.id, "completed")]
    for method, where, what in calls:
        assert (await desk.ask(team.owner, method, where, what)).status_code == 200


async def test_keys_go_with_their_owner(
    desk: Desk, new_team: Callable[[], Team], new_person: NewPerson
) -> None:
    person, team = new_person(), new_team()
    await desk.add(person)
    of_team = await desk.add(team.admin, organization=team.id)
    desk.rows("delete from auth.users where id = %s returning id", person.id)
    assert desk.rows("select 1 from public.provider_keys where user_id = %s", person.id) == []
    assert desk.rows("select 1 from public.provider_key_uses where owner_id = %s", person.id) == []
    # Whoever brought an organization's key is forgotten, and the key stays.
    desk.rows("delete from auth.users where id = %s returning id", team.admin.id)
    [row] = desk.rows("select created_by from public.provider_keys where id = %s", of_team["id"])
    assert row["created_by"] is None
    assert (await desk.ask(team.owner, "GET", f"/{of_team['id']}")).status_code == 200


async def test_a_suspended_person_does_nothing(desk: Desk, new_person: NewPerson) -> None:
    person = new_person()
    key = await desk.add(person)
    desk.rows("update public.profiles set is_active = false where id = %s returning id", person.id)
    for method, where in (("GET", ""), ("GET", f"/{key['id']}"), ("DELETE", f"/{key['id']}")):
        assert (await desk.ask(person, method, where)).status_code in (403, 404)
    assert len(desk.rows("select 1 from public.provider_keys where id = %s", key["id"])) == 1


# Row level security ------------------------------------------------------------------------------


async def test_not_even_its_owner_selects_a_ciphertext(
    desk: Desk, new_person: NewPerson, new_team: Callable[[], Team]
) -> None:
    person, team = new_person(), new_team()
    key = await desk.add(person)
    await desk.add(team.admin, organization=team.id)
    for reader in (person, team.owner, team.admin, team.member):
        with reader.transaction() as connection:
            for query in (
                "select * from private.provider_key_secrets",
                "select ciphertext from private.provider_key_secrets",
                "select private.sealed_provider_key(k, 'openai') from public.provider_keys as k",
                f"select backend.provider_key_idle('{key['id']}')",
            ):
                with (
                    pytest.raises(psycopg.errors.InsufficientPrivilege),
                    connection.transaction(),
                ):
                    connection.execute(query)  # type: ignore[call-overload]


async def test_clients_rename_and_delete_their_own_and_nothing_else(
    desk: Desk, new_person: NewPerson, new_team: Callable[[], Team]
) -> None:
    person, other, team = new_person(), new_person(), new_team()
    key = await desk.add(person)
    shared = await desk.add(team.admin, organization=team.id)

    def run(who: Person, query: str, *values: Any) -> int:
        return who.execute(query, *values)

    rename = "update public.provider_keys set name = 'x', priority = 3 where id = %s"
    assert run(person, rename, key["id"]) == 1
    assert run(other, rename, key["id"]) == 0
    assert run(team.member, rename, shared["id"]) == 0
    assert run(team.admin, rename, shared["id"]) == 1
    for column in ("is_valid = true", "base_url = 'https://evil.app'", "secret_version = 9",
                   "user_id = gen_random_uuid()", "last_four = 'abcd'"):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(person, rename.replace("name = 'x', priority = 3", column), key["id"])
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(person, "insert into public.provider_keys (id) values (gen_random_uuid())")
    assert run(other, "delete from public.provider_keys where id = %s", key["id"]) == 0
    assert run(person, "delete from public.provider_keys where id = %s", key["id"]) == 1
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(person, "delete from public.provider_key_uses")


# Alerts and idle keys ----------------------------------------------------------------------------


async def test_the_owner_is_told_once_of_a_key_that_is_not_accepted(
    desk: Desk, new_person: NewPerson
) -> None:
    person = new_person()
    key = await desk.add(person)
    desk.double.keys[key["secret"]] = "rejected"
    for _ in range(3):
        validated = (await desk.ask(person, "POST", f"/{key['id']}/validate")).json()
        assert (validated["is_valid"], validated["invalid_reason"]) == (False, "rejected")
    query = "select type, message, metadata from public.billing_alerts where user_id = %s"
    [alert] = desk.rows(query, person.id)
    assert alert["type"] == "provider_key_invalid"
    assert "OpenAI" in alert["message"]
    assert key["last_four"] in alert["message"]
    assert key["secret"] not in json.dumps(alert)
    # A new secret is another matter.
    new = desk.double.new_key()
    await desk.ask(person, "PUT", f"/{key['id']}/secret", {"api_key": new})
    desk.double.keys[new] = "rejected"
    await desk.ask(person, "POST", f"/{key['id']}/validate")
    assert len(desk.rows(query, person.id)) == 2


def idle(desk: Desk, key_id: str) -> None:
    desk.rows(
        "update public.provider_keys set last_validated_at = now() - interval '8 days',"
        " created_at = now() - interval '9 days' where id = %s returning id",
        key_id,
    )


async def test_idle_keys_are_checked_again(desk: Desk, new_person: NewPerson) -> None:
    person = new_person()
    old, fresh = await desk.add(person), await desk.add(person)
    idle(desk, old["id"])
    for _ in range(2):  # twice is once
        desk.rows("select backend.provider_keys_revalidate(5000) as it")
    query = "select payload from private.tasks where kind = 'provider_key_check' and key = any (%s)"
    tasks = desk.rows(query, [old["id"], fresh["id"]])
    assert [task["payload"] for task in tasks] == [{"provider_key_id": old["id"]}]

    desk.double.keys[old["secret"]] = "rejected"
    database = await Database.open(desk.settings)
    try:
        context = TaskContext(desk.settings, database, uuid.uuid4(), 1, open_vault(desk.settings))
        result = await check_idle_key({"provider_key_id": old["id"]}, context)
        assert result == {"result": "rejected"}
        desk.double.keys[fresh["secret"]] = "outage"
        with pytest.raises(TaskRetryError):
            await check_idle_key({"provider_key_id": fresh["id"]}, context)
        gone = await check_idle_key({"provider_key_id": str(uuid.uuid4())}, context)
        assert gone == {"result": "gone"}
        with pytest.raises(TaskRejectedError):
            await check_idle_key({}, context)
        with pytest.raises(TaskRejectedError, match="no master keys"):
            await check_idle_key({"provider_key_id": old["id"]}, replace(context, vault=None))
    finally:
        await database.aclose()
    assert (await desk.ask(person, "GET", f"/{old['id']}")).json()["is_valid"] is False
    assert (await desk.ask(person, "GET", f"/{fresh['id']}")).json()["is_valid"] is True
    uses = (await desk.ask(person, "GET", f"/{old['id']}/uses")).json()["uses"]
    assert (uses[0]["outcome"], uses[0]["user_id"]) == ("rejected", None)
    # One that is known to be rejected is not asked about again.
    desk.rows("delete from private.tasks where key = %s returning id", old["id"])
    idle(desk, old["id"])
    desk.rows("select backend.provider_keys_revalidate(5000) as it")
    assert desk.rows(query, [old["id"]]) == []


async def test_uses_are_forgotten_in_time(desk: Desk, new_person: NewPerson) -> None:
    person = new_person()
    key = await desk.add(person)
    desk.rows(
        "update public.provider_key_uses set created_at = now() - interval '401 days'"
        " where provider_key_id = %s returning id",
        key["id"],
    )
    await desk.ask(person, "POST", f"/{key['id']}/validate")
    for _ in range(2):
        desk.rows("select backend.provider_key_uses_purge(50000) as it")
    assert len((await desk.ask(person, "GET", f"/{key['id']}/uses")).json()["uses"]) == 1


async def test_pages_of_uses(desk: Desk, new_person: NewPerson) -> None:
    person = new_person()
    key = await desk.add(person)
    for _ in range(4):
        await desk.ask(person, "POST", f"/{key['id']}/validate")
    seen, after = [], None
    while True:
        page = (
            await desk.ask(
                person, "GET", "/uses", limit=2, **({} if after is None else {"after": after})
            )
        ).json()
        seen += [use["id"] for use in page["uses"]]
        after = page["next"]
        if after is None:
            break
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == 5


# The canary --------------------------------------------------------------------------------------


def dumped(stack: Stack) -> bytes:
    """The whole database, as pg_dump writes it."""
    command = [wheel_binaries() / "pg_dump", "--dbname", stack.admin_dsn]
    return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout


async def test_no_plaintext_anywhere(
    desk: Desk,
    new_person: NewPerson,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Keys that are added, refused, replaced, checked, used wrongly and broken leave no trace."""
    caplog.set_level(logging.DEBUG)
    person = new_person()
    canaries = [CANARY.format(number) for number in range(8)]
    for canary, treatment in zip(
        canaries,
        ["good", "good", "rejected", "out of quota", "outage", "limited", "good", "good"],
        strict=True,
    ):
        desk.double.keys[canary] = treatment
    answers = [
        await desk.ask(person, "POST", body={"provider": slug, "api_key": canary})
        for slug, canary in [("anthropic", canaries[0]), *(("openai", one) for one in canaries)]
    ]
    answers += [
        await desk.ask(person, "POST", body={"provider": "openai", "api_key": [canaries[0]]}),
        await desk.ask(person, "POST", body={"provider": canaries[0], "api_key": canaries[0]}),
        await desk.ask(person, "POST", body={"provider": "openai", "api_key": canaries[0] + " "}),
    ]
    key_id = answers[0].json()["id"]
    answers.append(await desk.ask(person, "PUT", f"/{key_id}/secret", {"api_key": canaries[6]}))
    answers.append(await desk.ask(person, "PUT", f"/{key_id}/secret", {"api_key": canaries[2]}))
    answers.append(await desk.ask(person, "POST", f"/{key_id}/validate"))
    broken = answers[1].json()["id"]
    desk.rows(
        "update private.provider_key_secrets set kid = 'gone' where provider_key_id = %s"
        " returning kid",
        broken,
    )
    answers.append(await desk.ask(person, "POST", f"/{broken}/validate"))
    assert answers[-1].status_code == 500
    answers.append(await desk.ask(person, "GET"))
    answers.append(await desk.ask(person, "GET", "/uses"))

    told = "".join(answer.text + str(answer.headers) for answer in answers)
    logged = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    printed = "".join(capfd.readouterr())
    # Everything there is in the database: rows of every table, function bodies, settings.
    dump = await asyncio.to_thread(dumped, desk.stack)
    assert b"provider_key_secrets" in dump
    for canary in canaries:
        body = canary.removeprefix("sk-")
        assert body not in told
        assert body not in logged
        assert body not in printed
        assert body.encode() not in dump
        assert body.encode().hex().encode() not in dump


async def test_a_failure_shows_no_key_in_its_frames(desk: Desk, new_person: NewPerson) -> None:
    """As a tracer would record it: the exception with the variables of every frame of ours."""
    canary = CANARY.format("frames")
    person = new_person()

    class Broken:
        async def check(self, *_: object) -> Any:
            raise RuntimeError("a defect")

    database = await Database.open(desk.settings)
    safe_client = SafeClient()
    service = ProviderKeyService(database, vault_of(desk.settings), Broken(), safe_client)
    request = KeyRequest.model_validate({"provider": "openai", "api_key": canary})
    try:
        with pytest.raises(RuntimeError) as caught:
            await service.add(uuid.UUID(person.id), request)
    finally:
        await safe_client.aclose()
        await database.aclose()
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = "".join(str(frame.locals) for frame in shown.stack if "/functions/" in frame.filename)
    assert "provider='openai'" in ours
    assert canary not in ours
    assert canary not in repr(request) + str(request) + request.model_dump_json()


async def test_without_master_keys_there_are_no_keys(stack: Stack, new_person: NewPerson) -> None:
    app = create_app(settings_of(stack, master_keys={}, master_key_current=None))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://quernel.test"
        ) as http,
    ):
        claims = {
            "sub": new_person().id,
            "role": "authenticated",
            "aud": "authenticated",
            "exp": int(time.time()) + 60,
            "iat": int(time.time()),
            "iss": f"{stack.supabase_url}/auth/v1",
        }
        token = jwt.encode(claims, stack.keys.jwt_secret, algorithm="HS256")
        answer = await http.get("/provider-keys", headers={"Authorization": f"Bearer {token}"})
    refused(answer, 503, "provider_keys_not_configured")
