"""The embedded gateway serves what hosted Supabase serves, and tells nothing about itself."""

from __future__ import annotations

import http.client

import pytest

from local.stack import Stack
from tests.security.conftest import Cast

ACTORS = ["visitor", "owner", "service"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/_system",
        "/_system/config",
        "/_system/info",
        "/_system/introspect",
        "/_system/ping",
        "/admin",
        "/graphql/v1",
        "/metrics",
        "/pg/query",
        "/static/index.html",
        "/studio",
        "/rest",
        "/auth",
    ],
)
def test_there_is_nothing_beside_the_three_services(cast: Cast, path: str) -> None:
    for actor in ACTORS:
        for method in ("GET", "POST"):
            answer = cast.http.request(method, cast.url + path, headers=cast.headers(actor))
            assert answer.status_code == 404, answer.text[:200]


@pytest.mark.parametrize(
    "path",
    [
        "/rest/v1/../../_system/info",
        "/rest/v1/..%2f..%2f_system/info",
        "/rest/v1/%2e%2e/%2e%2e/_system/info",
        "/rest/v1/../../auth/v1/admin/users",
        "/rest/v1/%2e%2e/auth/v1/admin/users",
        "//auth/v1/admin/users",
        "/auth/v1//admin/users",
        "/AUTH/v1/admin/users",
        "/auth/v1/admin%2fusers",
        "/auth/v1/admin/users/",
        "/auth/v1/admin/./users",
        "/storage/v1/../../auth/v1/admin/users",
    ],
)
def test_no_spelling_of_a_path_goes_around_a_door(cast: Cast, stack: Stack, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", stack.ports.gateway, timeout=10)
    try:
        connection.request("GET", path, headers=cast.headers("owner"))
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    # To some the package answers with its own, empty, page.
    assert answer.status in {400, 401, 403, 404, 405} or body.startswith(b"<html")
    assert b"@example.com" not in body
    assert stack.keys.authenticator_password.encode() not in body


@pytest.mark.parametrize(
    "headers",
    [
        {"X-HTTP-Method-Override": "DELETE"},
        {"X-Http-Method": "PATCH"},
        {"X-Original-URL": "/auth/v1/admin/users"},
        {"X-Rewrite-URL": "/auth/v1/admin/users"},
        {"Accept": "application/vnd.pgrst.plan+json; options=analyze|verbose"},
        {"Accept-Profile": "private"},
        {"Accept-Profile": "backend, private"},
        {"Prefer": "tx=commit, params=single-object"},
        {"Role": "service_role"},
        {"X-Supabase-Role": "service_role"},
    ],
    ids=repr,
)
@pytest.mark.usefixtures("nothing_changes")
def test_no_header_makes_a_request_another(cast: Cast, headers: dict[str, str]) -> None:
    answer = cast.rest("stranger", "GET", "profiles?select=id", headers=headers)
    if answer.status_code == 200:
        assert answer.json() == [{"id": cast.stranger.id}]
    else:
        assert answer.status_code == 406


def test_a_key_in_the_address_is_no_better_than_in_a_header(cast: Cast) -> None:
    url = f"{cast.url}/rest/v1/rpc/credit_balance?apikey={cast.publishable_key}&role=service_role"
    answer = cast.http.post(url, json={}, headers={"Content-Profile": "backend"})
    assert answer.status_code in {400, 401, 403}
