"""Storage is closed: no bucket is anybody's to make, and no file anybody's to read or write."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.security.conftest import Cast

CLIENTS = ["visitor", "stranger", "owner", "admin", "suspended"]


@pytest.fixture(scope="module")
def bucket(cast: Cast) -> Iterator[str]:
    """A private bucket with a file, as a later chapter might make one."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    service = cast.headers("service")
    made = cast.http.post(
        f"{cast.url}/storage/v1/bucket",
        json={"id": name, "name": name, "public": False},
        headers=service,
    )
    made.raise_for_status()
    cast.http.post(
        f"{cast.url}/storage/v1/object/{name}/secret.txt",
        content=b"top secret",
        headers=service | {"Content-Type": "text/plain"},
    ).raise_for_status()
    yield name
    cast.http.delete(f"{cast.url}/storage/v1/object/{name}/secret.txt", headers=service)
    cast.http.delete(f"{cast.url}/storage/v1/bucket/{name}", headers=service)


@pytest.mark.parametrize("actor", CLIENTS)
@pytest.mark.parametrize("public", [True, False])
def test_no_client_makes_a_bucket(cast: Cast, actor: str, *, public: bool) -> None:
    name = f"mine-{uuid.uuid4().hex[:12]}"
    answer = cast.http.post(
        f"{cast.url}/storage/v1/bucket",
        json={"id": name, "name": name, "public": public},
        headers=cast.headers(actor),
    )
    assert answer.status_code >= 400
    found = cast.http.get(f"{cast.url}/storage/v1/bucket/{name}", headers=cast.headers("service"))
    assert found.status_code >= 400


@pytest.mark.parametrize("actor", CLIENTS)
def test_no_client_sees_or_opens_a_bucket(cast: Cast, bucket: str, actor: str) -> None:
    headers = cast.headers(actor)
    assert cast.http.get(f"{cast.url}/storage/v1/bucket", headers=headers).json() == []
    for method, body in (("GET", None), ("PUT", {"public": True}), ("DELETE", None)):
        cast.http.request(
            method, f"{cast.url}/storage/v1/bucket/{bucket}", json=body, headers=headers
        )
    cast.http.post(f"{cast.url}/storage/v1/bucket/{bucket}/empty", headers=headers)
    after = cast.http.get(
        f"{cast.url}/storage/v1/bucket/{bucket}", headers=cast.headers("service")
    ).json()
    assert after["public"] is False


@pytest.mark.parametrize("actor", CLIENTS)
def test_no_client_reads_a_file(cast: Cast, bucket: str, actor: str) -> None:
    headers = cast.headers(actor)
    for path in (
        f"object/{bucket}/secret.txt",
        f"object/authenticated/{bucket}/secret.txt",
        f"object/public/{bucket}/secret.txt",
        f"object/info/{bucket}/secret.txt",
        f"render/image/authenticated/{bucket}/secret.txt",
    ):
        answer = cast.http.get(f"{cast.url}/storage/v1/{path}", headers=headers)
        assert answer.status_code >= 400, path
        assert "top secret" not in answer.text
    listed = cast.http.post(
        f"{cast.url}/storage/v1/object/list/{bucket}", json={"prefix": ""}, headers=headers
    )
    assert "secret.txt" not in listed.text
    signed = cast.http.post(
        f"{cast.url}/storage/v1/object/sign/{bucket}/secret.txt",
        json={"expiresIn": 60},
        headers=headers,
    )
    assert signed.status_code >= 400


@pytest.mark.parametrize("actor", CLIENTS)
def test_no_client_writes_replaces_moves_or_deletes_a_file(
    cast: Cast, bucket: str, actor: str
) -> None:
    headers = cast.headers(actor) | {"Content-Type": "text/plain"}
    base = f"{cast.url}/storage/v1/object"
    for name in ("new.txt", "secret.txt"):
        for method in ("POST", "PUT"):
            upsert = headers | {"x-upsert": "true"}
            answer = cast.http.request(
                method, f"{base}/{bucket}/{name}", content=b"mine", headers=upsert
            )
            assert answer.status_code >= 400
    moved = {"bucketId": bucket, "sourceKey": "secret.txt", "destinationKey": "moved.txt"}
    for verb in ("move", "copy"):
        assert cast.http.post(f"{base}/{verb}", json=moved, headers=cast.headers(actor)).is_error
    cast.http.delete(f"{base}/{bucket}/secret.txt", headers=headers)
    cast.http.request(
        "DELETE", f"{base}/{bucket}", json={"prefixes": ["secret.txt"]}, headers=cast.headers(actor)
    )
    kept = cast.http.get(f"{base}/{bucket}/secret.txt", headers=cast.headers("service"))
    assert kept.text == "top secret"
    missing = cast.http.get(f"{base}/{bucket}/new.txt", headers=cast.headers("service"))
    assert missing.status_code >= 400
