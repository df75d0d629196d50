"""`quernel doctor`: each thing is broken once, on the real stack, and found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiohttp import web
from pydantic import SecretStr

from functions import cli
from functions.core.database import Database
from functions.core.settings import STRIPE_API_VERSION, Settings, get_settings
from functions.cron.jobs import CRON_JOBS
from functions.doctor import database as database_module
from functions.doctor import invariants
from functions.doctor.api import examine_api
from functions.doctor.configuration import examine_settings
from functions.doctor.database import clock_finding, examine_database, seconds_of
from functions.doctor.examination import examine
from functions.doctor.findings import Finding
from functions.doctor.invariants import examine_invariants, examine_proofs
from functions.doctor.payments import PATH, examine_payments
from functions.doctor.work import examine_work
from local import stripe_double
from local.stack import Stack
from tests.chat.conftest import settings_of
from tests.support.http_server import serve

LEFT_BY_OTHERS = ("work", "invariants", "master_keys")
"""What of a run on the tests' stack says nothing about the doctor: areas, and a finding."""


def wrong(found: list[Finding]) -> list[str]:
    """What is not right, by name and state."""
    return [f"{one.name}: {one.state}" for one in found if one.state != "ok"]


def one(found: list[Finding], name: str) -> Finding:
    """What was found of it that is not right, else what was found."""
    named = [finding for finding in found if finding.name == name]
    return next((finding for finding in named if finding.state != "ok"), named[0])


# The database ------------------------------------------------------------------------------------


@contextmanager
def broken(stack: Stack, *statements: str) -> Iterator[dict[str, Any]]:
    """The report of a database to which that was done; nobody else ever sees it."""
    with psycopg.connect(stack.admin_dsn) as connection:
        for statement in statements:
            connection.execute(statement)
        row = connection.execute("select backend.deployment_report()").fetchone()
        assert row is not None
        yield row[0]
        connection.rollback()


def judged(stack: Stack, *statements: str, **changes: Any) -> list[Finding]:
    with broken(stack, *statements) as report:
        settings = Settings(**changes)
        return examine_database(report, settings, datetime.now(UTC))


def test_the_stacks_database_is_right(stack: Stack) -> None:
    assert wrong(judged(stack)) == []


PRODUCTION: dict[str, Any] = {
    "environment": "production",
    "public_url": "https://api.quernel.app",
    "supabase_url": "https://p.supabase.co",
    "supabase_secret_key": "sb_secret_" + "0123456789abcdefghijkl",
}


