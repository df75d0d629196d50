"""SafeClient: every way to reach something that is not public, and every way to never end."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import zlib
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from functions.core.addresses import Address, is_public_address
from functions.core.errors import QuernelError
from functions.core.http import FetchedResponse, Policy, Resolver, SafeClient, resolve
from tests.core.tls import Authority, Handler, serve

pytestmark = pytest.mark.anyio

NAME = "files.quernel.app"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def answers(*addresses: str) -> Resolver:
    """A resolver that gives these addresses for every name."""

    async def resolver(host: str, port: int) -> list[Address]:  # noqa: ARG001
        return [ip_address(address) for address in addresses]

    return resolver


def loopback_only(address: Address) -> bool:
    return address == ip_address("127.0.0.1")


ON_LOOPBACK = Policy(ports=None, is_allowed_address=loopback_only)


async def fetch(
    client: SafeClient, url: str, *, max_bytes: int = 10_000, timeout_seconds: float = 5
) -> FetchedResponse:
    try:
        return await client.fetch(url, max_bytes=max_bytes, timeout_seconds=timeout_seconds)
    finally:
        await client.aclose()


async def refusal(client: SafeClient, url: str, **caps: float) -> QuernelError:
    with pytest.raises(QuernelError) as caught:
        await fetch(client, url, **caps)
    return caught.value


def reply(*parts: bytes, pause: float = 0) -> Handler:
    """Read one request, then send the parts with a pause before each."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            await asyncio.sleep(pause)
            writer.write(part)
            await writer.drain()

    return handler


def recorded(requests: list[bytes], answer: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()

    return handler


def over_tls(authority: Authority) -> SafeClient:
    return SafeClient(
        policy=ON_LOOPBACK,
        resolver=answers("127.0.0.1"),
        ssl_context=authority.client_context(),
    )


# What is refused before anything is sent ----------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://quernel.app/",
        "ftp://quernel.app/",
        "file:///etc/passwd",
        "gopher://quernel.app/",
        "data:text/plain,hello",
        "//quernel.app/",
        "quernel.app",
        "",
        "https://",
        "https:///etc/passwd",
        "https://user@quernel.app/",
        "https://user:password@quernel.app/",
        "https://quernel.app:8443/",
        "https://quernel.app:22/",
        "https://quernel.app:0/",
        "https://quernel.app:99999/",
        "https://quernel.app\\@127.0.0.1/",
        "https://quernel.app/ HTTP/1.1\r\nX: y",
        "https://quernel.app\t.evil.app/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0x0.0x0.0x1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://0/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://100.64.0.1/",
        "https://224.0.0.1/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:8.8.8.8]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[fd00:ec2::254]/",
        "https://[fe80::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://localhost/",
        "https://localhost./",
        "https://quernel.app./",
        "https://metadata.google.internal/",
        "https://kubernetes/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://ⓛocalhost/",
        "https://%31%32%37.0.0.1/",
        "https://a%00.app/",
        "https://a..app/",
        "https://quernel.app/" + "a" * 3000,
    ],
)
async def test_url_is_refused_without_asking_dns(url: str) -> None:
    async def resolver(host: str, port: int) -> list[Address]:
        raise AssertionError(f"asked for {host}:{port}")

    error = await refusal(SafeClient(resolver=resolver), url)
    assert (error.status, error.code) == (400, "url_refused")


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        ("10.1.2.3",),
        ("169.254.169.254",),
        ("100.64.1.1",),
        ("::1",),
        ("fd00::1",),
        ("::ffff:10.0.0.1",),
        ("64:ff9b::a00:1",),
        ("8.8.8.8", "127.0.0.1"),
        ("2606:4700::1", "fe80::1"),
        (),
    ],
)
async def test_name_with_any_address_that_is_not_public_is_refused(
    addresses: tuple[str, ...],
) -> None:
    error = await refusal(SafeClient(resolver=answers(*addresses)), f"https://{NAME}/")
    assert (error.status, error.code) == (400, "url_refused")


async def test_the_real_resolver_is_vetted_too() -> None:
    policy = Policy(is_allowed_name=lambda name: name == "localhost")
    error = await refusal(SafeClient(policy=policy), "https://localhost/")
    assert error.code == "url_refused"


async def test_unusual_names_reach_dns_in_ascii() -> None:
    asked = []

    async def resolver(host: str, port: int) -> list[Address]:
        asked.append((host, port))
        return [ip_address("10.0.0.1")]

    assert (await refusal(SafeClient(resolver=resolver), "https://BÜCHER.app/")).status == 400
    assert asked == [("xn--bcher-kva.app", 443)]


