"""The door to the database: both transports give the same results and the same errors."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg
import pytest
from aiohttp import web
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from functions.core import database as module
from functions.core.database import Database
from functions.core.database_errors import DatabaseError
from functions.core.database_transport import Call
from functions.core.errors import OperatorError, QuernelError
from functions.core.settings import Settings, SettingsError
from local.stack import Stack
from tests.conftest import NewUser
from tests.support.http_server import serve

pytestmark = pytest.mark.anyio

KEY = "sb_secret_" + "0123456789abcdefghijkl"


async def failure(database: Database, function: str, **arguments: Any) -> QuernelError:
    with pytest.raises(QuernelError) as caught:
        await database.rpc(function, **arguments)
    # The cause stays in the log.
    assert caught.value.__cause__ is None
    return caught.value


# Against the real database, over both transports -------------------------------------------------


@pytest.fixture(params=["rest", "direct"])
async def database(request: pytest.FixtureRequest, stack: Stack) -> AsyncIterator[Database]:
    direct = stack.functions_dsn if request.param == "direct" else None
    opened = await Database.open(
        Settings(
            supabase_url=stack.supabase_url,
            supabase_secret_key=stack.keys.secret_key,
            database_url=direct,
        )
    )
    yield opened
    await opened.aclose()


async def test_business_errors_arrive_with_code_status_and_facts(database: Database) -> None:
    error = await failure(
        database,
        "chat_quote",
        p_user_id=uuid4(),
        p_model="no-such-model",
        p_prompt_tokens=1,
    )
    assert error.status in (403, 404)
    assert error.code in ("model_not_found", "account_suspended")
    assert "code" not in error.facts


async def test_facts_of_an_error_keep_decimals_exact(database: Database, new_user: NewUser) -> None:
    error = await failure(
        database,
        "credit_hold",
        p_user_id=new_user().id,
        p_organization_id=None,
        p_amount=Decimal("99999999.000001"),
        p_idempotency_key=str(uuid4()),
        p_action="test",
    )
    assert (error.status, error.code) == (402, "insufficient_credits")
    assert Decimal(error.facts["required"]) == Decimal("99999999.000001")


async def test_results_keep_decimals_and_objects(database: Database, new_user: NewUser) -> None:
    quote = await database.rpc(
        "chat_quote",
        p_user_id=UUID(new_user().id),
        p_model="Qwen2.5-32B-Instruct-AWQ",
        p_prompt_tokens=7,
        p_max_tokens=11,
    )
    assert quote["prompt_tokens"] == 7
    assert quote["affordable"] is True
    assert isinstance(quote["credits_max"], Decimal)
    assert quote["credits_max"] == Decimal("0.0024")


async def test_arrays_are_results_too(database: Database, new_user: NewUser) -> None:
    models = await database.rpc("chat_models", p_user_id=new_user().id)
    assert "Qwen2.5-32B-Instruct-AWQ" in [model["id"] for model in models]


async def test_a_function_without_parameters(database: Database) -> None:
    assert await database.rpc("ready") == {"ready": True}


@pytest.mark.parametrize("text", ["a\x00b", "\x00", "\ud800"])
async def test_text_that_cannot_be_stored_is_refused_before_the_call(
    database: Database, text: str
) -> None:
    for arguments in ({"p_model": text}, {"p_model": {"deep": [text]}}, {"p_model": {text: 1}}):
        error = await failure(database, "chat_quote", p_user_id=uuid4(), **arguments)
        assert (error.status, error.code) == (400, "invalid_text")


async def test_a_backslash_before_u0000_is_ordinary_text(database: Database) -> None:
    error = await failure(
        database, "chat_quote", p_user_id=uuid4(), p_model="\\u0000", p_prompt_tokens=1
    )
    assert error.code in ("model_not_found", "account_suspended")


async def test_a_function_that_does_not_exist_is_our_fault(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    error = await failure(database, "no_such_function", p_secret="s3cr3t")
    assert (error.status, error.code) == (500, "internal_error")
    assert "no_such_function" not in error.message
    assert _logged(caplog)["rpc"] == "no_such_function"
    assert "s3cr3t" not in str([record.__dict__ for record in caplog.records])


async def test_a_parameter_that_does_not_exist_is_our_fault(database: Database) -> None:
    error = await failure(database, "ready", p_nonsense=1)
    assert (error.status, error.code) == (500, "internal_error")


@pytest.mark.parametrize(
    ("function", "parameter"),
    [
        ("ready; drop table x", "p_a"),
        ('ready"', "p_a"),
        ("../auth", "p_a"),
        ("Ready", "p_a"),
        ("", "p_a"),
        ("ready", "a"),
        ("ready", 'p_a"'),
        ("ready", "p_a => 1, p_b"),
    ],
)
async def test_names_are_checked(database: Database, function: str, parameter: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        await database.rpc(function, **{parameter: 1})


async def test_only_the_service_may_call(stack: Stack) -> None:
    opened = await Database.open(
        Settings(supabase_url=stack.supabase_url, supabase_secret_key=stack.keys.publishable_key)
    )
    error = await failure(opened, "ready")
    await opened.aclose()
    assert (error.status, error.code) == (500, "internal_error")


async def test_fifty_calls_at_once(database: Database) -> None:
    answers = await asyncio.gather(*(database.rpc("ready") for _ in range(50)))
    assert answers == [{"ready": True}] * 50


async def test_neither_transport_is_configured() -> None:
    with pytest.raises(SettingsError, match="QUERNEL_SUPABASE_SECRET_KEY"):
        await Database.open(Settings())


@pytest.mark.parametrize("settings", [{"supabase_url": "http://127.0.0.1:1"}, {"database_url": ""}])
async def test_unreachable(settings: dict[str, str]) -> None:
    if "database_url" in settings:
        settings = {"database_url": "postgresql://q@127.0.0.1:1/x"}
    opened = await Database.open(
        Settings(supabase_secret_key=KEY, database_timeout_seconds=0.3, **settings)
    )
    error = await failure(opened, "ready")
    await opened.aclose()
    assert error.status == 503
    assert error.code in ("database_unavailable", "database_timeout")
    assert error.retry_after


# The direct transport, on a database of its own with functions that misbehave ---------------------

MISBEHAVING = """
create schema backend;
create schema private;
create sequence private.attempts;
create function backend.types(
  p_id uuid, p_names text[], p_data jsonb, p_amount numeric, p_at timestamptz, p_text text,
  p_number int default 42
) returns jsonb language sql as $$
  select jsonb_build_object(
    'id', p_id, 'names', p_names, 'data', p_data, 'amount', p_amount, 'at', p_at,
    'text', p_text, 'number', p_number, 'json_type', jsonb_typeof(p_data))