@pytest.mark.parametrize(
    ("statements", "name", "state", "said"),
    [
        (
            ["grant usage on schema private to anon"],
            "grants",
            "wrong",
            "anon may use schema private",
        ),
        (["grant usage on schema backend to authenticated"], "grants", "wrong", "schema backend"),
        (
            ["grant execute on function backend.ready() to anon"],
            "grants",
            "wrong",
            "backend.ready()",
        ),
        (
            ["grant execute on function private.uuid7() to public"],
            "grants",
            "wrong",
            "anon may execute private.uuid7()",
        ),
        (["grant select on private.tasks to service_role"], "grants", "wrong", "private.tasks"),
        (
            ["create table public.left_open (id uuid)"],
            "row_level_security",
            "wrong",
            "left_open",
        ),
        (["alter role anon set statement_timeout = 0"], "statement_timeout", "wrong", "of anon"),
        (
            ["alter role authenticated in database postgres set statement_timeout = '2h'"],
            "statement_timeout",
            "wrong",
            "after 2h",
        ),
        (
            ["alter role authenticator reset statement_timeout"],
            "statement_timeout",
            "wrong",
            "of service_role end after no time",
        ),
        (
            ["delete from supabase_migrations.schema_migrations where version = '20260101000400'"],
            "migrations",
            "wrong",
            "1 migration of this checkout not applied: 20260101000400",
        ),
        (
            ["insert into supabase_migrations.schema_migrations values ('20990101000000')"],
            "migrations",
            "warning",
            "ahead of this checkout: 20990101000000",
        ),
        (
            ["alter role service_role rename to somebody"],
            "statement_timeout",
            "wrong",
            "no role service_role",
        ),
        (["alter schema storage rename to gone"], "buckets", "wrong", "no Supabase Storage"),
        (
            ["drop schema supabase_migrations cascade"],
            "migrations",
            "unseen",
            "nobody keeps a list",
        ),
        (
            ["update storage.buckets set public = true where id = 'images'"],
            "bucket_images",
            "wrong",
            "everybody reads",
        ),
        (
            ["update storage.buckets set file_size_limit = null where id = 'documents'"],
            "bucket_documents",
            "warning",
            "its limit is none, not 52428800",
        ),
        (
            [
                "set local session_replication_role = replica",
                "update storage.buckets set id = 'gone' where id = 'libraries'",
            ],
            "bucket_libraries",
            "wrong",
            "does not exist",
        ),
        (
            ["update private.settings set value = '\"http://r\"' where name = 'runner_url'"],
            "runner_url",
            "wrong",
            "pg_net is not installed",
        ),
    ],
    ids=str,
)
def test_each_thing_that_is_wrong_with_a_database_is_found(
    stack: Stack, statements: list[str], name: str, state: str, said: str
) -> None:
    found = judged(stack, *statements)
    finding = one(found, name)
    assert (finding.state, finding.mend is not None) == (state, True)
    assert said in finding.message
    assert len(wrong(found)) == 1


def test_without_a_checkout_migrations_are_unseen(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(database_module, "MIGRATIONS", tmp_path)
    assert wrong(judged(stack)) == ["migrations: unseen"]


PG_NET = """
create schema net;
create function net.http_post(text, jsonb, jsonb, jsonb, integer) returns bigint
language sql as 'select 1::bigint'
"""


@pytest.mark.parametrize(
    ("url", "state"), [("null", "warning"), ('"http://r"', "wrong"), ('"https://r"', "ok")]
)
def test_whoever_is_deployed_is_woken_over_tls(stack: Stack, url: str, state: str) -> None:
    update = f"update private.settings set value = '{url}' where name = 'runner_url'"  # noqa: S608
    assert one(judged(stack, PG_NET, update, **PRODUCTION), "runner_url").state == state


@pytest.mark.parametrize(("seconds", "state"), [(1, "ok"), (6, "warning"), (90, "wrong")])
def test_clocks_that_differ_are_found(stack: Stack, seconds: int, state: str) -> None:
    for direction in (1, -1):
        asked_at = datetime.now(UTC) + timedelta(seconds=seconds) * direction
        with broken(stack) as report:
            found = examine_database(report, Settings(), asked_at)
        assert one(found, "database_clock").state == state
        assert clock_finding("x", "y", datetime.now(UTC), asked_at).state == state


@pytest.mark.parametrize(
    ("said", "seconds"), [("8s", 8), ("3000", 3), ("2min", 120), ("0", 0), (None, 0), ("1h", 3600)]
)
def test_timeouts_are_read_as_postgres_writes_them(said: str | None, seconds: float) -> None:
    assert seconds_of(said) == seconds


# Work --------------------------------------------------------------------------------------------


def work(now: datetime, **changes: Any) -> list[Finding]:
    """Everything runs, but for the changes."""
    recently = (now - timedelta(seconds=20)).isoformat()
    jobs = {
        name: {"name": name, "due_at": now.isoformat(), "last_started_at": recently}
        | {"last_error": None}
        for name in CRON_JOBS
    }
    for name, change in changes.pop("jobs", {}).items():
        jobs[name] |= change
    tasks = {"queued": 0, "due": 0, "oldest_due_at": None, "running": 0, "lapsed": 0, "dead": 0}
    report = {"now": now.isoformat(), "last_task_started_at": None} | changes.pop("report", {})
    return examine_work(list(jobs.values()), tasks | changes, report)


def test_work_that_is_done_is_right() -> None:
    assert wrong(work(datetime.now(UTC))) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"jobs": {"expire_lots": {"last_error": "database_timeout: late"}}}, "cron_failed: wrong"),
        ({"jobs": {"expire_lots": {"due_at": "2020-01-01T00:00:00+00:00"}}}, "cron_late: wrong"),
        ({"due": 3, "oldest_due_at": "2020-01-01T00:00:00+00:00"}, "queue: wrong"),
        ({"dead": 1}, "dead_tasks: warning"),
    ],
    ids=["failed", "late", "queue", "dead"],
)
def test_work_that_is_not_done_is_found(changes: dict[str, Any], found: str) -> None:
    assert wrong(work(datetime.now(UTC), **changes)) == [found]