async def test_a_dns_answer_that_changes_changes_nothing(authority: Authority) -> None:
    """One look-up per call, and the connection goes to the address that was vetted."""
    given = [["127.0.0.1"], ["10.0.0.1"]]
    asked = 0

    async def resolver(host: str, port: int) -> list[Address]:  # noqa: ARG001
        nonlocal asked
        asked += 1
        return [ip_address(a) for a in given[min(asked, len(given)) - 1]]

    client = SafeClient(
        policy=ON_LOOPBACK, resolver=resolver, ssl_context=authority.client_context()
    )
    requests: list[bytes] = []
    handler = recorded(requests, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    async with serve(handler, authority.server_context(NAME)) as port:
        url = f"https://{NAME}:{port}/"
        caps = {"max_bytes": 100, "timeout_seconds": 5}
        assert (await client.fetch(url, **caps)).status == 200
        assert asked == 1
        # The second call meets the changed answer, and no connection was kept for it.
        with pytest.raises(QuernelError) as caught:
            await client.fetch(url, **caps)
    await client.aclose()
    assert caught.value.code == "url_refused"
    assert (asked, len(requests)) == (2, 1)


# What is done properly ----------------------------------------------------------------------------


async def test_happy_path_verifies_the_certificate_of_the_name(authority: Authority) -> None:
    requests: list[bytes] = []
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
    async with serve(recorded(requests, answer), authority.server_context(NAME)) as port:
        response = await fetch(over_tls(authority), f"https://{NAME}:{port}/a?b=c#d")
    assert (response.status, response.body) == (200, b"hello")
    assert response.headers["content-type"] == "text/plain"
    assert requests[0].startswith(b"GET /a?b=c HTTP/1.1\r\n")
    assert f"host: {NAME}:{port}\r\n".encode() in requests[0].lower()
    assert b"accept-encoding: identity" in requests[0].lower()


async def test_certificate_of_another_name_is_refused(authority: Authority) -> None:
    async with serve(reply(b""), authority.server_context("other.quernel.app")) as port:
        error = await refusal(over_tls(authority), f"https://{NAME}:{port}/")
    assert (error.status, error.code) == (502, "url_unreachable")


async def test_certificate_of_a_stranger_is_refused(authority: Authority) -> None:
    client = SafeClient(policy=ON_LOOPBACK, resolver=answers("127.0.0.1"))
    async with serve(reply(b""), authority.server_context(NAME)) as port:
        assert (await refusal(client, f"https://{NAME}:{port}/")).code == "url_unreachable"


async def test_redirects_are_answers(authority: Authority) -> None:
    requests: list[bytes] = []
    answer = (
        b"HTTP/1.1 302 Found\r\nLocation: https://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
    )
    async with serve(recorded(requests, answer), authority.server_context(NAME)) as port:
        response = await fetch(over_tls(authority), f"https://{NAME}:{port}/")
    assert (response.status, response.headers["location"]) == (302, "https://169.254.169.254/")
    assert len(requests) == 1


async def test_cookies_are_not_kept(authority: Authority) -> None:
    requests: list[bytes] = []
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    client = over_tls(authority)
    async with serve(recorded(requests, answer), authority.server_context(NAME)) as port:
        for _ in range(2):
            url = f"https://{NAME}:{port}/"
            await client.fetch(url, max_bytes=10, timeout_seconds=5)
    await client.aclose()
    assert len(requests) == 2
    assert b"cookie" not in requests[1].lower()


async def test_proxies_of_the_environment_are_not_used(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    async with serve(reply(answer), authority.server_context(NAME)) as port:
        assert (await fetch(over_tls(authority), f"https://{NAME}:{port}/")).status == 204


async def test_posts_a_body(authority: Authority) -> None:
    received: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        received.append(await reader.readexactly(4))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    client = over_tls(authority)
    async with serve(handler, authority.server_context(NAME)) as port:
        await client.fetch(
            f"https://{NAME}:{port}/",
            method="POST",
            headers={"Content-Type": "text/plain", "User-Agent": "test"},
            content=b"body",
            max_bytes=10,
            timeout_seconds=5,
        )
    await client.aclose()
    assert received[1] == b"body"
    assert received[0].lower().count(b"user-agent:") == 1


@pytest.mark.parametrize("name", ["Host", "cookie", "Content-Length", "Transfer-Encoding"])
async def test_a_caller_cannot_set_the_headers_that_frame_a_request(name: str) -> None:
    client = SafeClient()
    with pytest.raises(ValueError, match=name):
        await client.fetch(f"https://{NAME}/", headers={name: "x"}, max_bytes=10, timeout_seconds=1)
    await client.aclose()


@pytest.mark.parametrize("wrap", [gzip.compress, zlib.compress])
async def test_a_compressed_answer_is_inflated(
    authority: Authority, wrap: Callable[[bytes], bytes]
) -> None:
    body = wrap(b"hello" * 1000)
    name = b"gzip" if wrap is gzip.compress else b"deflate"
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (
        name,
        len(body),
    )
    async with serve(reply(head, body), authority.server_context(NAME)) as port:
        response = await fetch(over_tls(authority), f"https://{NAME}:{port}/")
    assert response.body == b"hello" * 1000


# What would never end -----------------------------------------------------------------------------


async def expect(authority: Authority, handler: Handler, **caps: float) -> QuernelError:
    async with serve(handler, authority.server_context(NAME)) as port:
        return await refusal(over_tls(authority), f"https://{NAME}:{port}/", **caps)


async def test_announced_length_over_the_cap(authority: Authority) -> None:
    handler = reply(b"HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n")
    error = await expect(authority, handler)
    assert (error.status, error.code) == (400, "response_too_large")


async def test_body_that_grows_over_the_cap(authority: Authority) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    handler = reply(head, *[b"1000\r\n" + b"x" * 4096 + b"\r\n"] * 20)
    assert (await expect(authority, handler)).code == "response_too_large"


async def test_gzip_bomb(authority: Authority) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    error = await expect(authority, reply(head, bomb), max_bytes=1_000_000)
    assert error.code == "response_too_large"


async def test_encoding_nobody_asked_for(authority: Authority) -> None:
    handler = reply(b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nxx")
    assert (await expect(authority, handler)).code == "url_unreachable"


async def test_encoding_that_is_not_what_it_claims(authority: Authority) -> None:
    handler = reply(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx")
    assert (await expect(authority, handler)).code == "url_unreachable"


async def test_slow_loris_body(authority: Authority) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    handler = reply(head, *[b"1\r\nx\r\n"] * 100, pause=0.05)
    error = await expect(authority, handler, timeout_seconds=0.4)
    assert (error.status, error.code) == (504, "url_timeout")


async def test_slow_headers(authority: Authority) -> None:
    handler = reply(b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 100, pause=0.05)
    assert (await expect(authority, handler, timeout_seconds=0.4)).code == "url_timeout"


async def test_resolver_that_hangs() -> None:
    async def resolver(host: str, port: int) -> list[Address]:  # noqa: ARG001
        await asyncio.sleep(60)
        return []

    error = await refusal(SafeClient(resolver=resolver), f"https://{NAME}/", timeout_seconds=0.2)
    assert error.code == "url_timeout"


async def test_too_many_headers(authority: Authority) -> None:
    headers = b"".join(b"X-%d: %b\r\n" % (i, b"y" * 1000) for i in range(40))
    handler = reply(b"HTTP/1.1 200 OK\r\n" + headers + b"Content-Length: 0\r\n\r\n")
    assert (await expect(authority, handler)).code == "response_too_large"


async def test_endless_header(authority: Authority) -> None:
    handler = reply(b"HTTP/1.1 200 OK\r\nX: ", *[b"y" * 65536] * 20)
    assert (await expect(authority, handler)).code == "url_unreachable"


async def test_not_http(authority: Authority) -> None:
    handler = reply(b"SSH-2.0-OpenSSH_9.2\r\n")
    assert (await expect(authority, handler)).code == "url_unreachable"


async def test_closed_port() -> None:
    async with serve(reply(), None) as port:
        pass
    client = SafeClient(policy=ON_LOOPBACK, resolver=answers("127.0.0.1"))
    error = await refusal(client, f"https://{NAME}:{port}/")
    assert (error.status, error.code) == (502, "url_unreachable")


async def test_name_that_does_not_exist() -> None:
    async def resolver(host: str, port: int) -> list[Address]:  # noqa: ARG001
        raise OSError("Name or service not known")

    error = await refusal(SafeClient(resolver=resolver), f"https://{NAME}/")
    assert error.code == "url_unreachable"


def test_the_default_policy_is_the_public_internet() -> None:
    policy = Policy()
    assert policy.schemes == {"https"}
    assert policy.ports == {443}
    assert policy.is_allowed_address is is_public_address


async def test_names_are_looked_up_on_threads_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # A name server that never answers keeps its thread; the default ones are everybody's.
    threads: list[str] = []

    def looked_up(*_: object, **__: object) -> list[object]:
        threads.append(threading.current_thread().name)
        return [(2, 1, 6, "", ("203.0.113.7", 443))]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    assert await resolve(NAME, 443) == [ip_address("203.0.113.7")]
    assert [name.rpartition("_")[0] for name in threads] == ["resolver"]