$$;
create function backend.fail(p_state text, p_times int default 1000) returns jsonb
language plpgsql as $$
begin
  if nextval('private.attempts') <= p_times then
    raise exception 'message about "s3cr3t"' using errcode = p_state, detail = 's3cr3t';
  end if;
  return jsonb_build_object('attempts', (select last_value from private.attempts));
end $$;
create function backend.sleep(p_seconds float8) returns jsonb
language sql as $$ select to_jsonb(pg_sleep(p_seconds)::text) $$;
create function backend.pid() returns jsonb language sql as $$ select to_jsonb(pg_backend_pid()) $$;
create function backend.session() returns jsonb language sql as $$
  select jsonb_build_object('prepared', (select count(*) from pg_prepared_statements))
$$;
create function backend.changing(p_a int) returns jsonb language sql as $$ select to_jsonb(1) $$;
"""


@pytest.fixture(scope="module")
def misbehaving_dsn(stack: Stack) -> Iterator[str]:
    name = f"core_{uuid4().hex[:12]}"
    with psycopg.connect(stack.admin_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    dsn = make_conninfo(**(conninfo_to_dict(stack.admin_dsn) | {"dbname": name}))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(MISBEHAVING)
    yield dsn
    with psycopg.connect(stack.admin_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
async def misbehaving(misbehaving_dsn: str) -> AsyncIterator[Database]:
    with psycopg.connect(misbehaving_dsn, autocommit=True) as connection:
        connection.execute("alter sequence private.attempts restart")
    opened = await Database.open(
        Settings(
            database_url=misbehaving_dsn, database_timeout_seconds=2, database_max_connections=2
        )
    )
    yield opened
    await opened.aclose()


async def test_arguments_take_the_types_of_the_function(misbehaving: Database) -> None:
    result = await misbehaving.rpc(
        "types",
        p_id=UUID(int=1),
        p_names=["a", 'b "c"', "d,e", "{f}"],
        p_data={"nested": [1, 2.5, None, "é\\u0000"]},
        p_amount=Decimal("12345678901234.123456"),
        p_at="2026-01-02T03:04:05+00:00",
        p_text="'; drop table x; -- 😀",
    )
    assert result == {
        "id": str(UUID(int=1)),
        "names": ["a", 'b "c"', "d,e", "{f}"],
        "data": {"nested": [1, Decimal("2.5"), None, "é\\u0000"]},
        "amount": Decimal("12345678901234.123456"),
        "at": "2026-01-02T03:04:05+00:00",
        "text": "'; drop table x; -- 😀",
        "number": 42,
        "json_type": "object",
    }


async def test_a_string_given_for_json_stays_a_string(misbehaving: Database) -> None:
    nothing = dict.fromkeys(("p_id", "p_names", "p_amount", "p_at", "p_text"))
    assert (await misbehaving.rpc("types", p_data='{"a":1}', **nothing))["json_type"] == "string"


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_what_was_certainly_rolled_back_runs_again(misbehaving: Database, state: str) -> None:
    assert await misbehaving.rpc("fail", p_state=state, p_times=2) == {"attempts": 3}


async def test_but_not_for_ever(misbehaving: Database, misbehaving_dsn: str) -> None:
    error = await failure(misbehaving, "fail", p_state="40P01")
    assert (error.status, error.code) == (503, "database_unavailable")
    with psycopg.connect(misbehaving_dsn) as connection:
        attempts = connection.execute("select last_value from private.attempts").fetchone()
    assert attempts == (module.MAX_ATTEMPTS,)


@pytest.mark.parametrize(
    ("state", "status", "code"),
    [
        ("23505", 500, "internal_error"),
        ("22P02", 500, "internal_error"),
        ("42501", 500, "internal_error"),
        ("P0001", 500, "internal_error"),
        ("XX000", 500, "internal_error"),
        ("22021", 400, "invalid_text"),
        ("57014", 503, "database_timeout"),
        ("55P03", 503, "database_timeout"),
        ("53300", 503, "database_unavailable"),
        ("57P03", 503, "database_unavailable"),
        ("08006", 503, "database_unavailable"),
        ("PT418", 418, "refused"),
    ],
)
async def test_errors_of_postgres(
    misbehaving: Database, misbehaving_dsn: str, state: str, status: int, code: str
) -> None:
    error = await failure(misbehaving, "fail", p_state=state)
    assert (error.status, error.code) == (status, code)
    if not state.startswith("PT"):
        assert "s3cr3t" not in f"{error.message}{error.facts}"
    with psycopg.connect(misbehaving_dsn) as connection:
        attempts = connection.execute("select last_value from private.attempts").fetchone()
    assert attempts == (1,), "it must not run twice"


async def test_values_quoted_by_postgres_are_not_logged(
    misbehaving: Database, caplog: pytest.LogCaptureFixture
) -> None:
    nothing = dict.fromkeys(("p_names", "p_amount", "p_at", "p_text", "p_data"))
    await failure(misbehaving, "types", p_id="s3cr3t", **nothing)
    assert _logged(caplog)["sqlstate"] == "22P02"
    assert "s3cr3t" not in str(_fields(caplog))


async def test_a_call_that_takes_too_long_is_cancelled_in_the_database(
    misbehaving: Database, misbehaving_dsn: str
) -> None:
    error = await failure(misbehaving, "sleep", p_seconds=30)
    assert (error.status, error.code) == (503, "database_timeout")
    give_up_at = time.monotonic() + 10
    while _sleeping(misbehaving_dsn):
        assert time.monotonic() < give_up_at, "it still runs"
        await asyncio.sleep(0.02)
    assert await misbehaving.rpc("pid")


def _sleeping(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        (number,) = connection.execute(
            "select count(*) from pg_stat_activity where state = 'active'"
            " and query like '%sleep%' and pid <> pg_backend_pid()"
        ).fetchone()
    return number


async def test_a_cancelled_call_gives_its_connection_back(misbehaving: Database) -> None:
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(misbehaving.rpc("sleep", p_seconds=30), 0.05)
    assert await misbehaving.rpc("pid")


async def test_a_connection_lost_during_a_call_is_an_outage_and_not_repeated(
    misbehaving: Database, misbehaving_dsn: str
) -> None:
    call = asyncio.create_task(failure(misbehaving, "sleep", p_seconds=1.5))
    await asyncio.sleep(0.3)
    _kill(misbehaving_dsn)
    error = await call
    assert (error.status, error.code) == (503, "database_unavailable")
    await asyncio.sleep(0.1)
    assert await misbehaving.rpc("pid")


async def test_connections_lost_while_idle_are_replaced_without_an_error(
    misbehaving: Database, misbehaving_dsn: str
) -> None:
    before = {await misbehaving.rpc("pid") for _ in range(4)}
    _kill(misbehaving_dsn)
    await asyncio.sleep(0.1)
    after = {await misbehaving.rpc("pid") for _ in range(4)}
    assert not before & after


def _kill(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'quernel-functions' and datname = current_database()"
        )


async def test_nothing_is_kept_in_the_session(misbehaving: Database, misbehaving_dsn: str) -> None:
    for _ in range(10):
        assert await misbehaving.rpc("session") == {"prepared": 0}
        with psycopg.connect(misbehaving_dsn) as connection:
            states = connection.execute(
                "select distinct state from pg_stat_activity"
                " where application_name = 'quernel-functions' and datname = current_database()"
            ).fetchall()
        assert states == [("idle",)]


async def test_a_changed_signature_is_noticed(misbehaving: Database, misbehaving_dsn: str) -> None:
    assert await misbehaving.rpc("changing", p_a=1) == 1
    with psycopg.connect(misbehaving_dsn, autocommit=True) as connection:
        connection.execute("drop function backend.changing(int)")
        connection.execute(
            "create function backend.changing(p_a text) returns jsonb"
            " language sql as $$ select to_jsonb(p_a) $$"
        )
    await misbehaving.rpc("changing", p_a="1")
    assert await misbehaving.rpc("changing", p_a="new") == "new"


# The shapes of PostgREST --------------------------------------------------------------------------


class Answer(NamedTuple):
    """One answer of PostgREST, or of what stands before it."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