async def _rows(stack: Stack) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    database = await Database.open(settings_of(stack))
    try:
        return (
            await database.rpc("cron_status"),
            await database.rpc("task_status"),
            await database.rpc("deployment_report"),
        )
    finally:
        await database.aclose()


@pytest.mark.anyio
async def test_a_worker_that_is_gone_is_found_by_what_it_left(
    stack: Stack, functions_url: str
) -> None:
    assert functions_url
    jobs, tasks, report = await _rows(stack)
    assert one(examine_work(jobs, tasks, report), "worker").state == "ok"
    later = datetime.now(UTC) + timedelta(hours=1)
    found = examine_work(jobs, tasks, report | {"now": later.isoformat()})
    assert one(found, "worker").state == "wrong"
    assert one(found, "cron_late").state == "wrong"


# Settings ----------------------------------------------------------------------------------------

LIVE = "sk_" + "live_51Habcdefghijklmnopqrstuvwx"
TEST = "sk_" + "test_51Habcdefghijklmnopqrstuvwx"
HOOK = "whsec_" + "0123456789abcdefghijklmn"
SECRET = "sb_secret_" + "0123456789abcdefghijkl"
GOOD: dict[str, Any] = {"supabase_secret_key": SECRET}


@pytest.mark.parametrize(
    ("values", "kids", "found"),
    [
        ({}, {}, "supabase_secret_key: warning"),
        ({"supabase_secret_key": "sb_publishable_" + "a" * 24}, {}, "supabase_secret_key: wrong"),
        ({"supabase_secret_key": "a" * 40}, {}, "supabase_secret_key: wrong"),
        (GOOD | {"supabase_publishable_key": SECRET}, {}, "supabase_secret_key: wrong"),
        (
            GOOD | {"supabase_publishable_key": "sb_secret_" + "b" * 24},
            {},
            "supabase_publishable_key: wrong",
        ),
        (
            GOOD | {"stripe_secret_key": LIVE, "stripe_webhook_secret": HOOK},
            {},
            "stripe_secret_key: wrong",
        ),
        (
            GOOD | {"stripe_secret_key": "my-stripe-key-0123456789", "stripe_webhook_secret": HOOK},
            {},
            "stripe_secret_key: wrong",
        ),
        (GOOD | {"stripe_secret_key": TEST}, {}, "setting_refused: wrong"),
        (
            GOOD | {"stripe_secret_key": TEST, "stripe_webhook_secret": "0123456789" * 4},
            {},
            "setting_refused: wrong",
        ),
        (GOOD, {"2026-01": 3}, "master_keys: wrong"),
        (
            GOOD | {"master_keys": {"a": "c2hvcnQ="}, "master_key_current": "a"},
            {},
            "setting_refused: wrong",
        ),
        (GOOD | {"webhook_signing_key": "c2hvcnQ="}, {}, "setting_refused: wrong"),
        (PRODUCTION, {}, "smtp_url: warning"),
    ],
    ids=[
        "no key", "publishable", "no shape", "same", "handed out", "live locally", "not stripe's",
        "no webhook secret", "not a webhook secret", "lost ring", "short master key",
        "short signing key", "no email",
    ],
)  # fmt: skip
def test_each_secret_that_is_wrong_is_found_and_none_is_shown(
    values: dict[str, Any], kids: dict[str, int], found: str
) -> None:
    findings = examine_settings(Settings(**values), kids)
    assert found in wrong(findings)
    text = json.dumps([one.as_json() for one in findings])
    for name, value in values.items():
        if isinstance(getattr(Settings(**values), name), SecretStr):
            assert str(value) not in text
    assert "c2hvcnQ=" not in text


