"""SafeClient: the one client for URLs that users supply.

What stands between a user's URL and the network this runs in:
- https on allowed ports only, no userinfo, one reading of the URL, no odd spellings of addresses;
- the name is resolved once, every address it has must be public, and the connection is made to
  one of those very addresses, so a DNS answer that changes later changes nothing;
- no redirects, no proxies from the environment, no cookies, no connection shared between calls;
- caps on time, header bytes and body bytes, the last one after decompression.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address

import httpcore
import httpx

from functions.core.addresses import (
    Address,
    is_public_address,
    is_public_name,
    literal_address,
)
from functions.core.errors import QuernelError

URL_MAX_CHARACTERS = 2048
HEADER_MAX_BYTES = 32 * 1024
CONNECT_TIMEOUT_SECONDS = 5.0
ADDRESSES_TRIED = 3
"""Addresses of one name that are tried, one after the other."""

MAX_CONNECTIONS = 100
"""Calls in flight per client, unless it says otherwise."""

USER_AGENT = "Quernel/1 (fetching for a user)"

_OWN_HEADERS = frozenset(
    (
        "accept-encoding",
        "connection",
        "content-length",
        "cookie",
        "host",
        "keep-alive",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_CHUNK_BYTES = 64 * 1024
_RESOLVERS = ThreadPoolExecutor(8, thread_name_prefix="resolver")
# Of its own: a name server that never answers keeps a thread for as long as the system's resolver
# waits, and the default threads are the whole process's.

Resolver = Callable[[str, int], Awaitable[list[Address]]]


@dataclass(frozen=True)
class Policy:
    """What may be called. The default is the public internet over TLS; tests inject another."""

    schemes: frozenset[str] = frozenset({"https"})
    ports: frozenset[int] | None = frozenset({443})
    """Allowed TCP ports; None allows all."""
    is_allowed_address: Callable[[Address], bool] = is_public_address
    is_allowed_name: Callable[[str], bool] = is_public_name


@dataclass(frozen=True)
class FetchedResponse:
    """A complete answer. Header names are lower-case; `body` is decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class StreamedResponse:
    """An answer whose body is read piece by piece, within the caps of the call."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes] = field(repr=False)


class SafeClient:
    """Calls URLs that users supply. One per process; holds no connection between calls."""

    def __init__(
        self,
        *,
        policy: Policy | None = None,
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        """`max_connections`: calls in flight; more wait, within their own time cap."""
        self._policy = policy or Policy()
        self._network = _VettingBackend(self._policy, resolver or resolve)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context or httpx.create_ssl_context(trust_env=False),
            max_connections=max_connections,
            # A kept connection would skip the vetting and be shared between users.
            max_keepalive_connections=0,
            network_backend=self._network,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()

    def vet(self, url: str) -> None:
        """Raise QuernelError `url_refused` (400) for a URL that no call would be made to.

        Asks nobody: which addresses a name has is vetted at each call.
        """
        self._vet(url)

    async def connect(self, authority: str) -> httpcore.AsyncNetworkStream:
        """A bare connection to `host:port`, vetted as that of an https URL, for another protocol.

        Raises QuernelError: `url_refused` (400), `url_unreachable` (502), `url_timeout` (504).
        """
        target = self._vet(f"https://{authority}/")
        try:
            return await self._network.connect_tcp(
                target.host.decode("ascii"), target.port or 443, CONNECT_TIMEOUT_SECONDS
            )
        except (TimeoutError, httpcore.TimeoutException):
            raise _late() from None
        except httpcore.NetworkError:
            raise _unreachable() from None

    async def fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        max_bytes: int,
        timeout_seconds: float,
    ) -> FetchedResponse:
        """Make one request and read the whole answer; a redirect is an answer like any other.

        Raises QuernelError: `url_refused` (400), `url_unreachable` (502), `url_timeout` (504),
        `response_too_large` (400).
        """
        async with self.stream(
            url,
            method=method,
            headers=headers,
            content=content,
            max_bytes=max_bytes,
            timeout_seconds=timeout_seconds,
        ) as response:
            body = b"".join([chunk async for chunk in response.chunks])
            return FetchedResponse(response.status, response.headers, body)

    @asynccontextmanager
    async def stream(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        max_bytes: int,
        timeout_seconds: float,
    ) -> AsyncIterator[StreamedResponse]:
        """Like `fetch`, handing over the body as it arrives.

        The time cap covers the whole block.
        """
        target = self._vet(url)
        request = httpcore.Request(
            method,
            target,
            headers=_request_headers(target, headers or {}, content),
            content=content,
            extensions={"timeout": {"connect": CONNECT_TIMEOUT_SECONDS, "pool": timeout_seconds}},
        )
        try:
            async with asyncio.timeout(timeout_seconds):
                response = await self._pool.handle_async_request(request)
                try:
                    yield _streamed(response, max_bytes)
                finally:
                    await response.aclose()
        except (TimeoutError, httpcore.TimeoutException):
            raise _late() from None
        except (httpcore.NetworkError, httpcore.ProtocolError):
            raise _unreachable() from None

    def _vet(self, url: str) -> httpcore.URL:
        """Read the URL, once; refuse what the policy does not allow."""
        if len(url) > URL_MAX_CHARACTERS or any(c.isspace() or c == "\\" for c in url):
            raise _refused("it is malformed")
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError, UnicodeError):
            raise _refused("it is malformed") from None
        if parsed.scheme not in self._policy.schemes:
            raise _refused("only https is allowed")
        if parsed.userinfo:
            raise _refused("it carries a user name or password")
        port = _DEFAULT_PORTS[parsed.scheme] if parsed.port is None else parsed.port
        allowed = range(1, 65536) if self._policy.ports is None else self._policy.ports
        if port not in allowed:
            raise _refused("its port is not allowed")
        self._vet_host(parsed.raw_host.decode("ascii").lower())
        return httpcore.URL(
            scheme=parsed.raw_scheme,
            host=parsed.raw_host.lower(),
            port=parsed.port,
            target=parsed.raw_path,
        )

    def _vet_host(self, host: str) -> None:
        try:
            address = literal_address(host)
        except ValueError:
            raise _refused("its host is not spelt in a usual way") from None
        if address is None:
            if not self._policy.is_allowed_name(host):
                raise _refused("its host is not a public name")
        elif not self._policy.is_allowed_address(address):
            raise _refused("its host is not a public address")


class _VettingBackend(httpcore.AsyncNetworkBackend):
    """Resolves, vets and connects in one step, so that nothing can change in between."""

    def __init__(self, policy: Policy, resolver: Resolver) -> None:
        self._policy = policy
        self._resolver = resolver
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface of httpcore
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolver(host, port)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from None
        # One bad address is enough: a name that answers with both is trying something.
        if not addresses or not all(map(self._policy.is_allowed_address, addresses)):
            raise _refused("its host has an address that is not public")
        failure: Exception | None = None
        for address in addresses[:ADDRESSES_TRIED]:
            try:
                return await self._network.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError("no address")


async def resolve(host: str, port: int) -> list[Address]:
    """Every address of the name or literal, without duplicates. Raises OSError if there is none."""
    literal = host.removeprefix("[").removesuffix("]")
    found = await asyncio.get_running_loop().run_in_executor(
        _RESOLVERS,
        partial(
            socket.getaddrinfo, literal, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        ),
    )
    return list(dict.fromkeys(ip_address(sockaddr[0]) for *_, sockaddr in found))


def _request_headers(
    target: httpcore.URL, given: Mapping[str, str], content: bytes | None
) -> list[tuple[bytes, bytes]]:
    for name in given:
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"header {name} is not the caller's to set")
    headers = {
        "host": _authority(target),
        "user-agent": USER_AGENT,
        "accept": "*/*",
        # A server may compress all the same; what it sends is then inflated under the cap.
        "accept-encoding": "identity",
        "connection": "close",
    } | {name.lower(): value for name, value in given.items()}
    if content is not None:
        headers["content-length"] = str(len(content))
    return [(name.encode("ascii"), value.encode("utf-8")) for name, value in headers.items()]


def _authority(target: httpcore.URL) -> str:
    host = target.host.decode("ascii")
    host = f"[{host}]" if ":" in host else host
    return host if target.port is None else f"{host}:{target.port}"


def _streamed(response: httpcore.Response, max_bytes: int) -> StreamedResponse:
    if sum(len(name) + len(value) for name, value in response.headers) > HEADER_MAX_BYTES:
        raise _too_large()
    headers = {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
    }
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise _too_large()
    encoding = headers.get("content-encoding", "identity").strip().lower()
    return StreamedResponse(response.status, headers, _body(response, encoding, max_bytes))


async def _body(response: httpcore.Response, encoding: str, max_bytes: int) -> AsyncIterator[bytes]:
    inflate = _inflater(encoding)
    received = produced = 0
    async for raw in response.aiter_stream():
        received += len(raw)
        if received > max_bytes:
            raise _too_large()
        for chunk in inflate(raw):
            produced += len(chunk)
            if produced > max_bytes:
                raise _too_large()
            yield chunk


def _inflater(encoding: str) -> Callable[[bytes], Iterable[bytes]]:
    """Decompress in bounded pieces: a kilobyte can inflate to a megabyte in one call otherwise."""
    if encoding in ("", "identity"):
        return lambda raw: (raw,)
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise QuernelError("url_unreachable", 502, "The answer has an encoding nobody asked for.")
    # 32: recognise the gzip or the zlib header by itself.
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def pieces(raw: bytes) -> Iterable[bytes]:
        while raw:
            try:
                piece = inflater.decompress(raw, _CHUNK_BYTES)
            except zlib.error:
                raise QuernelError(
                    "url_unreachable", 502, "The answer is not compressed as it claims."
                ) from None
            if piece:
                yield piece
            raw = inflater.unconsumed_tail

    return pieces


def _refused(reason: str) -> QuernelError:
    return QuernelError("url_refused", 400, f"The URL is refused: {reason}.")


def _late() -> QuernelError:
    return QuernelError("url_timeout", 504, "The address did not answer in time.")


def _unreachable() -> QuernelError:
    return QuernelError(
        "url_unreachable", 502, "The address cannot be reached, or does not speak HTTP."
    )


def _too_large() -> QuernelError:
    return QuernelError("response_too_large", 400, "The answer of that address is too large.")