@asynccontextmanager
async def rest(
    *answers: Answer, seen: list[tuple[web.BaseRequest, bytes]] | None = None
) -> AsyncIterator[Database]:
    """A database behind a server that gives these answers in turn, the last of them for ever."""
    left = list(answers)

    async def handler(request: web.BaseRequest) -> web.Response:
        if seen is not None:
            seen.append((request, await request.read()))
        answer = left.pop(0) if len(left) > 1 else left[0]
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    async with serve(handler) as url, rest_at(url) as database:
        yield database


@asynccontextmanager
async def rest_at(url: str, timeout_seconds: float = 5) -> AsyncIterator[Database]:
    database = await Database.open(
        Settings(
            supabase_url=url,
            supabase_secret_key=KEY,
            database_url=None,
            database_timeout_seconds=timeout_seconds,
        )
    )
    try:
        yield database
    finally:
        await database.aclose()


async def test_a_call_is_one_post_with_the_secret_key() -> None:
    seen: list[tuple[web.BaseRequest, bytes]] = []
    answer = Answer(200, b'{"balance": 100.000001, "n": 3}')
    async with rest(answer, seen=seen) as database:
        result = await database.rpc("credit_balance", p_user_id=UUID(int=1), p_amount=Decimal(2))
    assert result == {"balance": Decimal("100.000001"), "n": 3}
    [(request, body)] = seen
    assert request.method == "POST"
    assert request.path_qs == "/rest/v1/rpc/credit_balance"
    assert request.headers["content-profile"] == "backend"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == "quernel-functions"
    assert request.headers["apikey"] == KEY
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert json.loads(body) == {"p_user_id": str(UUID(int=1)), "p_amount": "2"}