def test_settings_that_are_right_are_right() -> None:
    values = GOOD | {"stripe_secret_key": TEST, "stripe_webhook_secret": HOOK}
    assert wrong(examine_settings(Settings(**values), {})) == []


# The API -----------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_stacks_api_is_right(stack: Stack, functions_url: str) -> None:
    assert functions_url
    assert wrong(await examine_api(settings_of(stack))) == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"supabase_secret_key": SECRET}, ["service_key: wrong"]),
        ({"supabase_publishable_key": "the secret key"}, ["backend_is_closed: wrong"]),
        ({"supabase_publishable_key": "sb_publishable_" + "x" * 24}, ["auth: wrong"]),
        (
            {"supabase_url": "http://127.0.0.1:9"},
            ["exposed_schemas: wrong", "auth: wrong"],
        ),
        ({"public_url": "http://127.0.0.1:9"}, ["functions: wrong"]),
        ({"supabase_publishable_key": None}, ["auth: unseen"]),
        ({"supabase_jwks_url": "jwks"}, ["signing_keys: wrong"]),
    ],
    ids=["secret key", "swapped", "unknown", "no Supabase", "no app", "no key", "no signing keys"],
)
async def test_each_key_and_address_that_is_wrong_is_found(
    stack: Stack, functions_url: str, change: dict[str, Any], names: list[str]
) -> None:
    assert functions_url
    if change.get("supabase_publishable_key") == "the secret key":
        change = {"supabase_publishable_key": stack.keys.secret_key}
    if change.get("supabase_jwks_url") == "jwks":
        change = {"supabase_jwks_url": f"{stack.supabase_url}/auth/v1/.well-known/jwks.json"}
    found = wrong(await examine_api(settings_of(stack, **change)))
    assert [name for name in found if name in names] == names


@pytest.mark.anyio
async def test_a_backend_that_is_not_exposed_and_an_app_that_is_not_ready_are_found() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/ready":
            return web.json_response({}, status=503)
        if "Content-Profile" in request.headers:
            return web.json_response({"code": "PGRST106"}, status=406)
        return web.json_response({"keys": [1]})

    async with serve(answer) as url:
        settings = Settings(supabase_url=url, public_url=url, **GOOD)
        found = await examine_api(settings)
    assert wrong(found) == ["service_key: wrong", "auth: unseen", "functions: wrong"]
    assert "does not expose backend" in one(found, "service_key").message


@pytest.mark.anyio
async def test_a_database_without_an_api_has_nothing_to_expose(
    stack: Stack, functions_url: str
) -> None:
    settings = Settings(database_url=stack.functions_dsn, public_url=functions_url)
    assert wrong(await examine_api(settings)) == ["exposed_schemas: unseen", "auth: unseen"]


@pytest.mark.anyio
@pytest.mark.parametrize("code", ["PGRST202", None])
async def test_an_exposed_private_schema_is_found(code: str | None) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Content-Profile") == "private":
            return web.json_response({"code": code}, status=404 if code else 200)
        return web.json_response({"keys": [1]})

    async with serve(answer) as url:
        settings = Settings(supabase_url=url, public_url=url, **GOOD)
        found = await examine_api(settings)
    assert one(found, "exposed_schemas").state == "wrong"


