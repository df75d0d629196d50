"""Each mend of the gateway package is still needed.

These look at the package as it comes, on a database of its own. When one fails, a new version of
the package no longer needs that mend: delete it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import httpx
import psycopg
import pytest

from local.stack import Stack
from tests.chat.conftest import wait_for
from tests.local.clients import operator


@pytest.fixture(scope="module")
def plain(private_stack: Callable[..., Stack]) -> Stack:
    """The package without its mends, after its first request.

    That one sets up the API roles, and fails where a schema with row security holds a table of
    which they may do nothing at all; storage refuses everything before it has been.
    """
    stack = private_stack(mended=False).start()
    httpx.get(
        f"{stack.supabase_url}/rest/v1/notes",
        headers={"apikey": stack.keys.secret_key},
        trust_env=False,
    )
    return stack


@pytest.fixture(scope="module")
def person(plain: Stack) -> Iterator[httpx.Client]:
    """Somebody signed up without supabase-py, which cannot read the plain package's answer."""
    key = {"apikey": plain.keys.publishable_key}
    with httpx.Client(base_url=plain.supabase_url, headers=key, trust_env=False) as client:
        credentials = {"email": f"{uuid.uuid4().hex}@example.com", "password": "correct horse"}
        session = client.post("/auth/v1/signup", json=credentials).raise_for_status().json()
        client.headers["Authorization"] = f"Bearer {session['access_token']}"
        client.headers["Prefer"] = "return=representation"
        yield client


def insert(person: httpx.Client, **values: object) -> dict[str, object]:
    return person.post("/rest/v1/notes", json=values).raise_for_status().json()[0]


def backend(stack: Stack, name: str, body: dict[str, object]) -> httpx.Response:
    return httpx.post(
        f"{stack.supabase_url}/rest/v1/rpc/{name}",
        json=body,
        headers={"apikey": stack.keys.secret_key, "Content-Profile": "backend"},
        trust_env=False,
    )


def test_timestamps_need_rfc3339(person: httpx.Client) -> None:
    assert "T" not in str(insert(person, body="now")["created_at"])


def test_json_arguments_are_encoded_twice(plain: Stack) -> None:
    assert backend(plain, "echo", {"p_data": {"a": 1}}).json()["type"] == "string"


def test_json_numbers_lose_digits(plain: Stack) -> None:
    assert "12345678901234.123450" not in backend(plain, "amount", {}).text


def test_numeric_columns_are_strings(person: httpx.Client) -> None:
    assert insert(person, body="n", amount=100)["amount"] == "100.000000"


def test_the_first_request_grants_everything_to_everybody(
    plain: Stack, person: httpx.Client
) -> None:
    # `authenticator` may not grant, so it stays an attempt; and on a table of which the API roles
    # hold nothing at all, like public.closed, the attempt fails and the request with it.
    assert person.get("/rest/v1/notes").status_code == 200  # not the first request: see `plain`
    assert "GRANT ALL ON ALL TABLES IN SCHEMA" in plain.postgres.child.log.read_text()


def test_signed_urls_are_spelt_otherwise(plain: Stack) -> None:
    storage = operator(plain).storage
    storage.create_bucket("papers")
    storage.from_("papers").upload("a.txt", b"a")
    url = f"{plain.supabase_url}/storage/v1/object"
    headers = {"apikey": plain.keys.secret_key}
    with httpx.Client(headers=headers, trust_env=False) as client:
        one = client.post(f"{url}/sign/papers/a.txt", json={"expiresIn": 60})
        assert "signedURL" not in one.json()
        many = client.post(f"{url}/sign/papers", json={"expiresIn": 60, "paths": ["a.txt"]})
        assert many.status_code >= 400
        upload = client.post(f"{url}/upload/sign/papers/b.txt", json={})
        assert "url" not in upload.json()


def test_there_is_no_admin_api(plain: Stack) -> None:
    answer = httpx.get(
        f"{plain.supabase_url}/auth/v1/admin/users",
        headers={"apikey": plain.keys.secret_key},
        trust_env=False,
    )
    assert answer.status_code in {401, 404}


def test_a_request_takes_many_round_trips(plain: Stack) -> None:
    with psycopg.connect(plain.admin_dsn, autocommit=True) as connection:
        connection.execute("alter system set log_statement = 'all'")
        connection.execute("select pg_reload_conf()")
    log = plain.postgres.child.log

    def statements() -> int:
        before = len(log.read_text())
        backend(plain, "amount", {})
        return log.read_text()[before:].count("set_config")

    # Each connection hears of the new setting when it next has time for it.
    wait_for(lambda: statements() > 3)