async def test_calls_share_a_connection_and_keep_no_cookies() -> None:
    seen: list[tuple[web.BaseRequest, bytes]] = []
    peers = []
    async with rest(Answer(200, b"1", {"set-cookie": "a=b"}), seen=seen) as database:
        for _ in range(3):
            await database.rpc("x")
            transport = seen[-1][0].transport
            assert transport is not None
            peers.append(transport.get_extra_info("peername"))
    assert len(set(peers)) == 1
    assert all("cookie" not in request.headers for request, _ in seen)


def postgrest(status: int, code: str, message: str = "", details: str | None = None) -> Answer:
    body = {"code": code, "message": message, "details": details, "hint": None}
    return Answer(status, json.dumps(body).encode())


async def test_business_error_of_postgrest() -> None:
    details = '{"code": "rate_limited", "retry_after": 12.5}'
    async with rest(postgrest(429, "PT429", "Slow down.", details)) as database:
        error = await failure(database, "x")
    assert (error.status, error.code, error.message) == (429, "rate_limited", "Slow down.")
    assert error.retry_after == 12.5


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (postgrest(404, "PGRST202", "Could not find the function"), 500, "internal_error"),
        (postgrest(401, "PGRST301", "JWT invalid"), 500, "internal_error"),
        (postgrest(403, "42501", "permission denied"), 500, "internal_error"),
        (postgrest(409, "23505", "duplicate key"), 500, "internal_error"),
        (postgrest(500, "57014", "canceling statement"), 503, "database_timeout"),
        (postgrest(503, "PGRST002", "no schema cache"), 503, "database_unavailable"),
        (postgrest(504, "PGRST003", "no connection"), 503, "database_unavailable"),
        (postgrest(503, "57P03", "starting up"), 503, "database_unavailable"),
        (Answer(502, b"<html>bad gateway"), 503, "database_unavailable"),
        (Answer(429, b"slow down"), 503, "database_unavailable"),
        (Answer(401, b'{"message": "no key"}'), 500, "internal_error"),
        (Answer(302, headers={"location": "/"}), 500, "internal_error"),
        (Answer(200, b"<html>"), 503, "database_unavailable"),
        (Answer(200, b"not gzip", {"content-encoding": "gzip"}), 503, "database_unavailable"),
    ],
)
async def test_other_errors_of_postgrest(answer: Answer, status: int, code: str) -> None:
    async with rest(answer) as database:
        error = await failure(database, "x")
    assert (error.status, error.code) == (status, code)
    assert (error.retry_after is not None) == (status == 503)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(401, b'{"message": "Invalid API key"}'),
        Answer(403, b"forbidden"),
        postgrest(401, "PGRST301", "JWT invalid"),
        postgrest(401, "42501", "permission denied for schema backend"),  # the publishable key
    ],
)
async def test_a_refused_secret_key_is_told_to_the_operator_only(
    answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    async with rest(answer) as database:
        error = await failure(database, "x")
    assert isinstance(error, OperatorError)
    assert error.operator_code == "secret_key_refused"
    assert (error.status, error.code, error.facts) == (500, "internal_error", {})
    assert "key" not in error.message
    assert _logged(caplog)["sqlstate"] == "key_refused"


@pytest.mark.parametrize(
    "answer",
    [
        postgrest(403, "42501", "permission denied for table x"),
        postgrest(401, "PT401", "Sign in again."),
        Answer(404, b"nothing here"),
    ],
)
async def test_other_refusals_are_not_about_the_key(answer: Answer) -> None:
    async with rest(answer) as database:
        assert not isinstance(await failure(database, "x"), OperatorError)


async def test_retry_after_of_the_gateway_is_passed_on() -> None:
    async with rest(Answer(503, headers={"retry-after": "17"})) as database:
        assert (await failure(database, "x")).retry_after == 17


async def test_an_empty_answer_is_nothing() -> None:
    async with rest(Answer(204)) as database:
        assert await database.rpc("x") is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "database_unavailable"),
        (b"SSH-2.0-hello\r\n\r\n", "database_unavailable"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "database_unavailable"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz", "database_unavailable"),
        (None, "database_timeout"),
    ],
    ids=["closed", "not HTTP", "cut off", "bad chunk", "silent"],
)
async def test_transport_failures_are_not_repeated(text: bytes | None, code: str) -> None:
    calls = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        await reader.readuntil(b"\r\n\r\n")
        calls += 1
        if text is None:
            await reader.read()  # until the client has gone
            await reader.read()
        else:
            writer.write(text)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        async with rest_at(f"http://{host}:{port}", timeout_seconds=1) as database:
            error = await failure(database, "x")
    assert (error.status, error.code, calls) == (503, code, 1)