# Stripe ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def double() -> Iterator[stripe_double.StripeDouble]:
    with stripe_double.serve() as made:
        made.webhook_url = f"https://api.quernel.app{PATH}"
        yield made


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("endpoint", "found"),
    [
        ({}, []),
        ({"url": "https://elsewhere.app/hook"}, ["webhook_endpoint: wrong"]),
        ({"status": "disabled"}, ["webhook_endpoint: wrong"]),
        ({"api_version": "2020-08-27"}, ["webhook_version: warning"]),
        ({"api_version": None}, ["webhook_version: warning"]),
        ({"enabled_events": ["invoice.paid"]}, ["webhook_events: wrong"]),
        ({"enabled_events": ["invoice.paid", "charge.refunded", "other"]}, []),
    ],
    ids=["right", "none", "disabled", "old", "the account's", "events", "all events"],
)
async def test_a_webhook_endpoint_that_is_wrong_is_found(
    double: stripe_double.StripeDouble, endpoint: dict[str, Any], found: list[str]
) -> None:
    double.endpoints = [endpoint]
    settings = Settings(
        public_url="https://api.quernel.app",
        stripe_secret_key=TEST,
        stripe_webhook_secret=HOOK,
        stripe_api_base=double.url,
    )
    findings = await examine_payments(settings, ["charge.refunded", "invoice.paid"])
    assert wrong(findings) == found
    assert one(findings, "stripe_clock").state == "ok"
    if not endpoint:
        assert one(findings, "webhook_version").message == STRIPE_API_VERSION


@pytest.mark.anyio
async def test_two_endpoints_for_one_address_are_found(
    double: stripe_double.StripeDouble,
) -> None:
    double.endpoints = [{}, {"id": "we_other"}, {"url": "https://elsewhere.app/hook"}]
    settings = Settings(
        public_url="https://api.quernel.app", stripe_secret_key=TEST, stripe_api_base=double.url
    )
    assert wrong(await examine_payments(settings, [])) == ["webhook_endpoint: warning"]


@pytest.mark.anyio
async def test_a_key_that_stripe_does_not_know_is_found(
    double: stripe_double.StripeDouble,
) -> None:
    settings = Settings(stripe_secret_key="rk_other_" + "1" * 20, stripe_api_base=double.url)
    assert wrong(await examine_payments(settings, [])) == ["stripe: wrong"]


# Invariants --------------------------------------------------------------------------------------


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (tmp_path / "001_right.sql").write_text("select 1 where false")
    (tmp_path / "002_broken.sql").write_text("select 'ada@quernel.app' from private.settings")
    monkeypatch.setattr(invariants, "CHECKS", tmp_path)
    return tmp_path


@pytest.mark.anyio
async def test_invariants_are_the_owners_to_see(stack: Stack, checks: Path) -> None:
    assert checks
    assert wrong(await examine_invariants(Settings())) == ["checks: unseen"]
    owner = Settings(owner_database_url=stack.admin_dsn)
    found = await examine_invariants(owner)
    assert wrong(found) == ["002_broken: wrong"]
    assert "ada" not in found[0].message
    other = Settings(owner_database_url=stack.functions_dsn)
    assert wrong(await examine_invariants(other)) == ["002_broken: unseen"]
    (checks / "002_broken.sql").unlink()
    assert wrong(await examine_invariants(owner)) == []
    (checks / "003_writes.sql").write_text("delete from private.settings returning 1")
    assert wrong(await examine_invariants(owner)) == ["checks: wrong"]


def test_what_the_database_proved_of_itself_is_told() -> None:
    now = datetime.now(UTC)
    status: dict[str, Any] = {
        "proved": 2,
        "all": 2,
        "oldest_proof_at": (now - timedelta(hours=30)).isoformat(),
        "wrong": [],
    }
    [finding] = examine_proofs(status, now)
    assert (finding.name, finding.state) == ("proofs", "ok")
    broken = {"name": "101_x", "found": 3, "error": None, "proved_at": "2026-03-01T00:00:00Z"}
    unasked = {"name": "102_y", "found": None, "error": "42P01 no", "proved_at": None}
    found = examine_proofs(status | {"wrong": [broken, unasked]}, now)
    assert wrong(found) == ["101_x: wrong", "102_y: wrong"]
    assert "3 rows" in found[0].message
    assert "42P01" in found[1].message
    for late in (
        {"proved": 1},
        {"oldest_proof_at": None},
        {"oldest_proof_at": (now - timedelta(days=3)).isoformat()},
    ):
        assert wrong(examine_proofs(status | late, now)) == ["proofs: warning"]


@pytest.mark.anyio
async def test_the_checks_of_the_checkout_run(stack: Stack) -> None:
    found = await examine_invariants(Settings(owner_database_url=stack.admin_dsn))
    # Those of the structure hold whatever other tests have in the tables meanwhile.
    assert [one.name for one in found if one.name.startswith("0")] == []


@pytest.mark.anyio
async def test_an_owner_who_cannot_connect_is_found() -> None:
    settings = Settings(owner_database_url="postgresql://nobody:hunter2@127.0.0.1:9/postgres")
    [finding] = await examine_invariants(settings)
    assert (finding.name, finding.state) == ("checks", "wrong")
    assert "hunter2" not in finding.message


# As a whole --------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("transport", ["rest", "direct"])
async def test_the_stack_is_right_over_both_transports(
    stack: Stack, functions_url: str, transport: str
) -> None:
    assert functions_url
    direct = stack.functions_dsn if transport == "direct" else None
    settings = settings_of(stack, database_url=direct)
    database = await Database.open(settings)
    try:
        found = await examine(settings, database)
    finally:
        await database.aclose()
    ours = [one for one in found if not {one.area, one.name} & {*LEFT_BY_OTHERS}]
    assert wrong(ours) == []
    assert {one.area for one in found} == {
        "database", "storage", "clock", "work", "settings", "api", "payments", "invariants",
    }  # fmt: skip


@pytest.mark.anyio
async def test_a_database_that_is_away_is_a_finding_like_the_others(stack: Stack) -> None:
    settings = settings_of(
        stack, database_url="postgresql://q:q@127.0.0.1:9/postgres", database_timeout_seconds=1
    )
    database = await Database.open(settings)
    try:
        found = await examine(settings, database)
    finally:
        await database.aclose()
    assert one(found, "reached").state == "wrong"
    assert one(found, "webhook_endpoint").state == "ok"


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    def start(*arguments: str, **changes: str) -> tuple[int, str]:
        environment = stack.functions_environment() | {
            f"QUERNEL_{name.upper()}": value for name, value in changes.items()
        }
        for name, value in environment.items():
            if name.startswith("QUERNEL_"):
                monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        status = cli.main(["doctor", *arguments])
        return status, capsys.readouterr().out

    yield start
    get_settings.cache_clear()


def test_the_command_says_what_is_wrong_with_status_1(run: Run, functions_url: str) -> None:
    assert functions_url
    status, out = run("--quiet", supabase_publishable_key="sb_publishable_" + "x" * 24)
    assert status == 1
    assert re.search(r"^WRONG     api\.auth: .*\n          -> set the project's", out, re.MULTILINE)
    assert not re.search(r"^ok ", out, re.MULTILINE)


def test_json_has_every_finding(run: Run, functions_url: str, stack: Stack) -> None:
    assert functions_url
    status, out = run("--json")
    result = json.loads(out)
    assert status == (1 if result["wrong"] else 0)
    states = [one["state"] for one in result["findings"]]
    assert result["ok"] == states.count("ok") > 20
    assert set(result["findings"][0]) == {"area", "name", "state", "message", "mend"}
    for secret in (stack.keys.secret_key, stack.keys.jwt_secret, stack.keys.master_key):
        assert secret not in out