async def test_nobody_listens() -> None:
    async with rest(Answer(204)) as database:
        await database.rpc("x")
    url = database._transport._base_url.removesuffix("/rest/v1/rpc/")  # type: ignore[attr-defined]
    async with rest_at(url) as database:
        error = await failure(database, "x")
    assert (error.status, error.code) == (503, "database_unavailable")


async def test_postgrest_deadlocks_run_again() -> None:
    seen: list[tuple[web.BaseRequest, bytes]] = []
    answers = (postgrest(500, "40P01"), postgrest(500, "40001"), Answer(200))
    async with rest(*answers, seen=seen) as database:
        assert await database.rpc("x") is None
    assert len(seen) == 3


async def test_a_transport_that_hangs_is_given_up() -> None:
    class Hanging:
        async def call(self, call: Call) -> Any:  # noqa: ARG002
            await asyncio.sleep(60)

        async def aclose(self) -> None:
            pass

    assert (await failure(Database(Hanging(), 0.05), "x")).code == "database_timeout"


def test_a_call_has_no_repr_that_shows_arguments() -> None:
    assert "s3cr3t" not in repr(Call("x", ("p_a",), b'{"p_a":"s3cr3t"}'))
    assert "s3cr3t" not in repr(DatabaseError("22P02", "m", "d"))


def _logged(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (fields,) = _fields(caplog)
    return fields


def _fields(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [
        record.fields  # type: ignore[attr-defined]
        for record in caplog.records
        if record.levelno >= logging.WARNING and hasattr(record, "fields")
    ]
